"""SENSE: the linear model of a parallel Cartesian acquisition.

``A = M F S``: the image times each coil's sensitivity, Fourier transformed, sampled.
Axes are ``[*b, c, h, w]`` for coil data and ``[*b, h, w]`` for images. A mask is
boolean and ends in ``h 1`` (readout lines) or ``h w``, without a coil axis. Leading
axes broadcast from the right: one set of maps ``[c, h, w]`` serves all frames
``[t, h, w]``; in a batch of series, maps that frames share are ``[b, 1, c, h, w]``.

The operators here say what the model is, in the plainest form. Everything that iterates
calls ``medjax_kernels.data_consistency``, which computes ``A^H A`` without ever making
k-space and owns the conjugate gradients: :func:`normal` and :func:`solve` are its.

Pruessmann et al. 1999, 2001; the image with unit-norm maps is an orthogonal projection
of the coil images, which is why maps are normalised (:func:`normalise_maps`).
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from medjax.mri.fourier import fft2c, ifft2c
from medjax_kernels.data_consistency import normal_operator as normal
from medjax_kernels.data_consistency import proximal_solve
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation

__all__ = [
    "adjoint",
    "combine",
    "expand",
    "forward",
    "normal",
    "normalise_maps",
    "rss",
    "sample",
    "solve",
]


def expand(
    image: Complex[Array, "*b h w"], maps: Complex[Array, "*m c h w"]
) -> Complex[Array, "*n c h w"]:
    """``S``: one image to coil images.

    Args:
        image: complex images.
        maps: sensitivity maps; leading axes broadcast against the image's.

    Returns:
        Coil images.

    Raises:
        ValueError: where the planes or the leading axes disagree.
    """
    image, maps = _align(image, maps, core=2, name="image")
    return maps * image[..., None, :, :]


def combine(
    coil_images: Complex[Array, "*b c h w"], maps: Complex[Array, "*m c h w"]
) -> Complex[Array, "*n h w"]:
    """``S^H``: coil images to one image, ``sum_c conj(S_c) x_c``.

    Args:
        coil_images: one complex image per coil.
        maps: sensitivity maps; leading axes broadcast.

    Returns:
        Images; for unit-norm maps the least-squares combination.

    Raises:
        ValueError: where the planes or the leading axes disagree.
    """
    coil_images, maps = _align(coil_images, maps, core=3, name="coil_images")
    return jnp.sum(jnp.conj(maps) * coil_images, axis=-3)


def sample(
    kspace: Complex[Array, "*b c h w"], mask: ArrayLike
) -> Complex[Array, "..."]:
    """``M``: zero what was not measured.

    Args:
        kspace: coil k-space.
        mask: boolean, ending in ``h 1``, ``1 w`` or ``h w``, no coil axis, with at most
            the leading axes of k-space.

    Returns:
        Masked k-space.

    Raises:
        ValueError: where the mask does not fit.
    """
    weights = jnp.asarray(mask)[..., None, :, :]
    if weights.ndim > kspace.ndim:
        raise ValueError(
            f"mask of shape {jnp.shape(mask)} has more axes than kspace {kspace.shape}"
        )
    missing = tuple(range(kspace.ndim - weights.ndim))
    weights = jnp.expand_dims(weights, missing).astype(kspace.real.dtype)
    fits = all(m in (1, k) for m, k in zip(weights.shape, kspace.shape, strict=True))
    if not fits:
        raise ValueError(
            f"mask of shape {jnp.shape(mask)} does not fit kspace {kspace.shape}"
        )
    return kspace * weights.astype(kspace.dtype)


def forward(
    image: Complex[Array, "*b h w"], maps: Complex[Array, "*m c h w"], mask: ArrayLike
) -> Complex[Array, "*n c h w"]:
    """``A x = M F S x``: what the scanner measures of an image.

    Args:
        image: complex images.
        maps: sensitivity maps.
        mask: sampling mask, as in :func:`sample`.

    Returns:
        k-space, zero where it was not measured.
    """
    return sample(fft2c(expand(image, maps)), mask)


def adjoint(
    kspace: Complex[Array, "*b c h w"],
    maps: Complex[Array, "*m c h w"],
    mask: ArrayLike,
) -> Complex[Array, "*n h w"]:
    """``A^H y = S^H F^H M y``: the zero-filled, coil-combined image.

    Args:
        kspace: measured k-space.
        maps: sensitivity maps.
        mask: sampling mask, as in :func:`sample`.

    Returns:
        Images.
    """
    return combine(ifft2c(sample(kspace, mask)), maps)


def solve(
    kspace: Complex[Array, "*b c h w"],
    maps: Complex[Array, "*m c h w"],
    mask: ArrayLike,
    *,
    lam: ArrayLike = 0.0,
    prior: Complex[Array, "*n h w"] | None = None,
    iterations: int = 10,
    tolerance: float = 0.0,
    implementation: ConsistencyImplementation | None = None,
) -> Complex[Array, "*n h w"]:
    """``argmin_x |A x - y|^2 + lambda |x - z|^2`` by conjugate gradients.

    Args:
        kspace: measured k-space ``y``.
        maps: sensitivity maps.
        mask: sampling mask.
        lam: ``lambda >= 0``, absolute (maps of unit norm make ``|A^H A| <= 1``).
        prior: ``z``; zero if absent.
        iterations: at most so many.
        tolerance: stop once the residual is below this times that of the start.
        implementation: of the normal operator; None takes the best for platform and
            shape.

    Returns:
        Images. The gradient is implicit, at constant memory.

    Raises:
        NotImplementedError: If the named implementation cannot run here.
    """
    rhs = adjoint(kspace, maps, mask)
    lam = jnp.asarray(lam, rhs.real.dtype)
    if prior is not None:
        rhs = rhs + lam.astype(rhs.dtype) * prior
    return proximal_solve(
        rhs,
        maps,
        mask,
        lam=lam,
        iterations=iterations,
        tolerance=tolerance,
        implementation=implementation,
    )


def rss(coil_images: Complex[Array, "*b c h w"]) -> Float[Array, "*b h w"]:
    """Root of the sum of squares over coils: an image without maps.

    Args:
        coil_images: one complex image per coil.

    Returns:
        Magnitude images. The gradient at exact zeros is zero, not NaN.
    """
    power = jnp.sum(coil_images.real**2 + coil_images.imag**2, axis=-3)
    positive = power > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1.0)), 0.0)


def normalise_maps(
    maps: Complex[Array, "*m c h w"], *, floor: float = 1e-6
) -> Complex[Array, "*m c h w"]:
    """Maps of unit norm over coils, zero where they carry no signal.

    Args:
        maps: sensitivity maps of any scale.
        floor: pixels whose norm is below this times the largest norm become zero.

    Returns:
        Maps with ``sum_c |S_c|^2`` one or zero.
    """
    size = rss(maps)[..., None, :, :]
    largest = jnp.max(size, axis=(-3, -2, -1), keepdims=True)
    keep = size > floor * largest
    unit = maps / jnp.where(keep, size, 1.0).astype(maps.dtype)
    return jnp.where(keep, unit, jnp.zeros((), maps.dtype))


def _align(x: Array, maps: Array, *, core: int, name: str) -> tuple[Array, Array]:
    """Both with equally many leading axes, after checking that they fit.

    Leading axes broadcast by NumPy's rule from the right, as in the kernels.
    """
    rank = max(x.ndim - core, maps.ndim - 3)
    lead = [(1,) * (rank + n - a.ndim) for a, n in ((x, core), (maps, 3))]
    x_shape, maps_shape = lead[0] + x.shape, lead[1] + maps.shape
    pairs = zip(x_shape[:rank], maps_shape[:rank], strict=True)
    fits = all(1 in (a, b) or a == b for a, b in pairs)
    if not fits or x_shape[rank:][-core:] != maps_shape[-3:][-core:]:
        raise ValueError(
            f"{name} of shape {x.shape} does not fit maps of shape {maps.shape}: "
            "expected equal planes, and leading axes that are equal or 1"
        )
    return x.reshape(x_shape), maps.reshape(maps_shape)
