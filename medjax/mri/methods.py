"""The classical reconstructions by name, each from undersampled k-space to magnitudes.

What they need besides k-space is calibrated on the centre of k-space that the mask
samples fully, from the first frame, as the CMRxRecon demo does.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from medjax.mri import classical, sense
from medjax.mri.coils import inati_maps, low_resolution, walsh_maps
from medjax.mri.espirit import espirit_maps
from medjax.mri.masks import calibration_region, describe
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation

SOFT = ("zero_filled", "cg_sense", "grappa", "espirit_sense")
"""Methods that can do with several sets of maps: they look at none, or at all."""
CALIBRATED = ("grappa", "espirit_sense")
"""Methods that need a fully sampled centre even where maps are given."""
Method = Literal[
    "zero_filled",
    "cg_sense",
    "grappa",
    "espirit_sense",
    "total_variation",
    "wavelet",
    "low_rank_plus_sparse",
]
METHODS: tuple[Method, ...] = get_args(Method)

Reconstruct = Callable[
    [Complex[Array, "t c h w"], Bool[Array, "_t h _w"], Complex[Array, "*m c h w"]],
    Float[Array, "t h w"],
]
"""Undersampled k-space, mask and sensitivity maps to magnitude images; with several
sets of maps these have an axis more."""


@dataclass(frozen=True)
class ClassicalConfig:
    """Settings of the classical reconstructions; weights are relative to the data."""

    maps: Literal["inati", "walsh", "espirit"] = "inati"
    """How sensitivity maps are estimated where the data bring none."""
    calibration: int = 24
    """At most so many fully sampled central lines are used."""
    cg_lam: float = 0.01
    """Tikhonov weight of CG-SENSE."""
    cg_iterations: int = 30
    """Steps of CG-SENSE."""
    cg_implementation: ConsistencyImplementation | None = None
    """Which kernel is its normal operator; None: the best for platform and shape."""
    grappa_kernel: tuple[int, int] | None = None
    """Lines and columns, odd; None: 5x5, with more lines where the spacing of the mask
    asks for them and the centre allows it."""
    grappa_lam: float = 0.01
    """Ridge weight of GRAPPA's fit."""
    espirit_kernel: int = 6
    """Side of ESPIRiT's patches; at most half of the calibration square is used."""
    espirit_sets: int = 2
    """Sets of ESPIRiT maps; at most one per coil."""
    espirit_lam: float = 0.01
    """Tikhonov weight of ESPIRiT-SENSE."""
    tv_lam: float = 0.0005
    """Weight of the total variation."""
    wavelet_lam: float = 0.001
    """Weight of the wavelets."""
    low_rank_lam: float = 0.01
    """Threshold on singular values of L+S."""
    sparse_lam: float = 0.005
    """Threshold on temporal frequencies of L+S."""


def calibration_lines(mask: Bool[Array, "_t h _w"], most: int) -> int:
    """How many central lines (or which side of a square) can be calibrated on.

    Raises:
        ValueError: if the mask has no fully sampled centre.
    """
    if reason := no_centre(mask):
        raise ValueError(reason)
    rows, _ = calibration_region(mask)
    return min(rows.stop - rows.start, most)


def no_centre(mask: Bool[Array | np.ndarray, "_t h _w"]) -> str | None:
    """Why nothing can be calibrated on a mask, or None."""
    rows, _ = calibration_region(mask)
    if rows.stop - rows.start >= 2:
        return None
    return (
        f"the mask ({describe(mask)}) has no fully sampled centre to estimate "
        "sensitivity maps from: sample one (mask.acs) or give maps"
    )


