"""An object whose border annotators draw differently, with the probability known.

A closed curve ``r(theta)`` round the middle bounds a bright object. Its edge is sharp
in most directions and blurred round one bearing, and there annotators disagree: each
draws the border at ``r + B(theta)`` with ``B = sigma(theta) (sqrt(1/2) e + sqrt(1/2)
G(theta))``, ``e`` standard normal (a generous annotator is generous everywhere) and
``G`` a periodic Gaussian process of unit variance. ``B(theta)`` is then normal with
standard deviation ``sigma(theta)``, so that the probability that a pixel at signed
distance ``d`` is labelled is *exactly* ``Phi(-d / sigma)``. In some cases a disc of
half the contrast touches the object; each annotator includes it or not by one coin
``q``, and there ``p = 1 - (1 - q)(1 - Phi)``. The blur of the image tells ``sigma``,
so that a calibrated segmenter is possible.

Distances along the radius are taken for distances to the curve. Lengths are for 64
pixels and grow with the image. Everything follows from ``config`` and ``key``.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float, Int

from medjax.typing import Key

Objects = Literal["curve", "squares", "two", "none"]
"""The anatomy of the training set, and three that it does not hold."""

_ORDER = 6
"""Harmonics of the annotators' Gaussian process."""


@dataclasses.dataclass(frozen=True)
class AmbiguousConfig:
    """What is drawn, and how sure annotators are."""

    size: int = 64
    """Rows and columns."""
    radius: tuple[float, float] = (12.0, 18.0)
    """Mean radius of the object, pixels."""
    wobble: float = 0.05
    """Standard deviation of the curve's harmonics 2 to 4, relative to its radius."""
    sharp: float = 0.6
    """Standard deviation of the drawn border where the edge is sharp, pixels."""
    blurred: float = 3.0
    """The same at the bearing where it is blurred."""
    blurred_width: float = 0.6
    """How far the blur reaches to both sides of that bearing, rad."""
    satellite: float = 0.5
    """Probability that a case has a disc beside the object."""
    included: float = 0.5
    """Probability that an annotator includes the disc."""
    disc_radius: float = 5.0
    """Pixels."""
    bias: float = 0.1
    """Largest relative departure of the bias field from one."""
    noise: float = 0.08
    """Standard deviation of the image's noise; the object's contrast is 0.5."""
    objects: Objects = "curve"
    """What is in the image."""


class Scene(NamedTuple):
    """What annotators look at.

    Attributes:
        distance: signed, negative inside, pixels.
        spread: standard deviation of the drawn border in the direction of a pixel.
        bearing: of a pixel, rad.
        disc: where the satellite is; false throughout where there is none.
    """

    distance: Float[Array, "h w"]
    spread: Float[Array, "h w"]
    bearing: Float[Array, "h w"]
    disc: Bool[Array, "h w"]


class Ambiguous(NamedTuple):
    """One case.

    Attributes:
        image: background 0.3, object 0.8.
        annotations: one mask per annotator.
        probability: of a pixel to be labelled, over all annotators there could be.
    """

    image: Float[Array, "h w"]
    annotations: Bool[Array, "m h w"]
    probability: Float[Array, "h w"]


