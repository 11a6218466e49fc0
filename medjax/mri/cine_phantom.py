"""A heart that beats: short-axis stacks whose labels, volumes and motion are known.

The left ventricle is an ellipsoid cut off at its base, with a wall round it and the
right ventricle's crescent beside, in the chest of :mod:`medjax.mri.phantom`. Its radius
follows ``R (1 - 0.3 (1 - cos 2 pi t) / 2)``, at every height alike, and the area of the
wall in a slice does not change (muscle is incompressible). Its length does not change
either, so the ejection fraction is ``1 - 0.7^2`` = 51 %.

The phantom is analytic: it can be asked for any height and time (:class:`CineView`),
which breathing through the plane needs. Pixels are means over a finer grid.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.mri.phantom import chest_weight
from medjax.typing import Key

INTENSITIES = {
    "air": 0.0,
    "fat": 0.9,
    "muscle": 0.45,
    "lung": 0.1,
    "liver": 0.55,
    "rv_blood": 0.95,
    "myocardium": 0.4,
    "lv_blood": 1.0,
}
"""Of a balanced steady-state cine, nominal."""
LABELS = {"lv_blood": 1, "myocardium": 2, "rv_blood": 3}
"""CMRxMotion's; everything else is 0."""
_NAMES = tuple(INTENSITIES)


@dataclasses.dataclass(frozen=True)
class CineConfig:
    """What is scanned."""

    size: int = 96
    """Rows and columns."""
    pixel: float = 2.5
    """mm."""
    slices: int = 8
    """From the base to the apex."""
    gap: float = 12.0
    """mm from slice to slice."""
    frames: int = 8
    """Of a heartbeat; the first is end-diastole, the middle one end-systole."""
    contraction: float = 0.3
    """Share of the radius lost at end-systole."""
    fine: int = 2
    """Points per pixel along each axis that are averaged."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between slices, rows and columns."""
        return self.gap, self.pixel, self.pixel


class Subject(NamedTuple):
    """Measures of one person, mm.

    Attributes:
        centre: rows and columns of the ventricle's axis from the middle of the image.
        radius: of the left ventricle at its base, end-diastole.
        wall: its thickness there.
        length: from base to apex.
        girth: of the chest, relative.
        width: of the right ventricle, relative.
    """

    centre: Float[Array, "2"]
    radius: Float[Array, ""]
    wall: Float[Array, ""]
    length: Float[Array, ""]
    girth: Float[Array, ""]
    width: Float[Array, ""]


class Cine(NamedTuple):
    """A stack over a heartbeat.

    Attributes:
        image: at rest.
        labels: 1 LV, 2 myocardium, 3 RV, 0 elsewhere.
        subject: who it is.
    """

    image: Float[Array, "t d h w"]
    labels: Int[Array, "t d h w"]
    subject: Subject


def draw_subject(*, key: Key) -> Subject:
    """A person: each measure within 15 % of the average one's."""
    u = jax.random.uniform(key, (7,), minval=-1.0, maxval=1.0)
    return Subject(
        centre=jnp.stack([2.0 + 5.0 * u[0], 14.0 + 5.0 * u[1]]),
        radius=23.0 * (1 + 0.15 * u[2]),
        wall=10.0 * (1 + 0.15 * u[3]),
        length=88.0 * (1 + 0.1 * u[4]),
        girth=1 + 0.05 * u[5],
        width=1 + 0.15 * u[6],
    )