def estimate_maps(
    kspace: Complex[Array, "t c h w"],
    mask: Bool[Array, "_t h _w"],
    config: ClassicalConfig,
) -> Complex[Array, "c h w"]:
    """Unit-norm sensitivity maps from the centre of the first frame.

    Raises:
        ValueError: if the mask has no fully sampled centre.
    """
    lines = calibration_lines(mask, config.calibration)
    if config.maps == "espirit":
        kernel = min(config.espirit_kernel, max(lines // 2, 1))
        maps, _ = espirit_maps(kspace[0], calibration=lines, kernel=kernel, crop=0.0)
        return maps[0]
    square = calibration_region(mask)[1] != slice(None)
    low = low_resolution(kspace[0], acs=lines, columns=lines if square else None)
    return inati_maps(low) if config.maps == "inati" else walsh_maps(low)


def needs_centre(method: str, *, maps: bool) -> bool:
    """Whether a method is calibrated on the centre, itself or for its maps."""
    return method in CALIBRATED or not (maps or method == "zero_filled")


def reason_against(
    method: str,
    *,
    frames: int,
    coils: int,
    mask: Bool[np.ndarray, "_t h _w"],
    maps: bool,
    sets: int = 1,
) -> str | None:
    """Why a method cannot be used on a series, or None.

    Args:
        method: its name.
        frames: of the series.
        coils: of the series.
        mask: what is sampled.
        maps: whether sensitivity maps came along.
        sets: of those maps.
    """
    if sets > 1 and method not in SOFT:
        return several_sets(sets)
    if method == "low_rank_plus_sparse" and frames < 2:
        return "needs a series of frames"
    if method in ("grappa", "espirit_sense") and coils < 2:
        return "needs several coils"
    if needs_centre(method, maps=maps) and (reason := no_centre(mask)):
        return reason
    if method == "grappa" and not describe(mask).lines:
        return "needs whole lines: scattered points have too many neighbourhoods to fit"
    return None


def several_sets(count: int) -> str:
    """Why most methods cannot use maps of several sets."""
    return f"the maps come in {count} sets, which cg_sense alone can use"


def methods(config: ClassicalConfig) -> dict[str, Reconstruct]:
    """All classical reconstructions under one signature."""

    def zero_filled(kspace: Array, mask: Array, maps: Array) -> Array:
        return classical.zero_filled(kspace)

    def cg_sense(kspace: Array, mask: Array, maps: Array) -> Array:
        if maps.ndim == 4:
            images = classical.soft_sense(
                kspace, maps, mask, lam=config.cg_lam, iterations=config.cg_iterations
            )
            return sense.rss(images)
        image = classical.cg_sense(
            kspace,
            maps,
            mask,
            lam=config.cg_lam,
            iterations=config.cg_iterations,
            implementation=config.cg_implementation,
        )
        return jnp.abs(image)

    def total_variation(kspace: Array, mask: Array, maps: Array) -> Array:
        return jnp.abs(classical.total_variation(kspace, maps, mask, lam=config.tv_lam))

    def wavelet(kspace: Array, mask: Array, maps: Array) -> Array:
        return jnp.abs(classical.wavelet(kspace, maps, mask, lam=config.wavelet_lam))

    def low_rank_plus_sparse(kspace: Array, mask: Array, maps: Array) -> Array:
        low, sparse = classical.low_rank_plus_sparse(
            kspace,
            maps,
            mask,
            lam_low_rank=config.low_rank_lam,
            lam_sparse=config.sparse_lam,
        )
        return jnp.abs(low + sparse)

    def espirit_sense(kspace: Array, mask: Array, maps: Array) -> Array:
        lines = calibration_lines(mask, config.calibration)
        images = classical.espirit_sense(
            kspace,
            mask,
            calibration=lines,
            kernel=min(config.espirit_kernel, max(lines // 2, 1)),
            sets=min(config.espirit_sets, kspace.shape[1]),
            lam=config.espirit_lam,
        )
        return sense.rss(images)

    return {
        "zero_filled": zero_filled,
        "cg_sense": cg_sense,
        "grappa": functools.partial(_grappa, config=config),
        "espirit_sense": espirit_sense,
        "total_variation": total_variation,
        "wavelet": wavelet,
        "low_rank_plus_sparse": low_rank_plus_sparse,
    }


def grappa_kernel(
    mask: Bool[Array, "_t h _w"], config: ClassicalConfig
) -> tuple[int, int]:
    """The kernel, long enough for the spacing of lines where the centre holds it."""
    if config.grappa_kernel is not None:
        return config.grappa_kernel
    about = describe(mask)
    lines = calibration_lines(mask, most=mask.shape[-2])
    spacing = int(about.nominal) if about.lines and about.nominal < lines else 1
    rows = max(5, 2 * (spacing // 2) + 1)
    return min(rows, lines - 1 + lines % 2), 5


def _grappa(
    kspace: Complex[Array, "t c h w"],
    mask: Bool[Array, "_t h _w"],
    maps: Complex[Array, "c h w"],
    *,
    config: ClassicalConfig,
) -> Float[Array, "t h w"]:
    """All frames at once under one mask, else frame by frame; weights of the first."""
    fill = functools.partial(
        classical.grappa,
        calibration=kspace[0][:, *calibration_region(mask)],
        kernel=grappa_kernel(mask, config),
        lam=config.grappa_lam,
    )
    if mask.shape[0] == 1:
        return classical.zero_filled(fill(kspace, mask[0]))
    frames = [fill(k, m) for k, m in zip(kspace, mask, strict=True)]
    return classical.zero_filled(jnp.stack(frames))
