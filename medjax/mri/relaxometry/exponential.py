"""One exponential fitted to one pixel, by variable projection.

``S(t) = offset + amplitude exp(-t / tau)`` is linear in all but ``tau``. The amplitudes
are solved in closed form, and only a one-dimensional search is left (Golub and Pereyra
1973): a logarithmic grid, which cannot miss the global minimum, and Gauss-Newton steps
kept inside the bracket of the winning grid point. Pixels are a ``vmap``, walked in
chunks so that memory stays flat.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

GRID_POINTS = 64
GAUSS_NEWTON_STEPS = 8

Maps = TypeVar("Maps")


class Exponential(NamedTuple):
    """``S(t) = offset + amplitude exp(-t / tau)`` of one pixel."""

    offset: Float[Array, ""]
    amplitude: Float[Array, ""]
    tau: Float[Array, ""]
    sse: Float[Array, ""]
    tau_sd: Float[Array, ""]
    candidate: Float[Array, ""]


Frames = list[Float[Array, ""]]
"""A value per frame of one pixel. Few frames are written out, not an axis: sums over
them are then part of one pass over the pixels, ten times as fast on a CPU."""


def total(x: Frames) -> Float[Array, ""]:
    return functools.reduce(operator.add, x)


def inner(x: Frames, y: Frames) -> Float[Array, ""]:
    return total([a * b for a, b in zip(x, y, strict=True)])


def ratio(numerator: Array, denominator: Array) -> Array:
    """A quotient that is 0 where the denominator is (empty pixels), gradient-safe."""
    safe = jnp.where(denominator == 0, 1.0, denominator)
    return jnp.where(denominator == 0, 0.0, numerator / safe)


def fit_exponential(
    candidates: Float[Array, "p t"],
    times: Float[Array, " t"],
    log_grid: Float[Array, " g"],
    basis: Float[Array, "g t"],
    *,
    offset: bool,
    sign: int,
) -> Exponential:
    """Fit one pixel; ``candidates`` are its possible signed series.

    ``sign`` of the amplitude: +1 a decay, -1 a recovery, 0 whichever fits best.
    """
    # |y|^2 is the same for every candidate, so the least SSE is the largest projection.
    projection = candidates @ basis.T
    explained = jnp.where(sign * projection >= 0, projection**2, 0.0)
    if offset:
        explained += jnp.sum(candidates, -1, keepdims=True) ** 2 / times.size
    # Around a null two polarities fit about equally well, and which one is better is
    # decided between grid points: polish both.
    finalists = jax.lax.top_k(jnp.max(explained, axis=-1), min(2, len(candidates)))[1]

    def polish(candidate: Array) -> Exponential:
        start = jnp.argmax(explained[candidate])
        around = jnp.clip(start + jnp.array([-1, 1]), 0, log_grid.size - 1)
        y, bracket = candidates[candidate], log_grid[around]
        fit = _polish(y, times, log_grid[start], bracket, offset=offset)
        return fit._replace(candidate=candidate.astype(times.dtype))

    fits = jax.vmap(polish)(finalists)
    best = jnp.argmin(fits.sse)
    return jax.tree.map(lambda x: x[best], fits)


def _polish(
    y: Float[Array, " t"],
    times: Float[Array, " t"],
    log_tau: Float[Array, ""],
    bracket: Float[Array, "2"],
    *,
    offset: bool,
) -> Exponential:
    """Gauss-Newton on the time constant alone, from ``log_tau`` within ``bracket``."""

    taken_at = list(times)

    def remove_offset(x: Frames) -> Frames:
        mean = total(x) / len(x)
        return [value - mean for value in x] if offset else x

    centred = remove_offset(list(y))

    def linearise(log_tau: Array) -> tuple[Frames, Array, Frames, Frames]:
        """Decay, amplitude, residual, and d model / d log tau off the linear span."""
        rate = jnp.exp(-log_tau)
        scaled = [t * rate for t in taken_at]
        decay = [jnp.exp(-x) for x in scaled]
        e = remove_offset(decay)
        slope = remove_offset([d * x for d, x in zip(decay, scaled, strict=True)])
        power = inner(e, e)
        amplitude = ratio(inner(e, centred), power)
        along = ratio(inner(e, slope), power)
        residual = [c - amplitude * x for c, x in zip(centred, e, strict=True)]
        jacobian = [amplitude * (d - along * x) for d, x in zip(slope, e, strict=True)]
        return decay, amplitude, residual, jacobian

    def gauss_newton(_: Array, log_tau: Array) -> Array:
        residual, jacobian = linearise(log_tau)[2:]
        step = ratio(inner(jacobian, residual), inner(jacobian, jacobian))
        return jnp.clip(log_tau + step, bracket[0], bracket[1])

    log_tau = jax.lax.fori_loop(0, GAUSS_NEWTON_STEPS, gauss_newton, log_tau)
    decay, amplitude, residual, jacobian = linearise(log_tau)
    sse, information = inner(residual, residual), inner(jacobian, jacobian)
    freedom = times.size - (3 if offset else 2)
    tau = jnp.exp(log_tau)
    level = (total(list(y)) - amplitude * total(decay)) / times.size
    return Exponential(
        offset=level if offset else jnp.zeros_like(tau),
        amplitude=amplitude,
        tau=tau,
        sse=sse,
        tau_sd=tau * jnp.sqrt(ratio(variance(sse, freedom), information)),
        candidate=jnp.zeros_like(tau),
    )


def variance(sse: Array, freedom: int) -> Array:
    return sse / freedom if freedom > 0 else jnp.full_like(sse, jnp.nan)


def grid(
    times: Float[Array, " t"], span: tuple[float, float], offset: bool
) -> tuple[Float[Array, " g"], Float[Array, "g t"]]:
    """Logarithmic time constants and, for each, the unit vector the data project on."""
    low, high = jnp.log(jnp.asarray(span, times.dtype))
    log_grid = jnp.linspace(low, high, GRID_POINTS)
    decay = jnp.exp(-times[None] * jnp.exp(-log_grid)[:, None])
    if offset:
        decay -= jnp.mean(decay, axis=-1, keepdims=True)
    norm = jnp.linalg.norm(decay, axis=-1, keepdims=True)
    return log_grid, ratio(decay, norm)


def standard_error(
    columns: Sequence[Float[Array, " t"]],
    gradient: Sequence[Array],
    variance: Float[Array, ""],
) -> Float[Array, ""]:
    """Of a function of the parameters, to first order: ``sqrt(s2 g' (J'J)^-1 g)``.

    Args:
        columns: Of the Jacobian, one per parameter; of unequal frames each row is
            multiplied by the root of its weight.
        gradient: Of the function, one per parameter.
        variance: Of the noise.
    """
    # Forward substitution with J = Q R.
    orthonormal: list[Array] = []
    solved: list[Array] = []
    for column, slope in zip(columns, gradient, strict=True):
        for q, z in zip(orthonormal, solved, strict=True):
            overlap = jnp.sum(q * column)
            column = column - overlap * q
            slope = slope - overlap * z
        norm = jnp.linalg.norm(column)
        orthonormal.append(ratio(column, norm))
        solved.append(ratio(slope, norm))
    return jnp.sqrt(variance * sum(z**2 for z in solved))


def over_pixels(
    fit_pixel: Callable[[Array], Maps], signal: Float[Array, "t *space"], chunk: int
) -> Maps:
    """Map a function of one pixel's series over all pixels, ``chunk`` at a time."""
    pixels = signal.reshape(signal.shape[0], -1).T
    maps = jax.lax.map(fit_pixel, pixels, batch_size=min(chunk, len(pixels)))
    return jax.tree.map(lambda m: m.reshape(signal.shape[1:]), maps)
