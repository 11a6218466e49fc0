"""Aligning image, maps and mask, and reading off the mask which axis is undersampled.

The last two axes are ``h w`` = (ky, kx). The *shape* of a mask says how it samples, so
the choice of algorithm is static under ``jit``:

=============== ==================================================================
mask            sampling
=============== ==================================================================
``[..., h, 1]`` whole readout lines along ``w`` (this library's convention)
``[..., 1, w]`` whole lines along ``h`` (fastMRI stores its k-space this way)
``[..., h, w]`` single samples: radial, Poisson disc, any pattern of a 3-D scan
=============== ==================================================================

Leading axes broadcast by NumPy's rule, counted from the right: for images
``[b, t, h, w]`` with maps that every frame shares, pass maps as ``[b, 1, c, h, w]``.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Shaped


def sampled_axis(mask: Shaped[Array, "*k h w"]) -> int | None:
    """The axis that a line mask undersamples, -2 or -1; None for a 2-D mask."""
    if mask.shape[-1] == 1:
        return -2
    return -1 if mask.shape[-2] == 1 else None


def pad_rank(
    x: Shaped[Array, "..."], rank: int, core: int, name: str
) -> Shaped[Array, "..."]:
    """``x`` with leading axes of size 1 until it has ``rank`` before its last ``core``.

    Raises:
        ValueError: if ``x`` has fewer than ``core`` axes.
    """
    if x.ndim < core:
        raise ValueError(f"{name} needs at least {core} axes, got shape {x.shape}")
    return x.reshape((1,) * (rank + core - x.ndim) + x.shape)


def align(
    named: dict[str, tuple[Shaped[Array, "..."], int]],
) -> tuple[list[Shaped[Array, "..."]], tuple[int, ...]]:
    """Give arrays leading axes of equal rank, and say what those broadcast to.

    Args:
        named: argument name to (array, number of its own last axes).

    Returns:
        The reshaped arrays and the common leading shape.

    Raises:
        ValueError: if leading axes do not broadcast.
    """
    rank = max(x.ndim - core for x, core in named.values())
    arrays = [pad_rank(x, rank, core, name) for name, (x, core) in named.items()]
    try:
        leading = jnp.broadcast_shapes(*(x.shape[:rank] for x in arrays))
    except ValueError:
        shapes = ", ".join(f"{name} {x.shape}" for name, (x, _) in named.items())
        raise ValueError(f"the leading axes of {shapes} do not broadcast") from None
    return arrays, leading


def check_plane(
    name: str, x: Shaped[Array, "..."], like: Shaped[Array, "..."], of: str = "image"
) -> None:
    """Raise unless the last two axes of ``x`` are those of ``like``."""
    if x.shape[-2:] != like.shape[-2:]:
        raise ValueError(
            f"{name} must end in the {of}'s {like.shape[-2:]}, got shape {x.shape}"
        )


def check_complex(name: str, x: Shaped[Array, "..."]) -> None:
    """Raise unless ``x`` is complex."""
    if not jnp.iscomplexobj(x):
        raise ValueError(f"{name} must be complex, got {x.dtype} of shape {x.shape}")


def as_mask(mask: ArrayLike, like: Complex[Array, "... h w"]) -> Shaped[Array, "..."]:
    """The mask as real weights of the image's precision, its shape checked.

    Raises:
        ValueError: if the mask is complex, or fits neither whole lines nor the plane.
    """
    weights = jnp.asarray(mask)
    height, width = like.shape[-2:]
    if jnp.iscomplexobj(weights):
        raise ValueError(f"mask must be boolean or real, got {weights.dtype}")
    if weights.ndim < 2 or weights.shape[-2:] not in {
        (height, 1),
        (1, width),
        (height, width),
    }:
        raise ValueError(
            f"mask must end in {(height, 1)}, {(1, width)} or {(height, width)} for "
            f"images of {(height, width)}, got shape {weights.shape}"
        )
    return weights.astype(like.real.dtype)


def per_sample(name: str, value: ArrayLike, rank: int, like: Array) -> Array:
    """A scalar, or one value per leading axis, shaped to multiply ``[*leading, h, w]``.

    Raises:
        ValueError: if ``value`` is complex or has more axes than the batch.
    """
    scalar = jnp.asarray(value)
    if jnp.iscomplexobj(scalar) or scalar.ndim > rank:
        raise ValueError(
            f"{name} must be real with at most the {rank} leading axes of the batch, "
            f"got {scalar.dtype} of shape {scalar.shape}"
        )
    scalar = scalar.astype(like.real.dtype)
    return scalar.reshape((1,) * (rank - scalar.ndim) + scalar.shape + (1, 1))


def scale(
    z: Complex[Array, "..."], real: Shaped[Array, "..."]
) -> Complex[Array, "..."]:
    """``real * z`` without promoting the real factor to complex (half the products)."""
    return jax.lax.complex(z.real * real, z.imag * real)


def power_of_two(magnitude: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """The power of two that brings ``magnitude`` into [0.5, 1); 1 for 0, inf and NaN.

    Multiplying by it is exact, so scaling costs no accuracy.
    """
    usable = jnp.isfinite(magnitude) & (magnitude > 0)
    _, exponent = jnp.frexp(jnp.where(usable, magnitude, 1))
    return jnp.where(usable, jnp.ldexp(jnp.ones_like(magnitude), -exponent), 1)


def pad_plane(
    x: Shaped[Array, "... h w"], rows: int, columns: int
) -> Shaped[Array, "... h2 w2"]:
    """Zeros appended until the last two axes are multiples of ``rows``, ``columns``."""
    height, width = x.shape[-2:]
    pads = [(0, 0)] * (x.ndim - 2) + [(0, -height % rows), (0, -width % columns)]
    return jnp.pad(x, pads)


def planes(
    z: Complex[Array, "*b h w"], rows: int, columns: int
) -> Shaped[Array, "n 2 h2 w2"]:
    """All leading axes as one, real and imaginary part as planes, padded."""
    split = jnp.stack([z.real, z.imag], axis=-3)
    return pad_plane(split.reshape(-1, *split.shape[-3:]), rows, columns)


def flat_index(leading: tuple[int, ...], own: tuple[int, ...]) -> Callable[[Any], Any]:
    """Map a flat index over ``leading`` to one over ``own``, which broadcasts to it.

    Maps that frames share, or masks that samples share, are then read where they lie
    instead of being copied out to the full batch.
    """
    steps = [
        (math.prod(leading[i + 1 :]), size, math.prod(own[i + 1 :]))
        for i, size in enumerate(own)
        if size > 1
    ]

    def index(n: Any) -> Any:
        return sum(((n // outer) % size) * inner for outer, size, inner in steps)

    return index
