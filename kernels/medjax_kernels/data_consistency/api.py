"""The public operations: checks, alignment, and the choice of implementation.

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
    project,
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


def gradient_step(
    image: Complex[Array, "*b h w"],
    maps: Complex[Array, "*m _c _h _w"],
    mask: ArrayLike,
    adjoint_data: Complex[Array, "*a _h _w"],
    *,
    step_size: ArrayLike,
    implementation: ConsistencyImplementation | None = None,
    precision: Precision = "highest",
    lines: int | None = None,
) -> Complex[Array, "*n h w"]:
    """One step down the data term: ``x - eta (A^H A x - b)``.

    Args:
        image: complex images, any leading axes.
        maps: coil sensitivity maps, as for :func:`normal_operator`.
        mask: sampling weights, as for :func:`normal_operator`.
        adjoint_data: ``b = A^H y``, the zero-filled reconstruction of the data.
        step_size: ``eta``, a real scalar or one value per leading axis.
        implementation: None for the best, or one of :data:`.dispatch.IMPLEMENTATIONS`.
        precision: of matrix products.
        lines: static upper bound on the sampled lines of each line mask.

    Returns:
        Images with the broadcast leading axes. Differentiable in every array.

    Raises:
        ValueError: if shapes, dtypes or options do not fit.
        NotImplementedError: if the named implementation cannot run this.
    """
    layout.check_complex("adjoint_data", adjoint_data)
    layout.check_plane("adjoint_data", adjoint_data, image)
    applied = normal_operator(
        image,
        maps,
        mask,
        implementation=implementation,
        precision=precision,
        lines=lines,
    )
    (image, applied, data), leading = layout.align(
        {
            "image": (image, 2),
            "A^H A x": (applied, 2),
            "adjoint_data": (adjoint_data, 2),
        }
    )
    eta = layout.per_sample("step_size", step_size, len(leading), image)
    return image - layout.scale(applied - data, eta)


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


def _blend_weight(mask: Array, lam: ArrayLike | None, rank: int, like: Array) -> Array:
    """``m / (1 + lambda)``; the mask itself for hard consistency."""
    if lam is None:
        return mask
    return mask / (1 + layout.per_sample("lam", lam, rank, like))


def blend(
    kspace: Complex[Array, "*b h w"],
    measured: Complex[Array, "*m _h _w"],
    mask: ArrayLike,
    *,
    lam: ArrayLike | None = None,
) -> Complex[Array, "*n h w"]:
    """Put measured samples into predicted k-space: ``(1 - w) k + w k_0``.

    ``w = m / (1 + lambda)``: on sampled positions the minimiser of
    ``|k' - k_0|^2 + lambda |k' - k|^2``, so ``lambda`` weighs the prediction, as in
    :func:`proximal_solve`. (Schlemper et al. 2017 write ``1 / lambda``.)

    Args:
        kspace: predicted k-space, centred, any leading axes.
        measured: measured k-space; what stands outside the mask is ignored.
        mask: sampling weights, as for :func:`normal_operator`.
        lam: ``lambda >= 0``, scalar or one value per leading axis; None or 0 replaces
            the samples (hard consistency).

    Returns:
        k-space with the broadcast leading axes. Differentiable in every array.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    layout.check_complex("kspace", kspace)
    layout.check_complex("measured", measured)
    weights = layout.as_mask(mask, kspace)
    (kspace, measured, weights), leading = layout.align(
        {"kspace": (kspace, 2), "measured": (measured, 2), "mask": (weights, 2)}
    )
    layout.check_plane("measured", measured, kspace, of="kspace")
    w = _blend_weight(weights, lam, len(leading), kspace)
    return kspace + layout.scale(measured - kspace, w)


