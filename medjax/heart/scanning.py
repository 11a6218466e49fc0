"""A scan of the phantom: what a clinic has, and where it truly was taken.

Short-axis slices 10 mm apart and two long-axis views, each displaced by its own
breath-hold, in a random frame of the scanner, with coil shading and Rician noise. What
the slices' headers say is where they should be; where they are is kept as truth.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from medjax.heart import phantom
from medjax.heart.appearance import (
    LABELS,
    Texture,
    draw_texture,
    one_hot,
    seen_at,
)
from medjax.heart.phantom import Heart

THROUGH = (-math.sqrt(0.6), 0.0, math.sqrt(0.6))
"""Gauss-Legendre planes across half a slice's thickness."""
THROUGH_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


class Slices(NamedTuple):
    """Planes in space; pixel (i, j) is at ``origin + spacing (i rows + j columns)``.

    Attributes:
        origin: centre of pixel (0, 0), mm.
        rows: unit direction in which i grows.
        columns: unit direction in which j grows.
    """

    origin: Float[Any, "p 3"]
    rows: Float[Any, "p 3"]
    columns: Float[Any, "p 3"]

    @property
    def normal(self) -> Float[np.ndarray, "p 3"]:
        """Unit normals."""
        return np.cross(self.rows, self.columns)

    def steps(self, spacing: float) -> Float[np.ndarray, "p 3 3"]:
        """Origins and steps to the next row and column, mm, as
        :mod:`medjax.heart.planes` has them."""
        parts = (self.origin, spacing * self.rows, spacing * self.columns)
        return np.stack(parts, axis=1)


class Pose(NamedTuple):
    """From the heart's own frame to the scanner's: ``rotation @ x + translation``."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]

    def place(self, points: Float[np.ndarray, "*s 3"]) -> Float[np.ndarray, "*s 3"]:
        """Points of the heart in the scanner's frame."""
        return points @ self.rotation.T + self.translation

    def turn(self, slices: Slices) -> Slices:
        """Planes given in the heart's frame, in the scanner's."""
        turned = (v @ self.rotation.T for v in (slices.rows, slices.columns))
        return Slices(self.place(slices.origin), *turned)

    def back(self, slices: Slices) -> Slices:
        """Planes given in the scanner's frame, in the heart's."""
        origin = (slices.origin - self.translation) @ self.rotation
        return Slices(
            origin, slices.rows @ self.rotation, slices.columns @ self.rotation
        )


@dataclasses.dataclass(frozen=True)
class ScanConfig:
    """How a heart is scanned; lengths in mm."""

    frames: int = 10
    """Of the cycle; the first is end-diastole."""
    size: int = 48
    """Rows and columns of every image."""
    spacing: float = 3.0
    """Of pixels."""
    slices: int = 9
    """Of the short-axis stack."""
    gap: float = 10.0
    """Between the centres of short-axis slices."""
    thickness: float = 8.0
    """Of every slice."""
    tilt: float = 4.0
    """Deviation of the long-axis planes' direction, degrees."""
    shift: float = 2.0
    """Deviation of each slice's place in its plane, from breath to breath."""
    through: float = 1.0
    """Deviation of each slice's place along its normal."""
    texture: float = 0.06
    """Deviation of the signal of muscle; 0: twist cannot be seen."""
    shading: float = 0.2
    """Largest change of the signal by the coils."""
    snr: float = 25.0
    """Signal of blood over the deviation of the noise."""

    @property
    def times(self) -> Float[np.ndarray, " t"]:
        """Shares of the cycle."""
        return np.arange(self.frames) / self.frames


class Scan(NamedTuple):
    """The images of one heart, and where they were taken.

    Attributes:
        images: blood is about 1; short-axis slices from the apex, then 2CH, 4CH.
        labels: of the same slices, :data:`LABELS`.
        planned: planes that headers tell, in the scanner's frame.
        taken: planes that were hit.
        pose: of the heart in the scanner.
    """

    images: Float32[np.ndarray, "t p h w"]
    labels: Int32[np.ndarray, "t p h w"]
    planned: Slices
    taken: Slices
    pose: Pose


def scan(heart: Heart, config: ScanConfig, *, seed: int) -> Scan:
    """Scans a heart.

    Args:
        heart: whose.
        config: how.
        seed: of planes, breaths, texture, shading and noise.

    Returns:
        The same images for the same numbers.

    Raises:
        ValueError: for a size, count or spacing that is not positive.
    """
    for name in ("frames", "size", "slices", "spacing", "gap", "thickness", "snr"):
        if not getattr(config, name) > 0:
            found = getattr(config, name)
            raise ValueError(f"scan: {name} is {found}, expected a positive number")
    rng = np.random.default_rng(seed)
    pose = draw_pose(rng)
    planned = plan(heart, config, rng)
    breath = rng.normal(0, config.shift, (len(planned.origin), 2))
    deep = rng.normal(0, config.through, (len(planned.origin), 1))
    taken = planned._replace(
        origin=planned.origin
        + breath[:, :1] * planned.rows
        + breath[:, 1:] * planned.columns
        + deep * planned.normal
    )
    images, labels = expose(
        jax.tree.map(np.float32, heart),
        jax.tree.map(np.float32, draw_texture(rng, config.texture)),
        jax.tree.map(np.float32, taken),
        jnp.asarray(config.times, jnp.float32),
        np.float32(config.spacing),
        np.float32(config.thickness),
        config.size,
    )
    shade = _shading(rng, config)
    noise = rng.normal(0, 1 / config.snr, (2, *images.shape))
    seen = np.hypot(np.asarray(images) * shade + noise[0], noise[1])
    return Scan(
        images=seen.astype(np.float32),
        labels=np.asarray(labels),
        planned=pose.turn(planned),
        taken=pose.turn(taken),
        pose=pose,
    )


