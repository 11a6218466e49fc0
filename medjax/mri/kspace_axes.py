"""Arrays as files hold them, in this library's axes, and what of them was measured.

Axes are named by letters: ``t`` frames, ``d`` slices, ``z`` second phase encoding,
``c`` coils, ``h`` phase encoding, ``w`` readout.
"""

import warnings
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from medjax.data import cfl
from medjax.data.boundary import DataError, finite
from medjax.mri.fourier import centred_ifft

AXES = "tdzchw"
DEFAULT_AXES = {2: "hw", 3: "chw", 4: "tchw", 5: "tdchw"}
"""What a file of so many axes holds, if nothing is said; BART's positions are fixed."""
NAMES = {
    **{"t": "frame", "d": "slice", "z": "partition", "c": "coil"},
    **{"h": "line", "w": "sample"},
}
BART_AXES = "whzcmt____t__d__"
"""BART's dimensions by the same letters: ``m`` sets of maps, frames from echo times (5)
and time (10), ``_`` what k-space of one series does not have."""


def bart_axes(array: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Axes by BART's meaning of their positions; echoes and times become frames."""
    if array.ndim > len(BART_AXES):
        raise DataError(f"{where} has {array.ndim} axes, expected at most 16")
    shape = array.shape + (1,) * (len(BART_AXES) - array.ndim)
    for position, (letter, size) in enumerate(zip(BART_AXES, shape, strict=True)):
        if letter == "_" and size > 1:
            raise DataError(
                f"{where} has size {size} in dimension {position} "
                f"({cfl.DIMENSIONS[position]}), which cannot be used: expected read, "
                "phases, coils, maps, TE or time, and slices (0 to 5, 10, 13)"
            )
    named = [i for i, letter in enumerate(BART_AXES) if letter != "_"]
    w, h, z, c, m, echoes, times, d = (shape[i] for i in named)
    array = array.reshape(w, h, z, c, m, echoes, times, d)
    array = array.transpose(0, 1, 2, 3, 4, 7, 6, 5)  # echoes follow each other
    return array.reshape(w, h, z, c, m, d, times * echoes), "whzcmdt"


def arrange(
    array: np.ndarray, axes: str, where: str
) -> Complex[np.ndarray, "t d c h w"]:
    """Sort axes named by letters into ``t d c h w``.

    Args:
        array: k-space as a file holds it.
        axes: a letter of ``t d z c h w`` per axis.
        where: file and variable, for messages.

    Returns:
        complex64; absent axes have size one, ``z`` is transformed and joins ``d``.

    Raises:
        DataError: where the letters or the numbers are not what they must be.
    """
    fits = len(axes) == array.ndim == len(set(axes)) and set(axes) <= set(AXES)
    if not (fits and {"h", "w"} <= set(axes)):
        raise DataError(
            f"{where} has shape {array.shape}, axes='{axes}': expected one letter of "
            f"'{AXES}' per axis, each once, 'h' (phase encoding) and 'w' (readout) "
            "among them"
        )
    if array.dtype.kind != "c":
        raise DataError(f"{where} has dtype {array.dtype}, expected complex k-space")
    if array.size == 0:
        raise DataError(f"{where} is empty, its shape {array.shape}")
    with np.errstate(over="ignore"):  # refused just below
        array = array.astype(np.complex64)
    finite(where, array, "the array", [NAMES[letter] for letter in axes])
    missing = [letter for letter in AXES if letter not in axes]
    array = array.reshape(array.shape + (1,) * len(missing))
    order = [(axes + "".join(missing)).index(letter) for letter in AXES]
    kspace = np.ascontiguousarray(array.transpose(order))
    if kspace.shape[2] > 1:
        kspace = np.asarray(centred_ifft(jnp.asarray(kspace), axes=(2,)))
    t, d, z, *rest = kspace.shape
    return kspace.reshape(t, d * z, *rest)


def measured_points(
    kspace: Complex[np.ndarray, "t d c h w"], where: str
) -> Bool[np.ndarray, "_t h _w"]:
    """The mask that an array shows by its zeros, in its smallest form.

    Integers rounded from small samples are exact zeros too. Then single components
    (real or imaginary, of one coil) are zero about as often as not; where there are
    more of those than of samples that are zero throughout, zeros are values, and only
    whole lines of them are a mark.

    Args:
        kspace: zero where nothing was measured.
        where: file and variable, for messages.

    Returns:
        ``1|t h 1|w``.

    Raises:
        DataError: where everything is zero.
    """
    mask = np.any(kspace != 0, axis=(1, 2))
    if not mask.any():
        raise DataError(f"{where} is zero everywhere")
    touched = mask.any(axis=-1, keepdims=True)
    if _rounded_samples(kspace, mask) > np.sum(touched & ~mask):
        return smallest(touched)
    # Readouts may end in zeros (asymmetric echo), at the same place in all lines.
    acquired = np.broadcast_to(touched & mask.any(axis=(0, 1)), mask.shape)
    return smallest(touched if np.array_equal(mask, acquired) else mask)


def _rounded_samples(
    kspace: Complex[np.ndarray, "t d c h w"], mask: Bool[np.ndarray, "t h w"]
) -> int:
    """How many measured samples have a real or imaginary part of exactly zero."""
    zero = np.zeros(mask.shape, bool)
    for part in (np.real(kspace), np.imag(kspace)):
        if part.any():  # else k-space is real, which says nothing
            zero |= (part == 0).any(axis=(1, 2))
    return int(np.sum(zero & mask))


def warn_off_centre(kspace: Complex[np.ndarray, "t d c h w"], where: str) -> None:
    """Say so where the energy lies at the edges, as before an fftshift."""
    energy = np.sum(np.abs(kspace) ** 2, axis=(0, 1, 2), dtype=np.float64)
    for axis, name in enumerate("hw"):
        profile, n = energy.sum(axis=1 - axis), energy.shape[axis]
        near = max(n // 16, 1)
        if n < 4 * near + 2:
            continue
        ends = np.roll(profile, near)[: 2 * near + 1].sum()
        middle = profile[n // 2 - near : n // 2 + near + 1].sum()
        if ends > 10 * middle:
            warnings.warn(
                f"{where}: the energy of k-space lies at the ends of axis '{name}', "
                "expected in its middle: images will be wrong; apply fftshift to the "
                "file's k-space",
                stacklevel=3,
            )


def fully_sampled(measured: Bool[np.ndarray, "_t h _w"]) -> bool:
    """Whether all that lies between the outermost measured samples was measured.

    Edges may be missing: partial Fourier, or lines that were never to be acquired.
    """
    frame = np.asarray(measured.all(axis=0))
    rows, columns = (
        np.flatnonzero(measured.any(axis=axes)) for axes in ((0, 2), (0, 1))
    )
    inside = frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(inside.all())


def affine_of_slices(
    affine: Float[np.ndarray, "4 4"], slices: Sequence[int]
) -> Float[np.ndarray, "4 4"] | None:
    """Where a volume lies of which only some slices are kept.

    Args:
        affine: Indices ``w h d`` of the whole volume to mm.
        slices: Those kept, from 0, in their new order; one at least.

    Returns:
        The affine of the kept ones; None where their steps differ, which no affine can
        say.
    """
    steps = np.diff(slices)
    if steps.size and (steps[0] == 0 or np.any(steps != steps[0])):
        return None
    moved = affine.copy()
    moved[:3, 3] += slices[0] * affine[:3, 2]
    if steps.size:
        moved[:3, 2] *= steps[0]
    return moved


def smallest(mask: Bool[np.ndarray, "t h w"]) -> Bool[np.ndarray, "_t h _w"]:
    """One frame where all are equal."""
    return (
        mask[:1]
        if np.array_equal(mask, np.broadcast_to(mask[:1], mask.shape))
        else mask
    )
