"""T1 maps: an inversion recovery fitted to every pixel.

A MOLLI series samples ``S(t) = A - B exp(-t / T1*)``; the Look-Locker relation
``T1 = T1* (B / A - 1)`` undoes the saturation by the readouts (Deichmann and Haase
1992; Messroghli 2004).

Magnitude images hide the sign of the early inversion times. ``mode`` says what to do:

* ``"correct"``: negate the first 0, 1, ... frames and keep the best fit;
* ``"signed"``: the series is already signed (see :func:`phase_sensitive`);
* ``"official"``: the published CMRxRecon script (``Mapping/CalEvalMap.py``), whose
  search ends after its first success: it always negates the first frame alone. On
  magnitudes with three or more negative frames it is wrong by far; it is here so that
  its numbers can be compared with, not for use. They are the script's where the least
  squares of those data lie at a T1* of 20 ms or more. Often they do not: the best that
  can be done for a frame with a false sign is a T1* towards 0, which only the first
  frame feels. There the script stops wherever its optimiser's gradient vanishes (T1*
  between 9 and 10 ms, T1 of 10^6 ms); this gives T1* = 20 ms, the end of the search,
  and the T1 that goes with it (thousands of ms). Of twelve noise-free MOLLI curves with
  T1* from 500 to 2000 ms that is so for the seven above 1100 ms.
"""

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Real

from medjax.mri.relaxometry.exponential import (
    Exponential,
    fit_exponential,
    grid,
    over_pixels,
    ratio,
    standard_error,
    variance,
)
from medjax.mri.relaxometry.noise import information, maximise_likelihood
from medjax.mri.relaxometry.series import (
    FRAMES_TO_FIT,
    check_frames,
    checked_sigma,
    floating,
)

T1Mode = Literal["correct", "signed", "official"]
T1_STAR_RANGE = (20.0, 8000.0)
"""ms that T1* is searched in."""


class T1Map(NamedTuple):
    """A fitted inversion recovery; pixels without any signal hold zeros.

    Attributes:
        t1: Longitudinal relaxation time, ms.
        t1_star: The apparent time constant T1*, ms.
        a: ``A`` of the model, in units of the signal.
        b: ``B`` of the model, in units of the signal.
        residual: Root of SSE / t, in units of the signal.
        t1_sd: Standard error of ``t1``, ms, from the residual and the Jacobian (NaN
            for three frames, which leave no degree of freedom), or from the noise
            where that is given.
        negative_frames: How many of the earliest frames were negated.
    """

    t1: Float[Array, "*space"]
    t1_star: Float[Array, "*space"]
    a: Float[Array, "*space"]
    b: Float[Array, "*space"]
    residual: Float[Array, "*space"]
    t1_sd: Float[Array, "*space"]
    negative_frames: Float[Array, "*space"]


def _t1_sd(
    fit: Exponential,
    times: Float[Array, " t"],
    look_locker: bool,
    sigma: Float[Array, ""] | None,
) -> Float[Array, ""]:
    """Of T1 = T1* (B / A - 1), or of T1* itself; from the residual, or from sigma."""
    a, b, tau = fit.offset, -fit.amplitude, fit.tau
    decay = jnp.exp(-times / tau)
    # The model's derivatives with respect to A, B and T1*, and T1's own.
    columns = [jnp.ones_like(decay), -decay, -b * decay * times / tau**2]
    zero, one = jnp.zeros_like(tau), jnp.ones_like(tau)
    gradient = [zero, zero, one]
    if look_locker:
        gradient = [-ratio(tau * b, a**2), ratio(tau, a), ratio(b, a) - 1]
    if sigma is None:
        return standard_error(columns, gradient, variance(fit.sse, times.size - 3))
    weight = jnp.sqrt(information(a - b * decay, sigma))
    return standard_error([weight * c for c in columns], gradient, sigma**2)


