"""T2 maps: a decay fitted to every pixel, ``S(t) = M0 exp(-t / T2) (+ C)``."""

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

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
from medjax.mri.relaxometry.series import check_frames, checked_sigma, floating

T2Method = Literal[
    "log_linear", "weighted_log_linear", "two_parameter", "three_parameter", "official"
]
T2_RANGE = (2.0, 4000.0)
"""ms that T2 is searched in."""
OFFICIAL_SECOND_ECHO = 10_000.0
"""CMRxRecon's script leaves out pixels whose second echo is above."""


class T2Map(NamedTuple):
    """A fitted transverse decay; pixels without any signal hold zeros.

    Attributes:
        t2: Transverse relaxation time, ms.
        m0: Amplitude at echo time zero, in units of the signal.
        offset: Constant ``C`` of the three-parameter model, else zero.
        residual: Root of SSE / t, in units of the signal.
        t2_sd: Standard error of ``t2``, ms, from the residual (NaN without degrees of
            freedom), or from the noise where that is given.
    """

    t2: Float[Array, "*space"]
    m0: Float[Array, "*space"]
    offset: Float[Array, "*space"]
    residual: Float[Array, "*space"]
    t2_sd: Float[Array, "*space"]


def _t2_sd(
    fit: Exponential, times: Float[Array, " t"], offset: bool, sigma: Float[Array, ""]
) -> Float[Array, ""]:
    """Of T2, from the noise and what each frame can tell of its signal."""
    decay = jnp.exp(-times / fit.tau)
    columns = [decay, fit.amplitude * decay * times / fit.tau**2]
    columns = [jnp.ones_like(decay)] * offset + columns
    zero, one = jnp.zeros_like(fit.tau), jnp.ones_like(fit.tau)
    weight = jnp.sqrt(information(fit.offset + fit.amplitude * decay, sigma))
    gradient = [zero] * (len(columns) - 1) + [one]
    return standard_error([weight * c for c in columns], gradient, sigma**2)


@functools.partial(jax.jit, static_argnames=("method", "chunk"))
def _fit_t2(signal, echo_times, sigma, *, method, chunk) -> T2Map:
    t = echo_times.size
    offset = method == "three_parameter"
    log_grid, basis = grid(echo_times, T2_RANGE, offset)

    def refit(series: Float[Array, " t"]) -> Exponential:
        return fit_exponential(
            series[None], echo_times, log_grid, basis, offset=offset, sign=1
        )

    def nonlinear(series: Float[Array, " t"]) -> T2Map:
        fit = refit(series)
        t2_sd = fit.tau_sd
        if sigma is not None:
            fit = maximise_likelihood(series, echo_times, fit, sigma, refit)
            t2_sd = _t2_sd(fit, echo_times, offset, sigma)
        residual = jnp.sqrt(fit.sse / t)
        return T2Map(fit.tau, fit.amplitude, fit.offset, residual, t2_sd)

    def log_linear(series: Float[Array, " t"]) -> T2Map:
        """Weighted regression of log S on t; what is not positive has no logarithm."""
        positive = series > 0
        weight = positive.astype(series.dtype)
        if method == "weighted_log_linear":
            weight *= series**2  # the variance of log S is that of S over S^2
        log_s = jnp.log(jnp.where(positive, series, 1.0))
        total = jnp.sum(weight)
        x = echo_times - ratio(jnp.sum(weight * echo_times), total)
        y = log_s - ratio(jnp.sum(weight * log_s), total)
        power = jnp.sum(weight * x * x)
        rate = -ratio(jnp.sum(weight * x * y), power)
        if method == "official":
            rate -= np.finfo(np.float32).eps  # as in the script, against 1 / 0
        m0 = jnp.exp(ratio(jnp.sum(weight * (log_s + rate * echo_times)), total))
        residual = series - m0 * jnp.exp(-rate * echo_times)
        spread = variance(jnp.sum(weight * (y + rate * x) ** 2), t - 2)
        t2 = ratio(jnp.ones_like(rate), rate)
        t2_sd = t2**2 * jnp.sqrt(ratio(spread, power))
        rms = jnp.sqrt(jnp.mean(residual**2))
        maps = T2Map(t2, m0, jnp.zeros_like(t2), rms, t2_sd)
        if method != "official":
            return maps
        kept = (t2 >= 0) & (t2 <= 200) & (series[1] <= OFFICIAL_SECOND_ECHO)
        return jax.tree.map(lambda m: jnp.where(kept, m, 0.0), maps)

    def fit_pixel(series: Float[Array, " t"]) -> T2Map:
        fit = nonlinear if method.endswith("_parameter") else log_linear
        present = jnp.any(series != 0)
        return jax.tree.map(lambda m: jnp.where(present, m, 0.0), fit(series))

    return over_pixels(fit_pixel, signal, chunk)


def fit_t2(
    signal: Real[Array, "t *space"] | Real[np.ndarray, "t *space"],
    echo_times: Real[Array, " t"] | Real[np.ndarray, " t"],
    *,
    method: T2Method = "two_parameter",
    sigma: float | None = None,
    chunk: int = 4096,
) -> T2Map:
    """Fit a transverse decay to every pixel of a T2-prepared series.

    Args:
        signal: Magnitudes.
        echo_times: ms, in any order.
        method: ``"log_linear"`` and ``"weighted_log_linear"`` (weights S^2) regress
            log S; ``"two_parameter"`` and ``"three_parameter"`` (with a constant) are
            least squares in the signal; ``"official"`` is CMRxRecon's: log-linear, the
            slope raised by float32's epsilon, and zero wherever T2 leaves [0, 200] ms
            or the second frame (in the order given) is above 10000. That bound is in
            the script's unit, where images are about 1e-4.
        sigma: Noise of the magnitudes: fits by their Rician likelihood
            (:mod:`.noise`) instead of least squares; not for the log-linear methods.
        chunk: Pixels fitted at once.

    Returns:
        The maps, of the signal's spatial shape, in floating point.

    Raises:
        ValueError: For an unknown method, too few frames, counts that differ, or a
            sigma that is not positive or not for the method.
    """
    if method not in get_args(T2Method):
        raise ValueError(f"method is {method!r}, expected one of {get_args(T2Method)}")
    if sigma is not None and not method.endswith("_parameter"):
        raise ValueError(
            f"sigma is for two_parameter and three_parameter, method is {method!r}"
        )
    least = 3 if method == "three_parameter" else 2
    check_frames(signal, echo_times, "echo_times", at_least=least)
    return _fit_t2(
        *floating(signal, echo_times),
        checked_sigma(sigma),
        method=method,
        chunk=chunk,
    )
