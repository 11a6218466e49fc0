"""What fine-tuning ends with: scores in lines, a table of predictions, and a page."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medjax.data.whole import whole
from medjax.report import Card, Report
from medjax.report.run import save_evaluation, training_section
from medjax.train.log import read_metrics
from medjax.vlp.datasets.embedded import Embedded
from medjax.vlp.labelled import Labelled, LabelledFilms

BINS = 10
CURVES = 6
"""ROC curves on the page; more cannot be told apart."""
EXAMPLES = 8
PREDICTIONS = "predictions.csv"


def show(
    workdir: Path,
    results: Mapping[str, Any],
    scores: np.ndarray,
    data: Labelled,
    *,
    title: str,
) -> Path:
    """Prints the results; writes ``evaluation.json``, ``predictions.csv``, the page.

    Args:
      workdir: folder of the run.
      results: of ``medjax.vlp.finetuning.test``.
      scores: probabilities of the test films, a column per label.
      data: the films.
      title: of the page.

    Returns:
      Path of the page.
    """
    save_evaluation(workdir, results)
    write_predictions(workdir / PREDICTIONS, scores, data)
    print(f"\n{summary(results)}")
    page = report(workdir, results, scores, data, title=title)
    return page.save(workdir / "report.html")


def summary(results: Mapping[str, Any]) -> str:
    """The results as lines, beside what guessing would reach."""
    low, high = results["macro_auc_interval"]
    used = f"{100 * results['fraction']:g} % of labels ({results['labels_used']})"
    lines = [
        f"test set: {results['test']} films; {used}, weights of step {results['step']}",
        f"macro AUC {results['macro_auc']:.3f} (95 %: {low:.3f} to {high:.3f})   "
        "chance 0.500",
    ]
    if "accuracy" in results:
        lines.append(
            f"accuracy {results['accuracy']:.3f}   "
            f"most frequent class {results['most_frequent']:.3f}"
        )
    width = max(map(len, results["auc"]))
    for name, area in results["auc"].items():
        low, high = results["auc_interval"][name]
        score = f"{area:.3f} ({low:.3f} to {high:.3f})"
        prevalence = f"prevalence {results['prevalence'][name]:.3f}"
        lines.append(f"  {name.ljust(width)}  {score}   {prevalence}")
    return "\n".join(lines)


def write_predictions(path: Path, scores: np.ndarray, data: Labelled) -> None:
    """The test films with labels and probabilities, by id."""
    part = data.parts["test"]
    with whole(path) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        labels = [f"{name} (label)" for name in data.names]
        table.writerow(["id", *data.names, *labels])
        for id, row, truth in zip(part.ids, scores, part.labels, strict=True):
            known = ["" if np.isnan(label) else f"{label:g}" for label in truth]
            table.writerow([id, *(f"{value:.6f}" for value in row), *known])


def report(
    workdir: Path,
    results: Mapping[str, Any],
    scores: np.ndarray,
    data: Labelled,
    *,
    title: str,
) -> Report:
    """The page: headline, curves, a row per finding, ROC, reliability, films."""
    rows = read_metrics(workdir)
    name = data.corpus.metadata["name"]
    page = Report(title, f"{results['start']}, fine-tuned on {name}")
    if name != Embedded.name:
        page.notice("The films below may be of real patients.")
    low, high = results["macro_auc_interval"]
    tiles: dict[str, tuple[float | str, str]] = {
        "macro AUC": (results["macro_auc"], f"95 %: {low:.3f} to {high:.3f}"),
        "labels used": (
            f"{results['labels_used']}",
            f"{100 * results['fraction']:g} %",
        ),
        "test films": (f"{results['test']}", f"weights of step {results['step']}"),
    }
    if "accuracy" in results:
        chance = f"most frequent class {results['most_frequent']:.3f}"
        tiles["accuracy"] = (results["accuracy"], chance)
    page.numbers(tiles)
    page.section("Findings")
    page.table(_per_finding(results, data), bars={"AUC": (0.5, 1.0)})
    labels = data.parts["test"].labels
    known = [k for k in range(len(data.names)) if _both(labels[:, k])][:CURVES]
    if known:
        page.roc("ROC", {data.names[k]: roc(scores[:, k], labels[:, k]) for k in known})
        page.reliability(
            "reliability",
            {data.names[k]: reliability(scores[:, k], labels[:, k]) for k in known},
        )
    training_section(page, [row for row in rows if "loss" in row])
    scored = [row for row in rows if "eval/auc" in row]
    page.curves("validation AUC", scored, ["eval/auc"])
    page.curves("validation loss", scored, ["eval/loss"])
    page.section("Films it is most wrong about")
    page.gallery(most_wrong(scores, data.parts["test"], data.names))
    page.section("Data")
    page.text("\n\n".join(data.lines()))
    return page


def _per_finding(results: Mapping[str, Any], data: Labelled) -> list[dict[str, Any]]:
    rows = []
    train = data.parts["train"].labels
    for k, name in enumerate(data.names):
        low, high = results["auc_interval"][name]
        rows.append(
            {
                "finding": name,
                "positive in training": int((train[:, k] == 1).sum()),
                "prevalence": results["prevalence"][name],
                "AUC": results["auc"][name],
                "from": low,
                "to": high,
                "average precision": results["average_precision"][name],
            }
        )
    return rows


def _both(labels: np.ndarray) -> bool:
    return bool((labels == 1).any() and (labels == 0).any())


def roc(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
    """False and true positive rates at every threshold, from none to all."""
    known = ~np.isnan(labels)
    scores, labels = scores[known], labels[known]
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(labels[order])[last] / max(labels.sum(), 1)
    alarms = np.cumsum(1 - labels[order])[last] / max((1 - labels).sum(), 1)
    points = zip([0.0, *alarms.tolist()], [0.0, *hits.tolist()], strict=True)
    return list(points)


def reliability(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
    """Mean probability and observed frequency of the bins that hold something."""
    known = ~np.isnan(labels)
    scores, labels = scores[known], labels[known]
    which = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = [which == i for i in range(BINS)]
    return [(float(scores[b].mean()), float(labels[b].mean())) for b in bins if b.any()]


def most_wrong(
    scores: np.ndarray, part: LabelledFilms, names: tuple[str, ...]
) -> list[Card]:
    """Films whose worst answer is furthest from the label."""
    far = np.where(np.isnan(part.labels), 0.0, np.abs(scores - part.labels))
    cards = []
    for row in np.argsort(-far.max(1), kind="stable")[:EXAMPLES]:
        k = int(far[row].argmax())
        said = f"{names[k]}: {scores[row, k]:.2f}"
        truth = "present" if part.labels[row, k] == 1 else "absent"
        lines: list[tuple[str, bool | None]] = [(f"labelled {truth}", False)]
        cards.append(Card(part.film(int(row)), said, lines))
    return cards
