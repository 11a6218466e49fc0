"""Several answers to an image, beside what several annotators said of it.

Whose answers they are does not matter here: probabilities of draws, however drawn
(:mod:`.sampled`). Cases of one image, or of one patient where a set has no files, are
its annotators. Where the set knows how likely every label is, what a system loses
against the truth is told as well, and what nobody can do better than.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.special import xlogy
from scipy.stats import spearmanr

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume
from medjax.data.volumes import with_geometry_of
from medjax.metrics.ambiguity import ged_squared, ncc, ueo
from medjax.metrics.calibration import (
    Calibration,
    brier,
    excess_brier,
    excess_nll,
    nll,
    roi_calibration,
)
from medjax.metrics.cases import EMPTY, Cases
from medjax.metrics.overlap import overlap
from medjax.progress import Progress
from medjax.segmentation.applied import LEVELS
from medjax.segmentation.datasets.case import Case, DataSet
from medjax.segmentation.datasets.embedded import AmbiguousPhantoms
from medjax.segmentation.phantoms.shifts import STRENGTHS
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.segmented import Segmented


@dataclasses.dataclass(frozen=True)
class AnswersConfig:
    """What is scored at the end."""

    images: int | None = None
    """At most so many held-out images; None: all."""
    near: float = 5.0
    """Calibration is counted so many voxels around the foreground."""
    shown: int = 4
    """Images that the report shows."""
    strengths: tuple[int, ...] = (2,)
    """Of unfamiliar phantoms that are to be told apart, 1 to 3; none: they are not."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1 or not self.near > 0:
            raise ValueError(
                f"evaluation: {self.images} images and {self.near} voxels, expected "
                "one image at least and a positive distance"
            )
        if set(self.strengths) - set(STRENGTHS):
            raise ValueError(
                f"evaluation.strengths: {self.strengths}, expected some of {STRENGTHS}"
            )


class Answers(NamedTuple):
    """One image with all that was said of it, on the image's grid.

    Attributes:
        image: The first channel.
        annotations: Labels inside, of every annotator.
        truth: How likely every label is, where that is known.
        draws: Probabilities of every draw.
        said: The label map, and maps of uncertainty.
        seconds: That the draws took, or the only answer.
    """

    image: Volume
    annotations: Int[np.ndarray, "a i j k"]
    truth: Float[np.ndarray, "i j k c"] | None
    draws: Float[np.ndarray, "m i j k c"]
    said: Segmented
    seconds: float

    @property
    def mean(self) -> Float[np.ndarray, "i j k c"]:
        """What the draws say together."""
        return self.draws.mean(0)


