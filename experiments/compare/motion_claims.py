"""What the comparison of motion scores, and what it says of systems."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.compare.motion_arms import STILL
from experiments.compare.publishing import judged

VIEWS = {"sax": "SAX", "2ch": "2CH", "4ch": "4CH"}
PLACES = {
    "vertex": "vertices, mm",
    "normal": "normal, mm",
    "circumferential": "around, mm",
    "longitudinal": "along, mm",
    "contour sax": "contours SAX, mm",
    "contour 2ch": "2CH, mm",
    "contour 4ch": "4CH, mm",
    "dice sax": "Dice SAX",
    "dice 2ch": "2CH",
    "dice 4ch": "4CH",
}
"""Errors of places; contours and Dice at end-systole."""
DEEPMESH = {
    f"deepmesh_{score} {view}": f"{told} {name}{unit}"
    for score, told, unit in (
        ("hd", "HD", ", mm"),
        ("mcd", "MCD", ", mm"),
        ("boundf", "BoundF", ""),
        ("dropped", "dropped", ""),
    )
    for view, name in VIEWS.items()
}
"""The published scores of contours at end-systole; planes without one are dropped."""
CLINIC = {
    "ef": "EF, points",
    "ef_bias": "EF bias",
    "lv_mae_ml": "LV, mL",
    "GCS endo": "GCS, points",
    "GLS endo": "GLS, points",
    "GRS": "GRS, points",
    "segments": "17 segments, points",
    "infarct": "infarcts, points",
    "basal": "basal, points",
    "basal_bias": "basal bias",
    "muscle_drift": "muscle's change",
    "flipped": "turned over",
    "parameters": "parameters",
    "pace": "ms a frame",
}
"""Errors of what is read from meshes, what muscle does not do, and what it costs."""


class Claim(NamedTuple):
    """What is said: that an error of the first is lower than that of the second."""

    said: str
    first: str
    second: str
    error: str
    margin: float
    """Of the error: a difference below it does not matter."""


FAR, ROUND, STRAIN = 0.2, 0.05, 1.0
"""Margins: mm, mm around the heart, where half a millimetre is all there is, points."""
CLAIMS = (
    Claim(
        "a mesh beats registered images, by contours",
        *("deepmesh", "images", "contour sax", FAR),
    ),
    Claim(
        "a mesh beats registered images, by vertices",
        *("deepmesh", "images", "vertex", FAR),
    ),
    Claim(
        "a mesh beats VoxelMorph, by contours",
        *("deepmesh", "voxelmorph", "contour sax", FAR),
    ),
    Claim(
        "a mesh beats VoxelMorph, by vertices",
        *("deepmesh", "voxelmorph", "vertex", FAR),
    ),
    Claim(
        "long-axis views help along the heart (DeepMesh)",
        *("deepmesh", "deepmesh_sax", "longitudinal", FAR),
    ),
    Claim(
        "long-axis views help along the heart (graph)",
        *("graph", "graph_sax", "longitudinal", FAR),
    ),
    Claim(
        "the graph network is ahead of DeepMesh",
        *("graph", "deepmesh", "vertex", FAR),
    ),
    Claim(
        "coverage is ahead of projection", *("deepmesh", "projection", "vertex", FAR)
    ),
    Claim(
        "contours show motion around the heart",
        *("deepmesh", STILL, "circumferential", ROUND),
    ),
    Claim(
        "images show motion around the heart",
        *("images", STILL, "circumferential", ROUND),
    ),
    Claim(
        "texture shows motion around the heart",
        *("graph", "graph_plain", "circumferential", ROUND),
    ),
    Claim(
        "motion around the heart is found without texture",
        *("graph_plain", STILL, "circumferential", ROUND),
    ),
    Claim(
        "slices in line lower the error of basal strain",
        *("graph_aligned", "graph", "basal", STRAIN),
    ),
)
CLAIMED = tuple(dict.fromkeys(claim.error for claim in CLAIMS))
"""Errors that are kept of every person."""


def of_people(each: Sequence[Mapping[str, Any]], error: str) -> list[float]:
    """The size of an error of every person.

    Args:
      each: Scores of people, of `medjax.heart.motion_scores.motion_scores`.
      error: Its name; of contours with the view behind it.
    """
    score, _, view = error.partition(" ")
    return [
        abs(float(one["contours"][view][score] if view else one[score])) for one in each
    ]


def numbers(method: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, float]:
    """Scores of one method that there are, those of contours before the name of their
    view.

    Args:
      method: Its row of ``tracking``.
      results: Of `medjax.heart.tracking.evaluate`.
    """
    known = [*PLACES, *CLINIC]
    found = {name: float(v) for name, v in method.items() if name in known}
    for row in results["contours"]:
        if row["method"] == method["method"]:
            names = {f"{score} {row['view']}": score for score in row}
            told = [name for name in names if name in PLACES or name in DEEPMESH]
            found |= {name: float(row[names[name]]) for name in told}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def claims(
    rows: Sequence[Mapping[str, Any]], people: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What is said of systems, by how much errors differ, and what that allows.

    Args:
      rows: Of `compare`.
      people: Of `compare`, of all rows or of some.

    Returns:
      ``claim``, ``error``, ``margin`` and what `judged` finds, ``subjects`` being 1
      where means of seeds were compared; claims whose systems did not both run with
      two seeds, or with one and on two people, are left out.
    """
    means = {(row["system"], row["seed"]): row for row in rows}
    each = {(one["system"], one["seed"]): one for one in people}
    found = []
    for claim in CLAIMS:
        name, two = claim.error, (claim.first, claim.second)
        seeds = sorted({s for _, s in means if all((one, s) in means for one in two)})
        runs = [[(one, seed) for seed in seeds] for one in two]
        source = each if all(run in each for run in itertools.chain(*runs)) else means
        if not all(name in source[run] for run in itertools.chain(*runs)):
            continue
        first, second = (
            np.array([np.atleast_1d(source[run][name]) for run in of]) for of in runs
        )
        # Whoever has no number with one run is left out of all.
        whole = np.isfinite(first).all(0) & np.isfinite(second).all(0)
        first, second = first[:, whole], second[:, whole]
        if not whole.any() or max(first.shape) < 2:
            continue
        verdict = judged(first, second, margin=claim.margin, lower_is_better=True)
        found.append(
            {
                "claim": claim.said,
                "error": {**PLACES, **CLINIC}[name],
                "margin": claim.margin,
                **verdict,
            }
        )
    return found
