"""What others do with a donor's lesions: CutMix, CarveMix, TumorCP, SelfMix.

One signature, ``mix(host, donor, key)``, of two different cases on one grid; the
donor's intensities are standardised by its organ and brought to the host's mean and
standard deviation first, and a donor without a lesion passes the host through. (Of
CarveMix, the authors' code may draw a case as its own donor, copies raw intensities,
and returns garbage for a donor without a lesion.)

========  =============================================================================
cutmix    Yun et al. 2019: a box, its side by the root of a uniform number
carvemix  Zhang et al. 2021: the lesions with some tissue around, or their inner part
          alone, by a level of the signed distance
tumorcp   Yang et al. 2021: one lesion, turned, bent and relit, anywhere in the organ
selfmix   Zhu et al. 2022: lesions blended into healthy tissue, the less the nearer to
          their border
========  =============================================================================
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.metrics.distance import distance_to, signed_distance
from medjax.nn.blur import gaussian_blur
from medjax.nn.warp import plane_rotation, warp
from medjax.segmentation.lesionmix.apart import rows_apart
from medjax.segmentation.lesionmix.host import Host
from medjax.segmentation.lesionmix.location import draw_voxel, marginals
from medjax.segmentation.lesionmix.morphology import masked_moments
from medjax.typing import Key

Mixing = Literal["lesionmix", "cutmix", "carvemix", "tumorcp", "selfmix"]
"""LesionMix and its peers, by the names that flags give them."""


class Pasted(NamedTuple):
    """A case with something of another one in it.

    Attributes:
        image: of the host's unit.
        label: lesions.
    """

    image: Float[Array, "*space"]
    label: Bool[Array, "*space"]


Mix = Callable[[Host, Host, Key], Pasted]
"""``mix(host, donor, key)``; of the donor, image, components and organ are used."""


def cutmix(host: Host, donor: Host, key: Key) -> Pasted:
    """A box of the donor, image and lesions, pasted at its own place."""
    size_key, place_key = jax.random.split(key)
    shape = host.image.shape
    # Beta(1, 1) is uniform; the box takes 1 - lambda of the volume where it fits.
    share = jax.random.uniform(size_key, ()) ** (1.0 / len(shape))
    middle = jax.random.uniform(place_key, (len(shape),))
    box = jnp.ones(shape, bool)
    for axis, n in enumerate(shape):
        at = jax.lax.broadcasted_iota(jnp.float32, shape, axis)
        box &= jnp.abs(at + 0.5 - middle[axis] * n) < share * n / 2.0
    return _pasted(host, donor, box)


def carvemix(
    host: Host, donor: Host, key: Key, *, spacing: tuple[float, ...]
) -> Pasted:
    """The donor's lesions with some tissue around, or only their inner part."""
    lesion = donor.components > 0
    distance = signed_distance(lesion, spacing)
    c = 2.0 * jax.random.uniform(key, ()) - 1.0
    deepest = jnp.min(distance)
    level = jnp.where(c > 0, c * deepest / 2.0, c * deepest)
    return _pasted(host, donor, distance < level)


def tumorcp(host: Host, donor: Host, key: Key) -> Pasted:
    """One lesion of the donor, transformed, anywhere in the host's organ."""
    keys = jax.random.split(key, 8)
    rank, shape = host.image.ndim, host.image.shape
    numbers = jnp.arange(1, donor.volumes.shape[0] + 1)
    weights = jnp.where(donor.volumes > 0, 0.0, -jnp.inf)
    chosen = numbers[jax.random.categorical(keys[0], weights)]
    lesion = donor.components == chosen
    count = jnp.maximum(jnp.sum(lesion, dtype=jnp.float32), 1.0)
    axes = [jax.lax.broadcasted_iota(jnp.float32, shape, a) for a in range(rank)]
    centre = [jnp.sum(jnp.where(lesion, at, 0.0)) / count for at in axes]
    where = marginals(host.organ.astype(jnp.float32))
    to = draw_voxel(where, key=keys[1]).astype(jnp.float32)
    matrix = _turn(rank, keys[2])
    strength = jax.random.uniform(keys[3], (2,))
    width = 9.0 + 4.0 * strength[0]
    # Their strength, up to 900, is of volumes: along one axis less noise is averaged.
    most = 900.0 if rank == 3 else 900.0 * jax.lax.rsqrt(math.sqrt(4 * math.pi) * width)
    field = jax.random.uniform(keys[4], (*shape, rank), minval=-1.0, maxval=1.0)
    field = gaussian_blur(field, (width,) * rank, largest=13.0, border="zero")
    at = []
    for axis in range(rank):
        turned = [matrix[axis, j] * (axes[j] - to[j]) for j in range(rank)]
        bent = most * strength[1] * field[..., axis]
        at.append(sum(turned[1:], turned[0]) + centre[axis] + bent)
    channels = jnp.stack([_brought(host, donor), lesion.astype(jnp.float32)], axis=-1)
    moved = warp(channels, at)
    image, mask = _relit(moved[..., 0], keys[5]), moved[..., 1] > 0.5
    width = jax.random.uniform(keys[6], (), minval=1.0, maxval=5.0)
    blurred = gaussian_blur(image, (width,) * rank, largest=5.0)
    image = jnp.where(jax.random.bernoulli(keys[7]), blurred, image)
    mask &= host.organ
    pasted = jnp.where(mask, image, host.image)
    return _if_any(donor, Pasted(pasted, (host.components > 0) | mask), host)


