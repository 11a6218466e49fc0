"""What every learned reconstruction is given, and what it gives back.

A **batch** holds series of fully sampled k-space; the systems undersample it on the
device:

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

A **reconstruction** is complex64 ``b t h w`` (or float32 magnitudes, where a system
says so). Networks see real channels; the two ways there and back are below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.sense import adjoint, combine, expand, rss, sample
from medjax.train.system import Apply
from medjax.typing import Batch, Key, Metrics, Variables

Domain = Literal["magnitude", "image", "kspace"]


@dataclass(frozen=True)
class ReconstructionSystem:
    """A trainable reconstruction as three pure functions.

    Attributes:
        init: ``(key, batch) -> variables``.
        loss: ``(variables, batch, key) -> scalar, (metrics, updated non-parameters)``.
        reconstruct: ``(variables, batch) -> images b t h w``; of the batch's k-space
            only what the mask samples is looked at.
        frozen: regular expressions of parameters that are not trained.
    """

    init: Callable[[Key, Batch], Variables]
    loss: Callable[
        [Variables, Batch, Key], tuple[Float[Array, ""], tuple[Metrics, Variables]]
    ]
    reconstruct: Callable[[Variables, Batch], Array]
    frozen: tuple[str, ...] = ()

    @property
    def apply(self) -> dict[str, Apply]:
        """What a trained one can do, by name."""
        return {"reconstruct": self.reconstruct}


def reconstruction_system(
    module: nn.Module,
    *,
    loss_of: Callable[[Any, Batch], tuple[Float[Array, ""], Metrics]],
    image_of: Callable[[Any], Array],
    sensitivities: bool,
) -> ReconstructionSystem:
    """Pure functions around a module whose call is ``module(batch, train=...)``.

    Args:
        module: Of a batch; its batch statistics, if any, are updated by ``loss``.
        loss_of: The module's output and the batch to loss and metrics.
        image_of: The module's output to the reconstruction.
        sensitivities: Whether the batch must bring coil maps.
    """

    def init(key: Key, batch: Batch) -> Variables:
        check_batch(batch, sensitivities=sensitivities)
        return module.init(key, batch, train=False)

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Float[Array, ""], tuple[Metrics, Variables]]:
        check_batch(batch, sensitivities=sensitivities)
        output, updated = module.apply(
            variables, batch, train=True, mutable=["batch_stats"]
        )
        value, metrics = loss_of(output, batch)
        metrics = {"nmse": nmse(image_of(output), batch), **metrics}
        return value, (metrics, updated)

    def reconstruct(variables: Variables, batch: Batch) -> Array:
        check_batch(batch, sensitivities=sensitivities)
        return image_of(module.apply(variables, batch, train=False))

    return ReconstructionSystem(init, loss, reconstruct)


def magnitude(batch: Batch) -> Float[Array, " b"]:
    """The largest pixel of each zero-filled series, root sum of squares of the coils.

    What was measured alone decides it, and it hardly depends on the acceleration, since
    the centre of k-space is always sampled: what a network sees can be brought to one
    magnitude by it, whatever unit a scanner writes.
    """
    images = rss(ifft2c(sample(batch["kspace"], batch["mask"])))
    return jnp.max(images, axis=(1, 2, 3))


def at_magnitude(system: ReconstructionSystem, value: float) -> ReconstructionSystem:
    """The same system, shown every series at one magnitude.

    Args:
        system: Of any kind; the ``scale`` in its config multiplies ``value``.
        value: What :func:`magnitude` is to be of all that the system sees.

    Returns:
        A system that is homogeneous, ``reconstruct(c k) = c reconstruct(k)`` for real
        ``c > 0``, and whose loss does not depend on the unit of k-space.

    Raises:
        ValueError: For a value that is not positive.
    """
    if not value > 0:
        raise ValueError(f"value is {value}, expected more than 0")

    def scaled(batch: Batch) -> tuple[Batch, Float[Array, " b"]]:
        check_batch(batch, sensitivities=False)
        now = magnitude(batch)
        factor = value / jnp.where(now > 0, now, value)  # zeros stay what they are
        kspace = batch["kspace"]
        each = jnp.expand_dims(factor, (1, 2, 3, 4)).astype(kspace.dtype)
        return {**batch, "kspace": kspace * each}, factor

    def init(key: Key, batch: Batch) -> Variables:
        return system.init(key, scaled(batch)[0])

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Float[Array, ""], tuple[Metrics, Variables]]:
        return system.loss(variables, scaled(batch)[0], key)

    def reconstruct(variables: Variables, batch: Batch) -> Array:
        shown, factor = scaled(batch)
        images = system.reconstruct(variables, shown)
        return images / jnp.expand_dims(factor, (1, 2, 3)).astype(images.dtype)

    return ReconstructionSystem(init, loss, reconstruct)


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


def zero_filled(batch: Batch) -> Complex[Array, "b t h w"]:
    """The coil-combined image of the sampled k-space alone."""
    return adjoint(batch["kspace"], batch["sensitivities"][:, None], batch["mask"])


def fully_sampled(batch: Batch) -> Complex[Array, "b t h w"]:
    """The coil-combined image of all of the k-space: what to come close to."""
    return combine(ifft2c(batch["kspace"]), batch["sensitivities"][:, None])


def distance(
    image: Complex[Array, "b t h w"], batch: Batch, *, domain: Domain
) -> Float[Array, ""]:
    """Mean absolute error of a reconstruction against the fully sampled data.

    Args:
        image: The reconstruction, in the scale of the batch.
        batch: With sensitivities.
        domain: ``"magnitude"`` compares with the root sum of squares of the coils,
            ``"image"`` complex values with the coil combination, ``"kspace"`` all
            coils' k-space (through the maps).

    Raises:
        ValueError: For an unknown domain.
    """
    kspace = batch["kspace"]
    if domain == "magnitude":
        target = rss(ifft2c(kspace))
        return jnp.mean(jnp.abs(jnp.abs(image) - target))
    if domain == "image":
        return jnp.mean(jnp.abs(image - fully_sampled(batch)))
    if domain == "kspace":
        predicted = fft2c(expand(image, batch["sensitivities"][:, None]))
        return jnp.mean(jnp.abs(predicted - kspace))
    raise ValueError(f"domain is {domain!r}, expected one of {get_args(Domain)}")


def nmse(image: Array, batch: Batch) -> Float[Array, ""]:
    """Squared error of the magnitudes over squared magnitude, for the log."""
    target = rss(ifft2c(batch["kspace"]))
    error = jnp.sum((jnp.abs(image) - target) ** 2)
    return error / jnp.maximum(jnp.sum(target**2), jnp.finfo(target.dtype).tiny)


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