def images_of(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases of the same image together: its annotators."""
    found: dict[Any, list[Case]] = {}
    for case in cases:
        image = (case.images, case.frame) if case.images else case.patient
        found.setdefault(image, []).append(case)
    return list(found.values())


def answer(
    model: Segmenter, data: DataSet, cases: Sequence[Case], *, draws: int, seed: int
) -> Answers:
    """Everything that is said of one image.

    Args:
        model: Of any system.
        data: Reads the cases.
        cases: The image's annotators.
        draws: How many; a system with one answer gives it once.
        seed: Of the draws.

    Raises:
        DataError: For a case without a label map.
    """
    drawn, name = [], cases[0].id if cases[0].images else cases[0].patient
    volumes, _ = data.read(cases[0])
    for case in cases:
        _, label = data.read(case)
        if label is None:
            raise DataError(f"{case.id}: no label map")
        label = with_geometry_of(volumes[0], label)
        drawn.append(data.labels.read(label.data, case.id))
    maps = [m for m in model.written if m in ("prob", "entropy", "mi", LEVELS)]
    began = time.perf_counter()
    said = model.segment(volumes, id=name, maps=maps)
    if model.system.sample is None:
        each = [said.maps["prob"]]
    else:
        began = time.perf_counter()
        each = model.draw(volumes, id=name, count=draws, seed=seed)
    seconds = time.perf_counter() - began
    p = np.stack([volume.data for volume in each]).astype(np.float32)
    annotations = np.stack(drawn).astype(np.int32)
    nobody = annotations.max(0) >= len(data.labels.values)
    if nobody.any():  # background on both sides where an annotator said nothing
        annotations[:, nobody], p[:, nobody] = 0, np.eye(p.shape[-1])[0]
    truth = data.probability(cases[0])
    return Answers(volumes[0], annotations, truth, p, said, seconds)


def check(data: DataSet) -> None:
    """Refuses a set whose annotations these scores are not for.

    Raises:
        ValueError: For regions, which do not exclude each other.
    """
    if data.labels.regions:
        raise ValueError(
            f"{data.name}: regions {list(data.labels.names)}, expected classes that "
            "exclude each other"
        )


def scores(answers: Answers, labels: int) -> dict[str, float]:
    """Numbers of one image.

    Args:
        answers: To it.
        labels: How many, background included.

    Returns:
        ``dice`` of the mean answer against the majority of annotators, and how many
        labels neither, the majority or the answer alone holds (``n_both_empty``,
        ``n_missed``, ``n_false``), ``nll`` and
        ``brier`` (their expectation where the truth is known, and then ``excess_…``,
        ``rmse`` and the rank correlation of entropy with that of the truth), ``ueo``,
        ``ged_squared``, ``ncc``, areas' variances of draws and of annotators (voxels
        squared). NaN where something is undefined.
    """
    p, mean = answers.draws, answers.mean
    said = np.eye(labels, dtype=np.float32)[answers.annotations]
    frequency = said.mean(0)
    majority, chosen = frequency.argmax(-1), mean.argmax(-1)
    kinds = tuple(range(1, labels))
    uncertain = -xlogy(mean, mean).sum(-1)
    apart, constant = ncc(jnp.asarray(p), jnp.asarray(said))
    areas = [(x > 0).sum(axis=(1, 2, 3)) for x in (p.argmax(-1), answers.annotations)]
    both = overlap(chosen, majority, structures=kinds, rank=3)
    held = {"predicted": both.predicted > 0, "present": both.present > 0}
    row = {
        "dice": float(np.mean(both.dice)),
        **Cases.of(both.dice, **held).empty,
        "ueo": float(ueo(jnp.asarray(uncertain), jnp.asarray(chosen != majority))),
        "ged_squared": float(
            ged_squared(
                jnp.asarray(p.argmax(-1).astype(np.int32)),
                jnp.asarray(answers.annotations),
                labels=kinds,
            )
        ),
        "ncc": float(apart),
        "ncc_constant": float(constant),
        "area_variance": float(areas[0].var()),
        "annotators_area_variance": float(areas[1].var()),
    }
    target = frequency if answers.truth is None else answers.truth
    target, asked = (jnp.asarray(x, jnp.float32) for x in (target, mean))
    row["nll"] = float(nll(asked, target))
    row["brier"] = float(
        brier(asked, target) + jnp.mean(jnp.sum(target * (1 - target), -1))
    )
    if answers.truth is not None:
        true = -xlogy(answers.truth, answers.truth).sum(-1)
        unclear = true.ravel() > 1e-6  # elsewhere ranks are of rounding
        row |= {
            "excess_nll": float(excess_nll(asked, target)),
            "excess_brier": float(excess_brier(asked, target)),
            "rmse": float(np.sqrt(np.mean((mean - answers.truth)[..., 1:] ** 2))),
            "spearman": _rank_correlation(
                uncertain.ravel()[unclear], true.ravel()[unclear]
            ),
        }
    maps = answers.said.maps
    levels = [maps[name].data for name in maps if name.startswith("level")]
    if levels:
        each = [float(level.mean()) for level in levels]
        row |= {f"mi_level{i}": value for i, value in enumerate(each)}
        row["mi"] = float(maps["mi"].data.mean())
        row["additivity_gap"] = row["mi"] - sum(each)
    return row


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; NaN of a constant, or of too few."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.asarray(spearmanr(a, b))[0])


def least(truth: Float[np.ndarray, "*space c"]) -> dict[str, float]:
    """``nll`` (nats) and ``brier`` of whoever knows the probability of every label.

    Nothing scores better in expectation.
    """
    p = jnp.asarray(truth, jnp.float32)
    return {
        "nll": float(nll(p, p)),
        "brier": float(jnp.mean(jnp.sum(p * (1 - p), axis=-1))),
    }


def floors(data: DataSet, cases: Sequence[Case], answers: Answers) -> dict[str, float]:
    """What nobody can do better than, of one image, where the truth is known.

    Of GED squared it is what as many other annotators get; more answers than that can
    come a little closer, since few answers of the right law are above 0.
    """
    if answers.truth is None:
        return {}
    found = least(answers.truth)
    if isinstance(data, AmbiguousPhantoms):
        others = data.fresh(cases[0], len(answers.annotations)).astype(np.int32)
        kinds = tuple(range(1, answers.truth.shape[-1]))
        given = jnp.asarray(answers.annotations)
        found["ged_squared"] = float(
            ged_squared(jnp.asarray(others), given, labels=kinds)
        )
    return found


def evaluate(
    model: Segmenter,
    data: DataSet,
    cases: Sequence[Case],
    config: AnswersConfig,
    ledger: Ledger,
) -> tuple[dict[str, Any], list[Answers], Calibration]:
    """Scores of all held-out images.

    Args:
        model: Of any system.
        data: Reads the cases.
        cases: Held out, with label maps.
        config: What is scored.
        ledger: Takes images that cannot be read.

    Returns:
        What ``evaluation.json`` holds, some images to show, and the calibration of all.

    Raises:
        DataError: If no image is left.
    """
    check(data)
    rows, bounds, shown, seconds = [], [], [], []
    calibration: Calibration | None = None
    draws = getattr(model.record.system, "samples", 1)
    images = images_of(cases)[: config.images]
    with Progress("score", len(images), "images") as progress:
        for annotators in images:
            progress.advance()
            try:
                found = answer(model, data, annotators, draws=draws, seed=config.seed)
            except (DataError, FileNotFoundError) as error:
                ledger.fault(annotators[0].id, str(error))
                continue
            rows.append(
                {"image": found.said.id} | scores(found, len(data.labels.values))
            )
            bounds.append(floors(data, annotators, found))
            seconds.append(found.seconds / len(found.draws))
            for one in found.annotations:
                here = roi_calibration(found.mean, one, voxels=config.near)
                calibration = here if calibration is None else calibration + here
            if len(shown) < config.shown:
                shown.append(found)
    if calibration is None:
        raise DataError(f"{data.name}: no held-out image could be scored")
    results = {
        "data": data.name,
        "draws": int(shown[0].draws.shape[0]) if shown else draws,
        "annotators": [len(annotators) for annotators in images],
        "scores": summary(rows, calibration),
        "floors": {k: float(np.mean([b[k] for b in bounds])) for k in bounds[0]},
        "ms_per_draw": 1000 * float(np.median(seconds)),
        "images": rows,
    }
    return results, shown, calibration


def summary(
    rows: Sequence[Mapping[str, Any]], calibration: Calibration
) -> dict[str, dict[str, float]]:
    """Means over images, and over how many that have a value.

    With Dice it is told how many labels of images were empty on a side or both.
    The ratio of areas' spread is of all images together: the root of the draws' mean
    variance over that of the annotators'. So is the calibration.
    """
    found = {}
    for name in rows[0]:
        if name == "image" or name in EMPTY or "variance" in name:
            continue
        cases = Cases.of(np.array([row[name] for row in rows], float))
        found[name] = {"mean": cases.mean, "sd": cases.sd, "n": cases.n}
        found[name]["n_undefined"] = cases.n_undefined
    found["dice"] |= {name: sum(row[name] for row in rows) for name in EMPTY}
    theirs = np.mean([row["annotators_area_variance"] for row in rows])
    ours = np.mean([row["area_variance"] for row in rows])
    ratio = float(np.sqrt(ours / theirs)) if theirs > 0 else float("nan")
    error = Cases.of(calibration.expected_error()[1:]).mean
    for name, value in (("area_sd_ratio", ratio), ("roi_ece", error)):
        found[name] = {"mean": value, "sd": float("nan"), "n": len(rows)}
        found[name]["n_undefined"] = 0
    return found
