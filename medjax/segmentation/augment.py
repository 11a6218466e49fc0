"""Augmentation of patches on the device: one gather in space, then intensities.

The recipe is nnU-Net's (version 2, without elastic deformation): turn, zoom and mirror;
noise, blur, brightness, contrast, low resolution, gamma of the inverted and of the
plain image. Turning, zooming, mirroring and cutting the patch out of its larger source
compose into one set of source coordinates, with which image and labels are sampled in
the same gather: labels go as shares of every label, of which the largest wins.

A row follows ``fold_in(key, row)``, so what happens to it depends neither on the batch
nor on the devices (values do, in their last bit). Thick slices (``planar``) are turned
and zoomed within their plane alone.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medjax.nn.blur import gaussian_blur
from medjax.nn.nnunet import Axes
from medjax.nn.warp import affine_points, plane_rotation, warp
from medjax.typing import Key

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How often what happens, and how much of it."""

    turn: float | None = None
    """Largest angle, degrees; None: 30 in three dimensions, 180 within a plane, 15
    of a slice that is longer than 1.5 times its width."""
    p_turn: float = 0.2
    """Of a turn."""
    zoom: Range = (0.7, 1.4)
    """Magnification."""
    p_zoom: float = 0.2
    """Of a zoom."""
    mirror: bool = True
    """Flip along each axis with probability one half."""
    noise: float = 0.1
    """Largest variance of the noise, of an image of unit variance."""
    p_noise: float = 0.1
    """Of noise."""
    blur: Range = (0.5, 1.0)
    """Standard deviation, voxels."""
    p_blur: float = 0.2
    """Of blur."""
    brightness: Range = (0.75, 1.25)
    """Factor."""
    p_brightness: float = 0.15
    """Of another brightness."""
    contrast: Range = (0.75, 1.25)
    """Factor about the mean; the range is kept."""
    p_contrast: float = 0.15
    """Of another contrast."""
    low: Range = (0.5, 1.0)
    """Resolution that the image is reduced to, and brought back from."""
    p_low: float = 0.25
    """Of a low resolution."""
    gamma: Range = (0.7, 1.5)
    """Exponent; mean and deviation are kept."""
    p_gamma: float = 0.3
    """Of a gamma."""
    p_inverted: float = 0.1
    """Of a gamma of the negative."""
    labels: Literal["linear", "nearest"] = "linear"
    """How labels are sampled: the largest share, or the nearest voxel's."""


NONE = AugmentConfig(
    p_turn=0,
    p_zoom=0,
    mirror=False,
    p_noise=0,
    p_blur=0,
    p_brightness=0,
    p_contrast=0,
    p_low=0,
    p_gamma=0,
    p_inverted=0,
)
"""Nothing happens: the patch in the middle of its source."""


def is_planar(patch: Axes) -> bool:
    """Whether a patch has so few slices that it is not turned out of them."""
    return len(patch) == 3 and max(patch) > 3 * patch[0]


def largest_turn(config: AugmentConfig, patch: Axes) -> float:
    """The largest angle, in radians."""
    if config.turn is not None:
        return math.radians(config.turn)
    if len(patch) == 3:
        return math.radians(180 if is_planar(patch) else 30)
    return math.radians(180 if max(patch) <= 1.5 * min(patch) else 15)


def source_extent(config: AugmentConfig, patch: Axes) -> Axes:
    """How much is to be cut for a patch, so that a turned and shrunk one is full.

    Half of a shrunk patch's surplus is taken: the corners of the smallest zoom are left
    to the border, which costs less than cutting twice as much from every case.

    Args:
        config: The largest turn and the smallest zoom.
        patch: What the network sees.
    """
    least = min(config.zoom[0], 1.0) if config.p_zoom else 1.0
    reach = (1 + 1 / least) / 2
    angle = largest_turn(config, patch) if config.p_turn else 0.0
    angle = min(angle, math.pi / 2)
    extent = np.asarray(patch, float)
    planes = [(-2, -1)] if len(patch) == 2 or is_planar(patch) else None
    for first, second in planes or itertools.combinations(range(-len(patch), 0), 2):
        a, b = patch[first], patch[second]
        peak = min(angle, math.atan2(b, a)), min(angle, math.atan2(a, b))
        turned_a = a * math.cos(peak[0]) + b * math.sin(peak[0])
        turned_b = b * math.cos(peak[1]) + a * math.sin(peak[1])
        extent[first] = max(extent[first], turned_a)
        extent[second] = max(extent[second], turned_b)
    moving = np.ones(len(patch))
    moving[: len(patch) - 2 if is_planar(patch) else 0] = 0
    extent = np.where(moving, extent * reach, extent)
    return tuple(math.ceil(n - 1e-9) for n in extent)