def radii(
    subject: Subject, height: Array, time: Array, config: CineConfig
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Radii of cavity and epicardium in a plane, mm.

    Args:
        subject: the person.
        height: mm from the base towards the apex; 0 above the base.
        time: share of a heartbeat, 0 is end-diastole.
        config: the contraction.
    """

    def profile(length: Array) -> Array:
        inside = (height >= 0) & (height < length)
        return jnp.sqrt(jnp.where(inside, 1.0 - (height / length) ** 2, 0.0))

    at_rest = subject.radius * profile(subject.length)
    outer = (subject.radius + subject.wall) * profile(subject.length + subject.wall)
    shrunk = 1 - config.contraction * 0.5 * (1 - jnp.cos(2 * jnp.pi * time))
    inner = at_rest * shrunk
    # The wall keeps its area.
    return inner, jnp.sqrt(inner**2 + outer**2 - at_rest**2)


def tissue_at(
    subject: Subject,
    height: Array,
    time: Array,
    config: CineConfig,
    *,
    fine: int = 1,
) -> Int[Array, "h w"]:
    """What is where in a plane, as indices into :data:`INTENSITIES`."""
    n = config.size * fine
    at = (jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2) * (config.pixel / fine)
    y, x = jnp.meshgrid(at, at, indexing="ij")
    half = config.size * config.pixel / 2
    inner, outer = radii(subject, height, time, config)
    cy, cx = subject.centre
    beside = cx - 1.15 * outer
    girth = half * subject.girth

    def ellipse(cy: Array | float, cx: Array | float, ry: Array, rx: Array) -> Array:
        inside = jnp.minimum(ry, rx) > 0
        ry, rx = jnp.maximum(ry, 1e-3), jnp.maximum(rx, 1e-3)
        return inside & (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)

    regions = [
        ("fat", ellipse(0.0, 0.0, 0.86 * girth, 0.92 * girth)),
        ("muscle", ellipse(0.0, 0.0, 0.78 * girth, 0.84 * girth)),
        ("lung", ellipse(-0.02 * half, 0.42 * half, 0.58 * girth, 0.30 * girth)),
        ("lung", ellipse(-0.02 * half, -0.46 * half, 0.58 * girth, 0.28 * girth)),
        ("liver", ellipse(0.5 * half, -0.3 * half, 0.24 * girth, 0.42 * girth)),
        (
            "rv_blood",
            ellipse(cy - 3.0, beside, 1.0 * outer, 0.75 * outer * subject.width),
        ),
        ("myocardium", ellipse(cy, cx, outer, outer)),
        ("lv_blood", ellipse(cy, cx, inner, inner)),
    ]
    tissue = jnp.zeros(y.shape, jnp.int32)
    for name, region in regions:  # later ones lie on top
        tissue = jnp.where(region, _NAMES.index(name), tissue)
    return tissue


def image_at(
    subject: Subject, height: Array, time: Array, config: CineConfig
) -> Float[Array, "h w"]:
    """The image of a plane, partial volumes in it."""
    values = jnp.asarray(list(INTENSITIES.values()), jnp.float32)
    fine = values[tissue_at(subject, height, time, config, fine=config.fine)]
    blocks = fine.reshape(config.size, config.fine, config.size, config.fine)
    return jnp.mean(blocks, axis=(1, 3))


def height_of(number: Array, config: CineConfig) -> Float[Array, ""]:
    """Of a slice below the base, mm; the first lies half a gap below it."""
    return (number.astype(jnp.float32) + 0.5) * config.gap


@dataclasses.dataclass(frozen=True)
class CineView:
    """The phantom at any frame, slice and distance through the plane, for motion."""

    config: CineConfig

    def __call__(self, scene: Subject, frame: Array, number: Array, mm: Array) -> Array:
        """A `View` of :mod:`medjax.mri.motion`; the scene is the person."""
        time = frame.astype(jnp.float32) / self.config.frames
        height = height_of(number, self.config) - mm
        return image_at(scene, height, time, self.config)


@dataclasses.dataclass(frozen=True)
class LabelView:
    """The phantom's labels, as :class:`CineView` gives its image."""

    config: CineConfig

    def __call__(self, scene: Subject, frame: Array, number: Array, mm: Array) -> Array:
        """A `View` of :mod:`medjax.mri.motion`; the scene is the person."""
        time = frame.astype(jnp.float32) / self.config.frames
        height = height_of(number, self.config) - mm
        return labelled(tissue_at(scene, height, time, self.config))


def labelled(tissue: Int[Array, "h w"]) -> Int[Array, "h w"]:
    """Labels of tissues."""
    return jnp.asarray([LABELS.get(name, 0) for name in _NAMES], jnp.int32)[tissue]


@functools.partial(jax.jit, static_argnames="config")
def cine_phantom(config: CineConfig, *, key: Key) -> Cine:
    """A person's stack over a heartbeat, at rest.

    Args:
        config: what is scanned.
        key: the person.
    """
    subject = draw_subject(key=key)

    def plane(frame: Array, number: Array) -> tuple[Array, Array]:
        time = frame.astype(jnp.float32) / config.frames
        height = height_of(number, config)
        labels = labelled(tissue_at(subject, height, time, config))
        return image_at(subject, height, time, config), labels

    over_slices = jax.vmap(plane, (None, 0))
    over_frames = jax.vmap(over_slices, (0, None))
    image, labels = over_frames(jnp.arange(config.frames), jnp.arange(config.slices))
    return Cine(image, labels, subject)


def breathing_weight(config: CineConfig) -> Float[Array, "h w"]:
    """How much of the heart's motion each pixel of the phantom shares."""
    at = (jnp.arange(config.size, dtype=jnp.float32) + 0.5) / (config.size / 2) - 1
    y, x = jnp.meshgrid(at, at, indexing="ij")
    return chest_weight(y, x)
