"""The challenges' scores, which are another metric every year.

All normalise prediction and reference *separately*, so a wrong overall scale goes
unnoticed; they differ in how, and their numbers do not compare:

====== ============================ ==================
year   each image is                data range
====== ============================ ==================
2023   divided by its maximum       1
2024   z-scored                     reference's maximum
2025   divided by its 99.5 percentile reference's maximum
====== ============================ ==================

In 2024 and 2025 the official ``calmetric`` exchanges prediction and reference for 3-D
(single-frame) series, and the 2024 scoring script passes them exchanged to begin with;
``exchanged=True`` reproduces that. SSIM, PSNR and NMSE are scikit-image's, per slice
and frame, then averaged per file, then over files.
"""

import functools
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from medjax.metrics.images import nmse, psnr, ssim


@functools.partial(jax.jit, static_argnames=("year", "exchanged"))
def official_scores(
    prediction: Float[Array, "*b h w"],
    reference: Float[Array, "*b h w"],
    *,
    year: int,
    exchanged: bool = False,
) -> dict[str, Float[Array, "*b"]]:
    """PSNR, SSIM and NMSE of every image by a year's rule.

    Args:
        prediction: magnitude images, already cropped (:func:`ranking_crop`).
        reference: magnitude images of the fully sampled data.
        year: 2023, 2024 or 2025.
        exchanged: score with the two roles exchanged, as the official scripts of 2024
            and 2025 do in some branches.

    Returns:
        ``psnr``, ``ssim`` and ``nmse``, one number per image.

    Raises:
        ValueError: for another year.
    """
    if year not in _NORMALISE:
        raise ValueError(f"year={year}: rules are known for {sorted(_NORMALISE)}")
    if exchanged:
        prediction, reference = reference, prediction
    p, g = _NORMALISE[year](prediction), _NORMALISE[year](reference)
    largest = jnp.max(g, axis=(-2, -1))
    return {
        "psnr": psnr(p, g, data_range=largest),
        "ssim": ssim(p, g, data_range=largest),
        "nmse": nmse(p, g),
    }


def _by_maximum(x: Array) -> Array:
    return x / jnp.max(x, axis=(-2, -1), keepdims=True)


def _by_z_score(x: Array) -> Array:
    mean = jnp.mean(x, axis=(-2, -1), keepdims=True)
    return (x - mean) / jnp.std(x, axis=(-2, -1), keepdims=True)


def _by_percentile(x: Array) -> Array:
    x = jnp.abs(x)
    top = jnp.percentile(x, 99.5, axis=(-2, -1), keepdims=True)
    return x / jnp.where(top > 0, top, 1.0)


_NORMALISE = {2023: _by_maximum, 2024: _by_z_score, 2025: _by_percentile}


def ranking_crop(
    images: Shaped[Array, "t d h w"], *, name: str
) -> Shaped[Array, "frames slices rows columns"]:
    """The part of a series that the validation phase ranks (``run4Ranking``).

    The two middle slices (all, if fewer than three), the first three frames of cine
    and all of mapping, the central half of ``h`` (ky) and third of ``w`` (kx). The test
    phase scores full series instead.

    Args:
        images: reconstructed series.
        name: ``T1map``, ``T2map``, or anything else for cine and its kin.

    Returns:
        The crop; of a 144x512 T1 series, rows 36..107 and columns 171..341.
    """
    depth, h, w = images.shape[1:]
    if depth >= 3:
        middle = _matlab_round(depth / 2)
        images = images[:, middle - 2 : middle]
    if not name.lower().endswith("map"):
        images = images[:3]
    rows, columns = _matlab_round(h / 2), _matlab_round(w / 3)
    top, left = h // 2 - rows // 2, w // 2 - columns // 2
    # MATLAB's crop starts at n//2 + ceil(-size/2): the same as n//2 - size//2
    return images[..., top : top + rows, left : left + columns]


def _matlab_round(x: float) -> int:
    """Halves away from zero, unlike Python's."""
    return int(np.floor(x + 0.5))


def aggregate_2023(
    scores: Mapping[tuple[str, str, int], Mapping[str, float]],
    *,
    mode: Literal["correct", "official"] = "correct",
) -> dict[str, float]:
    """The 2023 leaderboard's summary of file means.

    Multi- and single-coil results are reduced to the better one per series and
    acceleration, series are averaged, accelerations are averaged. The official script
    takes the *larger* of two NMSE values for the better one.

    Args:
        scores: (coils, series, acceleration) to ``psnr``, ``ssim`` and ``nmse``, each
            a mean over files; NaN or absent where not submitted.
        mode: ``correct`` takes the smaller NMSE, ``official`` the larger.

    Returns:
        One number per metric; NaN where nothing was submitted.
    """
    summary = {}
    for metric in ("psnr", "ssim", "nmse"):
        smaller = metric == "nmse" and mode == "correct"
        best: dict[tuple[str, int], float] = {}
        for (_, series, acceleration), values in scores.items():
            value = float(values.get(metric, np.nan))
            if np.isnan(value):
                continue
            place = (series, acceleration)
            other = best.get(place, value)
            best[place] = min(other, value) if smaller else max(other, value)
        per_acceleration = [
            np.mean([v for (_, a), v in best.items() if a == acceleration])
            for acceleration in sorted({a for _, a in best})
        ]
        summary[metric] = float(np.mean(per_acceleration)) if best else float("nan")
    return summary
