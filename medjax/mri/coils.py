"""Receiver coils: whitening, compression, and sensitivity maps from calibration lines.

Cheap maps come from coil images: *Walsh* takes the dominant eigenvector of the local
coil covariance, *Inati* finds the same by a smoothed power iteration whose phase is
consistent over the image. *ESPIRiT* (:mod:`medjax.mri.espirit`) works in k-space.

Walsh et al. 2000; Inati, Hansen, Kellman 2013 (ISMRM 2672) and 2014 (ISMRM 4407);
compression by singular vectors: Buehrer et al. 2007, Huang et al. 2008.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from medjax.mri.fourier import (
    centre_crop,
    centre_pad,
    centred_fft,
    centred_ifft,
    ifft2c,
)
from medjax.mri.sense import normalise_maps, rss


def whiten(
    kspace: Complex[Array, "*b c h w"], covariance: Complex[Array, "c c"]
) -> Complex[Array, "*b c h w"]:
    """Make the noise of all coils independent and of unit variance.

    Args:
        kspace: coil k-space (or images).
        covariance: noise covariance, Hermitian and positive definite.

    Returns:
        ``L^-1 kspace`` with ``covariance = L L^H``.
    """
    root = jnp.linalg.cholesky(covariance)
    inverse = jax.scipy.linalg.solve_triangular(
        root, jnp.eye(root.shape[0], dtype=root.dtype), lower=True
    )
    return jnp.einsum("vc,...chw->...vhw", inverse, kspace)


def compression_matrix(
    calibration: Complex[Array, "*b c h w"], *, virtual: int
) -> Complex[Array, "v c"]:
    """The ``virtual`` combinations of coils that keep most of the signal.

    Args:
        calibration: k-space to learn from: the central lines, or all of it.
        virtual: number of virtual coils, at most the number of coils.

    Returns:
        Orthonormal rows, strongest first.

    Raises:
        ValueError: where ``virtual`` is out of range.
    """
    coils = calibration.shape[-3]
    if not 1 <= virtual <= coils:
        raise ValueError(f"virtual={virtual} is not in 1..{coils} coils")
    # The covariance is c x c however long the data are.
    covariance = jnp.einsum("...chw,...dhw->cd", calibration, jnp.conj(calibration))
    _, vectors = jnp.linalg.eigh(covariance)
    return jnp.conj(vectors[:, ::-1][:, :virtual].T)


def geometric_compression(
    calibration: Complex[Array, "*b c h w"], *, virtual: int
) -> Complex[Array, "w v c"]:
    """The same for every readout position by itself (Zhang et al. 2013, MRM 69:571).

    Coils are sensitive to places, so the best few combinations differ along the
    readout, which is fully sampled and can be transformed at once. Neighbouring
    combinations span nearly the same coils but turn freely within them; each is turned
    towards the one before, from the middle outwards, so that the virtual coils are
    smooth along the readout, as sensitivity maps have to be.

    Args:
        calibration: k-space of whole lines.
        virtual: number of virtual coils, at most the number of coils.

    Returns:
        Orthonormal rows for every readout position.

    Raises:
        ValueError: where ``virtual`` is out of range.
    """
    coils, w = calibration.shape[-3], calibration.shape[-1]
    if not 1 <= virtual <= coils:
        raise ValueError(f"virtual={virtual} is not in 1..{coils} coils")
    hybrid = centred_ifft(calibration, axes=(-1,))
    covariance = jnp.einsum("...chw,...dhw->wcd", hybrid, jnp.conj(hybrid))
    _, vectors = jnp.linalg.eigh(covariance)
    best = jnp.conj(jnp.swapaxes(vectors[..., ::-1][..., :virtual], -1, -2))

    def towards(before: Array, now: Array) -> tuple[Array, Array]:
        left, _, right = jnp.linalg.svd(before @ jnp.conj(now.T))
        turned = left @ right @ now
        return turned, turned

    middle = w // 2
    _, after = jax.lax.scan(towards, best[middle], best[middle + 1 :])
    _, before = jax.lax.scan(towards, best[middle], best[:middle], reverse=True)
    return jnp.concatenate([before, best[middle : middle + 1], after])


def compress(
    kspace: Complex[Array, "*b c h w"],
    matrix: Complex[Array, "*x v c"],
    *,
    image: bool = False,
) -> Complex[Array, "*b v h w"]:
    """Combine coils to virtual coils.

    Args:
        kspace: coil k-space, coil images, or sensitivity maps.
        matrix: from :func:`compression_matrix` or :func:`geometric_compression`.
        image: whether ``kspace`` is images or maps; where there is a matrix for every
            readout position, k-space has to be transformed there and back.

    Returns:
        The same with virtual coils.
    """
    if matrix.ndim == 2:
        return jnp.einsum("vc,...chw->...vhw", matrix, kspace)
    there = kspace if image else centred_ifft(kspace, axes=(-1,))
    virtual = jnp.einsum("wvc,...chw->...vhw", matrix, there)
    return virtual if image else centred_fft(virtual, axes=(-1,))


def noise_covariance(samples: Complex[Array, "c n"]) -> Complex[Array, "c c"]:
    """Covariance of the coils' noise, from samples without any signal.

    Args:
        samples: of a noise scan; their mean is taken off.
    """
    centred = samples - jnp.mean(samples, axis=1, keepdims=True)
    count = jnp.asarray(max(samples.shape[1] - 1, 1), samples.dtype)
    return centred @ jnp.conj(centred.T) / count


@functools.partial(jax.jit, static_argnames=("acs", "columns"))
def low_resolution(
    kspace: Complex[Array, "*b c h w"], *, acs: int, columns: int | None = None
) -> Complex[Array, "*b c h w"]:
    """Coil images from the central lines alone, apodised against ringing.

    Args:
        kspace: coil k-space with fully sampled central lines.
        acs: number of central lines to use.
        columns: central columns to use; all of them if absent.

    Returns:
        Coil images of the full matrix.
    """
    h, w = kspace.shape[-2:]
    columns = columns or w
    centre = centre_crop(kspace, height=acs, width=columns)
    across = _hann(columns) if columns < w else np.ones(w)
    window = jnp.asarray(np.outer(_hann(acs), across), kspace.dtype)
    centre = centre * jnp.expand_dims(window, tuple(range(kspace.ndim - 2)))
    return ifft2c(centre_pad(centre, height=h, width=w))


@functools.partial(jax.jit, static_argnames="smoothing")
def walsh_maps(
    coil_images: Complex[Array, "*b c h w"], *, smoothing: int = 5
) -> Complex[Array, "*b c h w"]:
    """Dominant eigenvector of the coil covariance around each pixel (Walsh 2000).

    Args:
        coil_images: images of the coils, e.g. from :func:`low_resolution`.
        smoothing: side of the square neighbourhood in pixels, odd.

    Returns:
        Unit-norm maps, real and positive in the coil that is strongest overall.
    """
    coil_images = at_unit_scale(coil_images)
    product = coil_images[..., :, None, :, :] * jnp.conj(
        coil_images[..., None, :, :, :]
    )
    covariance = jnp.moveaxis(box_mean(product, size=smoothing), (-4, -3), (-2, -1))
    _, vectors = jnp.linalg.eigh(covariance)
    maps = jnp.moveaxis(vectors[..., -1], -1, -3)
    return _phase_to_strongest(maps, coil_images)


@functools.partial(jax.jit, static_argnames=("smoothing", "iterations"))
def inati_maps(
    coil_images: Complex[Array, "*b c h w"],
    *,
    smoothing: int = 5,
    iterations: int = 15,
) -> Complex[Array, "*b c h w"]:
    """Smoothed power iteration with a phase that is consistent over the image.

    One round: maps are the smoothed product of coil images and the conjugate of the
    current combination, brought to unit norm; the combination is then formed anew, and
    its arbitrary phase is fixed by what it has in common with the mean coil image. The
    published code stops at a relative change of 1e-3; this always runs ``iterations``.

    Args:
        coil_images: images of the coils, e.g. from :func:`low_resolution`.
        smoothing: side of the square neighbourhood in pixels, odd.
        iterations: rounds of the power iteration.

    Returns:
        Unit-norm maps.
    """
    coil_images = at_unit_scale(coil_images)
    tiny = jnp.finfo(coil_images.real.dtype).tiny

    def mean_direction(a: Array) -> Array:
        total = jnp.sum(a, axis=(-2, -1), keepdims=True)
        size = jnp.linalg.norm(total, axis=-3, keepdims=True)
        return total / jnp.maximum(size, tiny).astype(total.dtype)

    def project(direction: Array, a: Array) -> Array:
        return jnp.sum(jnp.conj(direction) * a, axis=-3, keepdims=True)

    def one_round(combined: Array, _: None) -> tuple[Array, Array]:
        maps = box_mean(coil_images * jnp.conj(combined), size=smoothing)
        size = jnp.linalg.norm(maps, axis=-3, keepdims=True)
        maps = maps / jnp.maximum(size, tiny).astype(maps.dtype)
        combined = project(maps, coil_images)
        phase = unit_phase(project(mean_direction(maps * combined), maps))
        return combined * phase, maps * jnp.conj(phase)

    start = project(mean_direction(coil_images), coil_images)
    _, every = jax.lax.scan(one_round, start, None, length=iterations)
    return normalise_maps(every[-1])


def at_unit_scale(
    coil_images: Complex[Array, "*b c h w"],
) -> Complex[Array, "*b c h w"]:
    """The same images, the largest real or imaginary part of each set in [1, 2).

    Maps do not depend on the unit of k-space, but products of four image values do:
    in float32 they vanish for images of 1e-10. The factor is a power of two, so that
    nothing is rounded.

    Args:
        coil_images: images of the coils; sets of zeros stay zeros.

    Returns:
        Coil images of another unit.
    """
    parts = jnp.maximum(jnp.abs(coil_images.real), jnp.abs(coil_images.imag))
    largest = jnp.max(parts, axis=(-3, -2, -1), keepdims=True)
    _, exponent = jnp.frexp(jax.lax.stop_gradient(largest))
    # Bounded, as the factor itself has to be a float.
    factor = jnp.ldexp(jnp.ones_like(largest), jnp.clip(1 - exponent, -126, 126))
    return coil_images * factor.astype(coil_images.dtype)


def box_mean(x: Complex[Array, "*b h w"], *, size: int) -> Complex[Array, "*b h w"]:
    """Mean over a square neighbourhood; beyond the border counts as zero.

    Args:
        x: images.
        size: side of the square in pixels, odd.

    Returns:
        Smoothed images.

    Raises:
        ValueError: for an even size, which has no centre.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"smoothing must be odd and positive, got {size}")
    for axis in (-2, -1):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (size // 2, size // 2)
        padded = jnp.pad(x, pad)
        n = x.shape[axis]
        shifted = [
            jax.lax.slice_in_dim(padded, i, i + n, axis=axis % x.ndim)
            for i in range(size)
        ]
        x = jnp.sum(jnp.stack(shifted), axis=0) / size
    return x


def _phase_to_strongest(maps: Array, coil_images: Array) -> Array:
    """Turn each pixel's maps so that the strongest coil is real and positive."""
    energy = jnp.sum(rss(coil_images[..., None, :, :]) ** 2, axis=(-2, -1))
    strongest = jnp.argmax(energy, axis=-1)[..., None, None, None]
    reference = jnp.take_along_axis(maps, strongest, axis=-3)
    return maps * jnp.conj(unit_phase(reference))


def unit_phase(x: Complex[Array, "..."]) -> Complex[Array, "..."]:
    """``x / |x|``, and one where ``x`` is zero.

    Args:
        x: complex array.

    Returns:
        Complex numbers of magnitude one.
    """
    size = jnp.abs(x)
    unit = x / jnp.where(size > 0, size, 1.0).astype(x.dtype)
    return jnp.where(size > 0, unit, jnp.ones((), x.dtype))


def _hann(n: int) -> Float[np.ndarray, " n"]:
    """A Hann window without zeros at its ends, its middle at ``n // 2``."""
    return 0.5 * (1 + np.cos(2 * np.pi * (np.arange(n) - n // 2) / (n + 1)))
