"""GRAPPA: each missing sample as a fixed combination of measured neighbours.

Around every hole of the sampling pattern the measured neighbours inside a kernel
window, of all coils, predict the hole's samples. The weights are the same wherever the
same neighbours are there, and are fitted on the fully sampled centre, one ridge
regression per distinct neighbourhood.

How many neighbourhoods there are and of which size depends on the mask's values, which
makes this host code (NumPy), unlike the rest of the package: it is calibrated once per
scan and is a reference, never part of a training step.

Griswold et al. 2002 (MRM 47:1202). The CMRxRecon demo: kernel 5x5, ridge 0.01 relative
to the calibration matrix, weights from the first frame for all frames.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex

from medjax.mri.masks import calibration_region


def grappa(
    kspace: Complex[Array, "*b c h w"],
    mask: ArrayLike,
    *,
    calibration: Complex[Array, "c y x"] | None = None,
    kernel: tuple[int, int] = (5, 5),
    lam: float = 0.01,
) -> Complex[Array, "*b c h w"]:
    """Fill k-space between the measured samples, which stay as they are.

    Args:
        kspace: measured k-space; leading axes are frames under the same mask.
        mask: sampling mask, ``h w`` or ``h 1``.
        calibration: fully sampled k-space to fit on; by default the central block of
            the first frame.
        kernel: window around a hole (ky, kx), both odd. Holes without any measured
            neighbour in it stay zero: line spacings above ``kernel[0]`` leave some.
        lam: ridge weight relative to the mean of the normal matrix.

    Returns:
        k-space; its root sum of squares image is the reconstruction. Where the
        calibration holds nothing but zeros (a slice outside the body), holes stay zero.

    Raises:
        ValueError: for an even kernel, or a calibration block smaller than the kernel.
    """
    ky, kx = kernel
    if ky % 2 == 0 or kx % 2 == 0:
        raise ValueError(f"kernel must be odd on both axes, got {kernel}")
    c, h, w = kspace.shape[-3:]
    frames = np.asarray(kspace).reshape(-1, c, h, w)
    sampled = np.broadcast_to(np.asarray(mask).astype(bool), (h, w))
    if calibration is None:
        rows, columns = calibration_region(sampled)
        block = frames[0][:, rows, columns]
    else:
        block = np.asarray(calibration)
    if block.shape[1] < ky or block.shape[2] < kx:
        raise ValueError(
            f"calibration block of {block.shape[1:]} is smaller than the kernel "
            f"{kernel}; give fully sampled lines as calibration"
        )
    # Weights do not depend on the unit of k-space, but in float32 their normal matrix
    # vanishes or overflows with it; a power of two rounds nothing.
    block = block * 2.0 ** -int(np.frexp(np.abs(block).max())[1])
    fit = _windows(block, ky, kx).reshape(c, -1, ky * kx)
    beside = ((0, 0), (0, 0), (ky // 2, ky // 2), (kx // 2, kx // 2))
    every = np.pad(frames, beside)

    filled = frames.copy()
    for neighbours, (row, column) in _neighbourhoods(sampled, ky, kx):
        weights = _weights(fit, neighbours, (ky * kx) // 2, lam)
        dy, dx = np.unravel_index(neighbours, (ky, kx))
        source = every[:, :, row[:, None] + dy, column[:, None] + dx]
        predicted = np.einsum("bcpn,cnd->bdp", source, weights, optimize=True)
        filled[:, :, row, column] = predicted
    return jnp.asarray(filled.reshape(kspace.shape))


def _neighbourhoods(
    sampled: np.ndarray, ky: int, kx: int
) -> list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Distinct sets of measured neighbours, each with the holes that have it."""
    padded = np.pad(sampled, ((ky // 2, ky // 2), (kx // 2, kx // 2)))
    row, column = np.nonzero(~sampled)
    around = _windows(padded[None], ky, kx)[0, row, column].reshape(row.size, ky * kx)
    patterns, which = np.unique(around, axis=0, return_inverse=True)
    which = which.ravel()
    return [
        (np.flatnonzero(pattern), (row[which == i], column[which == i]))
        for i, pattern in enumerate(patterns)
        if pattern.any()
    ]


def _windows(x: np.ndarray, ky: int, kx: int) -> np.ndarray:
    """All windows that lie inside ``c h w``: ``[c, rows, columns, ky, kx]``."""
    return np.lib.stride_tricks.sliding_window_view(x, (ky, kx), axis=(1, 2))


def _weights(
    fit: np.ndarray, neighbours: np.ndarray, centre: int, lam: float
) -> np.ndarray:
    """Ridge regression of the window's centre on its neighbours: ``[c, n, coil]``."""
    c, positions, _ = fit.shape
    n = neighbours.size
    source = np.moveaxis(fit[:, :, neighbours], 0, 1).reshape(positions, c * n)
    normal = source.conj().T @ source
    if not normal.any():
        return np.zeros((c, n, c), fit.dtype)
    ridge = lam * np.linalg.norm(normal) / (c * n)
    right = source.conj().T @ fit[:, :, centre].T
    weights = np.linalg.solve(normal + ridge * np.eye(c * n, dtype=normal.dtype), right)
    return weights.reshape(c, n, c)
