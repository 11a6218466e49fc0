"""Filling from the border inwards, as fast marching does (Telea 2004), in layers.

Telea's method fills voxels in the order of their distance from what is known. Each
becomes a mean of its known neighbours, the more of those that are near, that lie along
the front's normal, and at the same distance from the border. His queue hands out one
voxel after the other. Here the distances come first, exact instead of marched, and a
layer as thick as a voxel is filled at once from all before it: no voxel waits for one
of its own layer, so that the result hangs on no order, and the loop is one over layers.

In his formula a neighbour foretells ``I(q) + grad I(q) . (p - q)``. Slopes of noise go
on growing across a large lesion, and the code that most people use (OpenCV's) adds no
more than a grey level for them; so they are left out unless they are asked for.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from medjax.metrics.distance import distance_to

RADIUS = 3
"""Voxels within which neighbours are asked."""


def telea(
    values: Float[Array, "*space"],
    domain: Bool[Array, "*space"],
    usable: Bool[Array, "*space"],
    spacing: tuple[float, ...],
    *,
    slopes: bool = False,
    radius: int = RADIUS,
) -> Float[Array, "*space"]:
    """Fills a domain layer by layer.

    Args:
        values: known outside of the domain; in it, what stays where nothing is known
            within reach.
        domain: what is filled.
        usable: other voxels have no say; holds the domain.
        spacing: voxel size in mm.
        slopes: go on with what rises or falls, as Telea's formula does.
        radius: voxels within which neighbours are asked.
    """
    known = usable & ~domain
    depth = distance_to(known, spacing)
    layer = jnp.ceil(depth / min(spacing) - 1e-3)
    layer = jnp.where(domain & jnp.isfinite(depth), layer, 0.0).astype(jnp.int32)
    level = jnp.where(domain, depth, -distance_to(domain, spacing))
    normal = _slopes(level, usable, spacing)
    reach = range(-radius, radius + 1)
    places = itertools.product(reach, repeat=values.ndim)
    offsets = np.array([o for o in places if 0 < np.dot(o, o) <= radius**2], np.int32)
    steps = jnp.asarray(offsets * np.asarray(spacing), jnp.float32)
    starts = jnp.asarray(offsets + radius)

    def one_layer(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        image, known = state
        weight = known.astype(jnp.float32)
        fields = [weight, level, image]
        fields += _slopes(image, known, spacing) if slopes else []
        padded = [jnp.pad(x, radius) for x in fields]

        def ask(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            there, height, value, *rise = (
                jax.lax.dynamic_slice(x, tuple(starts[i]), image.shape) for x in padded
            )
            step = steps[i]
            square = jnp.sum(step**2)
            along = sum(step[a] * normal[a] for a in range(image.ndim))
            direction = jnp.abs(along) * jax.lax.rsqrt(square)
            share = there * jnp.maximum(direction, 1e-6) / square
            share = share / (1.0 + jnp.abs(level - height))
            # From the neighbour back to the voxel.
            told = value - sum((step[a] * r for a, r in enumerate(rise)), 0.0)
            heard = there > 0
            return (
                sums[0] + jnp.where(heard, share * told, 0.0),
                sums[1] + jnp.where(heard, share, 0.0),
            )

        nothing = jnp.zeros_like(image), jnp.zeros_like(image)
        total, shares = jax.lax.fori_loop(0, len(offsets), ask, nothing)
        filled = (layer == number) & (shares > 0)
        mean = total / jnp.where(filled, shares, 1.0)
        return jnp.where(filled, mean, image), known | filled

    last = jnp.max(layer) + 1
    return jax.lax.fori_loop(1, last, one_layer, (values, known))[0]


def _slopes(
    x: Float[Array, "*space"], valid: Bool[Array, "*space"], spacing: tuple[float, ...]
) -> list[Float[Array, "*space"]]:
    """Differences per mm along each axis, to one side where the other is not valid."""
    found = []
    for axis, size in enumerate(spacing):
        n = x.shape[axis]
        pads = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        value, there = jnp.pad(x, pads), jnp.pad(valid, pads)

        def part(array: Array, first: int, axis: int = axis, n: int = n) -> Array:
            return jax.lax.slice_in_dim(array, first, first + n, axis=axis)

        before = part(there, 0) & valid
        behind = part(there, 2) & valid
        rise = jnp.where(before, x - part(value, 0), 0.0)
        rise = rise + jnp.where(behind, part(value, 2) - x, 0.0)
        sides = before.astype(jnp.float32) + behind.astype(jnp.float32)
        found.append(rise / (jnp.maximum(sides, 1.0) * size))
    return found
