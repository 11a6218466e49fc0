"""What is where in a phantom: the label and the signal of every point in space.

A point is asked which material point is there (:func:`medjax.heart.phantom.undeform`),
so no mesh takes part, and what is drawn here can judge meshes and their slicers.

Signals are those of balanced steady-state free precession: bright blood, dark muscle.
Muscle has a texture of random waves in *material* coordinates; without one, nothing in
an image tells twist.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from medjax.data.volumes import Grid
from medjax.heart import phantom
from medjax.heart.phantom import Heart

LABELS = {"lv": 1, "myo": 2, "rv": 3}
"""Codes of every label map in this domain; 0 is everything else."""
BLOOD, MUSCLE, FAT, LUNG, LIVER = 1.0, 0.35, 0.8, 0.08, 0.4
"""Signals."""
RV_WALL = 3.0
"""Thickness of the right ventricle's free wall, mm."""
ATRIA = 35.0
"""How far blood goes on above the base, mm."""
WAVES = 24
"""Of the texture."""


class Texture(NamedTuple):
    """Waves in material coordinates: amplitude sum of cos(k x + phase)."""

    waves: Float[Any, "k 3"]
    phases: Float[Any, " k"]
    amplitude: Any


def draw_texture(rng: np.random.Generator, amplitude: float) -> Texture:
    """Waves of 6 to 20 mm, whose sum has this standard deviation."""
    direction = rng.standard_normal((WAVES, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    length = rng.uniform(6, 20, (WAVES, 1))
    phases = rng.uniform(0, 2 * np.pi, WAVES)
    return Texture(2 * np.pi / length * direction, phases, amplitude)


def label_at(
    heart: Heart, a: Float[Array, ""], points: Float[Array, "*s 3"]
) -> Int32[Array, "*s"]:
    """The label of points in the heart's own frame at an activation."""
    r, _, z = material = phantom.undeform(heart, a, *phantom.cylindrical(points))
    squared, outer = r * r, phantom.epicardium_squared(heart, z)
    beyond = (squared - outer) / phantom.stretch(heart, a)
    label = jnp.where(squared < outer, LABELS["myo"], 0)
    label = jnp.where(squared < phantom.radius_squared(heart, z), LABELS["lv"], label)
    right = (beyond >= 0) & (beyond < phantom.rv_reach(heart, a, *material[1:]))
    label = jnp.where(right, LABELS["rv"], label)
    return jnp.where(z <= heart.base, label, 0).astype(jnp.int32)


def seen_at(
    heart: Heart, texture: Texture, a: Float[Array, ""], points: Float[Array, "*s 3"]
) -> tuple[Float[Array, "*s"], Int32[Array, "*s"]]:
    """The signal, blood 1, and the label of points in the heart's own frame."""
    label = label_at(heart, a, points)
    around = phantom.cylindrical(points)
    r, angle, z = phantom.undeform(heart, a, *around)
    rest = phantom.cartesian(r, angle, z)
    wave = jnp.einsum("...x,kx->...k", rest, texture.waves)
    phases = texture.phases.reshape((1,) * (wave.ndim - 1) + (-1,))
    waves = jnp.cos(wave + phases).sum(-1) * math.sqrt(2 / WAVES)
    muscle = MUSCLE + texture.amplitude * waves
    squared, long = r * r, phantom.stretch(heart, a)
    reach = phantom.rv_reach(heart, a, angle, z)
    edge = phantom.epicardium_squared(heart, z) / long + reach
    free = jnp.sqrt(jnp.maximum(edge - phantom.inward(heart, a, angle, z), 0.0))
    walled = (reach > 0) & (around[0] < free + RV_WALL) & (z <= heart.base)
    # The atria: blood goes on where the walls end, inside a thin wall.
    rise = jnp.clip((z - heart.base) / ATRIA, 0.0, 1.0)
    room = (0.9 * (heart.radius + heart.wall)) ** 2 * (1.0 - rise * rise)
    atrium = (z > heart.base) & (squared < room)
    signal = jnp.where(walled | atrium, MUSCLE, _chest(points))
    signal = jnp.where(atrium & (squared < 0.7 * room), BLOOD, signal)
    signal = jnp.where(label == LABELS["myo"], muscle, signal)
    blood = (label == LABELS["lv"]) | (label == LABELS["rv"])
    return jnp.where(blood, BLOOD, signal), label


def _chest(points: Float[Array, "*s 3"]) -> Float[Array, "*s"]:
    """What surrounds the heart and does not move with it."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    signal = jnp.where((y < -40.0) & (x > -25.0), LIVER, LUNG)
    near = ((x - 12.0) / 62.0) ** 2 + (y / 48.0) ** 2 + ((z - 55.0) / 75.0) ** 2 < 1.0
    return jnp.where(near | (y > 62.0), FAT, signal)


def heart_labels(
    heart: Heart, times: Float[np.ndarray, " t"], grid: Grid, *, samples: int = 3
) -> Int32[np.ndarray, "t i j k"]:
    """Label volumes on a grid in the heart's own frame.

    Each voxel has the label with the largest share of ``samples``^3 points in it.

    Args:
        heart: whose.
        times: shares of the cycle.
        grid: voxel indices to mm.
        samples: along each axis of a voxel; of an odd number, two labels cannot
            have half each.

    Returns:
        Codes of :data:`LABELS`.
    """
    affine = jnp.asarray(grid.affine, jnp.float32)
    t = jnp.asarray(times, jnp.float32)
    single = jax.tree.map(np.float32, heart)
    return np.asarray(_labels(single, t, affine, tuple(grid.shape), samples))


@functools.partial(jax.jit, static_argnames=("shape", "samples"))
def _labels(
    heart: Heart,
    times: Float[Array, " t"],
    affine: Float[Array, "4 4"],
    shape: tuple[int, int, int],
    samples: int,
) -> Int32[Array, "t i j k"]:
    index = jnp.stack(
        jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in shape), indexing="ij"),
        axis=-1,
    )
    steps = (np.arange(samples) + 0.5) / samples - 0.5
    offsets = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)

    def frame(time: Array) -> Array:
        a = phantom.activation(heart, time)

        def count(counts: Array, offset: Array) -> tuple[Array, None]:
            at = (index + offset[None, None, None]) @ affine[:3, :3].T
            label = label_at(heart, a, at + affine[None, None, None, :3, 3])
            return counts + one_hot(label), None

        zero = jnp.zeros((*shape, 1 + len(LABELS)), jnp.int32)
        counts, _ = jax.lax.scan(count, zero, jnp.asarray(offsets, jnp.float32))
        return jnp.argmax(counts, axis=-1).astype(jnp.int32)

    return jax.lax.map(frame, times)


def one_hot(label: Int[Array, "*s"]) -> Int32[Array, "*s k"]:
    """Labels as counts of background, LV, myocardium and RV on a last axis."""
    return jax.nn.one_hot(label, 1 + len(LABELS), dtype=jnp.int32)
