"""A lesion turned, flipped, resized, bent and relit, in one gather.

The image of the lesion and its mask are two channels of one crop and share the
coordinates ``p = A (x - x0) + u(x) + c``: ``x0`` is where the lesion's middle is to
be, ``c`` the crop's middle voxel (``n // 2``), ``A`` composes flips, rotation and
scale in mm (so that a rotated lesion keeps its shape on anisotropic voxels), and ``u``
is a field of a few control points, spread by linear weights along one axis after the
other. The scale is cut to what the box holds, so no lesion is cut off.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medjax.nn.warp import plane_rotation, warp
from medjax.typing import Key


@dataclasses.dataclass(frozen=True)
class TransformConfig:
    """What may happen to a lesion; defaults as LesionMix is described.

    Basaran et al. 2023 as a public re-implementation quotes them; the noise there is of
    one standard deviation in its comment and of a tenth in its code.
    """

    flip: float = 0.5
    """Probability of each axis to be mirrored."""
    rotate: float = 0.5
    """Probability of a rotation about each axis (one in 2-D)."""
    degrees: tuple[float, float] = (1.0, 89.0)
    """Of a rotation."""
    scale: tuple[float, float] = (0.5, 1.8)
    """Factor of the diameter."""
    elastic: float = 0.5
    """Probability to be bent."""
    elastic_voxels: float = 4.0
    """Largest displacement of a control point along an axis."""
    control_points: int = 5
    """Along each axis of the box."""
    brightness: tuple[float, float] = (0.9, 1.1)
    """Factor of the standardised intensities."""
    noise_sd: float = 0.1
    """Standard deviation of noise, in units of the host's."""


_PLANES = {2: [(0, 1)], 3: [(0, 1), (0, 2), (1, 2)]}
"""Rotations go from one axis to another."""


class Motion(NamedTuple):
    """One transform, drawn.

    Attributes:
        matrix: offsets in the output to offsets in the crop, voxels.
        control: displacements at the control points, voxels.
        reach: how far the moved lesion extends from its middle along each axis, voxels.
    """

    matrix: Float[Array, "r r"]
    control: Float[Array, "r *points"]
    reach: Float[Array, " r"]


def draw_motion(
    mask: Bool[Array, "*box"],
    spacing: Sequence[float],
    config: TransformConfig,
    *,
    key: Key,
) -> Motion:
    """A transform of a lesion that keeps it inside a box of the crop's size.

    Args:
        mask: the lesion, its middle in the middle of the crop.
        spacing: voxel size in mm, one number per axis.
        config: what may happen.
        key: of the draw.
    """
    rank = mask.ndim
    number_key, field_key = jax.random.split(key)
    # All scalars at once: in a loop over lesions, draws are most of what is compiled.
    planes = _PLANES[rank]
    u = jax.random.uniform(number_key, (rank + 2 * len(planes) + 2,))
    flips, turns, angles = u[:rank], u[rank:-2:2], u[rank + 1 : -2 : 2]
    mirror = jnp.diag(jnp.where(flips < config.flip, -1.0, 1.0))
    size = jnp.diag(jnp.asarray(spacing, jnp.float32))
    inverse_size = jnp.diag(1.0 / jnp.asarray(spacing, jnp.float32))
    angles = jnp.deg2rad(_between(angles, config.degrees))
    angles = jnp.where(turns < config.rotate, angles, 0.0)
    turned = zip(planes, angles, strict=True)
    rotation = functools.reduce(
        functools.partial(jnp.matmul, precision="highest"),
        [plane_rotation(rank, i, j, angle) for (i, j), angle in turned],
    )
    product = functools.partial(jnp.matmul, precision="highest")
    # From the crop to the output, without the scale.
    forward = functools.reduce(product, (inverse_size, rotation, size, mirror))
    most = jnp.where(u[-2] < config.elastic, config.elastic_voxels, 0.0)
    shape = (rank, *(config.control_points,) * rank)
    control = most * jax.random.uniform(field_key, shape, minval=-1.0, maxval=1.0)

    offsets = _offsets(mask.shape, [float(n // 2) for n in mask.shape])
    reach = []
    for row in forward:
        along = _along(row, offsets)
        reach.append(jnp.max(jnp.where(mask, jnp.abs(along), 0.0)))
    half = jnp.asarray([(n - 1) // 2 - 1 for n in mask.shape], jnp.float32)
    fits = jnp.min((half - most) / jnp.maximum(jnp.stack(reach), 0.5))
    scale = jnp.minimum(_between(u[-1], config.scale), fits)
    back = functools.reduce(product, (mirror, inverse_size, rotation.T, size)) / scale
    return Motion(back, control, scale * jnp.stack(reach) + most)


def move(
    crop: Float[Array, "*box 2"], motion: Motion, middle: Float[Array, " r"]
) -> tuple[Float[Array, "*box"], Bool[Array, "*box"]]:
    """The crop's image and mask after a transform.

    Args:
        crop: image and mask (1 inside) as channels.
        motion: from :func:`draw_motion`.
        middle: where the lesion's middle comes to lie in the output, voxels.

    Returns:
        Image and mask in a box of the crop's size.
    """
    box = crop.shape[:-1]
    offsets = _offsets(box, list(middle))
    bent = _spread(motion.control, box)
    at = []
    for axis, n in enumerate(box):
        at.append(_along(motion.matrix[axis], offsets) + bent[axis] + n // 2)
    moved = warp(crop, at)
    return moved[..., 0], moved[..., 1] > 0.5


def relit(
    image: Float[Array, "*box"], config: TransformConfig, *, key: Key
) -> Float[Array, "*box"]:
    """Standardised intensities with another brightness, and noise."""
    factor_key, noise_key = jax.random.split(key)
    factor = _between(jax.random.uniform(factor_key, ()), config.brightness)
    return factor * image + config.noise_sd * jax.random.normal(noise_key, image.shape)


def _between(u: Array, ends: tuple[float, float]) -> Array:
    return ends[0] + u * (ends[1] - ends[0])


def _offsets(box: Sequence[int], middle: Sequence[Array | float]) -> list[Array]:
    """From the middle along each axis, each with an axis of its own to broadcast."""
    axes = [
        jnp.arange(n, dtype=jnp.float32) - m for n, m in zip(box, middle, strict=True)
    ]
    return list(jnp.meshgrid(*axes, indexing="ij", sparse=True))


def _along(row: Float[Array, " r"], offsets: Sequence[Array]) -> Float[Array, "*box"]:
    """A row of a matrix times offsets, without an array of all of them."""
    terms = [row[axis] * offset for axis, offset in enumerate(offsets)]
    return functools.reduce(jnp.add, terms)


def _spread(
    control: Float[Array, "r *points"], box: Sequence[int]
) -> Float[Array, "r *box"]:
    """Control points over the box, linear in between: one small product per axis."""
    field = control
    for n in box:
        points = field.shape[1]
        at = jnp.linspace(0.0, points - 1.0, n)
        number = jnp.arange(points, dtype=jnp.float32)
        weights = jnp.maximum(1.0 - jnp.abs(at[:, None] - number[None, :]), 0.0)
        # What is done goes last, so that the next axis is first; all come round.
        field = jnp.moveaxis(
            jnp.tensordot(weights, field, axes=(1, 1), precision="highest"), 0, -1
        )
    return field
