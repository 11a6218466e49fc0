"""How well a cycle is completed, and how real a generated heart is.

*Completion*: overlap in the frames that were not given (the first one is told apart,
since it was), distances at end-systole, and what a clinic reads off: volume curves and
the ejection fraction. *Generation*: twelve clinical features of generated people beside
those of real ones, as distributions; whether they go with the conditions as real ones
do; whether they vary as much; and whether they are copies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer

from medjax.heart.appearance import LABELS
from medjax.heart.clinical import FEATURES, function, label_volumes
from medjax.heart.completion import mean_dice
from medjax.heart.population import CONDITIONS
from medjax.metrics.cases import Cases
from medjax.metrics.distributions import residual_spread, slope
from medjax.metrics.overlap import overlap
from medjax.metrics.surface import surface_distances

Sequences = Integer[np.ndarray, "_ t d h w"]
ADHERENCE = (
    ("LVEDV", "age"),
    ("LVEDV", "height"),
    ("LVM", "blood_pressure"),
    ("LVEF", "sex"),
)
"""Features and conditions whose slopes are compared."""
SPREADS = ("LVEDV", "LVM", "RVEDV", "LVEF")


def volume_curves(
    labels: Sequences, spacing: Sequence[float]
) -> Float[np.ndarray, "n t 3"]:
    """Volumes of each structure over the cycle, mL."""
    counts = [(labels == code).sum((2, 3, 4)) for code in LABELS.values()]
    return np.stack(counts, axis=-1) * float(np.prod(spacing)) / 1e3


def features(labels: Sequences, spacing: Sequence[float]) -> Float[np.ndarray, "n k"]:
    """The numbers of :data:`medjax.heart.clinical.FEATURES` of every sequence; NaN
    where a structure is missing."""
    affine = np.diag([*spacing, 1.0])
    found = []
    for one in labels:
        curves = label_volumes(one, affine)
        if "lv" in curves:
            told = function(curves).features
            found.append([told[name] for name in FEATURES])
        else:
            found.append([np.nan] * len(FEATURES))
    return np.array(found)


def completion_scores(
    methods: Mapping[str, Sequences], truth: Sequences, spacing: Sequence[float]
) -> list[dict[str, Any]]:
    """A row per method.

    Args:
        methods: completed cycles by name.
        truth: the cycles.
        spacing: of voxels, mm.

    Returns:
        Dice of later frames by structure, and of the first; Hausdorff and average
        surface distance at end-systole with the cases that have none; error of volume
        curves, their dynamic time warping, and of the ejection fraction with the people
        that have none.
    """
    curves = volume_curves(truth, spacing)
    systole = np.argmin(curves[..., 0], axis=1)
    fractions = features(truth, spacing)[:, FEATURES.index("LVEF")]
    rows = []
    for name, predicted in methods.items():
        codes = tuple(LABELS.values())
        dice = overlap(predicted, truth, structures=codes, rank=3).dice
        row: dict[str, Any] = {"method": name}
        row["dice"] = float(dice[:, 1:].mean())
        row |= {
            f"dice_{structure}": float(dice[:, 1:, i].mean())
            for i, structure in enumerate(LABELS)
        }
        row["dice_first"] = float(dice[:, 0].mean())
        row |= _distances(predicted, truth, systole, spacing)
        mine = volume_curves(predicted, spacing)
        row["lv_mae_ml"] = float(np.abs(mine - curves)[:, 1:, 0].mean())
        pairs = zip(mine[..., 0], curves[..., 0], strict=True)
        row["lv_dtw_ml"] = float(np.mean([time_warping(a, b) for a, b in pairs]))
        error = features(predicted, spacing)[:, FEATURES.index("LVEF")] - fractions
        size = Cases.of(np.abs(error))
        row["ef_mae"], row["ef_undefined"] = size.mean, size.n_undefined
        row["ef_bias"] = Cases.of(error).mean
        row["ef_rmse"] = float(np.sqrt(Cases.of(error**2).mean))
        rows.append(row)
    return rows


def _distances(
    predicted: Sequences,
    truth: Sequences,
    systole: Int[np.ndarray, " _"],
    spacing: Sequence[float],
) -> dict[str, Any]:
    """Distances at end-systole, over people and structures."""
    found, missed = [], []
    for one, other, t in zip(predicted, truth, systole, strict=True):
        for code in LABELS.values():
            mine, real = one[t] == code, other[t] == code
            apart = surface_distances(mine, real, spacing, elements="voxels")
            found.append((apart.hd(empty="nan"), apart.assd("pooled", empty="nan")))
            missed.append((mine.any(), real.any()))
    values, there = np.array(found, float), np.array(missed)
    told = {"predicted": there[:, 0], "present": there[:, 1]}
    hd, assd = (Cases.of(column, **told) for column in values.T)
    return {"hd_mm": hd.mean, "assd_mm": assd.mean, "undefined": hd.n_undefined}


def time_warping(
    first: Float[np.ndarray, " t"], second: Float[np.ndarray, " u"]
) -> float:
    """Dynamic time warping of two curves: the least sum of differences along a path
    that goes through both from end to end."""
    cost = np.abs(first[:, None] - second[None])
    total = np.full((len(first) + 1, len(second) + 1), np.inf)
    total[0, 0] = 0.0
    for i, row in enumerate(cost):
        for j, gap in enumerate(row):
            before = min(total[i, j], total[i, j + 1], total[i + 1, j])
            total[i + 1, j + 1] = gap + before
    return float(total[-1, -1])


def adherence(
    real: tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n k"]],
    drawn: tuple[Float[np.ndarray, "m c"], Float[np.ndarray, "m k"]],
) -> list[dict[str, Any]]:
    """Whether features go with conditions as real ones do.

    Args:
        real: conditions and features of people.
        drawn: of generated ones.

    Returns:
        A row per pair of :data:`ADHERENCE`: both slopes with intervals of 95 %.
    """
    rows = []
    for feature, condition in ADHERENCE:
        row: dict[str, Any] = {"feature": feature, "by": condition}
        for name, (conditions, values) in (("real", real), ("drawn", drawn)):
            y = values[:, FEATURES.index(feature)]
            x, known = conditions[:, CONDITIONS.index(condition)], np.isfinite(y)
            found, low, high = slope(x[known], y[known])
            row |= {name: found, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return rows


def spreads(
    real: tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n k"]],
    drawn: tuple[Float[np.ndarray, "m c"], Float[np.ndarray, "m k"]],
) -> dict[str, float]:
    """Deviation of generated features given the conditions, over that of real ones.

    Below 0.5 a generator draws the mean heart whoever is asked for.
    """
    found = {}
    for feature in SPREADS:
        i = FEATURES.index(feature)
        each = []
        for conditions, values in (drawn, real):
            known = np.isfinite(values[:, i])
            each.append(residual_spread(conditions[known], values[known, i]))
        found[feature] = each[0] / each[1] if each[1] > 0 else float("nan")
    return found


def memorisation(
    drawn: Sequences, test: Sequences, train: Sequences
) -> dict[str, float]:
    """How near to a training person generated and unseen people are, by the first
    frame's Dice: a generator that copies is nearer than people are to each other."""

    def median(people: Sequences) -> float:
        best = [mean_dice(one, train[:, 0]).max() for one in people[:, 0]]
        return float(np.median(best))

    return {"drawn": median(drawn), "unseen": median(test)}


def closing_gap(labels: Sequences, spacing: Sequence[float]) -> float:
    """Volume of the left ventricle in the last frame less that in the first, mL, its
    size on average: the cycle goes on where it began."""
    lv = volume_curves(labels, spacing)[..., 0]
    return float(np.abs(lv[:, -1] - lv[:, 0]).mean())
