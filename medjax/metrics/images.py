"""SSIM, PSNR and NMSE with nothing implicit.

The conventions that papers leave unsaid are arguments here. ``data_range`` has no
default, because own-maximum, volume-maximum and 99.5-percentile scores of the same
image differ by more than the methods compared. The window of SSIM is uniform, and only
windows that lie inside the image count. Its variances are sample variances (n - 1, as
scikit-image's defaults and fastMRI have them) or those of the population (n, as MONAI's
uniform window has them): for a 7x7 window the two differ by 49/48.

Wang et al. 2004, IEEE TIP 13(4) (SSIM). Protocols of a domain, which say what the data
range is, stand in the domain: :mod:`medjax.mri.evaluation`.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

WINDOW = 7


def nmse(
    prediction: Float[Array, "*b h w"], reference: Float[Array, "*b h w"]
) -> Float[Array, "*b"]:
    """``|p - g|^2 / |g|^2`` per image.

    Args:
        prediction: images.
        reference: ground truth.

    Returns:
        One number per image; lower is better.
    """
    error = jnp.sum((prediction - reference) ** 2, axis=(-2, -1))
    return error / jnp.sum(reference**2, axis=(-2, -1))


def psnr(
    prediction: Float[Array, "*b h w"],
    reference: Float[Array, "*b h w"],
    *,
    data_range: ArrayLike,
) -> Float[Array, "*b"]:
    """``10 log10(data_range^2 / mean squared error)`` per image, in dB.

    Args:
        prediction: images.
        reference: ground truth.
        data_range: a number, or one per image.

    Returns:
        One number per image; infinite for equal images.
    """
    error = jnp.mean((prediction - reference) ** 2, axis=(-2, -1))
    largest = jnp.asarray(data_range, prediction.dtype)
    return 20 * jnp.log10(largest) - 10 * jnp.log10(error)


@functools.partial(jax.jit, static_argnames=("window", "covariance"))
def ssim(
    prediction: Float[Array, "*b h w"],
    reference: Float[Array, "*b h w"],
    *,
    data_range: ArrayLike,
    window: int = WINDOW,
    covariance: Literal["sample", "population"] = "sample",
) -> Float[Array, "*b"]:
    """Structural similarity per image under a uniform window.

    Args:
        prediction: images of at least ``window`` pixels on each side.
        reference: ground truth.
        data_range: a number, or one per image.
        window: side of the window, odd.
        covariance: ``sample`` divides by n - 1 (scikit-image, fastMRI), ``population``
            by n (MONAI).

    Returns:
        One number per image, at most 1. Differentiable: ``1 - ssim`` is a loss.

    Raises:
        ValueError: where the window is even or larger than the image.
    """
    h, w = reference.shape[-2:]
    if window % 2 == 0 or not 1 < window <= min(h, w):
        raise ValueError(f"window={window} must be odd and fit in images of {h}x{w}")
    largest = jnp.asarray(data_range, reference.dtype)
    if largest.ndim:
        largest = largest[..., None, None]
    c1, c2 = 0.01**2, 0.03**2
    # In units of the data range: below are fourth powers of intensities, and in the
    # gradient eighth ones, which vanish in float32 for k-space in a scanner's units.
    prediction, reference = prediction / largest, reference / largest
    # Variances are differences of large numbers; a common shift keeps their digits.
    shift = jnp.mean(reference, axis=(-2, -1), keepdims=True)
    p, g = prediction - shift, reference - shift
    mp, mg = _window_mean(p, window), _window_mean(g, window)
    n = window**2
    scale = n / (n - 1) if covariance == "sample" else 1.0
    vp = scale * (_window_mean(p * p, window) - mp * mp)
    vg = scale * (_window_mean(g * g, window) - mg * mg)
    vpg = scale * (_window_mean(p * g, window) - mp * mg)
    mp, mg = mp + shift, mg + shift
    likeness = (2 * mp * mg + c1) * (2 * vpg + c2)
    largest_likeness = (mp * mp + mg * mg + c1) * (vp + vg + c2)
    return jnp.mean(likeness / largest_likeness, axis=(-2, -1))


def _window_mean(x: Array, window: int) -> Array:
    """Mean over every window that lies inside the image."""
    for axis in (x.ndim - 2, x.ndim - 1):
        n = x.shape[axis] - window + 1
        parts = [jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i in range(window)]
        x = jnp.mean(jnp.stack(parts), axis=0)
    return x
