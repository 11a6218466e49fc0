"""Motion as augmentation libraries have it: a few poses, a block of k-space lines each.

Shaw, Sudre, Ourselin, Cardoso, "MRI k-space motion artefact augmentation", MIDL 2019,
in the way that ``RandomMotion`` of torchio made common: while a scan lasts, the patient
takes a few rigid poses; the lines of k-space are cut at random places into contiguous
blocks, and each block sees another pose. It knows no heartbeat, no breathing and no
motion through the plane, and labels stay where they were: the peer of
:mod:`medjax.mri.motion`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.mri.fourier import fft2c, ifft2c
from medjax.nn.warp import affine_points, plane_rotation, warp
from medjax.typing import Key


@dataclasses.dataclass(frozen=True)
class BlockMotionConfig:
    """How many poses, and how far apart; torchio's defaults."""

    poses: int = 2
    """Beside the one at rest."""
    degrees: float = 10.0
    """Largest rotation in the plane."""
    shift: float = 10.0
    """Largest displacement along each axis, mm."""

    def __post_init__(self) -> None:
        if self.poses < 1:
            raise ValueError(f"poses={self.poses}: expected one at least")


def compose(
    images: Float[Array, "p d h w"], first: Float[Array, " p"], axis: Float[Array, ""]
) -> Float[Array, "d h w"]:
    """A stack whose k-space is taken from several in turn.

    Args:
        images: of each pose.
        first: share of the lines that come before the pose's block, rising from 0.
        axis: lines are rows where it is 0, columns where it is 1.

    Returns:
        The magnitude.
    """
    h, w = images.shape[-2:]
    row = (jnp.arange(h, dtype=jnp.float32) / h)[:, None]
    column = (jnp.arange(w, dtype=jnp.float32) / w)[None, :]
    line = jnp.where(axis > 0, column, row)
    pose = jnp.sum(line[None] >= first[:, None, None], axis=0) - 1
    kspace = fft2c(images.astype(jnp.complex64))
    every = jnp.arange(images.shape[0])[:, None, None]
    lines = jnp.where((pose[None] == every)[:, None], kspace, 0)
    return jnp.abs(ifft2c(jnp.sum(lines, axis=0)))


def posed(
    image: Float[Array, "d h w"],
    angle: Float[Array, ""],
    shift: Float[Array, "2"],
    pixel: tuple[float, float],
) -> Float[Array, "d h w"]:
    """A stack in one rigid pose.

    Args:
        image: at rest.
        angle: in the plane, rad.
        shift: added to the places that are looked at, voxels.
        pixel: mm between rows and columns.
    """
    plane, size = image.shape[1:], jnp.asarray(pixel)
    # A rotation is one of mm, whatever the pixels' shape.
    matrix = plane_rotation(2, 0, 1, angle) * size[None, :] / size[:, None]
    points = affine_points(matrix, plane, plane, shift=shift)
    return jax.vmap(functools.partial(warp, at=points, outside="edge"))(image)


@functools.partial(jax.jit, static_argnames=("pixel", "config"))
def block_motion(
    image: Float[Array, "d h w"],
    pixel: tuple[float, float],
    config: BlockMotionConfig,
    *,
    key: Key,
) -> Float[Array, "d h w"]:
    """A stack scanned while the patient takes a few poses.

    Args:
        image: magnitude, at rest.
        pixel: mm between rows and columns.
        config: the poses.
        key: of everything random.
    """
    turn_key, shift_key, time_key, axis_key = jax.random.split(key, 4)
    count = config.poses
    most = jnp.deg2rad(config.degrees)
    angles = jax.random.uniform(turn_key, (count,), minval=-most, maxval=most)
    reach = jnp.asarray([config.shift / size for size in pixel])
    shifts = reach[None] * jax.random.uniform(shift_key, (count, 2), minval=-1.0)

    def at_pose(angle: Array, shift: Array) -> Array:
        return posed(image, angle, shift, pixel)

    poses = jnp.concatenate([image[None], jax.vmap(at_pose)(angles, shifts)])
    times = jnp.sort(jax.random.uniform(time_key, (count,)))
    first = jnp.concatenate([jnp.zeros(1), times])
    axis = jax.random.bernoulli(axis_key).astype(jnp.float32)
    return compose(poses, first, axis)
