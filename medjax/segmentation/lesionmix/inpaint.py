"""Lesions taken away: their place filled from the tissue around.

Which go is decided on labels made once on the host: components in a random order, until
the load is no more than the target; a table of what goes, looked up by the label map,
gives the mask. Then a fill, over the mask grown by one voxel (whose neighbours are
still touched by the lesion): in a small image one for all of them, in a large one a
window for each group of lesions (:mod:`.windows`).

``harmonic``    solves ``Laplace u = 0`` with the tissue as boundary, by Jacobi sweeps
``biharmonic``  minimises ``|Laplace u|^2``, which goes on with slopes too, by conjugate
                gradients
``pushpull``    averages over ever larger blocks (Gortler et al. 1996), no solver
``telea``       from the border inwards, as fast marching (:mod:`.marching`)
``ring``        one mean per lesion

Only tissue of the organ counts: neither what lies outside of it nor lesions that stay
have a say, so that a lesion at the border is filled from inside. All fills are too
smooth; ``texture`` adds what noise they lack.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.segmentation.lesionmix.host import Host
from medjax.segmentation.lesionmix.marching import telea
from medjax.segmentation.lesionmix.morphology import (
    dilated,
    grown_labels,
    masked_moments,
)
from medjax.segmentation.lesionmix.windows import (
    boxes_of,
    fill_groups,
    grouped,
    smallest_window,
    windows_of,
)
from medjax.typing import Key

Fill = Literal["harmonic", "biharmonic", "pushpull", "telea", "ring"]
_BESIDE = 3.0 / 8.0
"""Weight of the neighbours of a voxel in the noise that is added."""


@dataclasses.dataclass(frozen=True)
class InpaintConfig:
    """How places are filled."""

    fill: Fill = "harmonic"
    """What is solved."""
    start: Literal["pushpull", "ring"] = "pushpull"
    """Where the solvers begin; large lesions need the pyramid."""
    sweeps: int = 32
    """Of Jacobi's method."""
    iterations: int = 100
    """Of conjugate gradients."""
    slopes: bool = False
    """Of telea: go on with slopes, as its paper does; they run away across large
    lesions."""
    texture: bool = True
    """Add the noise that a smooth fill lacks against the ring around."""
    windows: tuple[int, ...] = (24, 64)
    """Voxels along each axis of windows that lesions are filled in where the image is
    much larger; none: always the whole image."""

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.windows):
            raise ValueError(f"windows={self.windows}: expected a voxel at least")


class Inpainted(NamedTuple):
    """A case with lesions taken away.

    Attributes:
        image: of the host's unit.
        components: those that stay.
        volumes: mm^3 of each; 0 for those that went.
        removed: how many went.
    """

    image: Float[Array, "*space"]
    components: Int[Array, "*space"]
    volumes: Float[Array, " n"]
    removed: Int[Array, ""]


def choose(
    volumes: Float[Array, " n"], target: Float[Array, ""], *, key: Key
) -> Bool[Array, " n"]:
    """Which lesions go: in a random order, until no more than the target is left.

    Args:
        volumes: of each, mm^3; 0 where there is none.
        target: load to come to, mm^3.
        key: of the order.
    """
    order = jnp.argsort(jax.random.uniform(key, volumes.shape))
    sorted_volumes = volumes[order]
    gone_before = jnp.cumsum(sorted_volumes) - sorted_volumes
    goes = (gone_before < jnp.sum(volumes) - target) & (sorted_volumes > 0)
    return jnp.zeros(volumes.shape, bool).at[order].set(goes)


def inpaint(
    host: Host,
    target: Float[Array, ""],
    spacing: tuple[float, ...],
    config: InpaintConfig,
    *,
    key: Key,
) -> Inpainted:
    """Takes lesions away until the load is no more than the target.

    Args:
        host: one case.
        target: load, mm^3; above the host's load nothing happens.
        spacing: voxel size in mm.
        config: how.
        key: of the choice and of the texture.
    """
    choice_key, texture_key = jax.random.split(key)
    goes = choose(host.volumes, target, key=choice_key)
    table = jnp.concatenate([jnp.zeros(1, bool), goes])
    going = jnp.take(table, host.components, mode="clip")
    stay = jnp.where(going, 0, host.components)

    def whole(image: Array) -> Array:
        gone = jnp.where(going, host.components, 0)
        usable = host.organ & (stay == 0)
        return fill(image, gone, usable, spacing, config, key=texture_key)

    shape, most = host.image.shape, goes.shape[0]
    windows = windows_of(config.windows, shape, most)
    if windows:

        def one(image: Array, lesions: Array, usable: Array, key: Key) -> Array:
            return fill(image, lesions, usable, spacing, config, key=key)

        def apart(image: Array) -> Array:
            where = image, host.components, host.organ
            return fill_groups(*where, groups, windows, one, key=texture_key)

        groups = grouped(goes, *boxes_of(host.components, most))
        held = smallest_window(groups, windows, shape) < len(windows)
        image = jax.lax.cond(jnp.all(held | ~goes), apart, whole, host.image)
    else:
        # Most cases of a batch may need none; under vmap both are computed.
        image = jax.lax.cond(jnp.any(goes), whole, lambda x: x, host.image)
    left = jnp.where(goes, 0.0, host.volumes)
    return Inpainted(image, stay, left, jnp.sum(goes, dtype=jnp.int32))


