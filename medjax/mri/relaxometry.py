"""T1 and T2 maps: every pixel's exponential fitted at once, by variable projection.

A MOLLI series samples ``S(t) = A - B exp(-t / T1*)``; the Look-Locker relation
``T1 = T1* (B / A - 1)`` undoes the saturation by the readouts (Deichmann and Haase
1992; Messroghli 2004). A T2-prepared series samples ``S(t) = M0 exp(-t / T2) (+ C)``.
For a *fixed* time constant both are linear, so the amplitudes can be solved in closed
form and only a one-dimensional search is left (variable projection, Golub and Pereyra
1973). We evaluate it on a logarithmic grid, which cannot miss the global minimum, and
polish with Gauss-Newton steps kept inside the bracket of the winning grid point.
Pixels are a ``vmap``, walked in chunks so that memory stays flat.

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

Times and maps are in ms. Series may be of any real type (DICOM holds unsigned 16-bit
integers): fits run in float32, or in float64 where that is what comes.
"""

import functools
import operator
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Real

T1Mode = Literal["correct", "signed", "official"]
T2Method = Literal[
    "log_linear", "weighted_log_linear", "two_parameter", "three_parameter", "official"
]

GRID_POINTS = 64
GAUSS_NEWTON_STEPS = 8
T1_STAR_RANGE = (20.0, 8000.0)
T2_RANGE = (2.0, 4000.0)
OFFICIAL_SECOND_ECHO = 10_000.0
"""CMRxRecon's script leaves out pixels whose second echo is above."""

FRAMES_TO_FIT = {"t1": 3, "t2": 2}
"""Times that a map takes at least."""


class T1Map(NamedTuple):
    """A fitted inversion recovery; pixels without any signal hold zeros.

    Attributes:
        t1: Longitudinal relaxation time, ms.
        t1_star: The apparent time constant T1*, ms.
        a: ``A`` of the model, in units of the signal.
        b: ``B`` of the model, in units of the signal.
        residual: Root of SSE / t, in units of the signal.
        t1_sd: Standard error of ``t1``, ms, from the residual and the Jacobian; NaN
            for three frames, which leave no degree of freedom.
        negative_frames: How many of the earliest frames were negated.
    """

    t1: Float[Array, "*space"]
    t1_star: Float[Array, "*space"]
    a: Float[Array, "*space"]
    b: Float[Array, "*space"]
    residual: Float[Array, "*space"]
    t1_sd: Float[Array, "*space"]
    negative_frames: Float[Array, "*space"]


class T2Map(NamedTuple):
    """A fitted transverse decay; pixels without any signal hold zeros.

    Attributes:
        t2: Transverse relaxation time, ms.
        m0: Amplitude at echo time zero, in units of the signal.
        offset: Constant ``C`` of the three-parameter model, else zero.
        residual: Root of SSE / t, in units of the signal.
        t2_sd: Standard error of ``t2``, ms; NaN without degrees of freedom.
    """

    t2: Float[Array, "*space"]
    m0: Float[Array, "*space"]
    offset: Float[Array, "*space"]
    residual: Float[Array, "*space"]
    t2_sd: Float[Array, "*space"]


Maps = TypeVar("Maps", T1Map, T2Map)


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


def _total(x: Frames) -> Float[Array, ""]:
    return functools.reduce(operator.add, x)


def _inner(x: Frames, y: Frames) -> Float[Array, ""]:
    return _total([a * b for a, b in zip(x, y, strict=True)])


def _ratio(numerator: Array, denominator: Array) -> Array:
    """A quotient that is 0 where the denominator is (empty pixels), gradient-safe."""
    safe = jnp.where(denominator == 0, 1.0, denominator)
    return jnp.where(denominator == 0, 0.0, numerator / safe)


