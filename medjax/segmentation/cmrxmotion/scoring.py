"""The challenge's scores, as its script computes them and as they should be.

Task 1 is graded by accuracy and Cohen's kappa with linear weights. Task 2 by Dice and
the 95th percentile Hausdorff distance (medpy's pooled one, mm, with the voxel size in
the truth's header) per structure, mean over cases. Where a structure is not predicted
at all, even where there is none, or the whole file is missing, the script's numbers are
0 and 373.

What the script does beyond that and is not done here in either mode:

* It pairs files by their sorted order, not by name. A submission that lacks a case is
  scored against the wrong ones from there on, and the last truth is dropped.
* It takes the four blacklisted cases out of the submission only if both folders hold
  equally many files; else out of the truth alone, which shifts the pairs again.
* It removes from the list it walks through; the entry behind is not looked at. (Here
  harmless: one file matches each name.)
* A structure that the truth lacks and the prediction has stops it with an error of
  medpy's. ``official`` says so in words; without it both kinds of empty cases have
  their values.

The text of the challenge says "Hausdorff distance" where its script takes the 95th
percentile: both are reported.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from medjax.data import nifti
from medjax.data.boundary import DataError, in_short
from medjax.metrics.cases import EMPTY, Cases
from medjax.metrics.kappa import Weights, cohen_kappa
from medjax.metrics.surface import surface_distances
from medjax.segmentation.cmrxmotion.reader import GRADES, LABELS

BLACKLIST = ("P028-2-ED", "P028-3-ED", "P028-2-ES", "P030-4-ES")
"""Cases that the challenge does not score."""
EMPTY_HD95 = 373.0
"""mm, where a structure is not predicted."""
_EPS = float(np.finfo(float).eps)


@dataclasses.dataclass(frozen=True)
class SegmentationScores:
    """Scores of task 2.

    Attributes:
        mean: ``LV_dice``, ``LV_hd95``, ``LV_hd``, ... over cases.
        empty: ``LV_n_both_empty``, ``LV_n_missed``, ``LV_n_false``, ...: in how many
            of them one side or both lack the structure.
        cases: one row per case: its name and what :func:`score_case` tells.
        missing: cases without a prediction, scored as empty.
        extra: predictions without a case, not scored.
        excluded: cases of the blacklist.
    """

    mean: dict[str, float]
    empty: dict[str, int]
    cases: list[dict[str, float | str]]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    excluded: tuple[str, ...]


def cmrxmotion_task1(
    truth: Mapping[str, int], prediction: Mapping[str, int]
) -> dict[str, float]:
    """Accuracy and kappa of grades, paired by name.

    Args:
        truth: name to grade.
        prediction: name to grade.

    Returns:
        ``accuracy``, ``kappa`` (linear weights, the challenge's), ``kappa_none``,
        ``kappa_quadratic`` and ``n``.

    Raises:
        DataError: if a case is missing or extra, or a grade is none of 1 to 3.
    """
    missing, extra = sorted(set(truth) - set(prediction)), set(prediction) - set(truth)
    if missing or extra or not truth:
        raise DataError(
            f"grades: of {len(truth)} cases {in_short(missing)} are missing, and "
            f"{in_short(sorted(extra))} are none of them"
        )
    names = sorted(truth)
    said = np.array([prediction[name] for name in names])
    true = np.array([truth[name] for name in names])
    scores = {"accuracy": float((said == true).mean()), "n": float(len(names))}
    kinds: dict[str, Weights] = {
        "kappa": "linear",
        "kappa_none": "none",
        "kappa_quadratic": "quadratic",
    }
    for key, weights in kinds.items():
        scores[key] = cohen_kappa(true, said, classes=GRADES, weights=weights)
    return scores


def score_case(
    prediction: Integer[np.ndarray, "..."] | None,
    truth: Integer[np.ndarray, "..."],
    spacing: tuple[float, ...],
    *,
    official: bool,
    name: str = "case",
) -> dict[str, float]:
    """Dice, HD95 and HD of every structure of a case.

    Args:
        prediction: labels; None: missing.
        truth: labels.
        spacing: voxel size in mm, from the truth's header.
        official: numbers as the challenge's script has them. Else two empty structures
            score 1 and 0 mm, one empty 0 and the image's diagonal.
        name: for messages.

    Returns:
        ``LV_dice``, ``LV_hd95``, ``LV_hd`` (mm) and whether either side holds it,
        ``LV_predicted`` and ``LV_present`` (1 or 0), and so on.

    Raises:
        DataError: if shapes differ; if ``official`` and a structure is predicted that
            the truth lacks, which stops the script.
    """
    if prediction is None:
        prediction = np.zeros_like(truth)
    if prediction.shape != truth.shape:
        raise DataError(
            f"{name}: the prediction has shape {prediction.shape}, the truth "
            f"{truth.shape}"
        )
    scores: dict[str, float] = {}
    for structure, label in LABELS.items():
        said, true = prediction == label, truth == label
        both, total = int((said & true).sum()), int(said.sum() + true.sum())
        if official and not said.any():
            dice, hd95, hd = 0.0, EMPTY_HD95, EMPTY_HD95
        elif official and not true.any():
            raise DataError(
                f"{name}: {structure} is predicted and the truth has none, for which "
                "the challenge has no score (official=False has)"
            )
        else:
            dice = 2 * both / (total + _EPS) if official else 1.0
            if not official and total:
                dice = 2 * both / total
            measured = surface_distances(said, true, spacing, elements="voxels")
            hd95, hd = measured.hd95("medpy"), measured.hd()
        scores |= {
            f"{structure}_dice": dice,
            f"{structure}_hd95": hd95,
            f"{structure}_hd": hd,
            f"{structure}_predicted": float(said.any()),
            f"{structure}_present": float(true.any()),
        }
    return scores


def over_cases(
    scores: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, float], dict[str, int]]:
    """Means of :func:`score_case` over cases, and what was empty in them.

    Args:
        scores: one entry per case.

    Returns:
        ``LV_dice``, ``LV_hd95``, ``LV_hd``, ... and ``LV_n_both_empty``,
        ``LV_n_missed``, ``LV_n_false``, ...
    """
    mean, empty = {}, {}
    for structure in LABELS:
        predicted, present = (
            np.array([bool(case[f"{structure}_{side}"]) for case in scores])
            for side in ("predicted", "present")
        )
        for metric in ("dice", "hd95", "hd"):
            key = f"{structure}_{metric}"
            values = np.array([float(case[key]) for case in scores])
            found = Cases.of(values, predicted=predicted, present=present)
            mean[key] = found.mean
            empty |= {f"{structure}_{name}": n for name, n in found.empty.items()}
    return mean, empty


def empty_of_all(row: Mapping[str, Any]) -> dict[str, int]:
    """``n_both_empty``, ``n_missed`` and ``n_false`` over all structures of a row."""
    return {name: sum(row[f"{part}_{name}"] for part in LABELS) for name in EMPTY}


def cmrxmotion_task2(
    predictions: str | Path, truths: str | Path, *, official: bool
) -> SegmentationScores:
    """Scores a folder of segmentations.

    Args:
        predictions: folder of ``P001-1-ED.nii.gz``, at any depth.
        truths: folder of the same names, or with ``-label`` behind them.
        official: numbers as the challenge's script has them, its blacklist left out.

    Returns:
        Means and every case.

    Raises:
        FileNotFoundError: for a folder that is not there or has no truth in it.
        DataError: for files that cannot be read, or as in :func:`score_case`.
    """
    said, true = _files(Path(predictions)), _files(Path(truths))
    if not true:
        raise FileNotFoundError(f"{truths}: no label map *.nii.gz")
    excluded = tuple(sorted(set(true) & set(BLACKLIST))) if official else ()
    rows: list[dict[str, float | str]] = []
    for name in sorted(set(true) - set(excluded)):
        truth = nifti.read_labels(true[name], ndim=3)
        path = said.get(name)
        labels = None if path is None else nifti.read_labels(path, ndim=3).data
        scores = score_case(
            labels, truth.data, truth.spacing, official=official, name=name
        )
        rows.append({"case": name, **scores})
    if not rows:
        raise DataError(f"{truths}: all cases are on the blacklist")
    mean, empty = over_cases(rows)
    return SegmentationScores(
        mean,
        empty,
        rows,
        missing=tuple(sorted(set(true) - set(said) - set(excluded))),
        extra=tuple(sorted(set(said) - set(true))),
        excluded=excluded,
    )


def _files(folder: Path) -> dict[str, Path]:
    """Label maps by the name of the scan.

    Raises:
        FileNotFoundError: for no such folder.
        DataError: where a name comes twice.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz").removesuffix("-label")
        if name in found:
            raise DataError(f"{name}: both {found[name]} and {path}")
        found[name] = path
    return found
