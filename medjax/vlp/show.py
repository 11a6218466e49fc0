"""What a run ends with: the evaluation in lines, and a page that one wants to open."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.report import Card, Report
from medjax.report.run import save_evaluation, training_section
from medjax.train.log import read_metrics
from medjax.vlp.corpus import Corpus
from medjax.vlp.datasets.embedded import Embedded

KS = (1, 5, 10)
EXAMPLES = 8
DEEP = 3


def show(
    workdir: Path,
    results: Mapping[str, Any],
    found: Mapping[str, np.ndarray],
    corpus: Corpus,
    *,
    title: str,
    words: Sequence[Card] = (),
) -> Path:
    """Prints the results, and writes ``evaluation.json`` and ``report.html``.

    Args:
      workdir: folder of the run.
      results: of ``medjax.vlp.evaluate.evaluate``.
      found: test embeddings ``image`` and ``text``.
      corpus: where the test radiographs and reports are.
      title: of the page.
      words: films under the attention of words, if the system has such.

    Returns:
      Path of the page.
    """
    save_evaluation(workdir, results)
    print(f"\n{summary(results)}")
    page = report(workdir, results, found, corpus, title=title, words=words)
    return page.save(workdir / "report.html")


def summary(results: Mapping[str, Any]) -> str:
    """The results as lines, each beside what guessing would reach."""
    lines = [f"test set: {results['test']} radiographs"]
    for probe in results.get("linear_probe", ()):
        share = f"{100 * probe['fraction']:g} % of labels ({probe['examples']})"
        lines.append(f"linear probe, {share:<24} {_auc(probe)}")
    if "zero_shot" in results:
        lines.append(f"{'zero-shot':<38} {_auc(results['zero_shot'])}")
    for direction, ranks in _rankings(results):
        hits = "  ".join(
            f"R@{k} {ranks[f'R@{k}']:.3f} (chance {ranks['chance'][f'R@{k}']:.3f})"
            for k in KS
        )
        where = f"{direction} among {ranks['candidates']}"
        lines.append(f"retrieval {where:<28} {hits}")
    return "\n".join(lines)


def _auc(probe: Mapping[str, Any]) -> str:
    text = f"macro AUC {probe['macro_auc']:.3f}"
    if "macro_auc_interval" in probe:
        low, high = probe["macro_auc_interval"]
        text += f" (95 %: {low:.3f} to {high:.3f})"
    return f"{text}   chance {probe['chance']:.3f}"


def report(
    workdir: Path,
    results: Mapping[str, Any],
    found: Mapping[str, np.ndarray],
    corpus: Corpus,
    *,
    title: str,
    words: Sequence[Card] = (),
) -> Report:
    """The page: headline numbers, loss curves, per-finding table, retrieved pairs."""
    rows = read_metrics(workdir)
    name = corpus.metadata["name"]
    page = Report(title, f"{rows[-1]['step']} steps on {name}")
    if name != Embedded.name:
        page.notice(
            f"Real data: the report texts on this page come from {name}. Share it only "
            "as the terms of those data allow."
        )
    tiles: dict[str, tuple[float | str, str]] = {}
    for probe in results.get("linear_probe", ()):
        name = f"linear probe, {100 * probe['fraction']:g} % of labels"
        tiles[name] = (probe["macro_auc"], "macro AUC, chance 0.5")
    if "zero_shot" in results:
        macro = results["zero_shot"]["macro_auc"]
        tiles["zero-shot"] = (macro, "macro AUC, chance 0.5")
    for direction in ("image_to_text", "text_to_image"):
        ranks = results["retrieval"][direction]
        tiles[f"{direction.replace('_', ' ')} R@10"] = (
            ranks["R@10"],
            f"chance {ranks['chance']['R@10']:.3f} of {ranks['candidates']}",
        )
    page.numbers(tiles)
    training_section(page, rows)
    if corpus.findings:
        page.section("Findings")
        page.table(_per_finding(results, corpus), bars=_bars(results))
    page.section("Retrieval")
    page.text(
        f"Test radiographs with the {results['retrieval']['section']}s nearest to "
        "them. Green: the text of this radiograph. Red: that of another one, even if "
        "it says the same in other words."
    )
    page.gallery(_gallery(results, found, corpus))
    page.table(_retrieval_rows(results), caption="Recall at K, and what guessing gets")
    if words:
        page.section("Words and places")
        page.text(
            "Test radiographs and words of their own reports: the brighter a place, "
            "the more a word takes from it. Of each report the words whose attention "
            "is least spread out."
        )
        page.gallery(words)
    page.section("Data")
    page.table(_data_rows(corpus), caption=f"{corpus.metadata['name']}, as prepared")
    return page


def _data_rows(corpus: Corpus) -> list[dict[str, Any]]:
    """What every filter kept, what was skipped, and how it was split."""
    rows: list[dict[str, Any]] = [
        {"what": name, "studies": kept, "dropped": dropped}
        for name, kept, dropped in corpus.metadata["filters"]
    ]
    rows.append({"what": "skipped for a fault", "studies": corpus.metadata["skipped"]})
    rows += [
        {"what": f"in the {split} split", "studies": count}
        for split, count in corpus.metadata["splits"].items()
    ]
    return rows


def _per_finding(results: Mapping[str, Any], corpus: Corpus) -> list[dict[str, Any]]:
    zero_shot = results["zero_shot"]
    return [
        {
            "finding": name,
            "prevalence": zero_shot["prevalence"][name],
            "zero-shot AUC": zero_shot["auc"][name],
            **{
                f"probe AUC, {100 * p['fraction']:g} %": p["auc"][name]
                for p in results.get("linear_probe", ())
            },
        }
        for name in corpus.findings
    ]


def _bars(results: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    shares = (100 * p["fraction"] for p in results.get("linear_probe", ()))
    names = ["zero-shot AUC", *(f"probe AUC, {share:g} %" for share in shares)]
    return dict.fromkeys(names, (0.5, 1.0))


def _rankings(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Both directions, and what an order of the texts by frequency alone would find."""
    found = results["retrieval"]
    names = ("image_to_text", "text_to_image", "by_frequency")
    return [(name.replace("_", " "), found[name]) for name in names if name in found]


