"""The page of a run under motion: what breathing does, grades, and Dice by grade."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from medjax.metrics.cases import EMPTY
from medjax.report.page import Card, Report
from medjax.report.picture import HEAT, coloured, enlarged, grey, outlined, overlay
from medjax.report.run import save_evaluation
from medjax.segmentation.cmrxmotion.disturbed import Answer
from medjax.segmentation.cmrxmotion.reader import GRADES, LABELS


@dataclasses.dataclass(frozen=True)
class Strip:
    """One slice of a scan, before and after.

    Attributes:
        name: of the scan, and how it was breathed.
        rest: as it would be without motion.
        moved: as it is.
        magnitude: of its k-space.
        displacement: how far the heart was from its mean place at each line, mm.
        severity: mm.
        grade: of the scan.
    """

    name: str
    rest: Float[np.ndarray, "h w"]
    moved: Float[np.ndarray, "h w"]
    magnitude: Float[np.ndarray, "h w"]
    displacement: Float[np.ndarray, " h"]
    severity: float
    grade: int


def coloured_lines(strip: Strip, most: float) -> UInt8[np.ndarray, "h w 3"]:
    """k-space, each line in the colour of the heart's distance from its mean place.

    Args:
        strip: with magnitude and displacement.
        most: mm of the hottest colour.
    """
    logarithm = np.log(np.maximum(strip.magnitude, 1e-6 * strip.magnitude.max()))
    low, high = np.percentile(logarithm, [5, 100])
    shade = np.clip((logarithm - low) / max(high - low, 1e-6), 0.0, 1.0)
    unit = 0.25 + 0.75 * np.clip(strip.displacement / max(most, 1e-6), 0.0, 1.0)
    lines = coloured(np.broadcast_to(unit[:, None], shade.shape), HEAT)
    return np.round(lines * (0.2 + 0.8 * shade[..., None])).astype(np.uint8)


def motion_page(
    workdir: Path,
    results: Mapping[str, Any],
    strips: Sequence[Strip],
    shown: Mapping[str, Sequence[Answer]],
    *,
    title: str,
    subtitle: str,
) -> Path:
    """Writes ``evaluation.json`` and ``report.html``.

    Args:
        workdir: folder of the run.
        results: ``counts``, ``grading``, ``segmentation``, ``breathing`` and
            ``task2``, tables all.
        strips: to show; none of real scans, whose rest nobody knows.
        shown: answers of each segmenter to the same scans.
        title: of the page.
        subtitle: under it.
    """
    save_evaluation(workdir, results)
    page = Report(title, subtitle)
    _headline(page, results)
    page.section("Breathing is no grade")
    page.text(
        "What a volunteer was asked to do, and the grade of what came out, over the "
        "scans that are held out."
    )
    page.table(results["counts"])
    if strips:
        _strips(page, strips)
    if results["grading"]:
        _grading(page, results["grading"])
    if results["segmentation"]:
        _segmentation(page, results)
        page.section("The same scans, seen by each")
        page.gallery([card for cards in _side_by_side(shown) for card in cards])
    return page.save(workdir / "report.html")


def _headline(page: Report, results: Mapping[str, Any]) -> None:
    tiles: dict[str, tuple[float | str, str]] = {
        f"kappa, {row['method']}": (row["kappa"], f"accuracy {row['accuracy']:.2f}")
        for row in results["grading"]
    }
    worst = max((row["grade"] for row in results["segmentation"]), default=None)
    tiles |= {
        f"Dice at grade {worst}, {row['trained on']}": (row["dice"], f"n = {row['n']}")
        for row in results["segmentation"]
        if row["grade"] == worst
    }
    page.numbers(tiles)


def _strips(page: Report, strips: Sequence[Strip]) -> None:
    page.section("What breathing does")
    most = max(float(strip.displacement.max()) for strip in strips)
    page.text(
        "One slice at rest and as it was scanned, what differs, and its k-space: each "
        "line in the colour of the heart's distance from its mean place while it was "
        f"acquired, from 0 (dark) to {most:.1f} mm (bright)."
    )
    cards = []
    for strip in strips:
        high = float(np.percentile(strip.rest, 99.8))
        gap = np.abs(strip.moved - strip.rest) / max(high, 1e-6)
        of = [(f"{strip.severity:.1f} mm, grade {strip.grade}", None)]
        cards += [
            Card(enlarged(grey(strip.rest, 0.0, high)), f"{strip.name}: at rest"),
            Card(enlarged(grey(strip.moved, 0.0, high)), "as scanned", of),
            Card(enlarged(coloured(2.0 * gap, HEAT)), "difference"),
            Card(enlarged(coloured_lines(strip, most)), "k-space"),
        ]
    page.gallery(cards)


def _grading(page: Report, rows: Sequence[Mapping[str, Any]]) -> None:
    page.section("Grading")
    page.table(
        [
            {
                "graded by": row["method"],
                "kappa, linear": row["kappa"],
                "kappa, unweighted": row["kappa_none"],
                "accuracy": row["accuracy"],
                "scans": int(row["n"]),
            }
            for row in rows
        ],
        caption="Held-out scans. Networks say the grade with the smallest expected "
        "distance from the true one. Uncertainty alone is cut where it agrees best "
        "with the grades of the validation scans; no network saw a grade for it.",
    )
    for row in rows:
        page.table(
            [
                {"truth": f"grade {grade}"}
                | {f"said {g}": n for g, n in zip(GRADES, of_grade, strict=True)}
                for grade, of_grade in zip(GRADES, row["confusion"], strict=True)
            ],
            caption=f"{row['method']}: scans by true and said grade",
        )


def _segmentation(page: Report, results: Mapping[str, Any]) -> None:
    rows = results["segmentation"]
    page.section("Segmentation under motion")
    arms = list(dict.fromkeys(row["trained on"] for row in rows))
    grades = sorted({row["grade"] for row in rows})
    by = {(row["trained on"], row["grade"]): row["dice"] for row in rows}
    if len(grades) > 1:
        points = [
            {"grade": g} | {arm: by[arm, g] for arm in arms if (arm, g) in by}
            for g in grades
        ]
        page.curves("mean Dice by grade", points, arms, x="grade")
    heads = {f"{n}_dice": f"{n} Dice" for n in LABELS}
    heads |= {f"{n}_hd95": f"{n} HD95, mm" for n in LABELS}
    heads |= EMPTY | {"uncertainty": "entropy around", "EF error": "EF error, points"}
    bars = {head: (0.0, 1.0) for head in heads.values() if head.endswith("Dice")}
    told = (
        (
            "grade",
            rows,
            "Held-out scans by their grade. HD95 is medpy's. A structure that one "
            "side lacks has Dice 0 and the image's diagonal, one that both lack Dice 1 "
            "and 0 mm; both are counted over all structures. The EF error is the mean "
            "absolute one, of acquisitions whose worse phase has the grade.",
        ),
        (
            "breathing",
            results["breathing"],
            "The same scans by what volunteers were asked to do, whatever came of it.",
        ),
    )
    for by_what, those, caption in told:
        page.table(
            [
                {"trained on": row["trained on"], by_what: row[by_what]}
                | {"scans": row["n"]}
                | {head: row[key] for key, head in heads.items()}
                for row in those
            ],
            caption=caption,
            bars=bars,
        )
    single = [f"{name}_{count}" for name in LABELS for count in EMPTY]
    page.table(
        [
            {
                EMPTY[key] if key in EMPTY else key: value
                for key, value in row.items()
                if key not in single
            }
            for row in results["task2"]
        ],
        caption="Task 2 of what was written as a submission: as the challenge's script "
        "counts (a structure not predicted is 0 and 373 mm), and as it should be.",
    )


def _side_by_side(shown: Mapping[str, Sequence[Answer]]) -> list[list[Card]]:
    """Truth, then the answer and the entropy of every segmenter, scan by scan."""
    rows = []
    for several in zip(*shown.values(), strict=True):
        first = several[0]
        place = first.image.data.shape[2] // 2
        image = first.image.data[..., place]
        low, high = np.percentile(image, [1, 99.5])
        base = grey(image, float(low), float(high))
        cards = []
        if first.truth is not None:
            truth = first.truth.data[..., place].astype(np.int32)
            of = [(f"grade {first.scan.grade}", None)]
            cards.append(
                Card(enlarged(outlined(base, truth)), f"{first.scan.name}: truth", of)
            )
        for arm, answer in zip(shown, several, strict=True):
            dice = [v for k, v in answer.scores.items() if k.endswith("_dice")]
            of = [(f"mean Dice {np.mean(dice):.3f}", None)] if dice else []
            said = outlined(base, answer.said[..., place])
            heat = overlay(base, answer.entropy[..., place] / np.log(4.0), HEAT)
            cards += [
                Card(enlarged(said), f"trained on {arm}", of),
                Card(enlarged(heat), "entropy"),
            ]
        rows.append(cards)
    return rows
