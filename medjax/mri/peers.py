"""sigpy and pygrappa on the same data, for tables of ours against theirs.

Both are optional: ``pip install 'medjax[peers]'``. Weights mean the same as ours: sigpy
wants them absolute, so they are multiplied by the largest magnitude of the zero-filled
image. Frames are reconstructed one by one, as both packages do.
"""

import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from medjax.mri import sense
from medjax.mri.masks import calibration_region
from medjax.mri.methods import (
    ClassicalConfig,
    Reconstruct,
    calibration_lines,
    grappa_kernel,
)

TV_ITERATIONS = 200
WAVELET_ITERATIONS = 60
"""As ours by default."""


def peers(config: ClassicalConfig) -> dict[str, Reconstruct]:
    """Their reconstructions by name and version.

    Raises:
      ImportError: where one of them is not installed.
    """
    # Typed by neither of them, or wrongly (lamda: int), so they are not asked.
    app: Any
    pygrappa: Any
    try:
        app = importlib.import_module("sigpy.mri.app")
        pygrappa = importlib.import_module("pygrappa")
    except ImportError as error:
        raise ImportError(
            f"peers need sigpy and pygrappa: pip install 'medjax[peers]' ({error})"
        ) from error

    def espirit(kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray) -> np.ndarray:
        lines = calibration_lines(jnp.asarray(mask)[None], config.calibration)
        kernel = min(config.espirit_kernel, max(lines // 2, 1))
        theirs = app.EspiritCalib(
            kspace, calib_width=lines, kernel_width=kernel, crop=0.9, show_pbar=False
        ).run()
        return app.SenseRecon(
            kspace,
            theirs,
            lamda=config.espirit_lam,
            max_iter=12,
            weights=_full(mask, kspace),
            show_pbar=False,
        ).run()

    def regularised(recon: Callable, lam: float, iterations: int) -> Callable:
        def run(kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray) -> np.ndarray:
            start = sense.adjoint(*map(jnp.asarray, (kspace, maps, mask)))
            return recon(
                kspace,
                maps,
                lamda=lam * float(jnp.max(jnp.abs(start))),
                max_iter=iterations,
                weights=_full(mask, kspace),
                show_pbar=False,
            ).run()

        return run

    def least_squares(
        kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray
    ) -> np.ndarray:
        return app.SenseRecon(
            kspace,
            maps,
            lamda=config.cg_lam,
            max_iter=config.cg_iterations,
            weights=_full(mask, kspace),
            show_pbar=False,
        ).run()

    def grappa(kspace: np.ndarray, mask: np.ndarray, maps: np.ndarray) -> np.ndarray:
        region = calibration_region(mask)
        filled = pygrappa.grappa(
            kspace,
            kspace[:, *region],
            kernel_size=grappa_kernel(jnp.asarray(mask)[None], config),
            lamda=config.grappa_lam,
            coil_axis=0,
        )
        return np.sqrt((np.abs(_image(filled)) ** 2).sum(axis=0))

    sigpy = f"sigpy {version('sigpy')}"
    return {
        f"{sigpy} SenseRecon": _frames(least_squares),
        f"pygrappa {version('pygrappa')} grappa": _frames(grappa),
        f"{sigpy} ESPIRiT": _frames(espirit),
        f"{sigpy} TotalVariationRecon": _frames(
            regularised(app.TotalVariationRecon, config.tv_lam, TV_ITERATIONS)
        ),
        f"{sigpy} L1WaveletRecon": _frames(
            regularised(app.L1WaveletRecon, config.wavelet_lam, WAVELET_ITERATIONS)
        ),
    }


def _frames(one: Callable) -> Reconstruct:
    """A function of single frames as one of series."""

    def run(kspace: Array, mask: Array, maps: Array) -> Array:
        each = np.broadcast_to(mask, (kspace.shape[0], *mask.shape[1:]))
        images = [
            one(np.asarray(k), m, np.asarray(maps))
            for k, m in zip(kspace, each, strict=True)
        ]
        return jnp.abs(jnp.asarray(np.stack(images)))

    return run


def _full(mask: np.ndarray, kspace: np.ndarray) -> np.ndarray:
    """sigpy's weights: the mask on every point."""
    return np.broadcast_to(mask, kspace.shape[-2:]).astype(np.float32)


def _image(kspace: np.ndarray) -> np.ndarray:
    shifted = np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho")
    return np.fft.fftshift(shifted, (-2, -1))
