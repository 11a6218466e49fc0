"""fastMRI's protocol for magnitude images (Zbontar et al. 2018, arXiv 1811.08839).

A protocol says what a metric is relative to; the metrics themselves, with their
conventions as arguments, are :mod:`medjax.metrics.images`. The scores of the CMRxRecon
challenges, which change their rule every year, are in
:mod:`medjax.mri.cmrxrecon.evaluation`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.metrics.images import nmse, psnr, ssim


def fastmri_metrics(
    prediction: Float[Array, "d h w"], reference: Float[Array, "d h w"]
) -> dict[str, Float[Array, ""]]:
    """fastMRI's protocol: everything relative to the *volume*.

    SSIM is averaged over slices with the volume's maximum as data range; PSNR and NMSE
    are taken over the whole volume at once.

    Args:
        prediction: slices of one volume.
        reference: ground truth.

    Returns:
        ``nmse``, ``psnr`` and ``ssim``.
    """
    largest = jnp.max(reference)
    flat = (1, -1)
    p, g = prediction.reshape(flat), reference.reshape(flat)
    return {
        "nmse": nmse(p, g),
        "psnr": psnr(p, g, data_range=largest),
        "ssim": jnp.mean(ssim(prediction, reference, data_range=largest)),
    }
