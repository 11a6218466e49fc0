"""What reconstructions are worth: the challenge's scores, and maps in ms.

Every held-out series is undersampled with the challenge's mask, reconstructed by every
method, and judged twice. Images: PSNR, SSIM and NMSE by the CMRxRecon rule of 2023
(image and reference each divided by its own maximum, per frame, then averaged), against
the noise-free series of a phantom or the root sum of squares of fully sampled data.
Maps: T1 or T2 is fitted to the magnitudes of every method by the same routine, and the
root mean squared error in ms is taken over myocardium and blood, against

* ``truth``: the relaxation times that a phantom was simulated with. The sequence's own
  bias (MOLLI reads T1 low) is part of it and hits all methods alike;
* ``reference``: the map fitted to the reference series, which that bias cancels in.

Fits are cut to the ranges below before they are compared, since a single pixel whose
series is flat fits any time constant and would decide the mean.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medjax.data.pipeline import Source
from medjax.mri import classical, sense, series
from medjax.mri.cmrxrecon.evaluation import official_scores, ranking_crop
from medjax.mri.fourier import ifft2c
from medjax.mri.map_evaluation import map_errors, masked_rmse
from medjax.mri.relaxometry import fit_t1, fit_t2
from medjax.mri.scans import Contrast, Row, batch_of
from medjax.progress import Progress
from medjax.train.agree import divided
from medjax.typing import Batch, Variables

Method = Callable[[Batch], Array]
"""A batch to images ``b t h w``; of its k-space, only what the mask samples counts."""
MAP_RANGE: Mapping[Contrast, tuple[float, float]] = {
    "t1": (0.0, 4000.0),
    "t2": (0.0, 400.0),
}
"""ms; the longest T1 and T2 in the phantom are about 2100 and 310."""
FULL = "fully sampled"
IMAGE_SCORES = ("ssim", "psnr", "nmse")
MAP_SCORES = (
    "myocardium_truth",
    "blood_truth",
    "myocardium_reference",
    "blood_reference",
)


@dataclasses.dataclass(frozen=True)
class Shown:
    """One series as every method sees it, for the report.

    Attributes:
        contrast: T1 or T2.
        acceleration: Of the mask.
        times: ms.
        label: 1 LV, 2 myocardium, 3 RV.
        reference: Magnitudes of the reference.
        truth: True map in ms; None where nobody knows it.
        images: Magnitudes by method.
        maps: Fitted maps by method; the reference's under ``reference``.
    """

    contrast: Contrast
    acceleration: int
    times: Float[np.ndarray, " t"]
    label: np.ndarray
    reference: Float[np.ndarray, "t h w"]
    truth: Float[np.ndarray, "h w"] | None
    images: dict[str, Float[np.ndarray, "t h w"]]
    maps: dict[str, Float[np.ndarray, "h w"]]


def learned(system: series.ReconstructionSystem, variables: Variables) -> Method:
    """A trained system as a method."""
    reconstruct = jax.jit(system.reconstruct)
    return lambda batch: reconstruct(variables, batch)


def zero_filled(batch: Batch) -> Array:
    """Missing samples are zero; coils are combined by their maps."""
    return series.zero_filled(batch)


def cg_sense(batch: Batch, *, lam: float = 0.01, iterations: int = 20) -> Array:
    """Regularised least squares, frame by frame."""
    kspace, maps, mask = _acquired(batch)
    return classical.cg_sense(kspace, maps, mask, lam=lam, iterations=iterations)


def low_rank_plus_sparse(
    batch: Batch, *, lam_low_rank: float = 0.01, lam_sparse: float = 0.005
) -> Array:
    """L+S, series by series."""
    kspace, maps, mask = _acquired(batch)
    parts = [
        sum(
            classical.low_rank_plus_sparse(
                *one, lam_low_rank=lam_low_rank, lam_sparse=lam_sparse
            )
        )
        for one in zip(kspace, maps, mask, strict=True)
    ]
    return jnp.stack(parts)


def _acquired(batch: Batch) -> tuple[Array, Array, Array]:
    """k-space with zeros where nothing was measured, maps ``b 1 c h w``, mask."""
    mask = batch["mask"]
    return sense.sample(batch["kspace"], mask), batch["sensitivities"][:, None], mask


@functools.partial(jax.jit, static_argnames="contrast")
def fit_map(
    images: Array, times: Float[Array, " t"], *, contrast: Contrast
) -> Float[Array, "h w"]:
    """T1 or T2 in ms from the magnitudes of a series, cut to :data:`MAP_RANGE`.

    Args:
        images: Magnitudes or complex, ``t h w``.
        times: Inversion or echo times, ms.
        contrast: Which of the two.

    Returns:
        The map.
    """
    magnitude = jnp.abs(images)
    if contrast == "t1":
        found = fit_t1(magnitude, times).t1
    else:
        found = fit_t2(magnitude, times).t2
    return jnp.clip(found, *MAP_RANGE[contrast])


def evaluate(
    methods: Mapping[str, Method],
    rows: Source | Sequence[Row],
    *,
    contrast: Contrast,
    accelerations: Sequence[int],
    acs: int,
    shift: int = 0,
    crop: bool = False,
    limit: int | None = None,
    show_row: int = 0,
) -> tuple[dict[str, Any], list[Shown]]:
    """Reconstruct, fit and score held-out series, each on one process of the run.

    Args:
        methods: By name. ``fully sampled`` is added: what noise alone leaves.
        rows: Of :class:`medjax.mri.scans.Scans`; shapes may differ between rows.
        contrast: T1 or T2.
        accelerations: Of the masks.
        acs: Central lines of the masks.
        shift: Lines by which the masks move on from frame to frame.
        crop: Score the images in the part that the challenge's validation ranks, rather
            than whole (as its test phase does).
        limit: Look at so many rows only.
        show_row: Which row to keep for the report.

    Returns:
        ``{"contrast", "rows", "reference", "scores"}``, where ``scores`` has one row
        per acceleration and method with the mean over series of SSIM, PSNR (dB), NMSE
        and map errors (ms; NaN without segmentation or, for ``*_truth``, without
        truth); and, on process 0, the series of ``show_row``, once per acceleration.

    Raises:
        ValueError: Where there is no row, or a row lacks times.
    """
    count = len(rows) if limit is None else min(limit, len(rows))
    if count < 1:
        raise ValueError(f"rows: expected one series at least, got {count}")
    methods = {**methods, FULL: series.fully_sampled}
    shown: list[Shown] = []
    # The row that is shown is process 0's, which writes the report.
    first = min(max(show_row, 0), count - 1)
    total = -(-count // jax.process_count())
    with Progress("evaluate", total * len(accelerations), "series") as progress:

        def look(index: int) -> dict[str, Any]:
            row, told = rows[index], []
            reference, maps = _references(row, contrast)
            for acceleration in accelerations:
                batch = batch_of(row, acceleration=acceleration, acs=acs, shift=shift)
                images = {
                    name: np.abs(np.asarray(method(batch)[0]))
                    for name, method in methods.items()
                }
                times = jnp.asarray(row["times"])
                fitted = {
                    name: np.asarray(fit_map(x, times, contrast=contrast))
                    for name, x in images.items()
                }
                for name in methods:
                    scores = {
                        **image_scores(images[name], reference, contrast, crop=crop),
                        **map_scores(fitted[name], maps, row["label"]),
                    }
                    told.append([acceleration, name, scores])
                if index == show_row:
                    shown.append(
                        Shown(
                            contrast,
                            acceleration,
                            np.asarray(row["times"]),
                            np.asarray(row["label"]),
                            reference,
                            maps.get("truth"),
                            images,
                            {**fitted, "reference": maps["reference"]},
                        )
                    )
                progress.advance()
            return {"noise-free": "image" in row, "scores": told}

        seen = divided(look, count, what="evaluation", first=first)
    reference_name = "noise-free" if seen[-1]["noise-free"] else FULL
    sums: dict[tuple[int, str], list[dict[str, float]]] = {}
    for one in seen:
        for acceleration, name, scores in one["scores"]:
            sums.setdefault((acceleration, name), []).append(scores)
    scores = [
        {"acceleration": r, "method": name, **_means(of_series)}
        for (r, name), of_series in sums.items()
    ]
    scores.sort(key=lambda s: list(accelerations).index(s["acceleration"]))
    results = {
        "contrast": contrast,
        "rows": count,
        "reference": reference_name,
        "crop": crop,
        "scores": scores,
    }
    return results, shown


def _references(
    row: Row, contrast: Contrast
) -> tuple[Float[np.ndarray, "t h w"], dict[str, Float[np.ndarray, "h w"]]]:
    """Magnitudes to come close to; the map fitted to them, and, if known, the truth."""
    times = np.asarray(row["times"])
    if not np.isfinite(times).all():
        raise ValueError(f"times: expected {contrast.upper()} times in ms, got {times}")
    if "image" in row:
        reference = np.abs(row["image"])
    else:
        reference = np.asarray(sense.rss(ifft2c(jnp.asarray(row["kspace"]))))
    fitted = fit_map(jnp.asarray(reference), jnp.asarray(times), contrast=contrast)
    maps = {"reference": np.asarray(fitted)}
    if contrast in row:
        maps["truth"] = np.asarray(row[contrast])
    return reference, maps


def image_scores(
    images: Float[np.ndarray, "t h w"],
    reference: Float[np.ndarray, "t h w"],
    contrast: Contrast,
    *,
    crop: bool,
) -> dict[str, float]:
    """The CMRxRecon scores of 2023, averaged over the frames of a series."""
    if crop:
        name = f"{contrast.upper()}map"
        images, reference = (
            np.asarray(ranking_crop(jnp.asarray(x[:, None]), name=name))[:, 0]
            for x in (images, reference)
        )
    scores = official_scores(jnp.asarray(images), jnp.asarray(reference), year=2023)
    return {name: float(jnp.mean(scores[name])) for name in IMAGE_SCORES}


def map_scores(
    estimate: Float[np.ndarray, "h w"],
    maps: Mapping[str, Float[np.ndarray, "h w"]],
    label: np.ndarray,
) -> dict[str, float]:
    """RMSE in ms over myocardium and blood (both ventricles), against each map."""
    found: dict[str, float] = dict.fromkeys(MAP_SCORES, float("nan"))
    inside = jnp.asarray(label)
    for name, against in maps.items():
        pair = jnp.asarray(estimate), jnp.asarray(against)
        errors = map_errors(*pair, inside)
        found[f"myocardium_{name}"] = float(errors["myocardium"])
        blood = masked_rmse(*pair, (inside == 1) | (inside == 3))
        found[f"blood_{name}"] = float(blood)
    return found


def _means(of_series: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Per score, the mean over the series that have it."""
    means = {}
    for name in of_series[0]:
        values = np.asarray([scores[name] for scores in of_series])
        values = values[np.isfinite(values)]
        means[name] = float(values.mean()) if values.size else float("nan")
    return means


def table(scores: Sequence[Mapping[str, Any]], contrast: Contrast) -> str:
    """Scores as aligned text; a dash where nothing is known."""
    unit = f"{contrast.upper()} ms"
    heads = ["R", "method", "SSIM", "PSNR", "NMSE"]
    heads += [f"{unit} {name.replace('_', ' vs ')}" for name in MAP_SCORES]
    digits = dict(zip(IMAGE_SCORES + MAP_SCORES, (4, 2, 4, 1, 1, 1, 1), strict=True))
    lines = [heads]
    for row in scores:
        cells = [str(row["acceleration"]), str(row["method"])]
        for name, places in digits.items():
            known = np.isfinite(row[name])
            cells.append(f"{row[name]:.{places}f}" if known else "–")
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