def fill(
    image: Float[Array, "*space"],
    lesions: Int[Array, "*space"],
    usable: Bool[Array, "*space"],
    spacing: tuple[float, ...],
    config: InpaintConfig,
    *,
    key: Key,
) -> Float[Array, "*space"]:
    """The image with lesions replaced by what the tissue around suggests.

    Args:
        image: any unit.
        lesions: 1, 2, ... of those to replace, 0 elsewhere.
        usable: voxels that may be filled or filled from: of the organ, no lesion that
            stays.
        spacing: voxel size in mm.
        config: how.
        key: of the texture.

    Raises:
        ValueError: for another fill or start.
    """
    mask = lesions > 0
    domain = (mask | dilated(mask, corners=False)) & usable
    known = usable & ~domain
    ring = dilated(domain, 2, corners=False) & known
    begin = config.fill if config.fill in ("pushpull", "ring") else config.start
    if begin == "pushpull":
        start = push_pull(image, known)
    elif begin == "ring":
        start = _ring_means(image, lesions, ring)
    else:
        raise ValueError(f"start={begin!r}: expected pushpull or ring")
    values = jnp.where(domain, start, image)
    if config.fill == "harmonic":
        values = harmonic(values, domain, usable, spacing, sweeps=config.sweeps)
    elif config.fill == "biharmonic":
        values = harmonic(values, domain, usable, spacing, sweeps=config.sweeps)
        values = biharmonic(
            values, domain, usable, spacing, iterations=config.iterations
        )
    elif config.fill == "telea":
        values = telea(values, domain, usable, spacing, slopes=config.slopes)
    elif config.fill not in ("pushpull", "ring"):
        raise ValueError(
            f"fill={config.fill!r}: expected harmonic, biharmonic, pushpull, telea or "
            "ring"
        )
    if config.texture:
        _, wanted = masked_moments(image, ring)
        _, has = masked_moments(values, domain)
        lacks = jnp.sqrt(jnp.maximum(wanted**2 - has**2, 0.0))
        values = values + jnp.where(domain, lacks * _grain(image.shape, key=key), 0.0)
    return values


def harmonic(
    values: Float[Array, "*space"],
    domain: Bool[Array, "*space"],
    usable: Bool[Array, "*space"],
    spacing: tuple[float, ...],
    *,
    sweeps: int,
) -> Float[Array, "*space"]:
    """Jacobi sweeps for ``Laplace u = 0`` in a domain.

    Args:
        values: known outside of the domain, a first guess in it.
        domain: what is solved for.
        usable: other voxels have no say (no flux through their faces); holds the
            domain.
        spacing: voxel size in mm; axes weigh by its inverse square.
        sweeps: how many.
    """
    weight = usable.astype(jnp.float32)
    around = _neighbour_sum(weight, spacing)
    solved = domain & (around > 0)
    safe = jnp.where(solved, around, 1.0)

    def sweep(_: Array, u: Array) -> Array:
        return jnp.where(solved, _neighbour_sum(u * weight, spacing) / safe, u)

    return jax.lax.fori_loop(0, sweeps, sweep, values)


