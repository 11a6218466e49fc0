"""Lesions filled where they are: one small window after the other.

A fill looks no further than a few voxels beyond the lesion. So lesions that go are
put into groups that have nothing to do with each other (boxes :data:`APART` voxels
apart), and each group is filled in the smallest window that holds it with its
:data:`MARGIN`. Inside, all is as in the whole image: what is known, what has no say,
what is solved for; a harmonic fill has the same limit. The pyramid that a solver starts
from is of the window, and texture is of the group's own ring.

Windows have shapes that are known when compiling, their number follows from the case.
A group that no window holds makes its case one for the sweep over the whole image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.segmentation.lesionmix.morphology import dilated
from medjax.typing import Key

MARGIN = 5
"""Voxels round a group: one is filled too, fast marching with slopes asks four more."""
APART = 5
"""Voxels between boxes of lesions that know nothing of each other: one of either side
is filled too, and what bends is felt across two."""
SAVES = 8
"""Windows are worth it if the image is so many times as large."""

FillOne = Callable[[Array, Array, Array, Key], Array]
"""``fill(image, lesions, usable, key)``."""


class Groups(NamedTuple):
    """Lesions that go, by who is near whom.

    Attributes:
        first: of each lesion the number, from 0, of the first one of its group; as many
            as there are lesions where it does not go.
        low: first voxel of the group's box along each axis, at the group's first.
        high: behind its last voxel.
    """

    first: Int[Array, " n"]
    low: Int[Array, "n r"]
    high: Int[Array, "n r"]


def windows_of(
    sizes: Sequence[int], shape: tuple[int, ...], most: int
) -> tuple[tuple[int, ...], ...]:
    """Shapes of windows that are worth it in an image, the smallest first.

    Args:
        sizes: voxels along each axis.
        shape: of the image; no window is longer.
        most: lesions that there can be.
    """
    found = []
    for size in sorted(sizes):
        window = tuple(min(size, n) for n in shape)
        voxels, whole = 1, 1
        for k, n in zip(window, shape, strict=True):
            voxels, whole = voxels * k, whole * n
        if most < voxels and SAVES * voxels <= whole:
            found.append(window)
    return tuple(found)


def boxes_of(
    components: Int[Array, "*space"], most: int
) -> tuple[Int[Array, "n r"], Int[Array, "n r"]]:
    """The box of every component: first voxel, and behind the last, along each axis.

    Of every plane along each axis a set of the components in it, a bit for each: two
    passes over the image for 32 of them. One that is not there has an empty box.

    Args:
        components: 1, 2, ... ; 0 elsewhere.
        most: the largest number that there can be.
    """
    rank = components.ndim
    number = components.astype(jnp.uint32)
    zero = jnp.uint32(0)
    sides: list[list[tuple[Array, Array]]] = [[] for _ in range(rank)]
    for begin in range(1, most + 1, 32):
        bit = number - jnp.uint32(begin)
        sets = jnp.where(bit < 32, jnp.uint32(1) << (bit & 31), zero)
        lines = jax.lax.reduce(sets, zero, jax.lax.bitwise_or, (rank - 1,))
        for axis in range(rank):
            last = axis == rank - 1
            of, kept = (sets, axis) if last else (lines, axis)
            others = tuple(a for a in range(of.ndim) if a != kept)
            planes = jax.lax.reduce(of, zero, jax.lax.bitwise_or, others)
            bits = jnp.arange(min(32, most + 1 - begin), dtype=jnp.uint32)
            there = (planes[None, :] >> bits[:, None]) & 1 > 0
            n = there.shape[1]
            low = jnp.argmax(there, axis=1)
            high = n - jnp.argmax(there[:, ::-1], axis=1)
            some = jnp.any(there, axis=1)
            sides[axis].append((jnp.where(some, low, n), jnp.where(some, high, 0)))
    low, high = (
        jnp.stack([jnp.concatenate([part[i] for part in s]) for s in sides], axis=1)
        for i in (0, 1)
    )
    return low.astype(jnp.int32), high.astype(jnp.int32)


def grouped(
    goes: Bool[Array, " n"], low: Int[Array, "n r"], high: Int[Array, "n r"]
) -> Groups:
    """Lesions that go, put together with all that are near to one of their group.

    Args:
        goes: which of them.
        low: first voxel of each one's box.
        high: behind its last voxel.
    """
    n = goes.shape[0]
    gap = jnp.maximum(low[:, None] - high[None], low[None] - high[:, None])
    near = jnp.all(gap < APART, axis=-1) & goes[:, None] & goes[None]
    near = near | (jnp.eye(n, dtype=bool) & goes[:, None])
    for _ in range(max(n - 1, 1).bit_length()):
        steps = near.astype(jnp.float32)
        near = jnp.matmul(steps, steps, precision="highest") > 0
    first = jnp.where(goes, jnp.argmax(near, axis=1), n).astype(jnp.int32)
    together = near[..., None]
    far = jnp.iinfo(jnp.int32).max
    lowest = jnp.min(jnp.where(together, low[None], far), axis=1)
    highest = jnp.max(jnp.where(together, high[None], 0), axis=1)
    return Groups(first, lowest, highest)


def smallest_window(
    groups: Groups, windows: Sequence[tuple[int, ...]], shape: tuple[int, ...]
) -> Int[Array, " n"]:
    """Of each lesion's group the window that it gets; as many as there are: none."""
    held, whole = [], jnp.asarray(shape)[None]
    for window in windows:
        size = jnp.asarray(window)[None]
        fits = groups.high - groups.low + 2 * MARGIN <= size
        held.append(jnp.all(fits | (size == whole), axis=-1))
    held.append(jnp.ones_like(held[0]))
    return jnp.argmax(jnp.stack(held), axis=0).astype(jnp.int32)


def fill_groups(
    image: Float[Array, "*space"],
    components: Int[Array, "*space"],
    organ: Bool[Array, "*space"],
    groups: Groups,
    windows: Sequence[tuple[int, ...]],
    fill: FillOne,
    *,
    key: Key,
) -> Float[Array, "*space"]:
    """The image with every group filled in its window.

    Args:
        image: any unit.
        components: of all lesions, those that stay too.
        organ: other voxels have no say.
        groups: of those that go; those that no window holds are left alone.
        windows: shapes, the smallest first.
        fill: what fills one window.
        key: of the texture.
    """
    n, shape = groups.first.shape[0], image.shape
    chosen = smallest_window(groups, windows, shape)
    leads = groups.first == jnp.arange(n)
    none = jnp.zeros(1, bool)
    gone = jnp.concatenate([none, groups.first < n])
    for number, window in enumerate(windows):
        now = leads & (chosen == number)
        order = jnp.argsort(~now, stable=True)

        def one(
            i: Array, image: Array, window: tuple = window, order: Array = order
        ) -> Array:
            lead = order[i]
            size = jnp.asarray(window)
            middle = (groups.low[lead] + groups.high[lead]) // 2
            start = jnp.clip(middle - size // 2, 0, jnp.asarray(shape) - size)
            tissue, here, inside = (
                jax.lax.dynamic_slice(x, start, window)
                for x in (image, components, organ)
            )
            own = jnp.concatenate([none, groups.first == lead])[here]
            others = gone[here] & ~own
            stays = (here > 0) & ~gone[here]
            usable = inside & ~stays & ~dilated(others, corners=False)
            lesions = jnp.where(own, here, 0)
            filled = fill(tissue, lesions, usable, jax.random.fold_in(key, lead))
            return jax.lax.dynamic_update_slice(image, filled, start)

        image = jax.lax.fori_loop(0, jnp.sum(now), one, image)
    return image