def augment(
    images: Float[Array, "b *s c"],
    labels: Int[Array, "b *s"],
    key: Key,
    *,
    patch: Axes,
    config: AugmentConfig,
    count: int,
) -> tuple[Float[Array, "b *p c"], Int[Array, "b *p"]]:
    """A batch of patches out of their sources.

    Args:
        images: Sources, normalised.
        labels: Inside labels.
        key: Of the step.
        patch: Extent of the result.
        config: What happens.
        count: Labels inside, the ignored one included.
    """
    nothing = jnp.zeros((*labels.shape, 0))
    found, said, _ = _augmented(images, labels, nothing, key, patch, config, count)
    return found, said


def augment_masked(
    images: Float[Array, "b *s c"],
    labels: Int[Array, "b *s"],
    mask: Bool[Array, "b *s"],
    key: Key,
    *,
    patch: Axes,
    config: AugmentConfig,
    count: int,
) -> tuple[Float[Array, "b *p c"], Int[Array, "b *p"], Bool[Array, "b *p"]]:
    """:func:`augment` with a mask of the sources that goes where their voxels go.

    It is sampled with the rest and cut at a half; images and labels are those that they
    are without it.
    """
    given = mask[..., None].astype(jnp.float32)
    found, said, there = _augmented(images, labels, given, key, patch, config, count)
    return found, said, there[..., 0] >= 0.5


@functools.partial(jax.jit, static_argnames=("patch", "config", "count"))
def _augmented(
    images: Array,
    labels: Array,
    masks: Float[Array, "b *s m"],
    key: Key,
    patch: Axes,
    config: AugmentConfig,
    count: int,
) -> tuple[Array, Array, Float[Array, "b *p m"]]:
    rows = jnp.arange(images.shape[0])
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(rows)
    one = functools.partial(_one, patch=patch, config=config, count=count)
    return jax.vmap(one)(images, labels, masks, keys)


def _one(
    image: Array,
    label: Array,
    masks: Array,
    key: Key,
    *,
    patch: Axes,
    config: Any,
    count: int,
) -> tuple[Array, Array, Array]:
    space, intensity, which = jax.random.split(key, 3)
    moved = _in_space(image, label, masks, space, patch, config, count)
    image, label, masks = moved
    channels = jax.random.split(intensity, image.shape[-1])
    # Whether something happens is the patch's, how much of it each channel's own.
    happens = jax.random.uniform(which, (7,))
    change = functools.partial(_intensities, happens=happens, config=config)
    return jax.vmap(change, (-1, 0), -1)(image, channels), label, masks


