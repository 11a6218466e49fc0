"""Brain-like images with lesions whose number, sizes and places follow a known law.

A skull-stripped brain, as in FLAIR: dark ventricles, white matter, a brighter rim of
grey matter, nothing around. Lesions are bright, of number Poisson, of volume
log-normal (median 17 mm^3, as in the open MS data set), centred in white matter with a
density that falls with the distance from the ventricles. A lesion is the voxels nearest
its centre by a way whose cost is a Gaussian process, and it never touches another one:
so its volume is the number drawn, to the voxel, components of the mask are the lesions,
and the load of a case is a compound Poisson sum whose moments are known
(:func:`load_moments`).

In two or three dimensions, of any shape; radii are shares of the shortest axis, lesions
are in mm. Everything follows from ``config`` and ``key``.
"""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.special import ndtr

from medjax.metrics.distance import distance_to
from medjax.nn.blur import gaussian_blur
from medjax.segmentation.lesionmix.location import draw_voxel, marginals
from medjax.segmentation.lesionmix.morphology import dilated
from medjax.typing import Key

VENTRICLE, GREY, WHITE = 0.15, 0.55, 0.45
"""Intensities."""
LOADS = {"low": (4.0, 4.0), "high": (20.0, 20.0), "uniform": (4.0, 20.0)}
"""Names for ``lesions``: the mean number of lesions, from and to."""

_WAVES = 16
"""Plane waves that make a Gaussian process."""


@dataclasses.dataclass(frozen=True)
class LesionConfig:
    """Brain, lesions and image."""

    shape: tuple[int, ...] = (96, 96)
    """Voxels; two axes or three, the last from side to side."""
    spacing: float = 1.0
    """Voxel size, mm."""
    lesions: tuple[float, float] = LOADS["low"]
    """Mean number of lesions: uniform between these two, then Poisson."""
    slots: int = 48
    """Most lesions in a case; more than are ever drawn."""
    log_volume: tuple[float, float] = (math.log(17.0), 1.5)
    """Mean and standard deviation of the logarithm of a lesion's volume in mm^3."""
    largest: int = 400
    """Most voxels of a lesion; larger draws are this large."""
    window: int = 32
    """Voxels along each axis of the box that a lesion lies in."""
    decay: float = 6.0
    """mm from the ventricles over which lesions get e times rarer."""
    contrast: tuple[float, float] = (0.15, 0.45)
    """Of lesions, added to the tissue."""
    blur: float = 0.7
    """Of the whole image, voxels."""
    noise: float = 0.05
    """Standard deviation, inside the brain."""


class Brain(NamedTuple):
    """Anatomy without lesions.

    Attributes:
        tissue: intensities; 0 outside.
        brain: everything inside, ventricles too.
        density: of lesion centres, not normalised.
    """

    tissue: Float[Array, "*space"]
    brain: Bool[Array, "*space"]
    density: Float[Array, "*space"]


class LesionPhantom(NamedTuple):
    """One case.

    Attributes:
        image: noise included; 0 outside the brain.
        components: 1, 2, ... of the lesions, 0 elsewhere.
        organ: the brain.
        voxels: of each lesion; 0 behind the last.
        centres: of each lesion, indices; meaningless behind the last.
        density: of centres, not normalised.
    """

    image: Float[Array, "*space"]
    components: Int[Array, "*space"]
    organ: Bool[Array, "*space"]
    voxels: Int[Array, " n"]
    centres: Int[Array, "n r"]
    density: Float[Array, "*space"]


def _offsets(shape: tuple[int, ...]) -> Float[Array, "r *space"]:
    """Voxel indices from the middle, one per axis."""
    axes = [jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2.0 for n in shape]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"))


def _process(
    at: Float[Array, "r *space"], frequency: float, *, key: Key
) -> Float[Array, "*space"]:
    """A Gaussian process of unit variance by random plane waves (Rahimi, Recht)."""
    wave_key, phase_key = jax.random.split(key)
    waves = frequency * jax.random.normal(wave_key, (_WAVES, at.shape[0]))
    phases = jax.random.uniform(phase_key, (_WAVES,), maxval=2 * jnp.pi)
    angle = jnp.tensordot(waves, at, axes=1, precision="highest")
    angle = angle + phases.reshape(-1, *(1,) * (at.ndim - 1))
    return math.sqrt(2.0 / _WAVES) * jnp.sum(jnp.cos(angle), axis=0)


