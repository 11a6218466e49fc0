"""ESPIRiT: sensitivity maps as eigenvectors of k-space's own linear relations.

Patches of fully sampled central k-space lie in a low-dimensional space, because coil
images are one image times smooth maps. Let ``P`` project on that space, patches being
``k x k`` samples of all coils. Requiring every patch of k-space to stay in it is a
convolution, hence in image space a small Hermitian matrix ``G(r)`` (coils x coils) per
pixel; maps are its eigenvectors of eigenvalue one, several where the field of view
folds (Uecker et al. 2014, MRM 71:990).

``G`` is computed from ``P`` directly: entries of ``P`` that belong to the same
difference of positions are summed to a ``(2k-1) x (2k-1)`` kernel and Fourier
transformed, one transform per pair of coils, where stacking the image-space kernels
would need one per kernel and coil.

Defaults follow sigpy (calibration 24, kernel 6, threshold 0.02, crop 0.95, phase of
the first coil as reference); its 100 power iterations are an exact ``eigh`` here, which
also gives further sets of maps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from medjax.mri.coils import unit_phase
from medjax.mri.fourier import centre_crop
from medjax_kernels import fft


@functools.partial(
    jax.jit, static_argnames=("calibration", "kernel", "threshold", "crop", "sets")
)
def espirit_maps(
    kspace: Complex[Array, "c h w"],
    *,
    calibration: int = 24,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    sets: int = 1,
) -> tuple[Complex[Array, "sets c h w"], Float[Array, "sets h w"]]:
    """Sensitivity maps and their eigenvalues from fully sampled central k-space.

    Args:
        kspace: coil k-space; only its central square is read.
        calibration: side of that square.
        kernel: side of the patches.
        threshold: singular values below this times the largest count as noise.
        crop: maps are zero where their eigenvalue is below this.
        sets: number of map sets, strongest first; a second one is needed where the
            object is larger than the field of view.

    Returns:
        Maps of unit norm (zero where cropped), first coil real and positive, and
        eigenvalues in ``[0, 1]``.

    Raises:
        ValueError: where the calibration square does not hold the kernel or does not
            fit in k-space, or more sets are asked for than there are coils.
    """
    c, h, w = kspace.shape
    if not kernel <= calibration <= min(h, w):
        raise ValueError(
            f"calibration={calibration} must be at least the kernel ({kernel}) and at "
            f"most the matrix ({h}x{w})"
        )
    if not 1 <= sets <= c:
        raise ValueError(f"sets={sets} is not in 1..{c} coils")
    square = centre_crop(kspace, height=calibration, width=calibration)
    projector = _signal_projector(square, kernel, threshold)
    operator = _image_operator(projector, c, kernel, h, w)
    values, vectors = jnp.linalg.eigh(operator)
    values, vectors = values[..., ::-1][..., :sets], vectors[..., ::-1][..., :sets]
    maps = jnp.moveaxis(vectors, (-1, -2), (0, 1))
    values = jnp.moveaxis(values, -1, 0)
    maps = maps * jnp.conj(unit_phase(maps[:, :1]))
    maps = jnp.where((values > crop)[:, None], maps, jnp.zeros((), maps.dtype))
    return maps, values


def _signal_projector(
    square: Complex[Array, "c n n"], kernel: int, threshold: float
) -> Complex[Array, "ck ck"]:
    """Projector on the row space of the matrix of all patches."""
    c, n, _ = square.shape
    start = np.arange(n - kernel + 1)
    offset = np.arange(kernel)
    rows = (start[:, None] + offset)[:, None, :, None]
    columns = (start[:, None] + offset)[None, :, None, :]
    patches = square[:, rows, columns]  # c, start, start, kernel, kernel
    matrix = jnp.moveaxis(patches, 0, 2).reshape(start.size**2, c * kernel * kernel)
    _, singular, rows_h = jnp.linalg.svd(matrix, full_matrices=False)
    signal = (singular > threshold * singular[0]).astype(matrix.dtype)
    # A patch is a combination of the rows themselves, not of their conjugates.
    return jnp.einsum("ki,k,kj->ij", rows_h, signal, jnp.conj(rows_h))


def _image_operator(
    projector: Complex[Array, "ck ck"], c: int, kernel: int, h: int, w: int
) -> Complex[Array, "h w c c"]:
    """``G(r)``: the projector averaged over patch positions, in image space."""
    blocks = projector.reshape(c, kernel, kernel, c, kernel, kernel)
    difference = np.arange(kernel)[:, None] - np.arange(kernel)[None]
    centre_h, centre_w = h // 2, w // 2
    # In k-space, sample (u, i) receives P[(i,u),(j,v)] from sample (v, j): an offset
    # u - v. Patches wrap where the matrix is smaller than twice the kernel.
    dy = (centre_h + difference[:, None, :, None]) % h
    dx = (centre_w + difference[None, :, None, :]) % w
    values = jnp.transpose(blocks, (1, 2, 4, 5, 0, 3))  # u_y u_x v_y v_x i j
    filters = jnp.zeros((h, w, c, c), projector.dtype).at[dy, dx].add(values)
    shifted = jnp.fft.ifftshift(filters, axes=(0, 1))
    spectrum = fft.ifftn(shifted, (0, 1)) * (h * w / kernel**2)
    return jnp.fft.fftshift(spectrum, axes=(0, 1))
