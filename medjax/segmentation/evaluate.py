"""Scores of a trained segmentation on the scanner's grid, empty structures counted."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume
from medjax.data.volumes import with_geometry_of
from medjax.metrics.cases import Cases
from medjax.metrics.lesionwise import LesionCounts, lesion_counts, volume_error
from medjax.metrics.overlap import Structure, inside, overlap
from medjax.metrics.surface import surface_distances
from medjax.progress import Progress
from medjax.segmentation.datasets.case import Case, DataSet
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.segmented import Segmented


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """What is scored at the end."""

    cases: int | None = None
    """At most so many held-out cases; None: all."""
    tolerance: float = 2.0
    """Of the surface Dice, mm."""
    shown: int = 4
    """Cases that the report shows."""

    def __post_init__(self) -> None:
        if not (self.cases is None or self.cases > 0) or not self.tolerance > 0:
            raise ValueError(
                f"evaluation: {self.cases} cases at a tolerance of {self.tolerance} "
                "mm, expected positive numbers"
            )


@dataclasses.dataclass(frozen=True)
class Shown:
    """One case for a page: on one grid, values of files."""

    image: Volume
    truth: Integer[np.ndarray, "i j k"]
    found: Segmented
    dice: float


def evaluate(
    model: Segmenter,
    data: DataSet,
    cases: Sequence[Case],
    config: ScoringConfig,
    ledger: Ledger,
) -> tuple[dict[str, Any], list[Shown]]:
    """Dice, distances, volumes, and lesions by size of held-out cases.

    Args:
        model: The trained system.
        data: Reads the cases.
        cases: Held out, with label maps.
        config: What is scored.
        ledger: Takes cases that cannot be read.

    Returns:
        What ``evaluation.json`` holds, and some cases to show.

    Raises:
        DataError: If no case is left.
    """
    structures = data.labels.structures
    scores: list[dict[str, dict[str, float]]] = []
    lesions: dict[str, LesionCounts] = {}
    ids, shown = [], []
    cases = cases[: config.cases]
    with Progress("score", len(cases), "cases") as progress:
        for case in cases:
            progress.advance()
            try:
                images, label = data.read(case)
                if label is None:
                    raise DataError(f"{case.id}: no label map")
                label = with_geometry_of(images[0], label)
                data.labels.read(label.data, case.id)
                found = model.segment(images, id=case.id, maps=("entropy",))
            except (DataError, FileNotFoundError) as error:
                ledger.fault(case.id, str(error))
                continue
            truth, said = annotated(label.data, found.labels.data, data.labels.ignore)
            spacing = images[0].spacing
            ids.append(case.id)
            scores.append(case_scores(said, truth, spacing, structures, config))
            for name, structure in structures.items():
                pair = inside(said, structure), inside(truth, structure)
                counts = lesion_counts(
                    np.asarray(pair[0]), np.asarray(pair[1]), spacing
                )
                lesions[name] = lesions[name] + counts if name in lesions else counts
            if len(shown) < config.shown:
                dice = float(np.mean([s["dice"] for s in scores[-1].values()]))
                shown.append(Shown(images[0], truth, found, dice))
    if not scores:
        raise DataError(f"{data.name}: no held-out case could be scored")
    rows = [_row(name, scores, lesions[name]) for name in structures]
    sizes = [row for name in structures for row in _by_size(name, lesions[name])]
    each = [
        {"case": case, "structure": name, **values}
        for case, by in zip(ids, scores, strict=True)
        for name, values in by.items()
    ]
    results = {"data": data.name, "scores": rows, "lesions": sizes, "cases": each}
    return results, shown


def annotated(
    truth: np.ndarray, prediction: np.ndarray, ignore: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction, both background where nobody annotated."""
    if ignore is None:
        return truth, prediction
    seen = truth != ignore
    return truth * seen, prediction * seen


def case_scores(
    prediction: Integer[np.ndarray, "i j k"],
    truth: Integer[np.ndarray, "i j k"],
    spacing: Sequence[float],
    structures: Mapping[str, Structure],
    config: ScoringConfig,
) -> dict[str, dict[str, float]]:
    """Scores of one case by structure.

    Args:
        prediction: Values of a file.
        truth: Values of a file.
        spacing: mm along each axis.
        structures: What is scored.
        config: The tolerance.

    Returns:
        ``dice``, ``hd95_monai``, ``assd_pooled`` (mm, the image's diagonal for a miss),
        ``nsd_voxels``, ``volume_error_ml`` and ``volume_error`` (a share of the true
        volume, NaN where that is 0 and the predicted one is not), and whether either
        side holds it (1 or 0).
    """
    scores = {}
    for name, structure in structures.items():
        said = np.asarray(inside(prediction, structure))
        true = np.asarray(inside(truth, structure))
        count = overlap(said, true, structures=[True], rank=said.ndim)
        surfaces = surface_distances(said, true, spacing, elements="voxels")
        ml, share = volume_error(said, true, spacing)
        scores[name] = {
            "dice": float(count.dice[0]),
            "hd95_monai": surfaces.hd95("monai"),
            "assd_pooled": surfaces.assd("pooled"),
            "nsd_voxels": surfaces.nsd(config.tolerance),
            "volume_error_ml": ml,
            "volume_error": share if np.isfinite(share) else float("nan"),
            "predicted": float(said.any()),
            "present": float(true.any()),
        }
    return scores


def _row(
    name: str, scores: list[dict[str, dict[str, float]]], lesions: LesionCounts
) -> dict[str, Any]:
    """A line of the table: means over cases, and what was empty."""
    values = [by[name] for by in scores]
    held = {
        key: np.array([bool(v[key]) for v in values])
        for key in ("predicted", "present")
    }
    row: dict[str, Any] = {"structure": name}
    for metric in ("dice", "hd95_monai", "assd_pooled", "nsd_voxels"):
        found = Cases.of(np.array([v[metric] for v in values]), **held)
        row[metric] = found.mean
        if metric == "dice":
            row["dice_sd"] = found.sd
            row |= {"n": found.n, **found.empty}
    errors = np.array([v["volume_error_ml"] for v in values])
    shares = Cases.of(np.array([v["volume_error"] for v in values]), **held)
    return row | {
        "volume_error_ml": Cases.of(errors, **held).mean,
        "volume_error_ml_absolute": Cases.of(np.abs(errors), **held).mean,
        "volume_error": shares.mean,
        "volume_error_n_undefined": shares.n_undefined,
        "lesion_sensitivity": lesions.sensitivity,
        "lesion_ppv": lesions.ppv,
        "lesion_f1": lesions.f1,
    }


def _by_size(name: str, lesions: LesionCounts) -> list[dict[str, Any]]:
    """A line for every bin of sizes (mm^3), the first of what was left out."""
    true, false = (int(n) for n in lesions.too_small)
    left_out = {"structure": name, "from": 0.0, "below": lesions.edges[0]}
    rows: list[dict[str, Any]] = [left_out | {"lesions": true, "false": false}]
    shares = {
        "sensitivity": lesions.sensitivity_by_size,
        "ppv": lesions.ppv_by_size,
        "f1": lesions.f1_by_size,
    }
    for i, edge in enumerate(lesions.edges):
        found = int(lesions.found[i])
        row = {"structure": name, "from": edge}
        row["below"] = lesions.edges[i + 1] if i + 1 < len(lesions.edges) else None
        row |= {
            "lesions": found + int(lesions.missed[i]),
            "found": found,
            "false": int(lesions.false[i]),
        }
        rows.append(row | {key: float(share[i]) for key, share in shares.items()})
    return rows
