"""Another number of frames of a cycle: what moves is brought to even times, and it is
said.

Scanners make 20 to 64 frames of a beat. Positions between two frames are those on the
straight line, the last frame being followed by the first. Label maps have nothing
between two of them: who learns from labels takes frames as they are, the nearest to
even times, with images and meshes of the same moment.
"""

import numpy as np
from jaxtyping import Float


def resampled(values: Float[np.ndarray, "t *s"], count: int) -> np.ndarray:
    """What moves at even times over one cycle, by periodic linear interpolation.

    Args:
        values: images or vertices of all frames of a cycle, equally far apart in time.
        count: frames that are wanted; the first is the first.

    Returns:
        ``count *s``, of the type of the values where that is a float.

    Raises:
        ValueError: for fewer than two frames, there or wanted.
    """
    if min(len(values), count) < 2:
        raise ValueError(
            f"frames: {count} of {len(values)}, expected 2 of a cycle at least"
        )
    at = np.arange(count) * len(values) / count
    before = np.floor(at).astype(int)
    share = (at - before).reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    after = values[(before + 1) % len(values)]
    return (1 - share) * values[before] + share * after


def told(there: int, count: int) -> str:
    """What a record says of frames that were resampled.

    Args:
        there: frames of the cycle.
        count: frames that were wanted.
    """
    return f"{count} frames, by periodic linear interpolation between {there}"


def uneven(times: Float[np.ndarray, " t"]) -> float:
    """How far frames are from even times at most, as a share of the cycle.

    Args:
        times: shares of the cycle, the first 0.
    """
    away = np.abs(np.asarray(times) - np.arange(len(times)) / len(times))
    return float(away.max())