def _grid(size: int) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Rows and columns from the middle, pixels."""
    at = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2.0
    y, x = jnp.meshgrid(at, at, indexing="ij")
    return y, x


def draw_scene(config: AmbiguousConfig, *, key: Key) -> Scene:
    """A case: curve, blurred bearing, satellite.

    Args:
        config: sizes and probabilities.
        key: the case.

    Raises:
        ValueError: for other objects.
    """
    if config.objects not in ("curve", "squares", "two", "none"):
        raise ValueError(
            f"objects={config.objects!r}: expected curve, squares, two or none"
        )
    keys = jax.random.split(key, 6)
    scale = config.size / 64
    y, x = _grid(config.size)
    low, high = config.radius
    radius = scale * jax.random.uniform(keys[0], (), minval=low, maxval=high)
    turn = jax.random.uniform(keys[1], (), maxval=2 * jnp.pi)
    harmonics = config.wobble * jax.random.normal(keys[2], (3,))
    phases = jax.random.uniform(keys[3], (3,), maxval=2 * jnp.pi)

    def edge(bearing: Array) -> Array:
        waves = [
            harmonics[i] * jnp.cos((i + 2) * bearing + phases[i]) for i in range(3)
        ]
        return radius * (1.0 + sum(waves[1:], waves[0]))

    def curve(cy: Array | float, cx: Array | float, share: float) -> Array:
        from_y, from_x = y - cy, x - cx
        bearing = jnp.arctan2(from_y, from_x)
        return jnp.hypot(from_y, from_x) - share * edge(bearing)

    if config.objects == "curve":
        distance = curve(0.0, 0.0, 1.0)
    elif config.objects == "two":
        oy, ox = 0.75 * radius * jnp.sin(turn), 0.75 * radius * jnp.cos(turn)
        distance = jnp.minimum(curve(oy, ox, 0.6), curve(-oy, -ox, 0.6))
    elif config.objects == "squares":
        along = y * jnp.sin(turn) + x * jnp.cos(turn)
        across = y * jnp.cos(turn) - x * jnp.sin(turn)
        distance = jnp.maximum(jnp.abs(along), jnp.abs(across)) - 0.8 * radius
    else:
        distance = jnp.full_like(y, 2.0 * config.size)
    bearing = jnp.arctan2(y, x)
    blurred, where = jax.random.uniform(keys[4], (2,), maxval=2 * jnp.pi)
    off = jnp.mod(bearing - blurred + jnp.pi, 2 * jnp.pi) - jnp.pi
    nearness = jnp.exp(-((off / config.blurred_width) ** 2))
    spread = config.sharp + (config.blurred - config.sharp) * nearness
    disc_radius = scale * config.disc_radius
    out = edge(where) + disc_radius
    disc = jnp.hypot(y - out * jnp.sin(where), x - out * jnp.cos(where)) < disc_radius
    has_disc = jax.random.bernoulli(keys[5], config.satellite)
    there = has_disc & (config.objects == "curve")
    return Scene(distance, scale * spread, bearing, disc & there)


def probability(scene: Scene, config: AmbiguousConfig) -> Float[Array, "h w"]:
    """The exact probability of every pixel to be labelled."""
    edge = ndtr(-scene.distance / scene.spread)
    return jnp.where(scene.disc, 1 - (1 - config.included) * (1 - edge), edge)


def annotate(
    scene: Scene, config: AmbiguousConfig, annotators: int, *, key: Key
) -> Bool[Array, "m h w"]:
    """Masks that independent annotators draw.

    Args:
        scene: the case.
        config: probabilities.
        annotators: how many.
        key: who they are.
    """
    common_key, wave_key, coin_key = jax.random.split(key, 3)
    common = jax.random.normal(common_key, (annotators,))
    waves = jax.random.normal(wave_key, (annotators, 2, _ORDER))
    # Variances 1/k up to the order, summing to one: cos^2 + sin^2 is one everywhere.
    order = jnp.arange(1, _ORDER + 1, dtype=jnp.float32)
    scaled = waves * jnp.sqrt((1 / order) / jnp.sum(1 / order))[None, None]
    angle = order[:, None, None] * scene.bearing[None]
    basis = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    process = jnp.einsum("mio,iohw->mhw", scaled, basis, precision="highest")
    border = jnp.sqrt(0.5) * (common[:, None, None] + process) * scene.spread[None]
    coins = jax.random.bernoulli(coin_key, config.included, (annotators,))
    with_disc = coins[:, None, None] & scene.disc[None]
    return (scene.distance[None] < border) | with_disc


def render(scene: Scene, config: AmbiguousConfig, *, key: Key) -> Float[Array, "h w"]:
    """The image: 0.3, 0.5 more inside, half of that in the disc, bias and noise."""
    bias_key, noise_key = jax.random.split(key)
    clean = 0.3 + 0.5 * ndtr(-scene.distance / scene.spread)
    clean = clean + jnp.where(scene.disc, 0.25, 0.0)
    y, x = _grid(config.size)
    y, x = 2 * y / config.size, 2 * x / config.size
    slope = jax.random.uniform(bias_key, (3,), minval=-1.0, maxval=1.0)
    field = (slope[0] * y + slope[1] * x + slope[2] * y * x) / 3.0
    noise = config.noise * jax.random.normal(noise_key, clean.shape)
    return clean * (1.0 + config.bias * field) + noise


@functools.partial(jax.jit, static_argnames=("config", "annotators"))
def ambiguous_case(
    config: AmbiguousConfig,
    *,
    annotators: int,
    key: Key,
    panel: int | Int[Array, ""] = 0,
) -> Ambiguous:
    """A case with its annotators; scene and image depend on neither number nor panel.

    Args:
        config: what is drawn.
        annotators: how many look at it; 4 to train and 16 to test are usual.
        key: case, annotators and noise.
        panel: other annotators of the same case.
    """
    scene_key, image_key, annotator_key = jax.random.split(key, 3)
    scene = draw_scene(config, key=scene_key)
    others = jax.random.fold_in(annotator_key, panel)
    annotator_key = jnp.where(panel > 0, others, annotator_key)
    return Ambiguous(
        image=render(scene, config, key=image_key),
        annotations=annotate(scene, config, annotators, key=annotator_key),
        probability=probability(scene, config),
    )