def _travelled(
    start: Float[Array, "*box"], free: Bool[Array, "*box"], cost: Float[Array, "*box"]
) -> Float[Array, "*box"]:
    """How far it is from where the start is 0, by steps from voxel to voxel.

    Every voxel has a neighbour that is nearer, so all that is nearer than any number
    hangs together, round whatever is not free.
    """
    steps = [o for o in itertools.product((-1, 0, 1), repeat=start.ndim) if any(o)]

    def relax(_: Array, way: Array) -> Array:
        padded = jnp.pad(way, 1, constant_values=jnp.inf)
        best = way
        for step in steps:
            ends = zip(step, way.shape, strict=True)
            there = padded[tuple(slice(1 + o, 1 + o + n) for o, n in ends)]
            best = jnp.minimum(best, there + math.hypot(*step) * cost)
        return jnp.where(free, best, jnp.inf)

    return jax.lax.fori_loop(0, max(start.shape) // 2, relax, start)


def draw_brain(config: LesionConfig, *, key: Key) -> Brain:
    """A brain: outline, rim of grey matter, ventricles, and where lesions may be.

    Args:
        config: shape and decay.
        key: the subject.

    Raises:
        ValueError: for a shape of another rank, or smaller than the window.
    """
    rank = len(config.shape)
    if rank not in (2, 3) or min(config.shape) < config.window:
        raise ValueError(
            f"shape {config.shape}: expected two or three axes of at least "
            f"window={config.window} voxels"
        )
    keys = jax.random.split(key, 6)
    at = _offsets(config.shape)
    side = float(min(config.shape))
    sizes = side * (1 + 0.04 * jax.random.normal(keys[0], (rank,)))

    def column(values: Array | tuple[float, ...]) -> Array:
        return jnp.asarray(values).reshape(-1, *(1,) * rank)

    def radius(
        centre: tuple[float, ...], radii: tuple[float, ...], rough: float, key: Key
    ) -> Array:
        """1 on the surface of an ellipsoid whose radius a process perturbs."""
        scaled = (at - side * column(centre)) / (column(sizes) * column(radii))
        length = jnp.sqrt(jnp.sum(scaled**2, axis=0))
        direction = scaled / jnp.maximum(length, 1e-6)[None]
        return length / (1 + rough * _process(direction, 2.0, key=key))

    middle = (0.0,) * rank
    outline = radius(middle, (0.42, 0.45, 0.40)[3 - rank :], 0.03, keys[1])
    brain = outline < 1
    # Folds: the rim's inner border varies faster than the outline.
    folds = 0.05 * _process(at / side, 40.0, key=keys[2])
    white = (outline + folds < 0.85) & brain
    ventricle = jnp.zeros_like(brain)
    for sign, side_key in ((-1.0, keys[3]), (1.0, keys[4])):
        centre = (0.0, 0.0, sign * 0.08)[3 - rank :]
        ventricle |= radius(centre, (0.12, 0.15, 0.05)[3 - rank :], 0.1, side_key) < 1
    ventricle &= brain
    tissue = jnp.where(white, WHITE, GREY)
    tissue = jnp.where(ventricle, VENTRICLE, jnp.where(brain, tissue, 0.0))
    away = distance_to(ventricle, (config.spacing,) * rank)
    density = jnp.where(white & ~ventricle, jnp.exp(-away / config.decay), 0.0)
    return Brain(tissue, brain, density)


def draw_lesions(
    brain: Brain, config: LesionConfig, *, key: Key
) -> tuple[Int[Array, "*space"], Int[Array, " n"], Int[Array, "n r"]]:
    """Lesions in a brain: components, voxels and centres.

    Args:
        brain: where they may be.
        config: their law.
        key: of the lesions.

    Returns:
        As in `LesionPhantom`. A lesion that finds no room has fewer voxels than drawn.
    """
    rank, k = len(config.shape), config.window
    rate_key, count_key, volume_key, place_key = jax.random.split(key, 4)
    low, high = config.lesions
    rate = jax.random.uniform(rate_key, (), minval=low, maxval=high)
    count = jnp.minimum(jax.random.poisson(count_key, rate), config.slots)
    mean, sd = config.log_volume
    drawn = jnp.exp(mean + sd * jax.random.normal(volume_key, (config.slots,)))
    voxels = jnp.round(drawn / config.spacing**rank).astype(jnp.int32)
    voxels = jnp.clip(voxels, 1, config.largest)
    voxels = jnp.where(jnp.arange(config.slots) < count, voxels, 0)
    # A lesion keeps off the window's faces, so that its neighbours lie inside.
    inner = jnp.pad(jnp.ones((k - 2,) * rank, bool), 1)
    free = brain.brain & (brain.tissue != VENTRICLE)
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(k)] * rank, indexing="ij"))

    def place(carry: tuple[Array, Array], each: tuple[Array, Array, Key]) -> tuple:
        free, components = carry
        number, wanted, key = each
        centre_key, shape_key = jax.random.split(key)
        density = marginals(jnp.where(free, brain.density, 0.0))
        centre = draw_voxel(density, key=centre_key)
        start = jnp.clip(centre - k // 2, 0, jnp.asarray(config.shape) - k)
        here = jax.lax.dynamic_slice(free, start, (k,) * rank)
        column = (-1, *(1,) * rank)
        away = (grid + start.reshape(column) - centre.reshape(column)).astype(
            jnp.float32
        )
        scale = 3.0 * (jnp.maximum(wanted, 1).astype(jnp.float32) / 17.0) ** (1 / rank)
        cost = jnp.exp(0.5 * _process(away / scale, 1.0, key=shape_key))
        begin = jnp.where(jnp.sum(away**2, axis=0) == 0, 0.0, jnp.inf)
        near = _travelled(jnp.where(here & inner, begin, jnp.inf), here & inner, cost)
        last = jnp.sort(near.reshape(-1))[jnp.maximum(wanted, 1) - 1]
        mask = (near <= last) & (near < jnp.inf) & (wanted > 0)
        marked = jax.lax.dynamic_slice(components, start, (k,) * rank)
        marked = jnp.where(mask, number, marked)
        components = jax.lax.dynamic_update_slice(components, marked, start)
        free = jax.lax.dynamic_update_slice(free, here & ~dilated(mask), start)
        return (free, components), (jnp.sum(mask, dtype=jnp.int32), centre)

    numbers = jnp.arange(1, config.slots + 1)
    keys = jax.random.split(place_key, config.slots)
    empty = jnp.zeros(config.shape, jnp.int32)
    (_, components), (placed, centres) = jax.lax.scan(
        place, (free, empty), (numbers, voxels, keys)
    )
    return components, placed, centres


@functools.partial(jax.jit, static_argnames="config")
def lesion_phantom(config: LesionConfig, *, key: Key) -> LesionPhantom:
    """A case.

    Args:
        config: what is drawn.
        key: subject, lesions and noise.
    """
    brain_key, lesion_key, contrast_key, noise_key = jax.random.split(key, 4)
    brain = draw_brain(config, key=brain_key)
    components, voxels, centres = draw_lesions(brain, config, key=lesion_key)
    low, high = config.contrast
    contrast = jax.random.uniform(
        contrast_key, (config.slots,), minval=low, maxval=high
    )
    contrast = jnp.concatenate([jnp.zeros(1), contrast])
    image = brain.tissue + contrast[components]
    widths = (config.blur,) * len(config.shape)
    image = gaussian_blur(image, widths, largest=config.blur)
    image = image + config.noise * jax.random.normal(noise_key, image.shape)
    image = jnp.where(brain.brain, image, 0.0)
    return LesionPhantom(image, components, brain.brain, voxels, centres, brain.density)


def load_moments(config: LesionConfig) -> tuple[float, float]:
    """Mean and standard deviation of a case's load, mm^3, in closed form.

    The sum of a Poisson number of independent volumes: mean ``l E[V]``, variance
    ``l E[V^2]``, and the variance of ``l`` times ``E[V]^2`` where it is uniform. The
    moments of the volume are sums over whole numbers of voxels of the log-normal's
    probabilities.
    """
    voxel = config.spacing ** len(config.shape)
    mean, sd = config.log_volume
    sizes = np.arange(1, config.largest + 1)
    below = ndtr((np.log((sizes[:-1] + 0.5) * voxel) - mean) / sd)
    shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
    first, second = (float((shares * (sizes * voxel) ** p).sum()) for p in (1, 2))
    low, high = config.lesions
    rate, spread = (low + high) / 2, (high - low) ** 2 / 12
    return rate * first, math.sqrt(rate * second + spread * first**2)
