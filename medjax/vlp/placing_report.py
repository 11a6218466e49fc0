"""What fine-tuning for places ends with: scores in lines, and a page with films."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medjax.report import Card, Report
from medjax.report.picture import enlarged, outlined
from medjax.report.run import save_evaluation, training_section
from medjax.train.log import read_metrics
from medjax.vlp.datasets.embedded import Embedded
from medjax.vlp.labelled import Labelled
from medjax.vlp.placed import PlacedFilms
from medjax.vlp.placed_run import detections

EXAMPLES = 8
SIDE = 192
"""Least side of a film on the page, pixels."""


def show(
    workdir: Path,
    results: Mapping[str, Any],
    found: np.ndarray,
    part: PlacedFilms,
    data: Labelled,
    *,
    title: str,
) -> None:
    """Prints the results; writes ``evaluation.json`` and the page.

    Args:
      workdir: folder of the run.
      results: of ``medjax.vlp.placing.run_places``.
      found: what was found on the test films.
      part: the test films.
      data: all films.
      title: of the page.
    """
    save_evaluation(workdir, results)
    print(f"\n{summary(results)}")
    name = data.corpus.metadata["name"]
    page = Report(title, f"{results['start']}, fine-tuned on {name}")
    if name != Embedded.name:
        page.notice("The films below may be of real patients.")
    page.numbers(tiles(results))
    rows = read_metrics(workdir)
    training_section(page, [row for row in rows if "loss" in row])
    score = "dice" if results["kind"] == "mask" else "map"
    scored = [row for row in rows if f"eval/{score}" in row]
    page.curves(f"validation {score}", scored, [f"eval/{score}"])
    page.section("Test films")
    page.text(
        "The first colour is the truth, the second what was found: of films that show "
        "a lesion, evenly over all."
    )
    page.gallery(cards(found, part))
    page.section("Data")
    page.text("\n\n".join(data.lines()))
    page.save(workdir / "report.html")


def summary(results: Mapping[str, Any]) -> str:
    """The results as lines, beside what finding nothing would reach."""
    used = f"{100 * results['fraction']:g} % of films ({results['labels_used']})"
    lines = [
        f"test set: {results['test']} films; {used}, weights of step {results['step']}"
    ]
    if results["kind"] == "mask":
        thirds = ", ".join(f"{value:.3f}" for value in results["dice_by_size"])
        lines += [
            f"Dice {results['dice']:.3f}   finding nothing "
            f"{results['dice_of_nothing']:.3f}   of all pixels together "
            f"{results['dice_pooled']:.3f}, with the background "
            f"{results['dice_with_background']:.3f}",
            f"  of the {results['with_lesion']} films with a lesion, by its size: "
            f"{thirds}",
        ]
        if results["dice"] <= results["dice_of_nothing"]:
            lines.append("  NOTE: an empty mask for every film would do as well")
    else:
        lines += [
            f"mAP {results['map']:.3f}   finding nothing 0.000   as published "
            f"{results['map_published']:.3f}   challenge {results['challenge']:.3f}",
            f"  {results['found']} boxes found, {results['boxes']} there",
        ]
        if not results["map"] > 0:
            lines.append("  NOTE: none of them was found")
    return "\n".join(lines)


def tiles(results: Mapping[str, Any]) -> dict[str, tuple[float | str, str]]:
    """The headline."""
    if results["kind"] == "mask":
        nothing = f"finding nothing {results['dice_of_nothing']:.3f}"
        return {
            "Dice": (results["dice"], f"mean of films; {nothing}"),
            "Dice, pooled": (results["dice_pooled"], "all pixels together"),
            "test films": (f"{results['test']}", f"{results['with_lesion']} with one"),
        }
    return {
        "mAP": (results["map"], "IoU 0.4 to 0.75, all films counted"),
        "mAP as published": (
            results["map_published"],
            "films without a box or a detection left out",
        ),
        "challenge": (results["challenge"], "TP / (TP + FP + FN), mean of films"),
    }


def cards(found: np.ndarray, part: PlacedFilms) -> list[Card]:
    """A few films with lesions: the truth and what was found, outlined."""
    shown = [row for row in range(len(part)) if len(part.boxes[row])]
    pictures = []
    for row in shown[:: max(1, len(shown) // EXAMPLES)][:EXAMPLES]:
        film = part.film(row)
        if part.kind == "mask":
            truth = part.mask(row)
            told = found[row]
            at = (np.arange(len(film)) + 0.5) * len(told) / len(film)
            said = told[at.astype(int)][:, at.astype(int)] >= 0.5
            layers = [truth, said]
        else:
            (sure,) = detections(found[row : row + 1])
            layers = [
                framed(part.boxes[row], len(film)),
                framed(sure.boxes, len(film)),
            ]
        picture = enlarged(film, SIDE)
        for label, layer in enumerate(layers, start=1):
            picture = outlined(picture, label * enlarged(layer, SIDE).astype(int))
        pictures.append(Card(picture, part.ids[row]))
    return pictures


def framed(boxes: np.ndarray, size: int) -> np.ndarray:
    """Boxes as an area."""
    area = np.zeros((size, size), bool)
    for x0, y0, x1, y1 in np.clip(np.round(boxes), 0, size).astype(int):
        area[y0:y1, x0:x1] = True
    return area
