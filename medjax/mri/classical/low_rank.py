"""L+S: a dynamic series as a low-rank background plus a part sparse in its spectrum.

``M = L + S``: the matrix of frames by pixels. L is what all frames have in common up to
a few temporal shapes (anatomy; in mapping, the few distinct relaxation curves), S what
changes, sparse after a Fourier transform over frames. Alternate shrinking of singular
values, shrinking of temporal frequencies, and a step of data consistency.

Otazo, Candes, Sodickson 2015 (MRM 73:1125), algorithm 1.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex

from medjax.mri import sense
from medjax.mri.classical.sparse import soft_threshold
from medjax_kernels import fft


@functools.partial(jax.jit, static_argnames="iterations")
def low_rank_plus_sparse(
    kspace: Complex[Array, "t c h w"],
    maps: Complex[Array, "*m c h w"],
    mask: ArrayLike,
    *,
    lam_low_rank: ArrayLike = 0.01,
    lam_sparse: ArrayLike = 0.005,
    iterations: int = 50,
) -> tuple[Complex[Array, "t h w"], Complex[Array, "t h w"]]:
    """Low-rank and sparse parts of a series; their sum is the reconstruction.

    Args:
        kspace: measured k-space of all frames.
        maps: unit-norm sensitivity maps, shared or per frame.
        mask: sampling mask, ``h 1``/``h w`` or with a leading ``t``.
        lam_low_rank: threshold on singular values, relative to the largest of the
            zero-filled series.
        lam_sparse: threshold on temporal frequencies, relative to the largest magnitude
            of the zero-filled series.
        iterations: rounds.

    Returns:
        ``L`` and ``S``.
    """
    start = sense.adjoint(kspace, maps, mask)
    low_rank_weight = jnp.asarray(lam_low_rank) * _singular_values(start)[-1]
    sparse_weight = jnp.asarray(lam_sparse) * jnp.max(jnp.abs(start))

    def step(
        carry: tuple[Array, Array, Array], _: None
    ) -> tuple[tuple[Array, Array, Array], None]:
        series, low_rank, sparse = carry
        new_low_rank = shrink_singular_values(series - sparse, low_rank_weight)
        frequencies = fft.fftn(series - low_rank, (0,), norm="ortho")
        shrunk = soft_threshold(frequencies, sparse_weight)
        new_sparse = fft.ifftn(shrunk, (0,), norm="ortho")
        both = new_low_rank + new_sparse
        series = both - (sense.normal(both, maps, mask) - start)
        return (series, new_low_rank, new_sparse), None

    initial = (start, start, jnp.zeros_like(start))
    (_, low_rank, sparse), _ = jax.lax.scan(step, initial, None, length=iterations)
    return low_rank, sparse


def shrink_singular_values(
    series: Complex[Array, "t h w"], threshold: ArrayLike
) -> Complex[Array, "t h w"]:
    """Soft-threshold the singular values of the frames-by-pixels matrix.

    Through the Gram matrix of frames: ``U diag(1 - threshold / s)_+ U^H M`` needs no
    decomposition larger than frames by frames.

    Args:
        series: frames.
        threshold: subtracted from every singular value.

    Returns:
        The series of lower nuclear norm.
    """
    matrix = series.reshape(series.shape[0], -1)
    power, vectors = jnp.linalg.eigh(matrix @ jnp.conj(matrix.T))
    singular = jnp.sqrt(jnp.maximum(power, 0))
    safe = jnp.where(singular > 0, singular, 1.0)
    keep = (jnp.maximum(singular - threshold, 0) / safe).astype(matrix.dtype)
    shrunk = (vectors * keep[None]) @ (jnp.conj(vectors.T) @ matrix)
    return shrunk.reshape(series.shape)


def _singular_values(series: Complex[Array, "t h w"]) -> Array:
    """Ascending singular values of the frames-by-pixels matrix."""
    matrix = series.reshape(series.shape[0], -1)
    power = jnp.linalg.eigvalsh(matrix @ jnp.conj(matrix.T))
    return jnp.sqrt(jnp.maximum(power, 0))