def _retrieval_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for direction, ranks in _rankings(results):
        row: dict[str, Any] = {"direction": direction}
        median = ranks["median_rank"]  # halves occur, more decimals do not
        for k in KS:
            row |= {
                f"R@{k}": ranks[f"R@{k}"],
                f"chance @{k}": ranks["chance"][f"R@{k}"],
            }
        rows.append(row | {"median rank": median if median % 1 else int(median)})
    return rows


def _gallery(
    results: Mapping[str, Any], found: Mapping[str, np.ndarray], corpus: Corpus
) -> list[Card]:
    """A few test radiographs, evenly spaced, with their nearest distinct texts."""
    texts = corpus.column("test", f"{results['retrieval']['section']}_text")
    told = np.flatnonzero([bool(text.strip()) for text in texts])
    distinct = list({texts[i]: i for i in reversed(told)}.values())
    films = corpus.source("test", ("image",))
    cards = []
    for i in told[:: max(1, len(told) // EXAMPLES)][:EXAMPLES]:
        scores = found["text"][distinct] @ found["image"][i]
        own = [texts[j] for j in distinct].index(texts[i])
        lines: list[tuple[str, bool | None]] = [
            (texts[distinct[j]], bool(j == own)) for j in np.argsort(-scores)[:DEEP]
        ]
        rank = 1 + int((scores > scores[own]).sum())
        lines.append((f"its own (rank {rank} of {len(distinct)}): {texts[i]}", None))
        cards.append(Card(films[int(i)]["image"], lines=lines))
    return cards
