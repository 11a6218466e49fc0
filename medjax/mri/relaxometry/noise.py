"""The noise floor of magnitude images: Rician likelihood, and how large the noise is.

The magnitude of a complex signal ``v`` with noise of standard deviation ``sigma`` in
either part is Rician. Where ``v`` is small it reads too high (pure noise reads
``1.25 sigma``), so late echoes and the frames around a null bend a least-squares fit:
a T2 of 30 ms at an amplitude of ten ``sigma`` reads 40 ms and more.

The phase that the magnitude has lost is a hidden variable. Its expectation under the
present fit turns every magnitude ``y`` into ``y I1(z) / I0(z)``, ``z = y v / sigma^2``,
and least squares to those is the next fit: expectation maximisation, which climbs to
the fit of largest Rician likelihood (the ratio is odd in ``v``, so that the sign of a
frame of an inversion recovery comes from the model). Standard errors come from the
Fisher information of a Rician frame, which vanishes with the signal.

For images of one coil or of a combination by sensitivity maps. The root sum of squares
of many coils has a higher floor.

Gudbjartsson and Patz 1995; Sijbers et al. 1998; McGibney and Smith 1993.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, Float
from scipy.special import ive

from medjax.mri.relaxometry.exponential import Exponential

EM_STEPS = 60
RAYLEIGH_MEDIAN = 1.17741
"""sqrt(2 ln 2): the median of pure noise in units of sigma."""
RAYLEIGH_SPREAD = 0.5227
"""Standard deviation of pure noise over its mean, sqrt(4 / pi - 1)."""
STRONGEST_IN_TABLE = 8.0


def expected_signal(
    magnitude: Float[Array, " t"], model: Float[Array, " t"], sigma: Float[Array, ""]
) -> Float[Array, " t"]:
    """Signed signal behind magnitudes, expected where ``model`` is the truth."""
    z = magnitude * model / sigma**2
    return magnitude * i1e(z) / i0e(z)


def rician_mean(
    model: Float[Array, " t"], sigma: Float[Array, ""]
) -> Float[Array, " t"]:
    """What magnitudes read on average."""
    x = (model / sigma) ** 2 / 4
    return sigma * np.sqrt(np.pi / 2) * ((1 + 2 * x) * i0e(x) + 2 * x * i1e(x))


@functools.cache
def _information_table() -> tuple[np.ndarray, np.ndarray]:
    """Signal over sigma, and the Fisher information of a frame times sigma squared."""
    signal = np.linspace(0, STRONGEST_IN_TABLE, 81)
    y = np.linspace(0, STRONGEST_IN_TABLE + 8, 4001)
    z = y * signal[:, None]
    density = y * np.exp(-((y - signal[:, None]) ** 2) / 2) * ive(0, z)
    power = y**2 * (ive(1, z) / ive(0, z)) ** 2
    information = np.trapezoid(density * power, y, axis=1) - signal**2
    return signal, np.clip(information, 0, 1)


def information(
    model: Float[Array, " t"], sigma: Float[Array, ""]
) -> Float[Array, " t"]:
    """Fisher information of each frame about its signal, times sigma squared.

    One for a signal far above the noise, zero for none.
    """
    signal, known = (jnp.asarray(x, model.dtype) for x in _information_table())
    return jnp.interp(jnp.abs(model) / sigma, signal, known)


def maximise_likelihood(
    magnitude: Float[Array, " t"],
    times: Float[Array, " t"],
    start: Exponential,
    sigma: Float[Array, ""],
    refit: Callable[[Float[Array, " t"]], Exponential],
) -> Exponential:
    """The fit of largest Rician likelihood, from a least-squares fit on.

    Args:
        magnitude: Of one pixel.
        times: ms.
        start: The fit to begin with.
        sigma: Of the noise.
        refit: Least squares to a signed series.

    Returns:
        The fit; ``sse`` is of the magnitudes about their Rician means.
    """

    def model(fit: Exponential) -> Array:
        return fit.offset + fit.amplitude * jnp.exp(-times / fit.tau)

    def step(_: Array, fit: Exponential) -> Exponential:
        found = refit(expected_signal(magnitude, model(fit), sigma))
        return found._replace(candidate=fit.candidate)

    fit = jax.lax.fori_loop(0, EM_STEPS, step, start)
    residual = magnitude - rician_mean(model(fit), sigma)
    return fit._replace(sse=jnp.sum(residual**2))


def estimate_sigma(signal: Float[np.ndarray, "t *space h w"]) -> float:
    """Noise of magnitude images, from the air in their corners.

    Args:
        signal: A series; its corners, an eighth of each side, are taken to hold no
            object in any frame, or those as quiet as the quietest where some do.

    Returns:
        Sigma of the real and the imaginary part.

    Raises:
        ValueError: Where the corners are zero, or do not look like noise: masked,
            filtered or filled by the object.
    """
    h, w = signal.shape[-2:]
    y, x = max(h // 8, 2), max(w // 8, 2)
    patches = [
        signal[..., rows, columns].reshape(len(signal), -1)
        for rows in (slice(y), slice(-y, None))
        for columns in (slice(x), slice(-x, None))
    ]
    every = np.stack([p.astype(np.float64) for p in patches])
    # Those as quiet as the quietest: an arm may fill one.
    levels = np.median(every, axis=(1, 2))
    air = every[levels <= 1.3 * levels.min()].ravel()
    if (air == 0).mean() > 0.05:
        raise ValueError(
            "sigma: the corners of the images are set to zero, and noise cannot be "
            "measured there: give sigma"
        )
    spread = air.std() / air.mean()
    if not 0.8 * RAYLEIGH_SPREAD < spread < 1.2 * RAYLEIGH_SPREAD:
        raise ValueError(
            f"sigma: the corners of the images hold no plain noise (spread over mean "
            f"{spread:.2f}, expected {RAYLEIGH_SPREAD:.2f}): give sigma"
        )
    return float(np.median(air) / RAYLEIGH_MEDIAN)
