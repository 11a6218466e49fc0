"""Breathing during a segmented cine scan, put into k-space line by line.

A frame of a cine is acquired over several heartbeats: each beat brings a segment of its
k-space lines, and between beats the patient has breathed. So the frame's k-space is
``k = sum_b M_b F I_b``: lines of beat b of the image as it lay at beat b. What a reader
sees as ghosts and blur depends on how far the heart was from beat to beat *and* on
which lines those were, and both are known here:

* breathing follows ``s(t) = A (1 - cos^4(pi t / T - phi))`` (Lujan et al. 1999, with
  ``2n = 4``), mm from the end of expiration along the body; the four modes are those
  in which CMRxMotion's volunteers breathed (Wang et al. 2022, arXiv 2210.06385). The
  amplitudes and periods are plausible and not measured;
* the heart follows by 0.6 of it along the body and 0.15 from front to back, and a
  short-axis plane is tilted against the body's axis by about 45 degrees: part of the
  motion leaves the plane, and another slice comes in;
* the *severity* is the standard deviation of the heart's place over the lines, weighed
  by the energy of each: what is in the image, not what was asked of the volunteer.

Pure functions of magnitude or complex stacks, jitted; slices and beats are ``vmap``.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Int

from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.sense import rss
from medjax.nn.warp import warp
from medjax.typing import Key

Mode = Literal["breath_hold", "half", "free", "intensive"]
MODES: tuple[Mode, ...] = get_args(Mode)
Ordering = Literal["contiguous", "interleaved", "centric"]

AMPLITUDE = {"half": (8.0, 14.0), "free": (8.0, 14.0), "intensive": (18.0, 30.0)}
"""Of breathing, mm along the body: from and to."""
PERIOD = {"half": (3.5, 5.0), "free": (3.5, 5.0), "intensive": (2.0, 3.0)}
"""Seconds."""
DRIFT, JITTER = 0.15, 0.2
"""Of a breath-hold: largest drift in mm/s, and standard deviation per beat in mm."""
ALONG, ACROSS = 0.6, 0.15
"""The heart's share of the motion along the body, and from front to back."""
TILT = (45.0, 10.0)
"""Mean and standard deviation of the plane's tilt, degrees."""
GRADES = (2.0, 4.0)
"""Severities, mm, at which grade 2 and grade 3 begin. Set once, on stacks of
:mod:`medjax.mri.cine_phantom` scanned with interleaved lines, so that a mode is not a
grade: breath-holds are mild, of half and free breathing about a third is, and a fifth
of intensive breathing is no worse than intermediate."""

View = Callable[[Any, Array, Array, Array], Array]
"""``view(scene, frame, slice, mm)``: the image [h w] of a slice whose anatomy has moved
that far through its plane. Hashable by value, so that it compiles once."""


@dataclasses.dataclass(frozen=True)
class MotionConfig:
    """How a volunteer breathes and how the scanner scans."""

    mode: Mode = "free"
    """What the volunteer does."""
    views: int = 12
    """Lines per heartbeat and frame."""
    ordering: Ordering = "interleaved"
    """Which lines share a beat: neighbours, every n-th, or those as far from the
    centre."""
    rr: float = 0.9
    """Seconds from beat to beat."""
    elastic: bool = True
    """The chest wall stays; else the whole image moves, round its borders."""
    mistrigger: float = 0.0
    """Probability of a beat to show the frame before or behind."""
    noise: float = 0.0
    """Standard deviation of real and imaginary part in k-space, relative to the
    largest magnitude of the stack."""


@dataclasses.dataclass(frozen=True)
class StackView:
    """A stack seen at any height: linear between slices, the last ones beyond them."""

    gap: float
    """mm from slice to slice."""

    def __call__(self, scene: Array, frame: Array, number: Array, mm: Array) -> Array:
        """See :data:`View`; the scene is a cine [t d h w]."""
        d = scene.shape[1]
        height = jnp.clip(number.astype(jnp.float32) - mm / self.gap, 0.0, d - 1.0)
        below = jnp.floor(height)
        share = (height - below).astype(scene.dtype)
        lower = below.astype(jnp.int32)
        upper = jnp.minimum(lower + 1, d - 1)
        return (1 - share) * scene[frame, lower] + share * scene[frame, upper]


