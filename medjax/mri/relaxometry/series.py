"""What every fit asks of the series that it is given."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FRAMES_TO_FIT = {"t1": 3, "t2": 2}
"""Times that a map takes at least."""


def floating(*values: Array | np.ndarray) -> list[Array]:
    """All in one floating-point type, float32 at least.

    Integers would be negated, halved and compared with T1* in their own arithmetic, and
    half precision has three digits.
    """
    native = [
        v if isinstance(v, jax.Array) else v.astype(v.dtype.newbyteorder("="))
        for v in values
    ]
    arrays = [jnp.asarray(v) for v in native]
    double = any(a.dtype == jnp.float64 for a in arrays)
    return [a.astype(jnp.float64 if double else jnp.float32) for a in arrays]


def check_frames(
    signal: Array | np.ndarray, times: Array | np.ndarray, name: str, *, at_least: int
) -> None:
    frames = signal.shape[0] if signal.ndim else 0
    if times.shape != (frames,) or frames < at_least:
        raise ValueError(
            f"{name} has shape {times.shape} and the series {signal.shape}: expected "
            f"one time per frame of the leading axis, {at_least} at least"
        )


def checked_sigma(sigma: float | None) -> Float[Array, ""] | None:
    """The noise as an array, or None.

    Raises:
        ValueError: Where it is not positive and finite.
    """
    if sigma is None:
        return None
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma is {sigma}, expected a positive number")
    return jnp.asarray(sigma, jnp.float32)
