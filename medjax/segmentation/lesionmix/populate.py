"""Lesions from a bank put into a case, one after the other, until a load is reached.

A scan over a fixed number of slots: each draws a lesion, a transform and a place, and
takes it or refuses it, for a reason that is counted. So the program is the same
whatever the load, under ``vmap`` too. Large lesions have slots of their own, used as
often as large lesions are frequent in the bank.

A lesion is taken if nine tenths of it lie in the organ, no voxel of it is next to
another lesion, and the load does not overshoot the target by more than a twentieth or
the smallest lesion of the bank. Its intensities were standardised by the donor and are
de-standardised by the host's mean and standard deviation, which are taken once, from
the image without the new lesions.

Borders (``ball1``): of the mask's outer layer (what erosion over faces takes away) 0.66
is lesion and 0.34 host; the public re-implementation has 0.33, which darkens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.metrics.distance import signed_distance
from medjax.segmentation.lesionmix.bank import RING_VOXELS, Crops, Donors
from medjax.segmentation.lesionmix.host import Host
from medjax.segmentation.lesionmix.location import draw_voxel
from medjax.segmentation.lesionmix.morphology import dilated, eroded, masked_moments
from medjax.segmentation.lesionmix.transform import (
    TransformConfig,
    draw_motion,
    move,
    relit,
)
from medjax.typing import Key

Verdict = Literal["accepted", "idle", "empty", "outside", "touching", "overshoot"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""What became of a slot: taken; not needed any more; nothing left of the lesion; less
than nine tenths in the organ, or beyond the image; next to another lesion; too large
for what is left."""


@dataclasses.dataclass(frozen=True)
class PopulateConfig:
    """How lesions are put in."""

    slots: int = 24
    """Lesions tried."""
    large_slots: int = 2
    """Of these beside, lesions of the larger box tried."""
    inside: float = 0.9
    """Share of a lesion that must lie in the organ."""
    tolerance: float = 0.05
    """Of the target load, by which it may be exceeded."""
    boundary: Literal["ball1", "smooth"] = "ball1"
    """Border: one voxel mixed, or a sigmoid of the distance from it."""
    border_share: float = 0.66
    """Of the lesion in its outer layer."""
    match_ring: bool = False
    """Shift intensities so that the tissue around would be as it was at the donor."""
    transform: TransformConfig = TransformConfig()
    """What happens to each lesion."""


class Populated(NamedTuple):
    """A case with lesions put in.

    Attributes:
        image: of the host's unit.
        label: all lesions, old and new.
        load: mm^3.
        verdicts: how many slots ended in each of :data:`VERDICTS`.
    """

    image: Float[Array, "*space"]
    label: Bool[Array, "*space"]
    load: Float[Array, ""]
    verdicts: Int[Array, " verdicts"]


def populate(
    host: Host,
    donors: Donors,
    target: Float[Array, ""],
    spacing: tuple[float, ...],
    config: PopulateConfig,
    *,
    key: Key,
) -> Populated:
    """Puts lesions in until the load reaches the target, or slots run out.

    Args:
        host: one case.
        donors: of a bank on the host's grid.
        target: load, mm^3; below the host's load nothing happens.
        spacing: voxel size in mm.
        config: how.
        key: of everything random.
    """
    shape = host.image.shape
    box = max(crops.mask.shape[1] for crops in donors.crops)
    # Boxes lie inside the image: one with fewer planes than a box gets empty ones.
    pads = [(0, max(box - n, 0)) for n in shape]
    image, organ = jnp.pad(host.image, pads), jnp.pad(host.organ, pads)
    label = jnp.pad(host.components > 0, pads)
    moments = masked_moments(host.image, host.organ)
    carry = (image, label, host.load)
    total = sum(len(crops.volume) for crops in donors.crops)
    verdicts = jnp.zeros(len(VERDICTS), jnp.int32)
    for number, crops in enumerate(donors.crops):
        alone = len(donors.crops) == 1
        large = number < len(donors.crops) - 1
        slots = config.large_slots if large else config.slots
        if not slots:
            continue
        # A slot of large lesions is used as often as they are among all.
        frequency = len(crops.volume) / total * (config.slots / slots)
        share = min(frequency, 1.0) if large and not alone else 1.0
        place = _Place(donors, crops, organ, target, moments, spacing, config, share)
        keys = jax.random.split(jax.random.fold_in(key, number), slots)
        carry, codes = jax.lax.scan(place, carry, keys)
        codes = jax.nn.one_hot(codes, len(VERDICTS), dtype=jnp.int32)
        verdicts = verdicts + jnp.sum(codes, axis=0)
    image, label, load = carry
    inside = tuple(slice(0, n) for n in shape)
    return Populated(image[inside], label[inside], load, verdicts)


