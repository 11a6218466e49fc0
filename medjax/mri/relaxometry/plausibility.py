"""Which fits are no tissue's, and why: their pixels are masked and counted.

Least squares gives a number for every pixel, of air too. What cannot be a relaxation
time is told by its own fit, not by its neighbours.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from medjax.mri.relaxometry.t1 import T1_STAR_RANGE, T1Map
from medjax.mri.relaxometry.t2 import T2_RANGE, T2Map

REASONS = {
    1: "no signal",
    2: "not above the noise",
    3: "time constant at the end of the search",
    4: "not positive",
    5: "standard error above the value",
}
"""Why a fit is implausible, by :func:`implausible`'s codes; the first that holds."""
ABOVE_NOISE = 4.0
"""Sigmas that the strongest frame must reach; of ten frames of noise, 0.3 % do."""


def implausible(
    maps: T1Map | T2Map,
    signal: Shaped[np.ndarray, "t *space"],
    *,
    sigma: float | None = None,
) -> UInt8[np.ndarray, "*space"]:
    """Says for each pixel what is wrong with its fit.

    Args:
        maps: The fits.
        signal: What was fitted.
        sigma: Noise of the signal, if known.

    Returns:
        0 where nothing is wrong, else a code of :data:`REASONS`.
    """
    of_t1 = isinstance(maps, T1Map)
    value, sd, constant = (
        np.asarray(x)
        for x in (
            (maps.t1, maps.t1_sd, maps.t1_star)
            if of_t1
            else (maps.t2, maps.t2_sd, maps.t2)
        )
    )
    low, high = T1_STAR_RANGE if of_t1 else T2_RANGE
    strongest = np.abs(signal).max(axis=0)
    faults: dict[int, Bool[np.ndarray, ...]] = {
        5: sd > value,  # NaN, where nothing is known of the error, is no fault
        4: ~(value > 0),
        3: (constant <= low * 1.001) | (constant >= high * 0.999),
        2: np.zeros(value.shape, bool)
        if sigma is None
        else strongest < ABOVE_NOISE * sigma,
        1: strongest == 0,
    }
    codes = np.zeros(value.shape, np.uint8)
    for code, at in faults.items():
        codes[at] = code
    return codes


def masked(
    values: Float[np.ndarray, "*space"], codes: UInt8[np.ndarray, "*space"]
) -> Float[np.ndarray, "*space"]:
    """A map with zeros where its fit is implausible or its value no number."""
    return np.where((codes == 0) & np.isfinite(values), values, 0).astype(np.float32)
