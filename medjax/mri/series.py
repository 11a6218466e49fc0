"""What every learned reconstruction is given, and what it gives back.

A **batch** holds series of fully sampled k-space; the systems undersample it themselves,
on the device:

================= ============== ====================================================
``kspace``        complex64      ``b t c h w``: frames and coils, phase encoding on
                                 ``h``, readout on ``w``, centred; one coil: ``c = 1``
``mask``          bool           ``b 1|t h 1|w``: sampled points; ``w = 1`` says that
                                 whole lines are sampled, which is what the fast data
                                 consistency needs
``sensitivities`` complex64      ``b c h w``: coil maps shared by the frames, unit
                                 root sum of squares. Systems that estimate their own
                                 do without
================= ============== ====================================================

A **reconstruction** is complex64 ``b t h w`` (or float32 magnitudes, where a system says
so). Networks see real channels; the two ways there and back are below.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float

from medjax.mri.fourier import ifft2c
from medjax.typing import Batch, Key, Metrics, Variables


@dataclass(frozen=True)
class ReconstructionSystem:
    """A trainable reconstruction as three pure functions.

    Attributes:
        init: ``(key, batch) -> variables``.
        loss: ``(variables, batch, key) -> scalar, (metrics, updated non-parameters)``.
        reconstruct: ``(variables, batch) -> images b t h w``; of the batch's k-space
            only what the mask samples is looked at.
    """

    init: Callable[[Key, Batch], Variables]
    loss: Callable[
        [Variables, Batch, Key], tuple[Float[Array, ""], tuple[Metrics, Variables]]
    ]
    reconstruct: Callable[[Variables, Batch], Array]


def check_batch(batch: Batch, *, sensitivities: bool) -> None:
    """Say early and by name what is wrong with a batch.

    Raises:
        ValueError: For a missing key, a wrong rank, or shapes that do not fit.
    """
    needed = ["kspace", "mask"] + ["sensitivities"] * sensitivities
    for name in needed:
        if name not in batch:
            raise ValueError(f"batch has {sorted(batch)}, expected {name!r} too")
    kspace, mask = batch["kspace"], batch["mask"]
    if kspace.ndim != 5:
        raise ValueError(f"kspace has shape {kspace.shape}, expected b t c h w")
    b, t, c, h, w = kspace.shape
    fits = mask.ndim == 4 and all(
        have in allowed
        for have, allowed in zip(mask.shape, ((b,), (1, t), (h,), (1, w)), strict=True)
    )
    if not fits:
        raise ValueError(
            f"mask has shape {mask.shape}, expected ({b}, 1 or {t}, {h}, 1 or {w}) "
            f"beside kspace {kspace.shape}"
        )
    if sensitivities and batch["sensitivities"].shape != (b, c, h, w):
        raise ValueError(
            f"sensitivities has shape {batch['sensitivities'].shape}, expected "
            f"{(b, c, h, w)} beside kspace {kspace.shape}"
        )


def undersample(
    kspace: Complex[Array, "b t c h w"], mask: Bool[Array, "b #t h #w"]
) -> Complex[Array, "b t c h w"]:
    """Zero what the mask does not sample."""
    return jnp.where(mask[:, :, None], kspace, 0)


def combine(
    coil_images: Complex[Array, "b t c h w"], sensitivities: Complex[Array, "b c h w"]
) -> Complex[Array, "b t h w"]:
    """The image behind the coils: the sum over coils of conj(S) x."""
    return jnp.einsum("btchw,bchw->bthw", coil_images, jnp.conj(sensitivities))


def root_sum_of_squares(
    coil_images: Complex[Array, "*b c h w"],
) -> Float[Array, "*b h w"]:
    """Magnitude over coils, with a gradient that is zero, not NaN, at zero."""
    power = jnp.sum(coil_images.real**2 + coil_images.imag**2, axis=-3)
    return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)


def zero_filled(batch: Batch) -> Complex[Array, "b t h w"]:
    """The coil-combined image of the sampled k-space alone."""
    images = ifft2c(undersample(batch["kspace"], batch["mask"]))
    return combine(images, batch["sensitivities"])


def fully_sampled(batch: Batch) -> Complex[Array, "b t h w"]:
    """The coil-combined image of all of the k-space: what to come close to."""
    return combine(ifft2c(batch["kspace"]), batch["sensitivities"])


def to_channels(x: Complex[Array, "*b h w t"]) -> Float[Array, "*b h w 2*t"]:
    """Complex channels to real ones: all real parts, then all imaginary parts."""
    return jnp.concatenate([x.real, x.imag], axis=-1)


def from_channels(x: Float[Array, "*b h w t2"]) -> Complex[Array, "*b h w t2/2"]:
    """The inverse of :func:`to_channels`."""
    return jax.lax.complex(*jnp.split(x, 2, axis=-1))


def to_polar(x: Complex[Array, "*b h w t"]) -> Float[Array, "*b h w 2*t"]:
    """Complex channels to real ones: all magnitudes, then all phases (rad).

    At exactly zero the phase is zero, and so is every gradient.
    """
    present = x != 0
    safe = jnp.where(present, x, 1)
    magnitude = jnp.where(present, jnp.abs(safe), 0.0)
    return jnp.concatenate([magnitude, jnp.angle(safe)], axis=-1)


def from_polar(x: Float[Array, "*b h w t2"]) -> Complex[Array, "*b h w t2/2"]:
    """The inverse of :func:`to_polar`; magnitudes may be negative."""
    magnitude, phase = jnp.split(x, 2, axis=-1)
    return jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
