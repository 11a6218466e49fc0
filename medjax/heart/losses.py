"""Losses of meshes that move; each says whose convention it has.

Names without a convention are our own definitions. All compute in float32 and take one
mesh, field or plane; batches are ``vmap``, but for :func:`huber_deepmesh` and
:func:`huber_mm`, whose root is over the whole batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.heart.meshes import Topology, length, vertex_normals, volumes
from medjax.nn.nearest import nearest
from medjax.nn.tables import Table, collect, gather, mean_of
from medjax.nn.unet import pool_by_two


def laplacian_uniform(
    vectors: Float[Array, "n 3"], topology: Topology
) -> Float[Array, ""]:
    """Mean over vertices of |mean of the neighbours - vertex|, not squared.

    PyTorch3D's ``mesh_laplacian_smoothing(method="uniform")`` and DeepMesh's term. Of
    places it shrinks a heart; of displacements it only keeps neighbours together.

    Args:
        vectors: places or displacements, mm.
        topology: with the neighbours.
    """
    table = topology.neighbours
    return jnp.mean(length(mean_of(gather(vectors, table), table) - vectors))


def laplacian_cotangent(
    vertices: Float[Array, "n 3"], topology: Topology
) -> Float[Array, ""]:
    """Mean over vertices of |cotangent-weighted mean of the neighbours - vertex|.

    PyTorch3D's ``method="cot"``: the weight of an edge is the sum of the cotangents of
    the angles opposite to it, without a gradient. (Its ``cotcurv`` divides by areas and
    is off by a factor; it is not here.)

    Args:
        vertices: mm.
        topology: with the faces.
    """
    corners = topology.corners
    at = jax.lax.stop_gradient(gather(vertices, corners))
    cotangents = []
    for i in range(3):
        a, b = (at[:, (i + k) % 3] - at[:, i] for k in (1, 2))
        area = jnp.maximum(length(jnp.cross(a, b)), 1e-12)
        cotangents.append(jnp.sum(a * b, axis=-1) / area)
    # A corner gets of each of the two others, weighed by the angle at the third.
    places, sums, weights = gather(vertices, corners), [], []
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        one, two = cotangents[k][:, None], cotangents[j][:, None]
        sums.append(one * places[:, j] + two * places[:, k])
        weights.append(one + two)
    total = collect(jnp.stack(sums, axis=1), corners)
    weight = collect(jnp.stack(weights, axis=1), corners)
    some = weight > 0.0
    mean = total / jnp.where(some, weight, 1.0)
    return jnp.mean(length(jnp.where(some, mean, 0.0) - vertices))


def chamfer(x: Float[Array, "n 3"], y: Float[Array, "m 3"]) -> Float[Array, ""]:
    """Mean squared distance to the nearest of the other, both directions summed.

    PyTorch3D's ``chamfer_distance`` with its defaults, mm^2.

    Args:
        x: points, mm.
        y: points, mm.
    """
    return jnp.mean(nearest(x, y)[0]) + jnp.mean(nearest(y, x)[0])


def contour_distance(
    points: Float[Array, "n 2"],
    mask: Float[Array, " n"],
    contour: Float[Array, "m 2"],
    contour_mask: Float[Array, " m"],
) -> Float[Array, ""]:
    """Mean distance between two contours, half of the sum of both directions, mm.

    Zero, without a gradient, where one of them is empty.

    Args:
        points: mm, on the plane.
        mask: 1 where there is a point.
        contour: mm, on the same plane.
        contour_mask: 1 where there is a point.
    """

    def one_way(a: Array, a_mask: Array, b: Array, b_mask: Array) -> Array:
        square, _ = nearest(a, b, b_mask > 0.0)
        there = (a_mask > 0.0) & jnp.isfinite(square)
        some = there & (square > 0.0)
        away = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
        return jnp.sum(away) / jnp.maximum(jnp.sum(there.astype(jnp.float32)), 1.0)

    there = one_way(points, mask, contour, contour_mask)
    return 0.5 * (there + one_way(contour, contour_mask, points, mask))


def edge_stretch(
    vertices: Float[Array, "n 3"],
    reference: Float[Array, "n 3"],
    topology: Topology,
) -> Float[Array, ""]:
    """Mean over edges of the squared logarithm of the length over that at reference.

    Args:
        vertices: mm.
        reference: the same ones at end-diastole, mm.
        topology: with the edges.
    """

    def lengths(at: Array) -> Array:
        ends = gather(at, topology.edge_ends)
        return jnp.maximum(length(ends[:, 1] - ends[:, 0]), 1e-3)

    return jnp.mean(jnp.square(jnp.log(lengths(vertices) / lengths(reference))))


def wall_thickness(
    vertices: Float[Array, "n 3"], topology: Topology, pairs: Table
) -> Float[Array, " p"]:
    """How far the outer vertex of each pair is outside the inner one's wall, mm.

    Along the normal of the inner wall: negative where the walls cross.

    Args:
        vertices: mm.
        topology: with the faces.
        pairs: inner and outer vertex.
    """
    ends = gather(jnp.asarray(vertices), pairs)
    normals = gather(jnp.asarray(vertex_normals(vertices, topology)), pairs)
    return jnp.sum((ends[:, 1] - ends[:, 0]) * normals[:, 0], axis=-1)


def penetration(
    vertices: Float[Array, "n 3"], topology: Topology, pairs: Table, least: float = 2.0
) -> Float[Array, ""]:
    """Mean of how much walls are thinner than ``least`` mm.

    Args:
        vertices: mm.
        topology: with the faces.
        pairs: inner and outer vertex.
        least: thickness that is free, mm.
    """
    thin = jnp.maximum(least - wall_thickness(vertices, topology, pairs), 0.0)
    return jnp.mean(thin)


def volume_change(
    vertices: Float[Array, "n 3"],
    reference: Float[Array, "n 3"],
    topology: Topology,
    *,
    tolerance: float = 0.05,
) -> Float[Array, ""]:
    """((V / V at reference - 1) / tolerance)^2 of the muscle between endo and epi.

    Args:
        vertices: mm.
        reference: the same ones at end-diastole, mm.
        topology: with surfaces ``endo`` and ``epi``; holes are closed.
        tolerance: relative change that costs 1: muscle keeps its volume to some 5 %.
    """

    def muscle(at: Array) -> Array:
        found = volumes(at, topology, close=True)
        return found["epi"] - found["endo"]

    change = muscle(vertices) / muscle(reference) - 1.0
    return jnp.square(change / tolerance)


def huber_deepmesh(field: Float[Array, "b d h w 3"]) -> Float[Array, ""]:
    """DeepMesh's smoothness: one root over the batch, and no Huber loss at all.

    sqrt(0.01 + (sum dx^2 / W + sum dy^2 / H + sum dz^2 / D) / B), d the difference of
    neighbouring voxels, in the unit of the field.

    Args:
        field: displacements of voxels.
    """
    total = jnp.zeros(())
    for axis in (1, 2, 3):
        step = jnp.diff(field, axis=axis)
        total = total + jnp.sum(jnp.square(step)) / field.shape[axis]
    return jnp.sqrt(0.01 + total / field.shape[0])


PUBLISHED = 64 * 128 * 1.25**2
"""What DeepMesh's sums make of a mean squared slope in the plane of its volume, whose
64 slices have 128 x 128 pixels of 1.25 mm."""


def huber_mm(
    field: Float[Array, "b d h w 3"], spacing: Float[Array, "b 3"]
) -> Float[Array, ""]:
    """DeepMesh's smoothness of displacements per mm, alike along all axes.

    sqrt(0.01 + 12800 mean |grad u|^2): in the plane of the published volume it is
    :func:`huber_deepmesh`; a slope costs as much along another axis and on another
    grid.

    Args:
        field: displacements of voxels, mm.
        spacing: of voxels along slices, rows and columns, mm.
    """
    total = jnp.zeros(())
    for axis in (1, 2, 3):
        step = spacing[:, axis - 1].reshape(-1, 1, 1, 1, 1)
        slope = jnp.diff(field, axis=axis) / step
        total = total + jnp.mean(jnp.sum(jnp.square(slope), axis=-1))
    return jnp.sqrt(0.01 + PUBLISHED * total)


def soft_dice(
    prediction: Float[Array, "p h w c"],
    truth: Float[Array, "p h w c"],
    mask: Float[Array, " p"],
) -> Float[Array, " c"]:
    """2 sum xy / (sum x^2 + sum y^2) over all planes together, per channel.

    Squares below (V-Net's form), so that shares of pixels that agree give 1. A channel
    that is empty in both is 1.

    Args:
        prediction: shares, 0 to 1.
        truth: shares.
        mask: 1 for planes that count.
    """
    weight = mask[:, None, None, None]
    both = jnp.sum(weight * prediction * truth, axis=(0, 1, 2))
    each = jnp.square(prediction) + jnp.square(truth)
    total = jnp.sum(weight * each, axis=(0, 1, 2))
    some = total > 0.0
    return jnp.where(some, 2.0 * both / jnp.where(some, total, 1.0), 1.0)


def pyramid_dice(
    prediction: Float[Array, "p h w c"],
    truth: Float[Array, "p h w c"],
    mask: Float[Array, " p"],
    *,
    levels: int = 3,
) -> Float[Array, ""]:
    """1 - :func:`soft_dice`, mean over channels and images halved again and again.

    The mean coverage of four pixels is that of the pixel they make, so the coarse
    levels are exact as well; they see a contour from farther away.

    Args:
        prediction: shares, 0 to 1.
        truth: shares.
        mask: 1 for planes that count.
        levels: 1, 2, 4 and so on pixels wide.
    """
    parts = []
    for level in range(levels):
        if level:
            prediction, truth = (pool_by_two(x, "avg") for x in (prediction, truth))
        parts.append(1.0 - jnp.mean(soft_dice(prediction, truth, mask)))
    return jnp.mean(jnp.stack(parts))


def profile_difference(
    profile: Float[Array, "n k"], reference: Float[Array, "n k"]
) -> Float[Array, ""]:
    """1 - correlation of intensities along normals, mean over vertices.

    Brightness and contrast do not matter. Where a profile is flat the correlation is 0.

    Args:
        profile: at a frame.
        reference: of the same vertices at end-diastole.
    """

    def standard(x: Array) -> Array:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        spread = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x / jnp.sqrt(spread + 1e-4)

    return 1.0 - jnp.mean(standard(profile) * standard(reference))