def plan(heart: Heart, config: ScanConfig, rng: np.random.Generator) -> Slices:
    """Planes through a heart in its own frame: short axis, 2CH, 4CH."""
    middle, half = 0.5 * heart.base, 0.5 * (config.size - 1) * config.spacing
    count = config.slices
    z = middle + config.gap * (np.arange(count) - 0.5 * (count - 1))
    # Seen from the apex, the septum to the left and the anterior wall up.
    down, right = np.array([0.0, -1, 0]), np.array([-1.0, 0, 0])
    centre = np.stack([0 * z, 0 * z, z], axis=-1)
    rows, columns = (np.tile(v, (count, 1)) for v in (down, right))
    long = []
    for across in (down, right):  # anterior to inferior, septal to lateral
        angle, lean = np.radians(rng.normal(0, config.tilt, 2))
        other = right if across is down else -down
        turned = math.cos(angle) * across + math.sin(angle) * other
        axis = np.array([0, 0, -1.0])
        axis = math.cos(lean) * axis + math.sin(lean) * np.cross(axis, turned)
        long.append((axis, turned))
    centre = np.concatenate([centre, np.tile([0, 0, middle], (2, 1))])
    rows = np.concatenate([rows, [axis for axis, _ in long]])
    columns = np.concatenate([columns, [across for _, across in long]])
    return Slices(centre - half * (rows + columns), rows, columns)


def draw_pose(rng: np.random.Generator) -> Pose:
    """A random rotation (of a random quaternion), and a translation of some cm."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    return Pose(rotation, rng.normal(0, 40, 3))


def _shading(rng: np.random.Generator, config: ScanConfig) -> np.ndarray:
    """One smooth factor per slice, 1 - shading to 1 + shading, the same in all
    frames."""
    at = np.linspace(-1, 1, config.size)
    slope = rng.uniform(-1, 1, (config.slices + 2, 2))
    field = slope[:, :1, None] * at[None, :, None] + slope[:, 1:, None] * at
    return 1 + config.shading * field[None] / 2


@functools.partial(jax.jit, static_argnames="size")
def expose(
    heart: Heart,
    texture: Texture,
    planes: Slices,
    times: Float[Array, " t"],
    spacing: Float[Array, ""],
    thickness: Float[Array, ""],
    size: int,
) -> tuple[Float[Array, "t p h w"], Int32[Array, "t p h w"]]:
    """Noise-free images, and labels in the middle of the slices.

    Args:
        heart: whose, float32.
        texture: of its muscle.
        planes: in the heart's own frame.
        times: shares of the cycle.
        spacing: of pixels, mm.
        thickness: of slices, mm.
        size: rows and columns.
    """
    corners = itertools.product((-0.25, 0.25), (-0.25, 0.25), THROUGH)
    samples = np.array(list(corners), np.float32)
    weights = np.tile(np.array(THROUGH_WEIGHTS, np.float32), 4) / 4
    index = jnp.arange(size, dtype=jnp.float32)
    normal = jnp.cross(planes.rows, planes.columns)

    def points(sample: Array) -> Float[Array, "p h w 3"]:
        i = spacing * (index + sample[0])[None, :, None, None]
        j = spacing * (index + sample[1])[None, None, :, None]
        origin = planes.origin + 0.5 * thickness * sample[2] * normal
        rows, columns = planes.rows[:, None, None], planes.columns[:, None, None]
        return origin[:, None, None] + i * rows + j * columns

    def frame(time: Array) -> tuple[Array, Array]:
        a = phantom.activation(heart, time)

        def add(sums: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[Any, None]:
            (image, counts), (sample, weight) = sums, at
            signal, label = seen_at(heart, texture, a, points(sample))
            middle = (sample[2] == 0).astype(jnp.int32)
            return (image + weight * signal, counts + middle * one_hot(label)), None

        shape = (len(planes.origin), size, size)
        zero = jnp.zeros(shape), jnp.zeros((*shape, 1 + len(LABELS)), jnp.int32)
        every = jnp.asarray(samples), jnp.asarray(weights)
        (image, counts), _ = jax.lax.scan(add, zero, every)
        return image, jnp.argmax(counts, axis=-1).astype(jnp.int32)

    return jax.lax.map(frame, times)