def biharmonic(
    values: Float[Array, "*space"],
    domain: Bool[Array, "*space"],
    usable: Bool[Array, "*space"],
    spacing: tuple[float, ...],
    *,
    iterations: int,
) -> Float[Array, "*space"]:
    """Conjugate gradients for the smallest ``|Laplace u|^2``.

    Args:
        values: known outside of the domain, a first guess in it.
        domain: what is solved for.
        usable: other voxels have no say; holds the domain.
        spacing: voxel size in mm.
        iterations: how many.
    """
    weight = usable.astype(jnp.float32)
    around = _neighbour_sum(weight, spacing)
    inside = domain.astype(jnp.float32)
    scale = sum(1.0 / s**2 for s in spacing)

    def laplace(u: Array) -> Array:
        """Symmetric: what goes from a voxel to another comes from that to it."""
        flux = _neighbour_sum(u * weight, spacing) - around * u
        return weight * flux / scale

    def normal(u: Array) -> Array:
        return inside * laplace(laplace(inside * u))

    def step(_: Array, state: tuple[Array, Array, Array, Array]) -> tuple:
        u, residual, direction, energy = state
        product = normal(direction)
        curvature = jnp.sum(direction * product)
        alpha = _quotient(energy, curvature)
        u = u + alpha * direction
        residual = residual - alpha * product
        after = jnp.sum(residual**2)
        beta = _quotient(after, energy)
        return u, residual, residual + beta * direction, after

    residual = -inside * laplace(laplace(values))
    state = (values, residual, residual, jnp.sum(residual**2))
    return jax.lax.fori_loop(0, iterations, step, state)[0]


def _quotient(a: Array, b: Array) -> Array:
    """``a / b``, and 0 where all is solved."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)


def push_pull(
    values: Float[Array, "*space"], known: Bool[Array, "*space"]
) -> Float[Array, "*space"]:
    """Known values, and elsewhere averages of them over ever larger blocks.

    Pushed down, a block of 2^r voxels is the mean of the known ones among them; pulled
    up, what is still unknown is interpolated from the blocks.
    """
    weight = known.astype(jnp.float32)
    level = (jnp.where(known, values, 0.0), weight)
    levels = [level]
    while max(levels[-1][0].shape) > 1:
        levels.append(_halved(*levels[-1]))
    up, _ = levels.pop()
    while levels:
        fine, weight = levels.pop()
        grown = jax.image.resize(up, fine.shape, "linear")
        up = weight * fine + (1.0 - weight) * grown
    return up


def _halved(values: Array, weight: Array) -> tuple[Array, Array]:
    """Blocks of two along each axis: mean of the known, and whether any is."""
    pads = [(0, n % 2) for n in values.shape]
    total, share = jnp.pad(values * weight, pads), jnp.pad(weight, pads)
    for axis in range(values.ndim):
        total, share = (
            jax.lax.slice_in_dim(x, 0, None, 2, axis)
            + jax.lax.slice_in_dim(x, 1, None, 2, axis)
            for x in (total, share)
        )
    mean = total / jnp.where(share > 0, share, 1.0)
    return mean, jnp.minimum(share, 1.0)


def _neighbour_sum(x: Array, spacing: tuple[float, ...]) -> Array:
    """Sum over the faces, weighed by the inverse square of the spacing; 0 beyond."""
    total = jnp.zeros_like(x)
    for axis, size in enumerate(spacing):
        n = x.shape[axis]
        pads = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, pads)
        before = jax.lax.slice_in_dim(padded, 0, n, axis=axis)
        behind = jax.lax.slice_in_dim(padded, 2, n + 2, axis=axis)
        total = total + (before + behind) / size**2
    return total


def _ring_means(image: Array, lesions: Array, ring: Array) -> Array:
    """At every voxel near a lesion the mean of the ring around that lesion."""
    # One voxel for the domain, two for the ring.
    near = grown_labels(lesions, 3)
    most = lesions.size + 1
    flat, inside = near.reshape(-1), ring.reshape(-1)
    index = jnp.where(inside, flat, 0)
    sums = jnp.zeros(most).at[index].add(jnp.where(inside, image.reshape(-1), 0.0))
    counts = jnp.zeros(most).at[index].add(inside.astype(jnp.float32))
    means = sums / jnp.maximum(counts, 1.0)
    return means[flat].reshape(image.shape)


def _grain(shape: tuple[int, ...], *, key: Key) -> Float[Array, "*space"]:
    """Noise of unit variance, smoothed as by a Gaussian of 0.65 voxels.

    In 64ths and by eighths, so that all products and sums are exact: compilers contract
    and order them otherwise in one program than in another, and last bits would differ.
    """
    noise = jax.random.normal(key, shape)
    noise = jnp.round(64.0 * jnp.clip(noise, -4.0, 4.0)) / 64.0
    for axis, n in enumerate(shape):
        pads = [(1, 1) if i == axis else (0, 0) for i in range(len(shape))]
        padded = jnp.pad(noise, pads, mode="reflect")
        before, behind = (
            jax.lax.slice_in_dim(padded, first, first + n, axis=axis)
            for first in (0, 2)
        )
        noise = noise + _BESIDE * (before + behind)
    return noise / (1.0 + 2.0 * _BESIDE**2) ** (len(shape) / 2)
