"""A moving mesh drawn as label maps on the slices of a volume.

The opposite of fitting: a pixel belongs to the structure that covers most of it. Where
there is no room for all segments, there is made more, so that nothing is cut short.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64, UInt8

from medjax.heart.meshes import Topology
from medjax.heart.slicing import coverage, regions


def slice_planes(
    affine: Float[np.ndarray, "4 4"], count: int, *, first: int = 0
) -> Float64[np.ndarray, "k 3 3"]:
    """The planes of a volume's slices, which lie along its third axis.

    Args:
        affine: voxel indices to mm.
        count: of slices.
        first: index of the first one; may lie before the volume.
    """
    steps = np.asarray(affine, np.float64)[:3, :3].T
    origins = affine[:3, 3] + (first + np.arange(count)[:, None]) * steps[2]
    across = np.broadcast_to(steps[:2, None], (2, count, 3))
    return np.stack([origins, *across], axis=1)


def drawn(
    vertices: Float[np.ndarray, "t n 3"],
    topology: Topology,
    affine: Float[np.ndarray, "4 4"],
    shape: tuple[int, ...],
    *,
    thickness: float = 0.0,
) -> UInt8[np.ndarray, "t i j k"]:
    """Label maps of every frame.

    Args:
        vertices: mm.
        topology: with surfaces ``endo`` and ``epi``, and perhaps ``rv``.
        affine: voxel indices to mm.
        shape: voxels along three axes.
        thickness: of slices, mm; 0 draws the section in the middle of the slice.

    Raises:
        ValueError: where the mesh has no walls.
    """
    rows, columns, count = shape
    planes = slice_planes(affine, count)
    on_device = jnp.asarray(planes, jnp.float32)

    @functools.partial(jax.jit, static_argnames="size")
    def shares_of(frame: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        covered, limits = coverage(
            frame,
            topology,
            on_device,
            (rows, columns),
            size=size,
            thickness=thickness,
            at_once=1,
        )
        return regions(covered, topology), jnp.max(limits.segments)

    maps, size = [], 256
    for frame in vertices:
        found, needed = shares_of(jnp.asarray(frame, jnp.float32), size)
        while int(needed) > size:
            size = 2 * int(needed)
            found, needed = shares_of(jnp.asarray(frame, jnp.float32), size)
        shares = np.asarray(found)
        rest = 1.0 - shares.sum(-1, keepdims=True)
        label = np.argmax(np.concatenate([rest, shares], axis=-1), axis=-1)
        maps.append(np.moveaxis(label, 0, -1).astype(np.uint8))
    return np.stack(maps)
