"""How well a cycle is completed, and how real a generated heart is.

*Completion*: overlap in the frames that were not given (the first one is told apart,
since it was), distances at end-systole, and what a clinic reads off: volume curves and
the ejection fraction. *Generation*: twelve clinical features of generated people beside
those of real ones, as distributions; whether they go with the conditions as real ones
do; whether they vary as much; whether they are copies; and, person by person, how near
to the real heart the best, the mean and the worst of several generated ones are.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer

from medjax.heart.appearance import LABELS
from medjax.heart.clinical import FEATURES, function, label_volumes
from medjax.heart.completion import mean_dice
from medjax.heart.population import CONDITIONS, measures_of
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
POPULATION = 2**30
"""Seed of the people by whom the population's slopes are known."""
SAMPLED = ("dice", "hd_mm", "assd_mm")
"""Scores of generated hearts beside the person's own."""
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
            found.append(_apart(one[t], other[t], code, spacing))
            missed.append((mine.any(), real.any()))
    values, there = np.array(found, float), np.array(missed)
    told = {"predicted": there[:, 0], "present": there[:, 1]}
    hd, assd = (Cases.of(column, **told) for column in values.T)
    return {"hd_mm": hd.mean, "assd_mm": assd.mean, "undefined": hd.n_undefined}


def sample_scores(
    drawn: Iterable[Sequences], truth: Sequences, spacing: Sequence[float]
) -> list[dict[str, Any]]:
    """How near hearts that were generated for people are to those that they have.

    Args:
        drawn: several cycles of each person, person by person.
        truth: the person's own.
        spacing: of voxels, mm.

    Returns:
        A row per structure: means over people of the ``best``, the ``mean`` and the
        ``worst`` of their samples. Dice is the mean over frames; Hausdorff and average
        surface distance are the means of end-diastole and end-systole, in which a
        structure that is missing has none: ``undefined`` counts such samples, which
        are left out.
    """
    systole = np.argmin(volume_curves(truth, spacing)[..., 0], axis=1)
    codes, each = tuple(LABELS.values()), []
    for samples, own, es in zip(drawn, truth, systole, strict=True):
        dice = overlap(
            samples, np.broadcast_to(own, samples.shape), structures=codes, rank=3
        ).dice.mean(1)
        apart = [
            [[_apart(one[t], own[t], code, spacing) for t in (0, es)] for code in codes]
            for one in samples
        ]
        each.append(np.concatenate([dice[..., None], np.mean(apart, axis=2)], axis=-1))
    table = np.array(each)
    rows = []
    for i, structure in enumerate(LABELS):
        row: dict[str, Any] = {"structure": structure, "samples": table.shape[1]}
        for j, score in enumerate(SAMPLED):
            values = [x[np.isfinite(x)] for x in table[:, :, i, j]]
            values = [x for x in values if len(x)]
            best, worst = (np.max, np.min) if score == "dice" else (np.min, np.max)
            for name, of in {"best": best, "mean": np.mean, "worst": worst}.items():
                row[f"{score}_{name}"] = Cases.of(
                    np.array([of(x) for x in values])
                ).mean
        row["undefined"] = int(np.isnan(table[:, :, i, 1]).sum())
        rows.append(row)
    return rows


def _apart(
    mine: np.ndarray, real: np.ndarray, code: int, spacing: Sequence[float]
) -> tuple[float, float]:
    """Hausdorff and average surface distance of a structure, mm; NaN without one."""
    apart = surface_distances(mine == code, real == code, spacing, elements="voxels")
    return apart.hd(empty="nan"), apart.assd("pooled", empty="nan")


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


@functools.cache
def known_slopes(count: int = 100_000) -> list[float]:
    """Slopes of features on conditions in the population of phantoms, as
    :data:`ADHERENCE` names them: by regression on so many people that chance moves a
    slope by two hundredths of itself.

    Args:
        count: of people.
    """
    people = [measures_of(POPULATION, i) for i in range(count)]
    asked = np.array([told[: len(CONDITIONS)] for told, _ in people])
    names = {"LVEDV": "volume", "LVM": "mass", "LVEF": "ejection_fraction"}
    scales = {"LVEF": 100.0}
    every = {
        feature: [scales.get(feature, 1.0) * measures[name] for _, measures in people]
        for feature, name in names.items()
    }
    found = []
    for feature, condition in ADHERENCE:
        x = asked[:, CONDITIONS.index(condition)]
        found.append(float(np.polyfit(x, every[feature], 1)[0]))
    return found


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


def age_slopes(
    ages: Int[np.ndarray, " a"], sweep: dict[str, Float[np.ndarray, "a k"]]
) -> dict[str, Any]:
    """mL of LVEDV per year, and the share of steps in the direction of the slope.

    Args:
        ages: years.
        sweep: features of hearts of each age, by sex.
    """
    found: dict[str, Any] = {}
    for name, values in sweep.items():
        volume = values[:, FEATURES.index("LVEDV")]
        if len(ages) < 2 or not np.isfinite(volume).all():
            found[name] = None
            continue
        slope = float(np.polyfit(ages, volume, 1)[0])
        steps = np.sign(np.diff(volume)) == np.sign(slope)
        found[name] = {"slope": slope, "monotone": float(steps.mean())}
    return found