def _fit_exponential(
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
        mean = _total(x) / len(x)
        return [value - mean for value in x] if offset else x

    centred = remove_offset(list(y))

    def linearise(log_tau: Array) -> tuple[Frames, Array, Frames, Frames]:
        """Decay, amplitude, residual, and d model / d log tau off the linear span."""
        rate = jnp.exp(-log_tau)
        scaled = [t * rate for t in taken_at]
        decay = [jnp.exp(-x) for x in scaled]
        e = remove_offset(decay)
        slope = remove_offset([d * x for d, x in zip(decay, scaled, strict=True)])
        power = _inner(e, e)
        amplitude = _ratio(_inner(e, centred), power)
        along = _ratio(_inner(e, slope), power)
        residual = [c - amplitude * x for c, x in zip(centred, e, strict=True)]
        jacobian = [amplitude * (d - along * x) for d, x in zip(slope, e, strict=True)]
        return decay, amplitude, residual, jacobian

    def gauss_newton(_: Array, log_tau: Array) -> Array:
        residual, jacobian = linearise(log_tau)[2:]
        step = _ratio(_inner(jacobian, residual), _inner(jacobian, jacobian))
        return jnp.clip(log_tau + step, bracket[0], bracket[1])

    log_tau = jax.lax.fori_loop(0, GAUSS_NEWTON_STEPS, gauss_newton, log_tau)
    decay, amplitude, residual, jacobian = linearise(log_tau)
    sse, information = _inner(residual, residual), _inner(jacobian, jacobian)
    freedom = times.size - (3 if offset else 2)
    tau = jnp.exp(log_tau)
    level = (_total(list(y)) - amplitude * _total(decay)) / times.size
    return Exponential(
        offset=level if offset else jnp.zeros_like(tau),
        amplitude=amplitude,
        tau=tau,
        sse=sse,
        tau_sd=tau * jnp.sqrt(_ratio(_variance(sse, freedom), information)),
        candidate=jnp.zeros_like(tau),
    )


def _variance(sse: Array, freedom: int) -> Array:
    return sse / freedom if freedom > 0 else jnp.full_like(sse, jnp.nan)


def _grid(
    times: Float[Array, " t"], span: tuple[float, float], offset: bool
) -> tuple[Float[Array, " g"], Float[Array, "g t"]]:
    """Logarithmic time constants and, for each, the unit vector the data project on."""
    low, high = jnp.log(jnp.asarray(span, times.dtype))
    log_grid = jnp.linspace(low, high, GRID_POINTS)
    decay = jnp.exp(-times[None] * jnp.exp(-log_grid)[:, None])
    if offset:
        decay -= jnp.mean(decay, axis=-1, keepdims=True)
    norm = jnp.linalg.norm(decay, axis=-1, keepdims=True)
    return log_grid, _ratio(decay, norm)


def _look_locker_sd(fit: Exponential, times: Float[Array, " t"]) -> Float[Array, ""]:
    """Delta method for T1 = T1* (B / A - 1): forward substitution with J = Q R."""
    a, b, tau = fit.offset, -fit.amplitude, fit.tau
    decay = jnp.exp(-times / tau)
    # The model's derivatives with respect to A, B and T1*, and T1's own.
    columns = [jnp.ones_like(decay), -decay, -b * decay * times / tau**2]
    gradient = [-_ratio(tau * b, a**2), _ratio(tau, a), _ratio(b, a) - 1]
    orthonormal: list[Array] = []
    solved: list[Array] = []
    for column, slope in zip(columns, gradient, strict=True):
        for q, z in zip(orthonormal, solved, strict=True):
            overlap = jnp.sum(q * column)
            column = column - overlap * q
            slope = slope - overlap * z
        norm = jnp.linalg.norm(column)
        orthonormal.append(_ratio(column, norm))
        solved.append(_ratio(slope, norm))
    variance = _variance(fit.sse, times.size - 3)
    return jnp.sqrt(variance * sum(z**2 for z in solved))


def _over_pixels(
    fit_pixel: Callable[[Array], Maps], signal: Float[Array, "t *space"], chunk: int
) -> Maps:
    """Map a function of one pixel's series over all pixels, ``chunk`` at a time."""
    pixels = signal.reshape(signal.shape[0], -1).T
    maps = jax.lax.map(fit_pixel, pixels, batch_size=min(chunk, len(pixels)))
    return jax.tree.map(lambda m: m.reshape(signal.shape[1:]), maps)


@functools.partial(jax.jit, static_argnames=("mode", "look_locker", "chunk"))
def _fit_t1(signal, inversion_times, *, mode, look_locker, chunk) -> T1Map:
    order = jnp.argsort(inversion_times)
    times = inversion_times[order]
    t = times.size
    first = jnp.arange(t)
    # Negating all frames is negating none with A and B negated: t candidates suffice.
    flips = {"correct": first, "signed": jnp.array([0]), "official": jnp.array([1])}
    negated = flips[mode]
    signs = jnp.where(first[None] < negated[:, None], -1.0, 1.0).astype(signal.dtype)
    log_grid, basis = _grid(times, T1_STAR_RANGE, offset=True)

    def fit_pixel(series: Float[Array, " t"]) -> T1Map:
        fit = _fit_exponential(
            signs * series[order][None],
            times,
            log_grid,
            basis,
            offset=True,
            sign=0 if mode == "official" else -1,
        )
        a, b, present = fit.offset, -fit.amplitude, jnp.any(series != 0)
        if look_locker:
            t1, t1_sd = fit.tau * (_ratio(b, a) - 1), _look_locker_sd(fit, times)
        else:
            t1, t1_sd = fit.tau, fit.tau_sd
        count = negated.astype(a.dtype)[fit.candidate.astype(jnp.int32)]
        residual = jnp.sqrt(fit.sse / t)
        maps = T1Map(t1, fit.tau, a, b, residual, t1_sd, count)
        return jax.tree.map(lambda m: jnp.where(present, m, 0.0), maps)

    return _over_pixels(fit_pixel, signal, chunk)


def fit_t1(
    signal: Real[Array, "t *space"] | Real[np.ndarray, "t *space"],
    inversion_times: Real[Array, " t"] | Real[np.ndarray, " t"],
    *,
    mode: T1Mode = "correct",
    look_locker: bool = True,
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
        chunk: Pixels fitted at once.

    Returns:
        The maps, of the signal's spatial shape, in floating point.

    Raises:
        ValueError: For an unknown mode, fewer than three frames, or counts that differ.
    """
    if mode not in get_args(T1Mode):
        raise ValueError(f"mode is {mode!r}, expected one of {get_args(T1Mode)}")
    _check_frames(
        signal, inversion_times, "inversion_times", at_least=FRAMES_TO_FIT["t1"]
    )
    return _fit_t1(
        *_floating(signal, inversion_times),
        mode=mode,
        look_locker=look_locker,
        chunk=chunk,
    )


@functools.partial(jax.jit, static_argnames=("method", "chunk"))
def _fit_t2(signal, echo_times, *, method, chunk) -> T2Map:
    t = echo_times.size
    offset = method == "three_parameter"
    log_grid, basis = _grid(echo_times, T2_RANGE, offset)

    def nonlinear(series: Float[Array, " t"]) -> T2Map:
        fit = _fit_exponential(
            series[None], echo_times, log_grid, basis, offset=offset, sign=1
        )
        residual = jnp.sqrt(fit.sse / t)
        return T2Map(fit.tau, fit.amplitude, fit.offset, residual, fit.tau_sd)

    def log_linear(series: Float[Array, " t"]) -> T2Map:
        """Weighted regression of log S on t; what is not positive has no logarithm."""
        positive = series > 0
        weight = positive.astype(series.dtype)
        if method == "weighted_log_linear":
            weight *= series**2  # the variance of log S is that of S over S^2
        log_s = jnp.log(jnp.where(positive, series, 1.0))
        total = jnp.sum(weight)
        x = echo_times - _ratio(jnp.sum(weight * echo_times), total)
        y = log_s - _ratio(jnp.sum(weight * log_s), total)
        power = jnp.sum(weight * x * x)
        rate = -_ratio(jnp.sum(weight * x * y), power)
        if method == "official":
            rate -= np.finfo(np.float32).eps  # as in the script, against 1 / 0
        m0 = jnp.exp(_ratio(jnp.sum(weight * (log_s + rate * echo_times)), total))
        residual = series - m0 * jnp.exp(-rate * echo_times)
        spread = _variance(jnp.sum(weight * (y + rate * x) ** 2), t - 2)
        t2 = _ratio(jnp.ones_like(rate), rate)
        t2_sd = t2**2 * jnp.sqrt(_ratio(spread, power))
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

    return _over_pixels(fit_pixel, signal, chunk)


def fit_t2(
    signal: Real[Array, "t *space"] | Real[np.ndarray, "t *space"],
    echo_times: Real[Array, " t"] | Real[np.ndarray, " t"],
    *,
    method: T2Method = "two_parameter",
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
        chunk: Pixels fitted at once.

    Returns:
        The maps, of the signal's spatial shape, in floating point.

    Raises:
        ValueError: For an unknown method, too few frames, or counts that differ.
    """
    if method not in get_args(T2Method):
        raise ValueError(f"method is {method!r}, expected one of {get_args(T2Method)}")
    least = 3 if method == "three_parameter" else 2
    _check_frames(signal, echo_times, "echo_times", at_least=least)
    return _fit_t2(*_floating(signal, echo_times), method=method, chunk=chunk)


def phase_sensitive(
    images: Complex[Array, "t *space"], inversion_times: Real[Array, " t"]
) -> Float[Array, "t *space"]:
    """Signed inversion-recovery images from complex ones.

    The frame of the longest inversion time is taken to be fully positive; every frame
    is projected on its phase. This restores polarity from a reconstruction's phase
    (Kellman 2002), as long as the null lies before the last frame. Pixels that are
    zero in that frame come out as zero.
    """
    _check_frames(images, inversion_times, "inversion_times", at_least=1)
    last = images[jnp.argmax(inversion_times)]
    size = jnp.abs(last)
    phase = last / jnp.where(size == 0, 1.0, size).astype(last.dtype)
    return jnp.real(images * jnp.conj(phase)[None])


def _floating(*values: Array | np.ndarray) -> list[Array]:
    """All in one floating-point type, float32 at least.

    Integers would be negated, halved and compared with T1* in their own arithmetic, and
    half precision has three digits.
    """
    native = [
        v if isinstance(v, jax.Array) else v.astype(v.dtype.newbyteorder("="))
        for v in values
    ]
    arrays = [jnp.asarray(v) for v in native]
    double = any(a.dtype == jnp.float64 for a in arrays)
    return [a.astype(jnp.float64 if double else jnp.float32) for a in arrays]


def _check_frames(
    signal: Array | np.ndarray, times: Array | np.ndarray, name: str, *, at_least: int
) -> None:
    frames = signal.shape[0] if signal.ndim else 0
    if times.shape != (frames,) or frames < at_least:
        raise ValueError(
            f"{name} has shape {times.shape} and the series {signal.shape}: expected "
            f"one time per frame of the leading axis, {at_least} at least"
        )
