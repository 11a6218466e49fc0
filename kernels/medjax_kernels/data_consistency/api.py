"""The public operations: checks, alignment, and the choice of implementation.

The operator and its solve are here, single steps in :mod:`.updates`.

Let ``S x`` be the coil images of ``x``, ``F`` the centred orthonormal 2-D DFT, ``M``
the sampling mask and ``K = F^H M F``. Every operation is one application of ``K``:

================== ===========================================================
normal_operator    ``A^H A x = S^H K S x``
gradient_step      ``x - eta (A^H A x - b)``
proximal_solve     ``(A^H A + lambda)^-1 r``
blend_image        ``x + K (x_0 - x) / (1 + lambda)``
varnet_update      ``c - eta K (c - c_0) - S r``
================== ===========================================================

(:func:`blend` is the same as :func:`blend_image` for those who hold k-space; it needs
no transform.) Weighted masks are allowed: ``M`` enters once, as the weights of a
weighted least-squares problem.

(An axis written ``_h`` in a signature must equal ``h`` too: the functions check it
themselves, with an error that names the argument.)

``implementation`` names one of :data:`.dispatch.IMPLEMENTATIONS`, which then runs or
raises ``NotImplementedError``; None takes the best for the platform and the shape (and
leaves ``lines`` unused where that is no product with the thin factor).
"""

import functools

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex

from medjax_kernels.data_consistency import layout
from medjax_kernels.data_consistency.dispatch import (
    ConsistencyImplementation,
    choose,
    fused_solve,
    normal,
)
from medjax_kernels.data_consistency.solve import Operator, solve
from medjax_kernels.data_consistency.xla import Precision


def _prepare(
    image: Array, maps: Array, mask: ArrayLike, name: str = "image"
) -> tuple[Array, Array, Array]:
    """Checked and aligned (image, maps, mask); the image has the full leading shape."""
    layout.check_complex(name, image)
    layout.check_complex("maps", maps)
    weights = layout.as_mask(mask, image)
    (image, maps, weights), leading = layout.align(
        {name: (image, 2), "maps": (maps, 3), "mask": (weights, 2)}
    )
    layout.check_plane("maps", maps, image, of=name)
    return jnp.broadcast_to(image, leading + image.shape[-2:]), maps, weights


def normal_operator(
    image: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m _c _h _w"],
    mask: ArrayLike,
    *,
    implementation: ConsistencyImplementation | None = None,
    precision: Precision = "highest",
    lines: int | None = None,
) -> Complex[Array, "*n h w"]:
    """The SENSE normal operator ``A^H A x = sum_c conj(S_c) F^H M F (S_c x)``.

    Args:
        image: complex images, any leading axes.
        maps: coil sensitivity maps; leading axes broadcast against the image's (frames
            sharing their maps: ``[b, 1, c, h, w]``).
        mask: boolean or real sampling weights, centred, ending in ``h 1`` (whole
            readout lines), ``1 w`` or ``h w``; leading axes broadcast.
        implementation: None for the best, or one of :data:`.dispatch.IMPLEMENTATIONS`.
        precision: of matrix products: ``"highest"`` keeps float32's accuracy.
        lines: static upper bound on the sampled lines of each line mask, for the thin
            matrix form; a mask with more lines then gives NaN.

    Returns:
        Images with the broadcast leading axes. Differentiable in all three arrays.

    Raises:
        ValueError: if shapes, dtypes or options do not fit.
        NotImplementedError: if the named implementation cannot run this.
    """
    image, maps, weights = _prepare(image, maps, mask)
    pixels = image.size * maps.shape[-3]
    implementation, lines = choose(
        implementation, precision, lines, image, weights, pixels=pixels
    )
    return normal(
        image,
        maps,
        weights,
        implementation=implementation,
        lines=lines,
        precision=precision,
    )


def proximal_solve(
    rhs: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m _c _h _w"],
    mask: ArrayLike,
    *,
    lam: ArrayLike,
    iterations: int = 10,
    tolerance: float = 0.0,
    per_readout: bool = False,
    implementation: ConsistencyImplementation | None = None,
    precision: Precision = "highest",
    lines: int | None = None,
) -> Complex[Array, "*n h w"]:
    """Solve ``(A^H A + lambda) x = r`` by conjugate gradients from zero.

    With ``r = A^H y + lambda z`` this is MoDL's data-consistency layer. The gradient is
    implicit (:mod:`.solve`): exact for the converged solution, at constant memory.

    Args:
        rhs: right-hand sides ``r``, any leading axes.
        maps: coil sensitivity maps, as for :func:`normal_operator`.
        mask: sampling weights, non-negative, as for :func:`normal_operator`.
        lam: ``lambda >= 0``, a real scalar or one value per leading axis.
        iterations: at most so many.
        tolerance: stop an image (a readout position) once its residual norm is below
            this times that of ``rhs``; 0 runs all iterations.
        per_readout: one recurrence per readout position instead of one per image; needs
            a line mask, which is what makes the positions independent. On a TPU or a
            Hopper GPU the whole solve then stays on the chip where the maps fit there.
        implementation: None for the best, or one of :data:`.dispatch.IMPLEMENTATIONS`.
        precision: of matrix products.
        lines: static upper bound on the sampled lines of each line mask.

    Returns:
        Solutions with the broadcast leading axes. Differentiable in every array.

    Raises:
        ValueError: if shapes, dtypes or options do not fit.
        NotImplementedError: if the named implementation cannot run this.
    """
    rhs, maps, weights = _prepare(rhs, maps, mask, name="rhs")
    implementation, lines = choose(
        implementation, precision, lines, rhs, weights, pixels=0
    )
    axis = layout.sampled_axis(weights)
    if iterations < 1 or tolerance < 0:
        raise ValueError(
            "iterations must be at least 1 and tolerance at least 0, "
            f"got {iterations} and {tolerance}"
        )
    if per_readout and axis is None:
        raise ValueError(
            f"per_readout needs a line mask, got a mask of shape {weights.shape}"
        )
    shrink = layout.per_sample("lam", lam, rhs.ndim - 2, rhs)
    # FFTs run along the last axis: turn once here, not in every iteration.
    turn = axis == -2 and implementation == "xla_fft"
    if turn:
        rhs, maps, weights = (a.swapaxes(-1, -2) for a in (rhs, maps, weights))
        axis = -1
    operator: Operator = functools.partial(
        normal, implementation=implementation, lines=lines, precision=precision
    )
    blocks, fused = (-2, -1), None
    if per_readout and axis is not None:
        blocks = (axis,)
        fused = fused_solve(
            implementation,
            maps,
            weights,
            lines=lines,
            iterations=iterations,
            tolerance=tolerance,
            precision=precision,
        )
    x = solve(
        operator,
        rhs,
        maps,
        weights,
        shrink,
        axes=blocks,
        iterations=iterations,
        tolerance=tolerance,
        fused=fused,
    )
    return x.swapaxes(-1, -2) if turn else x
