"""DeepMesh's soft projection of vertices on a plane, and its Hausdorff distance.

Vertices near an image plane are projected on it, with a weight that falls with their
distance, and compared with the pixels of a contour. It sees vertices, not the surface:
the result depends on their density, and a plane between two rings of a coarse mesh sees
nothing. It is here for fidelity; :mod:`medjax.heart.slicing` is the exact alternative.

The published code selects the vertices that are near enough, as many as there are. Here
shapes are static: the ``top`` vertices by weight, the others counted (``left_out``),
and minima and power means over those that are there. Values are the same.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.heart.planes import to_plane

EPSILON = 1e-6
POWER = -7.0
"""Of the mean that stands for a minimum over vertices."""


class Projection(NamedTuple):
    """Vertices on a plane.

    Attributes:
        pixels: row and column, within the image.
        weight: exp(-tau distance^2); 0 where there is no vertex.
        left_out: vertices near enough for which there was no room.
    """

    pixels: Float[Array, "k 2"]
    weight: Float[Array, " k"]
    left_out: Int[Array, ""]


def project(
    vertices: Float[Array, "n 3"],
    plane: Float[Array, "3 3"],
    shape: tuple[int, int],
    *,
    tau: float = 0.75,
    within: float = 2.0,
    top: int = 2048,
) -> Projection:
    """The vertices near a plane, on it.

    The published values are 3 per squared voxel and one voxel of 2 mm.

    Args:
        vertices: mm.
        plane: origin and steps, mm.
        shape: rows and columns of the image; what is outside is moved to its border.
        tau: fall of the weight with the squared distance, 1/mm^2.
        within: distance from which on vertices are not seen, mm.
        top: room for vertices.
    """
    at = to_plane(vertices, plane)
    weight = jnp.exp(-tau * jnp.square(at[:, 2]))
    near = jnp.abs(at[:, 2]) < within
    top = min(top, vertices.shape[0])
    _, chosen = jax.lax.top_k(jnp.where(near, weight, 0.0), top)
    last = jnp.asarray([shape[0] - 1.0, shape[1] - 1.0], at.dtype)
    pixels = jnp.clip(at[chosen, :2], 0.0, last[None])
    seen = jnp.where(near[chosen], weight[chosen], 0.0)
    many = jnp.sum(near.astype(jnp.int32))
    return Projection(pixels, seen, jnp.maximum(many - top, 0))


def weighted_hausdorff(
    pixels: Float[Array, "k 2"],
    weight: Float[Array, " k"],
    contour: Float[Array, "m 2"],
    contour_mask: Float[Array, " m"],
    *,
    diagonal: float,
) -> Float[Array, ""]:
    """The weighted Hausdorff distance of projected vertices and a contour, pixels.

    sum_i p_i min_j d_ij / (sum_i p_i + 1e-6), plus the mean over the contour of
    M_i[(1 - p_i) d_max + p_i d_ij], with M(a) = (mean_i (a + 1e-6)^-7)^(-1/7) and d_ij
    the length of x_i - g_j + 1e-6. If both are empty it is 0; if one is, d_max, without
    a gradient.

    Args:
        pixels: of vertices.
        weight: p, 0 where there is no vertex.
        contour: pixels of the contour.
        contour_mask: 1 where there is one.
        diagonal: d_max, the image's diagonal.
    """
    here, there = weight > 0.0, contour_mask > 0.0
    p = weight.astype(jnp.float32)
    # Rows and columns apart: an axis of two would be the innermost of all pairs.
    down, along = (pixels[:, None, i] - contour[None, :, i] + EPSILON for i in range(2))
    square = jnp.square(down) + jnp.square(along)
    pair = here[:, None] & there[None]
    # Where there is no pair the root's derivative must not be asked for.
    distance = jnp.sqrt(jnp.where(pair, square, 1.0))
    least = jnp.min(jnp.where(pair, distance, jnp.inf), axis=1)
    least = jnp.where(here & jnp.any(there), least, 0.0)
    first = jnp.sum(p * least) / (jnp.sum(p) + EPSILON)
    blend = (1.0 - p[:, None]) * diagonal + p[:, None] * distance
    count = jnp.sum(here.astype(jnp.float32))
    logs = jnp.where(pair, POWER * jnp.log(blend + EPSILON), -jnp.inf)
    some = jnp.any(pair, axis=0)
    # The seventh power of 181 pixels has 16 digits: float32 takes it as a logarithm.
    total = jax.nn.logsumexp(jnp.where(some[None], logs, 0.0), axis=0)
    soft = jnp.exp((total - jnp.log(jnp.maximum(count, 1.0))) / POWER)
    number = jnp.sum(there.astype(jnp.float32))
    second = jnp.sum(jnp.where(some, soft, 0.0)) / jnp.maximum(number, 1.0)
    both, none = (count > 0) & (number > 0), (count == 0) & (number == 0)
    return jnp.where(both, first + second, jnp.where(none, 0.0, diagonal))