@functools.partial(jax.jit, static_argnames=("mode", "look_locker", "chunk"))
def _fit_t1(signal, inversion_times, sigma, *, mode, look_locker, chunk) -> T1Map:
    order = jnp.argsort(inversion_times)
    times = inversion_times[order]
    t = times.size
    first = jnp.arange(t)
    # Negating all frames is negating none with A and B negated: t candidates suffice.
    flips = {"correct": first, "signed": jnp.array([0]), "official": jnp.array([1])}
    negated = flips[mode]
    signs = jnp.where(first[None] < negated[:, None], -1.0, 1.0).astype(signal.dtype)
    log_grid, basis = grid(times, T1_STAR_RANGE, offset=True)

    def refit(candidates: Float[Array, "p t"]) -> Exponential:
        sign = 0 if mode == "official" else -1
        return fit_exponential(
            candidates, times, log_grid, basis, offset=True, sign=sign
        )

    def fit_pixel(series: Float[Array, " t"]) -> T1Map:
        series, present = series[order], jnp.any(series != 0)
        fit = refit(signs * series[None])
        if sigma is not None:
            fit = maximise_likelihood(
                series, times, fit, sigma, lambda signed: refit(signed[None])
            )
        a, b = fit.offset, -fit.amplitude
        t1 = fit.tau * (ratio(b, a) - 1) if look_locker else fit.tau
        t1_sd = _t1_sd(fit, times, look_locker, sigma)
        count = negated.astype(a.dtype)[fit.candidate.astype(jnp.int32)]
        residual = jnp.sqrt(fit.sse / t)
        maps = T1Map(t1, fit.tau, a, b, residual, t1_sd, count)
        return jax.tree.map(lambda m: jnp.where(present, m, 0.0), maps)

    return over_pixels(fit_pixel, signal, chunk)


def fit_t1(
    signal: Real[Array, "t *space"] | Real[np.ndarray, "t *space"],
    inversion_times: Real[Array, " t"] | Real[np.ndarray, " t"],
    *,
    mode: T1Mode = "correct",
    look_locker: bool = True,
    sigma: float | None = None,
    chunk: int = 4096,
) -> T1Map:
    """Fit ``S(t) = A - B exp(-t / T1*)`` to every pixel of an inversion series.

    Args:
        signal: Magnitudes, or signed values with ``mode="signed"``.
        inversion_times: ms, in any order, three at least. Times that differ per slice
            are a ``vmap`` over slices.
        mode: What to do about lost signs; see the module's docstring.
        look_locker: Correct for the readouts, ``T1 = T1* (B / A - 1)``; without it
            ``T1 = T1*`` (a single-shot inversion recovery).
        sigma: Noise of the magnitudes: fits by their Rician likelihood
            (:mod:`.noise`) instead of least squares; with ``mode="correct"`` only.
        chunk: Pixels fitted at once.

    Returns:
        The maps, of the signal's spatial shape, in floating point.

    Raises:
        ValueError: For an unknown mode, fewer than three frames, counts that differ, or
            a sigma that is not positive or not for the mode.
    """
    if mode not in get_args(T1Mode):
        raise ValueError(f"mode is {mode!r}, expected one of {get_args(T1Mode)}")
    if sigma is not None and mode != "correct":
        raise ValueError(f"sigma is for magnitudes (mode 'correct'), mode is {mode!r}")
    check_frames(
        signal, inversion_times, "inversion_times", at_least=FRAMES_TO_FIT["t1"]
    )
    return _fit_t1(
        *floating(signal, inversion_times),
        checked_sigma(sigma),
        mode=mode,
        look_locker=look_locker,
        chunk=chunk,
    )


def phase_sensitive(
    images: Complex[Array, "t *space"], inversion_times: Real[Array, " t"]
) -> Float[Array, "t *space"]:
    """Signed inversion-recovery images from complex ones.

    The frame of the longest inversion time is taken to be fully positive; every frame
    is projected on its phase. This restores polarity from a reconstruction's phase
    (Kellman 2002), as long as the null lies before the last frame. Pixels that are
    zero in that frame come out as zero.
    """
    check_frames(images, inversion_times, "inversion_times", at_least=1)
    last = images[jnp.argmax(inversion_times)]
    size = jnp.abs(last)
    phase = last / jnp.where(size == 0, 1.0, size).astype(last.dtype)
    return jnp.real(images * jnp.conj(phase)[None])
