"""Image planes in space, and sampling features of their images at vertices.

A plane is three vectors in mm: where the centre of pixel (0, 0) is, the step to the
next row, and the step to the next column, at right angles. Slices keep their own planes
all the way: spacing may differ between rows, columns and slices, stacks may be oblique,
and slices of different breath-holds may be shifted against each other. Vertices never
leave the world's millimetres; what is in pixels stays inside this file and its callers'
images.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.heart.meshes import unit
from medjax.nn.warp import warp


def normals(planes: Float[Array, "*p 3 3"]) -> Float[Array, "*p 3"]:
    """Of length one, along rows cross columns.

    Args:
        planes: origins and steps, mm.
    """
    return unit(jnp.cross(planes[..., 1, :], planes[..., 2, :]))


def to_plane(
    points: Float[Array, "n 3"], plane: Float[Array, "3 3"]
) -> Float[Array, "n 3"]:
    """Row and column in pixels, and distance in mm along the normal.

    Args:
        points: mm.
        plane: origin and steps, mm.
    """
    steps = plane[1:]
    pixels = steps / jnp.sum(jnp.square(steps), axis=-1, keepdims=True)
    axes = jnp.concatenate([pixels, normals(plane)[None]])
    # Not a matrix product: accelerators would round coordinates to bfloat16.
    away = points - plane[:1]
    return jnp.sum(away[:, None, :] * axes[None], axis=-1)


def to_space(
    pixels: Float[Array, "n 2"], plane: Float[Array, "3 3"]
) -> Float[Array, "n 3"]:
    """Places of rows and columns, mm.

    Args:
        pixels: row and column.
        plane: origin and steps, mm.
    """
    return plane[:1] + pixels[:, :1] * plane[1:2] + pixels[:, 1:] * plane[2:3]


def sample_planes(
    features: Float[Array, "v h w c"],
    planes: Float[Array, "v 3 3"],
    points: Float[Array, "n 3"],
) -> tuple[Float[Array, "v n c"], Float[Array, "v n"]]:
    """Features of every image at the foot of every point, and the distances to it.

    Args:
        features: of images.
        planes: of the images, mm.
        points: mm.

    Returns:
        Bilinear values, zero outside the image; signed distances in mm.
    """

    def one(image: Array, plane: Array) -> tuple[Array, Array]:
        row, column, away = jnp.moveaxis(to_plane(points, plane), -1, 0)
        return warp(image, (row, column)), away

    return jax.vmap(one)(features, planes)


def sample_stack(
    features: Float[Array, "d h w c"],
    planes: Float[Array, "d 3 3"],
    points: Float[Array, "n 3"],
) -> tuple[Float[Array, "n c"], Float[Array, "n 2"]]:
    """Features of a stack of slices: bilinear in the slices, linear between them.

    A point is found in each of its two neighbouring slices by that slice's own plane,
    so shifted slices are read where they were taken. A linear function of space is
    given back exactly.

    Args:
        features: of slices in the order of their places, in either direction.
        planes: of the slices, parallel, mm.
        points: mm; beyond the ends of the stack the last slice is read.

    Returns:
        Values, zero where the foot is outside the slices; and for every point the share
        of the upper slice and how far it is beyond the stack, in slice distances.
    """
    d, h, w, c = features.shape
    normal = normals(planes[:1])
    at = jnp.sum((planes[:, 0] - planes[:1, 0]) * normal, axis=-1)
    away = jnp.sum((points - planes[:1, 0]) * normal, axis=-1)
    # Slices may run against the normal: then everything is looked at from behind.
    sign = jnp.where(at[-1] < 0.0, -1.0, 1.0)
    at, away = sign * at, sign * away
    seen = jnp.sum(away[:, None] >= at[None, 1:-1], axis=-1)
    low = jnp.minimum(seen, max(d - 2, 0))
    high = jnp.minimum(low + 1, d - 1)
    gap = at[high] - at[low]
    place = (away - at[low]) / jnp.where(gap > 0.0, gap, 1.0)
    share = jnp.clip(place, 0.0, 1.0)
    flat = features.reshape(d * h, w, c)

    def slice_values(which: Array) -> Array:
        plane = planes[which]
        step = plane[:, 1:]
        pixels = jnp.sum(step * (points - plane[:, 0])[:, None], axis=-1)
        pixels = pixels / jnp.sum(jnp.square(step), axis=-1)
        first = (which * h).astype(jnp.float32)
        rows = (first, first + h)
        return warp(
            flat, (pixels[:, 0] + first, pixels[:, 1]), window=(rows, (0.0, float(w)))
        )

    weight = share[:, None]
    # Both neighbours in one program: half as much to compile.
    below, above = jax.vmap(slice_values)(jnp.stack([low, high]))
    values = (1.0 - weight) * below + weight * above
    return values, jnp.stack([share, jnp.abs(place - share)], axis=-1)