def _in_space(
    image: Array,
    label: Array,
    masks: Array,
    key: Key,
    patch: Axes,
    config: Any,
    count: int,
) -> tuple[Array, Array, Array]:
    keys = jax.random.split(key, 5)
    rank, planar = len(patch), is_planar(patch)
    largest = largest_turn(config, patch)
    planes = [(rank - 2, rank - 1)]
    if rank == 3 and not planar:
        planes = [(1, 2), (0, 2), (0, 1)]
    angles = jax.random.uniform(
        keys[0], (len(planes),), minval=-largest, maxval=largest
    )
    angles = jnp.where(jax.random.uniform(keys[1]) < config.p_turn, angles, 0.0)
    matrix = jnp.eye(rank)
    for (a, b), angle in zip(planes, angles, strict=True):
        turn = plane_rotation(rank, a, b, angle)
        matrix = jnp.matmul(matrix, turn, precision="highest")
    low, high = map(math.log, config.zoom)
    zoom = jnp.exp(jax.random.uniform(keys[2], minval=low, maxval=high))
    zoom = jnp.where(jax.random.uniform(keys[3]) < config.p_zoom, zoom, 1.0)
    scales = jnp.full(rank, 1.0) / zoom
    if planar:
        scales = scales.at[0].set(1.0)
    if config.mirror:
        flips = jax.random.bernoulli(keys[4], shape=(rank,))
        scales = jnp.where(flips, -scales, scales)
    points = affine_points(matrix * scales[None, :], patch, label.shape)
    carried = jnp.concatenate([image, masks], axis=-1)
    channels, all_channels = image.shape[-1], carried.shape[-1]
    if config.labels == "nearest":
        carried = warp(carried, points)
        chosen = warp(label, points, order="nearest")
    else:
        shares = jax.nn.one_hot(label, count)
        both = warp(jnp.concatenate([carried, shares], axis=-1), points)
        carried = both[..., :all_channels]
        chosen = jnp.argmax(both[..., all_channels:], axis=-1).astype(label.dtype)
    return carried[..., :channels], chosen, carried[..., channels:]


def _intensities(image: Array, key: Key, *, happens: Array, config: Any) -> Array:
    """One channel."""
    keys = jax.random.split(key, 8)

    def between(number: int, limits: Range) -> Array:
        return jax.random.uniform(keys[number], minval=limits[0], maxval=limits[1])

    variance = between(0, (0.0, config.noise))
    noise = jnp.sqrt(variance) * jax.random.normal(keys[1], image.shape)
    image = jnp.where(happens[0] < config.p_noise, image + noise, image)
    widths = (between(2, config.blur),) * image.ndim
    blurred = gaussian_blur(image, widths, largest=config.blur[1], border="edge")
    image = jnp.where(happens[1] < config.p_blur, blurred, image)
    bright = image * between(3, config.brightness)
    image = jnp.where(happens[2] < config.p_brightness, bright, image)
    mean = jnp.mean(image)
    contrast = (image - mean) * between(4, config.contrast) + mean
    contrast = jnp.clip(contrast, jnp.min(image), jnp.max(image))
    image = jnp.where(happens[3] < config.p_contrast, contrast, image)
    image = jnp.where(
        happens[4] < config.p_low, _reduced(image, between(5, config.low)), image
    )
    inverted = -_gamma(-image, between(6, config.gamma))
    image = jnp.where(happens[5] < config.p_inverted, inverted, image)
    plain = _gamma(image, between(7, config.gamma))
    return jnp.where(happens[6] < config.p_gamma, plain, image)


def _reduced(image: Array, resolution: Array) -> Array:
    """The nearest of fewer voxels, and lines between them."""
    for axis, n in enumerate(image.shape):
        few = jnp.maximum(jnp.round(n * resolution), 1.0)
        at = (jnp.arange(n, dtype=jnp.float32) + 0.5) * few / n - 0.5
        below = jnp.floor(at)
        rest = at - below

        def source(place: Array, few: Array = few, n: int = n) -> Array:
            place = jnp.clip(place, 0.0, few - 1)
            at = jnp.floor((place + 0.5) * n / few)
            return jax.nn.one_hot(at.astype(jnp.int32), n)

        rows = (1 - rest)[:, None] * source(below) + rest[:, None] * source(below + 1)
        moved = jnp.moveaxis(image, axis, 0)
        image = jnp.moveaxis(jnp.tensordot(rows, moved, 1), 0, axis)
    return image


def _gamma(image: Array, exponent: Array) -> Array:
    """Of the range, with mean and deviation kept."""
    low, mean, deviation = jnp.min(image), jnp.mean(image), jnp.std(image)
    extent = jnp.maximum(jnp.max(image) - low, 1e-7)
    unit = jnp.clip((image - low) / extent, 0.0, 1.0)
    image = jnp.power(unit, exponent) * extent
    image = image - jnp.mean(image)
    return image / jnp.maximum(jnp.std(image), 1e-7) * deviation + mean
