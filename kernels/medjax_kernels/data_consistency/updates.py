"""Single steps towards the data: a gradient step, and measured samples put back.

Conventions are those of :mod:`.api`; each is one application of ``K = F^H M F``.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex

from medjax_kernels.data_consistency import layout
from medjax_kernels.data_consistency.api import normal_operator
from medjax_kernels.data_consistency.dispatch import (
    ConsistencyImplementation,
    choose,
    project,
)
from medjax_kernels.data_consistency.xla import Precision


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
        maps: coil sensitivity maps, as for :func:`.api.normal_operator`.
        mask: sampling weights, as for :func:`.api.normal_operator`.
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
    :func:`.api.proximal_solve`. (Schlemper et al. 2017 write ``1 / lambda``.)

    Args:
        kspace: predicted k-space, centred, any leading axes.
        measured: measured k-space; what stands outside the mask is ignored.
        mask: sampling weights, as for :func:`.api.normal_operator`.
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
        mask: sampling weights, as for :func:`.api.normal_operator`.
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
        maps: coil sensitivity maps, as for :func:`.api.normal_operator`.
        mask: sampling weights, as for :func:`.api.normal_operator` (no coil axis).
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
