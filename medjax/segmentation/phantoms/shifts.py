"""Images unlike those trained on, at three strengths, with the annotators as before.

A segmenter should notice: noise and blur that training did not have, another contrast,
the patient moving in the middle of the scan (lines of k-space from a shifted image),
and other anatomy. What is true of an image stays true: annotations and probabilities
are those of the scene.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.blur import gaussian_blur
from medjax.segmentation.phantoms.ambiguous import (
    Ambiguous,
    AmbiguousConfig,
    Objects,
    ambiguous_case,
)
from medjax.typing import Key
from medjax_kernels import fft

Shift = Literal["noise", "blur", "gamma", "motion", "anatomy"]
SHIFTS: tuple[Shift, ...] = ("noise", "blur", "gamma", "motion", "anatomy")
STRENGTHS = (1, 2, 3)

NOISE = (0.16, 0.24, 0.32)
"""Standard deviation of all noise in the image."""
BLUR = (1.0, 2.0, 3.0)
"""Standard deviation, pixels."""
GAMMA = (0.6, 0.4, None)
"""Exponents; None: inverted."""
MOTION = (3.0, 6.0, 9.0)
"""Pixels by which the patient moves."""
ANATOMY: tuple[Objects, ...] = ("squares", "two", "none")


@functools.partial(
    jax.jit, static_argnames=("config", "shift", "strength", "annotators")
)
def shifted_case(
    config: AmbiguousConfig,
    shift: Shift,
    strength: int,
    *,
    annotators: int,
    key: Key,
) -> Ambiguous:
    """A case under a shift; the same key without one gives the same scene.

    Args:
        config: of the cases trained on.
        shift: which.
        strength: 1, 2 or 3.
        annotators: how many look at it.
        key: case, annotators, noise and shift.

    Raises:
        ValueError: for another shift or strength.
    """
    if shift not in SHIFTS or strength not in STRENGTHS:
        raise ValueError(
            f"shift={shift!r}, strength={strength}: expected one of {SHIFTS} and "
            f"of {STRENGTHS}"
        )
    level = strength - 1
    if shift == "anatomy":
        config = dataclasses.replace(config, objects=ANATOMY[level])
        return ambiguous_case(config, annotators=annotators, key=key)
    case = ambiguous_case(config, annotators=annotators, key=key)
    # No small number: the case draws from the keys that those give.
    key = jax.random.fold_in(key, 0x7368)
    return case._replace(image=shifted_image(case.image, config, shift, level, key=key))


def shifted_image(
    image: Float[Array, "h w"],
    config: AmbiguousConfig,
    shift: Shift,
    level: int,
    *,
    key: Key,
) -> Float[Array, "h w"]:
    """An image under any shift but that of anatomy.

    Args:
        image: as the configuration's cases are.
        config: whose noise it has.
        shift: which.
        level: strength minus one.
        key: of noise and motion.
    """
    if shift == "noise":
        more = math.sqrt(max(NOISE[level] ** 2 - config.noise**2, 0.0))
        return image + more * jax.random.normal(key, image.shape)
    if shift == "blur":
        return gaussian_blur(image, (BLUR[level],) * 2, largest=BLUR[level])
    if shift == "gamma":
        return _gamma(image, GAMMA[level])
    return moved_halfway(image, MOTION[level], key=key)


def _gamma(image: Float[Array, "h w"], exponent: float | None) -> Float[Array, "h w"]:
    """Another contrast within the same range."""
    low, high = jnp.min(image), jnp.max(image)
    unit = (image - low) / jnp.maximum(high - low, 1e-6)
    changed = 1.0 - unit if exponent is None else unit**exponent
    return low + (high - low) * changed


def moved_halfway(
    image: Float[Array, "h w"], pixels: float, *, key: Key
) -> Float[Array, "h w"]:
    """The magnitude image of a patient who moves once while k-space is acquired.

    Lines are acquired from one side to the other; those behind a place between 0.4 and
    0.6 of the way are of the image shifted (circularly) in a random direction.

    Args:
        image: real.
        pixels: length of the shift.
        key: when, and where to.
    """
    when_key, where_key = jax.random.split(key)
    h, w = image.shape
    when = jax.random.uniform(when_key, (), minval=0.4, maxval=0.6) * h
    turn = jax.random.uniform(where_key, (), maxval=2 * jnp.pi)
    ky, kx = (jnp.fft.fftfreq(n).astype(jnp.float32) for n in (h, w))
    # A shift is a phase ramp in k-space.
    ramp = ky[:, None] * jnp.sin(turn) + kx[None, :] * jnp.cos(turn)
    phase = -2 * jnp.pi * pixels * ramp
    kspace = fft.fftn(image, (0, 1))
    moved = kspace * jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
    line = jnp.fft.ifftshift(jnp.arange(h, dtype=jnp.float32))
    mixed = jnp.where((line >= when)[:, None], moved, kspace)
    return jnp.abs(fft.ifftn(mixed, (0, 1)))
