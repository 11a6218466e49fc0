"""The page of a segmentation with several answers: how sure, where, and rightly so?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import xlogy

from medjax.metrics.calibration import Calibration
from medjax.metrics.cases import EMPTY
from medjax.report.page import Card, Report
from medjax.report.picture import HEAT, enlarged, grey, outlined, overlay
from medjax.report.run import save_evaluation, training_section
from medjax.segmentation.answers import Answers
from medjax.segmentation.show import upright
from medjax.segmentation.unfamiliar import Scores
from medjax.train.log import read_metrics

NAMES = {
    "dice": "Dice, mean answer and majority",
    "ged_squared": "GED squared",
    "ncc": "NCC",
    "area_sd_ratio": "spread of areas, over the annotators'",
    "roi_ece": "calibration error near the foreground",
    "ueo": "overlap of entropy and error (UEO)",
    "nll": "NLL, nats per voxel",
    "excess_nll": "NLL above its floor",
    "brier": "Brier score",
    "excess_brier": "Brier score above its floor",
    "rmse": "RMSE of the probability",
    "spearman": "rank correlation of entropies",
    "mi": "mutual information, nats per voxel",
    "additivity_gap": "of it not the sum of the levels'",
}
"""Scores as the page calls them."""
STRIP = 6
"""Answers of an image that the page shows."""


def show(
    workdir: Path,
    results: Mapping[str, Any],
    shown: Sequence[Answers],
    calibration: Calibration,
    unfamiliar: Mapping[str, Scores],
    *,
    title: str,
    subtitle: str,
) -> Path:
    """Writes ``evaluation.json`` and ``report.html``.

    Args:
        workdir: Folder of the run.
        results: Of :func:`medjax.segmentation.answers.evaluate`, and ``unfamiliar``.
        shown: Images with their answers.
        calibration: Of all images, near the foreground.
        unfamiliar: Numbers of every image by shift, the familiar ones among them.
        title: Of the page.
        subtitle: Under it.
    """
    save_evaluation(workdir, results)
    page = Report(title, subtitle)
    scores, floors = results["scores"], results["floors"]
    draws = f"{results['draws']} answers"
    headline = ("dice", "ged_squared", "ncc", "roi_ece")
    page.numbers({NAMES[name]: (scores[name]["mean"], draws) for name in headline})
    rows = []
    for name, label in NAMES.items():
        if name in scores:
            entry = scores[name]
            row = {"score": label, "mean": entry["mean"], "SD": entry["sd"]}
            row["floor"] = floors.get(name)
            row["without a value"] = entry["n_undefined"]
            rows.append(row | {text: entry.get(key) for key, text in EMPTY.items()})
    page.table(
        rows,
        caption="Over held-out images. Floors are what nobody does better than: the "
        "truth itself, and other annotators in place of the answers. GED squared is a "
        "V-statistic, so few answers of the right law are above 0. A label that "
        "neither side holds has Dice 1, one that one side lacks 0: they are counted.",
    )
    page.section("Where it is unsure")
    for answers in shown:
        page.gallery(overlays(answers))
    page.section("Answers and annotators")
    for answers in shown:
        page.gallery(strip(answers))
    page.section("Is it rightly sure?")
    page.reliability("near the foreground", reliability(calibration))
    if unfamiliar:
        unfamiliar_section(page, results["unfamiliar"], unfamiliar)
    training_section(page, read_metrics(workdir))
    page.section("Every image")
    page.table(results["images"])
    return page.save(workdir / "report.html")


def overlays(answers: Answers) -> list[Card]:
    """Majority and answer as lines, and all maps of uncertainty in a row."""
    place, base = _plane(answers)
    majority = upright((answers.annotations > 0).mean(0)[..., place] > 0.5)
    said = upright((answers.mean.argmax(-1) > 0)[..., place])
    name = answers.said.id
    cards = [
        Card(enlarged(outlined(base, majority.astype(np.int32))), f"{name}: majority"),
        Card(enlarged(outlined(base, said.astype(np.int32))), "mean answer"),
    ]
    maps = {k: v.data for k, v in answers.said.maps.items() if k != "prob"}
    if answers.truth is not None:
        maps["true entropy"] = -xlogy(answers.truth, answers.truth).sum(-1)
    # What is to be compared has one scale: entropies, and mutual information by parts,
    # which a few voxels would make dark everywhere else.
    parts = [
        float(np.quantile(maps[key], 0.995)) for key in maps if "entropy" not in key
    ]
    for key, values in maps.items():
        if "entropy" in key:
            most = float(np.log(answers.draws.shape[-1]))
        else:
            most = max(*parts, 1e-6)
        heat = overlay(base, np.clip(upright(values[..., place]) / most, 0, 1), HEAT)
        text = f"at most {float(values.max()):.3g} nats, full colour {most:.3g}"
        cards.append(Card(enlarged(heat), key, [(text, None)]))
    return cards


def strip(answers: Answers) -> list[Card]:
    """Some answers, and as many annotators, as lines."""
    place, base = _plane(answers)
    rows = {
        "answer": answers.draws.argmax(-1),
        "annotator": answers.annotations,
    }
    cards = []
    for kind, labels in rows.items():
        for number, one in enumerate(labels[:STRIP]):
            area = int((one > 0).sum())
            line = upright(one[..., place]).astype(np.int32)
            text = [(f"{area} voxels", None)]
            cards.append(Card(enlarged(outlined(base, line)), f"{kind} {number}", text))
    return cards


def _plane(answers: Answers) -> tuple[int, np.ndarray]:
    """The slice that holds most foreground, and its picture."""
    there = (answers.annotations > 0).sum(axis=(0, 1, 2))
    place = int(np.argmax(there))
    image = upright(answers.image.data[..., place])
    low, high = np.percentile(image, [1, 99])
    return place, grey(image, float(low), float(high))


def reliability(calibration: Calibration) -> dict[str, list[tuple[float, float]]]:
    """Points of every class but the background: mean probability, frequency."""
    found = {}
    for k in range(1, len(calibration.count)):
        held = calibration.count[k] > 0
        count = calibration.count[k][held]
        said = calibration.probability[k][held] / count
        true = calibration.positive[k][held] / count
        found[f"label {k}"] = list(zip(said.tolist(), true.tolist(), strict=True))
    return found


def unfamiliar_section(
    page: Report, rows: Sequence[Mapping[str, Any]], every: Mapping[str, Scores]
) -> None:
    """Scores of shifts, curves and histograms of the map that tells them best."""
    maps = list(every["familiar"])
    best = "mi" if "mi" in maps else "entropy"
    page.section("Does it notice what it has not seen?")
    page.table(
        rows,
        caption="One number per image, the mean of a map over the predicted foreground "
        "and three voxels around it; familiar images against shifted ones. growth: of "
        "the mean.",
    )
    known = every["familiar"][best]
    shifts = {name: scores[best] for name, scores in every.items()}
    del shifts["familiar"]
    page.roc(
        f"unfamiliar images by {best}",
        {name: roc_points(known, other) for name, other in shifts.items()},
    )
    page.histogram(f"{best} of images", {"familiar": known, **shifts}, x="nats")


def roc_points(known: np.ndarray, other: np.ndarray) -> list[tuple[float, float]]:
    """False and true positive rates at every threshold, rising."""
    cuts = np.unique(np.concatenate([known, other]))[::-1]
    points = [(float((known >= c).mean()), float((other >= c).mean())) for c in cuts]
    return [(0.0, 0.0), *points]