def blend_image(
    image: Complex[Array, "*b h w"],
    measured_image: Complex[Array, "*m _h _w"],
    mask: ArrayLike,
    *,
    lam: ArrayLike | None = None,
    implementation: ConsistencyImplementation | None = None,
    precision: Precision = "highest",
    lines: int | None = None,
) -> Complex[Array, "*n h w"]:
    """:func:`blend` from image to image: ``x + K (x_0 - x) / (1 + lambda)``.

    Args:
        image: predicted single-coil images, any leading axes.
        measured_image: the zero-filled reconstruction ``x_0 = F^H k_0``.
        mask: sampling weights, as for :func:`normal_operator`.
        lam: as for :func:`blend`; None or 0 is hard consistency.
        implementation: None for the best, or one of :data:`.dispatch.IMPLEMENTATIONS`.
        precision: of matrix products.
        lines: static upper bound on the sampled lines of each line mask.

    Returns:
        Images with the broadcast leading axes. Differentiable in every array.

    Raises:
        ValueError: if shapes, dtypes or options do not fit.
        NotImplementedError: if the named implementation cannot run this.
    """
    layout.check_complex("image", image)
    layout.check_complex("measured_image", measured_image)
    weights = layout.as_mask(mask, image)
    (image, measured_image, weights), leading = layout.align(
        {
            "image": (image, 2),
            "measured_image": (measured_image, 2),
            "mask": (weights, 2),
        }
    )
    layout.check_plane("measured_image", measured_image, image)
    missing = jnp.broadcast_to(measured_image - image, leading + image.shape[-2:])
    implementation, lines = choose(
        implementation, precision, lines, missing, weights, pixels=missing.size
    )
    step = project(missing, weights, implementation, lines, precision)
    if lam is not None:
        step = layout.scale(
            step, 1 / (1 + layout.per_sample("lam", lam, len(leading), image))
        )
    return image + step


def varnet_update(
    coil_images: Complex[Array, "*b c h w"],
    measured_coil_images: Complex[Array, "*d _c _h _w"],
    maps: Complex[Array, "*m _c _h _w"],
    mask: ArrayLike,
    refinement: Complex[Array, "*r _h _w"],
    *,
    step_size: ArrayLike,
    implementation: ConsistencyImplementation | None = None,
    precision: Precision = "highest",
    lines: int | None = None,
) -> Complex[Array, "*n c h w"]:
    """One cascade of E2E-VarNet on coil images: ``c - eta K (c - c_0) - S r``.

    The network keeps k-space; as the transform is unitary it may as well keep the coil
    images ``c = F^H k``, and then the readout transform cancels here too. Equal to the
    k-space form (Sriram et al. 2020, arXiv 2004.06688, eq. 7) up to rounding, and the
    final root-sum-of-squares needs no transform at all.

    Args:
        coil_images: ``c``, the state of the network, any leading axes.
        measured_coil_images: ``c_0``, the zero-filled coil images.
        maps: coil sensitivity maps, as for :func:`normal_operator`.
        mask: sampling weights, as for :func:`normal_operator` (no coil axis).
        refinement: ``r = R(S^H c)``, the network's output.
        step_size: ``eta``, a real scalar or one value per leading axis.
        implementation: None for the best, or one of :data:`.dispatch.IMPLEMENTATIONS`.
        precision: of matrix products.
        lines: static upper bound on the sampled lines of each line mask.

    Returns:
        The next coil images, with the broadcast leading axes. Differentiable in every
        array.

    Raises:
        ValueError: if shapes, dtypes or options do not fit.
        NotImplementedError: if the named implementation cannot run this.
    """
    complexes = {
        "coil_images": coil_images,
        "measured_coil_images": measured_coil_images,
        "maps": maps,
        "refinement": refinement,
    }
    for name, x in complexes.items():
        layout.check_complex(name, x)
        layout.check_plane(name, x, coil_images, of="coil_images")
    weights = layout.as_mask(mask, coil_images)
    cores = {"mask": (weights, 2)}
    cores |= {name: (x, 3) for name, x in complexes.items() if name != "refinement"}
    (weights, c, c0, maps, r), leading = layout.align(
        cores | {"refinement": (refinement, 2)}
    )
    if not c.shape[-3] == c0.shape[-3] == maps.shape[-3]:
        raise ValueError(
            "coil_images, measured_coil_images and maps must have equally many coils, "
            f"got shapes {c.shape}, {c0.shape} and {maps.shape}"
        )
    error = jnp.broadcast_to(c - c0, leading + c.shape[-3:])
    implementation, lines = choose(
        implementation, precision, lines, error, weights, pixels=error.size
    )
    eta = layout.per_sample("step_size", step_size, len(leading), c)
    projected = project(
        error, weights[..., None, :, :], implementation, lines, precision
    )
    step = layout.scale(projected, eta[..., None, :, :])
    return c - step - maps * r[..., None, :, :]