def selfmix(host: Host, donor: Host, key: Key) -> Pasted:
    """The donor's lesions blended with the host's healthy tissue where they were."""
    lesion = donor.components > 0
    most = donor.volumes.shape[0] + 1
    depth = distance_to(~lesion, (1.0,) * lesion.ndim)
    depth = jnp.where(lesion, depth, 0.0)
    deepest = jnp.zeros(most).at[donor.components.reshape(-1)].max(depth.reshape(-1))
    unit = depth / jnp.maximum(deepest, 1e-6)[donor.components]
    least = jax.random.uniform(key, (most,), minval=0.7, maxval=1.0)[donor.components]
    place = lesion & (host.components == 0) & host.organ
    weight = jnp.where(place, (1.0 - least) * unit + least, 0.0)
    image = (1.0 - weight) * host.image + weight * _brought(host, donor)
    return _if_any(donor, Pasted(image, (host.components > 0) | place), host)


@functools.cache
def mixes(spacing: tuple[float, ...]) -> Mapping[str, Mix]:
    """The methods by name, for cases of a voxel size in mm."""
    return {
        "cutmix": cutmix,
        "carvemix": functools.partial(carvemix, spacing=spacing),
        "tumorcp": tumorcp,
        "selfmix": selfmix,
    }


@functools.partial(jax.jit, static_argnames="mix")
def mix_batch(
    mix: Mix,
    hosts: Host,
    donors: Host,
    names: tuple[Int[Array, " b"], Int[Array, " b"]],
    rows: Int[Array, " b"],
    *,
    key: Key,
) -> Pasted:
    """A batch of cases mixed with a donor each; a case is never its own donor.

    Args:
        mix: one of :func:`mixes`.
        hosts: cases of one shape.
        donors: as many, of the same shape.
        names: numbers of the cases: of hosts and of donors. Where the two are equal,
            the host comes out as it went in.
        rows: the number of each host in the global batch, which makes its key.
        key: of the batch.
    """

    def one(key: Key, each: tuple[Host, Host, Array, Array]) -> Pasted:
        host, donor, same, row = each
        mixed = mix(host, donor, jax.random.fold_in(key, row))
        plain = Pasted(host.image, host.components > 0)
        return jax.tree.map(lambda new, old: jnp.where(same, old, new), mixed, plain)

    return rows_apart(one, key, (hosts, donors, names[0] == names[1], rows))


def _brought(host: Host, donor: Host) -> Float[Array, "*space"]:
    """The donor's image at the mean and standard deviation of the host's organ."""
    (mean, sd), (own_mean, own_sd) = (
        masked_moments(case.image, case.organ) for case in (host, donor)
    )
    return mean + sd * (donor.image - own_mean) / jnp.maximum(own_sd, 1e-6)


def _pasted(host: Host, donor: Host, mask: Bool[Array, "*space"]) -> Pasted:
    image = jnp.where(mask, _brought(host, donor), host.image)
    label = jnp.where(mask, donor.components > 0, host.components > 0)
    return _if_any(donor, Pasted(image, label), host)


def _if_any(donor: Host, mixed: Pasted, host: Host) -> Pasted:
    """What was mixed, or the host if the donor has no lesion."""
    some = jnp.any(donor.components > 0)
    plain = Pasted(host.image, host.components > 0)
    return jax.tree.map(lambda new, old: jnp.where(some, new, old), mixed, plain)


def _turn(rank: int, key: Key) -> Float[Array, "r r"]:
    """Mirror, rotation by any angle and scale 0.85 to 1.25, from output to source."""
    flip_key, angle_key, scale_key = jax.random.split(key, 3)
    flips = jax.random.bernoulli(flip_key, 0.5, (rank,))
    matrix = jnp.diag(jnp.where(flips, -1.0, 1.0))
    planes = [(0, 1)] if rank == 2 else [(0, 1), (0, 2), (1, 2)]
    angles = jax.random.uniform(
        angle_key, (len(planes),), minval=-jnp.pi, maxval=jnp.pi
    )
    for (i, j), angle in zip(planes, angles, strict=True):
        turn = plane_rotation(rank, i, j, angle)
        matrix = jnp.matmul(matrix, turn, precision="highest")
    return matrix / jax.random.uniform(scale_key, (), minval=0.85, maxval=1.25)


def _relit(image: Float[Array, "*space"], key: Key) -> Float[Array, "*space"]:
    """Gamma 0.7 to 1.5 within the image's range."""
    low, high = jnp.min(image), jnp.max(image)
    unit = (image - low) / jnp.maximum(high - low, 1e-6)
    gamma = jax.random.uniform(key, (), minval=0.7, maxval=1.5)
    return low + (high - low) * unit**gamma