@dataclasses.dataclass(frozen=True, eq=False)  # hashed as itself: it holds arrays
class _Place:
    """One slot: the body of the scan."""

    donors: Donors
    crops: Crops
    organ: Bool[Array, "*space"]
    target: Float[Array, ""]
    moments: tuple[Float[Array, ""], Float[Array, ""]]
    spacing: tuple[float, ...]
    config: PopulateConfig
    share: float

    def __call__(
        self, carry: tuple[Array, Array, Array], key: Key
    ) -> tuple[tuple[Array, Array, Array], Int[Array, ""]]:
        image, label, load = carry
        crops, config = self.crops, self.config
        pick_key, motion_key, place_key, light_key = jax.random.split(key, 4)
        pick, used = jax.random.uniform(pick_key, (2,))
        which = (pick * len(crops.volume)).astype(jnp.int32)
        crop, mask = crops.image[which], crops.mask[which]
        motion = draw_motion(mask, self.spacing, config.transform, key=motion_key)
        centre = draw_voxel(self.donors.places, key=place_key)
        box = jnp.asarray(mask.shape, jnp.int32)
        size = jnp.asarray(image.shape, jnp.int32)
        start = jnp.clip(centre - box // 2, 0, size - box)
        middle = (centre - start).astype(jnp.float32)
        channels = jnp.stack([crop, mask.astype(jnp.float32)], axis=-1)
        moved, new = move(channels, motion, middle)
        at = centre.astype(jnp.float32)
        end = size.astype(jnp.float32) - 1.0
        cut_off = jnp.any((at - motion.reach < 0) | (at + motion.reach > end))

        here = jax.lax.dynamic_slice(self.organ, start, mask.shape)
        old = jax.lax.dynamic_slice(label, start, mask.shape)
        tissue = jax.lax.dynamic_slice(image, start, mask.shape)
        count = jnp.sum(new, dtype=jnp.float32)
        within = jnp.sum(new & here, dtype=jnp.float32)
        outside = cut_off | (within < config.inside * count)
        touching = jnp.any(dilated(new) & old)
        new = new & here
        voxel = 1.0
        for size_mm in self.spacing:
            voxel = voxel * size_mm
        more = load + voxel * within
        margin = jnp.maximum(config.tolerance * self.target, self.donors.smallest)
        overshoot = more > self.target + margin
        idle = (load >= self.target) | (used >= self.share)
        # The first reason that holds is the one that counts.
        reasons = [idle, within == 0, outside, touching, overshoot]
        code = jnp.zeros((), jnp.int32)
        for number in range(len(reasons), 0, -1):
            code = jnp.where(reasons[number - 1], number, code)
        taken = code == 0

        mean, spread = self.moments
        value = relit(moved, config.transform, key=light_key)
        if config.match_ring:
            ring = dilated(new, RING_VOXELS, corners=False) & ~dilated(old) & ~new
            around, _ = masked_moments(tissue, ring & here)
            standard = (around - mean) / jnp.maximum(spread, 1e-6)
            value = value + (standard - crops.ring[which])
        alpha = jnp.where(taken & here, border(new, config), 0.0)
        pasted = alpha * (mean + spread * value) + (1.0 - alpha) * tissue
        image = jax.lax.dynamic_update_slice(image, pasted, start)
        both = old | (new & taken)
        label = jax.lax.dynamic_update_slice(label, both, start)
        return (image, label, jnp.where(taken, more, load)), code


def border(mask: Bool[Array, "*box"], config: PopulateConfig) -> Float[Array, "*box"]:
    """The lesion's share of each voxel: 1 inside, less at its border, 0 outside.

    Raises:
        ValueError: for another kind of border.
    """
    if config.boundary == "ball1":
        layer = jnp.where(mask, config.border_share, 0.0)
        return jnp.where(eroded(mask), 1.0, layer)
    if config.boundary == "smooth":
        distance = signed_distance(mask, (1.0,) * mask.ndim)
        # Half way between the last voxel inside (-1) and the first outside (1).
        soft = jax.nn.sigmoid(-distance / 0.7)
        return jnp.where(jnp.any(mask), soft, 0.0)
    raise ValueError(f"boundary={config.boundary!r}: expected ball1 or smooth")


def verdict_counts(verdicts: Sequence[int]) -> dict[str, int]:
    """Counts by name."""
    return dict(zip(VERDICTS, map(int, verdicts), strict=True))