class Breathing(NamedTuple):
    """Where the heart is at every beat of every slice.

    Attributes:
        displacement: mm through the plane, along rows and along columns.
        frame: offset of the frame that is seen: 0, or -1 or 1 at a mistrigger.
    """

    displacement: Float[Array, "d beats 3"]
    frame: Int[Array, "d beats"]


class Moved(NamedTuple):
    """A frame as the scanner sees it.

    Attributes:
        kspace: of every slice (and coil).
        image: magnitude.
        mean: the heart's mean place, weighed by the lines' energy, mm.
        severity: mm, of the whole stack.
        grade: 1, 2 or 3.
    """

    kspace: Complex[Array, "d *c h w"]
    image: Float[Array, "d h w"]
    mean: Float[Array, "d 3"]
    severity: Float[Array, ""]
    grade: Int[Array, ""]


def beats_of(lines: int, views: int) -> int:
    """Heartbeats that a frame takes."""
    return math.ceil(lines / views)


def beat_of_line(
    lines: int, *, views: int, ordering: Ordering
) -> Int[np.ndarray, " h"]:
    """The heartbeat, from 0, in which each line is acquired.

    Args:
        lines: of k-space, the centre at ``lines // 2``.
        views: most lines per beat.
        ordering: which lines share a beat.

    Raises:
        ValueError: for another ordering, or less than one line per beat.
    """
    if views < 1:
        raise ValueError(f"views={views}: expected one line per beat at least")
    line, beats = np.arange(lines), beats_of(lines, views)
    if ordering == "contiguous":
        return line // views
    if ordering == "interleaved":
        return line % beats
    if ordering == "centric":
        # Rank by the distance from the centre; of two as far the lower line first.
        order = np.argsort(np.abs(line - lines // 2), kind="stable")
        beat = np.empty(lines, int)
        beat[order] = line // views
        return beat
    raise ValueError(
        f"ordering={ordering!r}: expected contiguous, interleaved or centric"
    )


def draw_breathing(
    config: MotionConfig, *, slices: int, lines: int, key: Key
) -> Breathing:
    """A volunteer's breathing while a stack is scanned, slice after slice.

    Args:
        config: the mode and the beat.
        slices: of the stack.
        lines: of a frame.
        key: the volunteer.

    Raises:
        ValueError: for another mode.
    """
    if config.mode not in MODES:
        raise ValueError(f"mode={config.mode!r}: expected one of {list(MODES)}")
    keys = jax.random.split(key, 8)
    beats = beats_of(lines, config.views)
    beat = jnp.arange(beats, dtype=jnp.float32)[None]
    number = jnp.arange(slices, dtype=jnp.float32)[:, None]
    if config.mode == "breath_hold":
        drift = jax.random.uniform(keys[0], (slices, 1), maxval=DRIFT)
        jitter = JITTER * jax.random.normal(keys[1], (slices, beats))
        along = drift * config.rr * beat + jitter
    else:
        amplitude, period = (
            jax.random.uniform(k, (), minval=low, maxval=high)
            for k, (low, high) in zip(
                keys[:2],
                (AMPLITUDE[config.mode], PERIOD[config.mode]),
                strict=True,
            )
        )
        if config.mode == "half":
            # Held until some beat, and from there on breathing from where it was.
            hold = jax.random.uniform(keys[2], (slices, 1), minval=0.4, maxval=0.7)
            time = config.rr * jnp.maximum(beat - hold * beats, 0.0)
            phase = jnp.zeros(())
        else:
            time = config.rr * (number * beats + beat)
            phase = jax.random.uniform(keys[2], (), maxval=jnp.pi)
        along = amplitude * (1.0 - jnp.cos(jnp.pi * time / period - phase) ** 4)
    mean, sd = TILT
    tilt = jnp.deg2rad(mean + sd * jax.random.normal(keys[3], ()))
    heart = ALONG * along
    displacement = jnp.stack(
        [heart * jnp.sin(tilt), heart * jnp.cos(tilt), ACROSS * along], axis=-1
    )
    missed = jax.random.bernoulli(keys[4], config.mistrigger, (slices, beats))
    late = jax.random.rademacher(keys[5], (slices, beats), dtype=jnp.int32)
    return Breathing(displacement, jnp.where(missed, late, 0))


@functools.partial(jax.jit, static_argnames=("config", "spacing", "view"))
def move(
    frames: Inexact[Array, "t d h w"],
    phase: Int[Array, ""],
    breathing: Breathing,
    spacing: tuple[float, float, float],
    config: MotionConfig,
    *,
    weight: Float[Array, "h w"] | None = None,
    sensitivities: Complex[Array, "c h w"] | None = None,
    view: View | None = None,
    scene: Any = None,
    key: Key,
) -> Moved:
    """One frame of a stack, scanned while the patient breathes.

    Args:
        frames: the cine at rest, magnitude or complex; one frame is enough without
            mistriggers.
        phase: which frame is scanned.
        breathing: from :func:`draw_breathing`.
        spacing: mm between slices, rows and columns.
        config: line ordering, whether elastic, and noise.
        weight: how much of the motion each pixel shares, if elastic; None: all of it.
        sensitivities: coil maps, which do not move; None: one coil of one everywhere.
        view: gives the image at any height, where it is known better than by
            interpolation between slices.
        scene: what ``view`` looks at.
        key: of the noise.

    Raises:
        ValueError: if breathing is of another stack.
    """
    _, d, h, w = frames.shape
    beats = beats_of(h, config.views)
    if breathing.displacement.shape != (d, beats, 3):
        raise ValueError(
            f"breathing of shape {breathing.displacement.shape}: expected "
            f"{(d, beats, 3)} for {d} slices of {h} lines, {config.views} a beat"
        )
    seen = StackView(spacing[0]) if view is None else view
    scene = frames if view is None else scene
    beat = jnp.asarray(beat_of_line(h, views=config.views, ordering=config.ordering))
    count = frames.shape[0]

    def at_beat(place: Array, offset: Array, slice_number: Array) -> Array:
        which = (phase + offset) % count
        still = seen(scene, which, slice_number, place[0])
        rows, columns = place[1] / spacing[1], place[2] / spacing[2]
        if config.elastic:
            moved = _warped(still, rows, columns, weight)
        else:
            moved = shifted(still, rows, columns)
        if sensitivities is not None:
            moved = moved[None] * sensitivities
        return fft2c(moved)

    def one(places: Array, offsets: Array, slice_number: Array) -> Array:
        every = jax.vmap(at_beat, (0, 0, None))(places, offsets, slice_number)
        # Of every line the beat in which it was acquired.
        lines = jnp.moveaxis(every, -2, 1)
        return jnp.moveaxis(lines[beat, jnp.arange(h)], 0, -2)

    kspace = jax.vmap(one)(breathing.displacement, breathing.frame, jnp.arange(d))
    if config.noise:
        sigma = config.noise * jnp.max(jnp.abs(frames))
        noise = sigma * jax.random.normal(key, (2, *kspace.shape))
        kspace = kspace + jax.lax.complex(noise[0], noise[1])
    images = ifft2c(kspace)
    image = jnp.abs(images) if sensitivities is None else rss(images)
    energy = jnp.sum(jnp.abs(kspace.reshape(d, -1, h, w)) ** 2, axis=(1, 3))
    mean, value = severity(breathing.displacement[:, beat], energy)
    return Moved(kspace, image, mean, value, grade_of(value))


def severity(
    places: Float[Array, "d h 3"], energy: Float[Array, "d h"]
) -> tuple[Float[Array, "d 3"], Float[Array, ""]]:
    """How far the heart was from its mean place, line by line, in mm.

    ``r^2 = sum e |p - mean|^2 / sum e`` with the energy ``e`` of each line; the mean is
    of each slice, since slices that lie apart are not blurred by it.

    Args:
        places: of the heart while each line was acquired, mm.
        energy: of each line.

    Returns:
        The mean place of each slice, and r over all of them.
    """
    total = jnp.sum(energy, axis=1, keepdims=True)
    share = energy / jnp.maximum(total, 1e-30)
    mean = jnp.sum(share[..., None] * places, axis=1)
    squares = jnp.sum((places - mean[:, None]) ** 2, axis=-1)
    whole = jnp.maximum(jnp.sum(energy), 1e-30)
    return mean, jnp.sqrt(jnp.sum(energy * squares) / whole)


def grade_of(value: Float[Array, "*b"]) -> Int[Array, "*b"]:
    """Mild (1), intermediate (2) or severe (3), by :data:`GRADES`."""
    steps = [(value >= edge).astype(jnp.int32) for edge in GRADES]
    return 1 + steps[0] + steps[1]


def labels_at(
    labels: Int[Array, "d h w"],
    mean: Float[Array, "d 3"],
    spacing: tuple[float, float, float],
    *,
    weight: Float[Array, "h w"] | None = None,
    view: Callable[[Array, Array], Array] | None = None,
) -> Int[Array, "d h w"]:
    """Labels at the heart's mean place: what an annotator of the moved image draws.

    Args:
        labels: at rest.
        mean: of each slice, from :class:`Moved`.
        spacing: mm between slices, rows and columns.
        weight: as in :func:`move`.
        view: from a slice and mm through it to its labels, where they are known at any
            height; else those of the nearest slice are taken.
    """
    d = labels.shape[0]

    def nearest(number: Array, mm: Array) -> Array:
        height = jnp.round(number.astype(jnp.float32) - mm / spacing[0])
        return labels[jnp.clip(height, 0, d - 1).astype(jnp.int32)]

    def one(number: Array, place: Array) -> Array:
        plane = (view or nearest)(number, place[0])
        rows, columns = place[1] / spacing[1], place[2] / spacing[2]
        at = _source(labels.shape[1:], rows, columns, weight)
        return warp(plane, at, order="nearest", outside="edge")

    return jax.vmap(one)(jnp.arange(d), mean)


def shifted(
    image: Inexact[Array, "h w"], rows: Float[Array, ""], columns: Float[Array, ""]
) -> Complex[Array, "h w"]:
    """The image moved down and right, round its borders, by a phase ramp in k-space."""
    h, w = image.shape
    ky, kx = (jnp.arange(n, dtype=jnp.float32) / n - (n // 2) / n for n in (h, w))
    angle = -2 * jnp.pi * (ky[:, None] * rows + kx[None, :] * columns)
    ramp = jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
    return ifft2c(fft2c(image.astype(jnp.complex64)) * ramp)


def _source(
    shape: tuple[int, ...], rows: Array, columns: Array, weight: Array | None
) -> list[Array]:
    at = [jax.lax.broadcasted_iota(jnp.float32, shape, axis) for axis in (0, 1)]
    share = jnp.ones(shape) if weight is None else weight
    return [at[0] - share * rows, at[1] - share * columns]


def _warped(
    image: Array, rows: Array, columns: Array, weight: Array | None
) -> Complex[Array, "h w"]:
    at = _source(image.shape, rows, columns, weight)
    if not jnp.iscomplexobj(image):
        return warp(image, at, outside="edge").astype(jnp.complex64)
    planes = jnp.stack([image.real, image.imag], axis=-1)
    moved = warp(planes, at, outside="edge")
    return jax.lax.complex(moved[..., 0], moved[..., 1])
