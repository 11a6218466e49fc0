"""From numbers of any depth to eight bits of grey."""

import numpy as np
from jaxtyping import Float, Num, UInt8

LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601)."""


def luminance(colour: Num[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Colour to grey, on the scale it came in."""
    return colour @ np.asarray(LUMINANCE)


def stretch(
    values: Num[np.ndarray, "h w"], seen: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Darkest value seen to 0, brightest to 255.

    Args:
        values: Finite.
        seen: Bool [h, w]: which pixels set the range; None: all.
    """
    values = values.astype(np.float64)
    within = values if seen is None or not seen.any() else values[seen]
    low, high = within.min(), within.max()
    unit = (values - low) / max(high - low, 1e-12)
    return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)
