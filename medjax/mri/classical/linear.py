"""Linear reconstructions: zero filling and SENSE by conjugate gradients."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from medjax.mri import sense
from medjax.mri.espirit import espirit_maps
from medjax.mri.fourier import fft2c, ifft2c
from medjax_kernels.data_consistency.dispatch import ConsistencyImplementation


def zero_filled(kspace: Complex[Array, "*b c h w"]) -> Float[Array, "*b h w"]:
    """Root sum of squares of the inverse transform, missing samples being zero.

    Args:
        kspace: measured k-space, zero where not measured.

    Returns:
        Magnitude images; with :func:`medjax.mri.sense.adjoint` comes the combination
        by sensitivity maps instead.
    """
    return sense.rss(ifft2c(kspace))


@functools.partial(jax.jit, static_argnames=("iterations", "implementation"))
def cg_sense(
    kspace: Complex[Array, "*b c h w"],
    maps: Complex[Array, "*m c h w"],
    mask: ArrayLike,
    *,
    lam: ArrayLike = 0.0,
    iterations: int = 30,
    implementation: ConsistencyImplementation | None = None,
) -> Complex[Array, "*n h w"]:
    """``argmin_x |M F S x - y|^2 + lam |x|^2`` by conjugate gradients.

    Args:
        kspace: measured k-space.
        maps: unit-norm sensitivity maps; they bound the operator by 1, which makes
            ``lam`` relative to it.
        mask: sampling mask.
        lam: Tikhonov weight; stopping early regularises as well.
        iterations: steps from zero.
        implementation: of data consistency; None takes the best for platform and shape.

    Returns:
        Complex images.
    """
    return sense.solve(
        kspace,
        maps,
        mask,
        lam=lam,
        iterations=iterations,
        implementation=implementation,
    )


@functools.partial(
    jax.jit,
    static_argnames=(
        "calibration",
        "kernel",
        "threshold",
        "crop",
        "sets",
        "iterations",
    ),
)
def espirit_sense(
    kspace: Complex[Array, "*b c h w"],
    mask: ArrayLike,
    *,
    calibration: int = 24,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
    sets: int = 2,
    lam: ArrayLike = 0.01,
    iterations: int = 12,
) -> Complex[Array, "*b sets h w"]:
    """Calibrate by ESPIRiT, then solve for one image per map set ("soft SENSE").

    Defaults are those of the CMRxRecon demo: kernel 6x6, thresholds 0.02 and 0.9, 12
    iterations, Tikhonov weight 0.01, and the first frame's maps for all frames.

    Args:
        kspace: measured k-space with a fully sampled central square; leading axes are
            frames.
        mask: sampling mask, shared by the frames or one for each.
        calibration: side of that square.
        kernel: side of the ESPIRiT patches.
        threshold: singular values below this times the largest count as noise.
        crop: maps are zero where their eigenvalue is below this.
        sets: number of map sets.
        lam: Tikhonov weight, relative to the operator.
        iterations: conjugate gradient steps.

    Returns:
        One complex image per set; ``sense.rss`` over sets is the magnitude image.
    """
    c, h, w = kspace.shape[-3:]
    frames = kspace.reshape(-1, c, h, w)
    maps, _ = espirit_maps(
        frames[0],
        calibration=calibration,
        kernel=kernel,
        threshold=threshold,
        crop=crop,
        sets=sets,
    )
    return soft_sense(kspace, maps, mask, lam=lam, iterations=iterations)


@functools.partial(jax.jit, static_argnames="iterations")
def soft_sense(
    kspace: Complex[Array, "*b c h w"],
    maps: Complex[Array, "sets c h w"],
    mask: ArrayLike,
    *,
    lam: ArrayLike = 0.01,
    iterations: int = 12,
) -> Complex[Array, "*b sets h w"]:
    """Least squares over several sets of maps: one image for each (Uecker 2014).

    Where the field of view folds, a pixel shows two places of the object, and one map
    per coil cannot explain both.

    Args:
        kspace: measured k-space; leading axes are frames.
        maps: sets of sensitivity maps, each of unit norm or zero.
        mask: sampling mask, shared by the frames or one for each.
        lam: Tikhonov weight, relative to the operator.
        iterations: conjugate gradient steps from zero.

    Returns:
        One complex image per set; ``sense.rss`` over sets is the magnitude image.
    """
    c, h, w = kspace.shape[-3:]
    sets = maps.shape[0]
    frames = kspace.reshape(-1, c, h, w)
    weight = jnp.asarray(lam, kspace.real.dtype).astype(kspace.dtype)
    every = jnp.asarray(mask)
    every = jnp.broadcast_to(every, (*kspace.shape[:-3], *every.shape[-2:]))

    def solve(data: Array, sampled: Array) -> Array:
        def forward(images: Array) -> Array:
            coil_images = jnp.sum(maps * images[:, None], axis=0)
            return sense.sample(fft2c(coil_images), sampled)

        def adjoint(data: Array) -> Array:
            return sense.combine(ifft2c(sense.sample(data, sampled))[None], maps)

        def normal(images: Array) -> Array:
            return adjoint(forward(images)) + weight * images

        images, _ = jax.scipy.sparse.linalg.cg(
            normal, adjoint(data), tol=0.0, maxiter=iterations
        )
        return images

    images = jax.vmap(solve)(frames, every.reshape(-1, *every.shape[-2:]))
    return images.reshape(*kspace.shape[:-3], sets, h, w)
