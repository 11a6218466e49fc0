"""What the benchmark of segmentation times of LesionMix: lesions, and whole brains."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from experiments.bench.tasks import Task, Work, peer
from medjax.segmentation.lesionmix import transform
from medjax.segmentation.lesionmix.bank import Case, Donors, make_bank
from medjax.segmentation.lesionmix.host import Host, host_of
from medjax.segmentation.lesionmix.inpaint import InpaintConfig, inpaint
from medjax.segmentation.lesionmix.populate import PopulateConfig, populate

SPACING = (1.0, 1.0, 1.0)
SLOTS = 10
"""Lesions that are put into a brain."""


class LesionSizes(Protocol):
    """What both are asked."""

    @property
    def lesions(self) -> int:
        """Of a batch."""
        ...

    @property
    def box(self) -> int:
        """Voxels along each axis of a lesion's box."""
        ...

    @property
    def whole(self) -> tuple[int, int, int]:
        """Voxels of a brain."""
        ...

    @property
    def seed(self) -> int:
        """Of everything random."""
        ...


def lesions(config: LesionSizes) -> Task:
    """Lesions of one batch, transformed."""
    rng = np.random.default_rng(config.seed)
    n, count = config.box, config.lesions
    at = np.indices((n,) * 3) - n // 2
    mask = ((at / np.array([5, 7, 6]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
    crops = rng.normal(size=(count, n, n, n)).astype(np.float32)
    given = np.stack([crops, np.broadcast_to(mask, crops.shape)], -1)
    given = jnp.asarray(given, jnp.float32)
    how = transform.TransformConfig()
    middle = jnp.full(3, n // 2, jnp.float32)

    def one(crop: jax.Array, key: jax.Array) -> Any:
        motion_key, light_key = jax.random.split(key)
        motion = transform.draw_motion(crop[..., 1] > 0, SPACING, how, key=motion_key)
        image, moved = transform.move(crop, motion, middle)
        return transform.relit(image, how, key=light_key), moved

    keys = jax.random.split(jax.random.key(config.seed), count)
    many = jax.jit(jax.vmap(one))

    def scipy() -> None:
        for crop in crops:
            _transformed(crop, mask.astype(np.float32), rng)

    theirs: dict[str, Work] = {"SciPy": scipy}
    if (torchio := peer("torchio")) and (torch := peer("torch")):
        steps = torchio.Compose(
            [
                torchio.RandomFlip(axes=(0, 1, 2)),
                torchio.RandomAffine(scales=(0.5, 1.8), degrees=89),
                torchio.RandomElasticDeformation(5, max_displacement=4),
                torchio.RandomGamma(),
                torchio.RandomNoise(std=0.1),
            ]
        )

        def with_torchio() -> None:
            for crop in crops:
                steps(
                    torchio.Subject(
                        image=torchio.ScalarImage(tensor=torch.tensor(crop[None])),
                        mask=torchio.LabelMap(tensor=torch.tensor(mask[None])),
                    )
                )

        theirs["torchio"] = with_torchio
    about = f"{count} lesions of {n}^3 voxels, five transforms"
    return Task(about, lambda: jax.block_until_ready(many(given, keys)), theirs, {})


def _transformed(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Flip, affine map, elastic map, brightness and noise, one after the other."""
    pair = [np.flip(x, axis=int(rng.integers(3))) for x in (image, mask)]
    matrix = np.linalg.qr(rng.normal(size=(3, 3)))[0] / rng.uniform(0.5, 1.8)
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - matrix @ centre
    mapped: Any = ndimage.affine_transform  # takes an offset for each axis as well
    pair = [mapped(x, matrix, offset, order=1) for x in pair]
    field = rng.uniform(-4, 4, (3, 5, 5, 5))
    zooms = [n / 5 for n in image.shape]
    bent = np.stack([np.asarray(ndimage.zoom(f, zooms, order=1)) for f in field])
    at = np.indices(image.shape) + bent
    pair = [ndimage.map_coordinates(x, at, order=1) for x in pair]
    light = rng.uniform(0.9, 1.1) * pair[0] + 0.1 * rng.normal(size=image.shape)
    return light, pair[1] > 0.5


def volume(config: LesionSizes) -> Task:
    """Ten lesions put into a whole brain, and half of its own painted over."""
    rng = np.random.default_rng(config.seed)
    case = _brain(config.whole, rng)
    donors = make_bank([case], boxes=(config.box,)).donors
    host = host_of(case, most=64)
    half = host.load / 2
    fills, slots = InpaintConfig(), PopulateConfig(slots=SLOTS, large_slots=0)

    @jax.jit
    def mixed(host: Host, donors: Donors, key: jax.Array) -> Any:
        less = inpaint(host, half, SPACING, fills, key=key)
        left = Host(less.image, less.components, less.volumes, host.organ)
        # So much that no slot is idle.
        return populate(left, donors, jnp.float32(1e9), SPACING, slots, key=key)

    numbers = np.asarray(host.components)
    places = [w for w in ndimage.find_objects(numbers) if w is not None]
    crops = [np.asarray(x) for x in donors.crops[0][:2]]
    image_at_rest, organ = np.asarray(case.image), np.asarray(case.organ)
    inside = np.argwhere(organ)

    def scipy() -> np.ndarray:
        image, gone = image_at_rest.copy(), 0.0
        for number in rng.permutation(len(places)):
            if gone >= float(half):
                break
            around = tuple(
                slice(max(s.start - 3, 0), s.stop + 3) for s in places[number]
            )
            mask = numbers[around] == number + 1
            image[around] = _painted_over(image[around], mask, fills.sweeps)
            gone += float(mask.sum())
        for _ in range(SLOTS):
            which = int(rng.integers(len(crops[0])))
            new, mask = _transformed(
                crops[0][which], crops[1][which].astype(float), rng
            )
            at = inside[rng.integers(len(inside))] - config.box // 2
            at = np.clip(at, 0, np.array(image.shape) - config.box)
            box = tuple(slice(a, a + config.box) for a in at)
            mask = mask & organ[box]
            image[box] = np.where(mask, new, image[box])
        return image

    size = "x".join(map(str, config.whole))
    about = f"{SLOTS} lesions into {size} voxels, half of its own painted over"
    key = jax.random.key(config.seed)
    return Task(
        about,
        lambda: jax.block_until_ready(mixed(host, donors, key)),
        {"SciPy, one lesion at a time": scipy},
        {},
    )


def _brain(shape: tuple[int, ...], rng: np.random.Generator) -> Case:
    """An ellipsoid of smooth noise with two dozen round lesions."""
    at = np.indices(shape, np.float32)
    middle = np.array(shape).reshape(3, 1, 1, 1) / 2
    organ = (((at - middle) / (0.45 * np.array(shape).reshape(3, 1, 1, 1))) ** 2).sum(0)
    organ = organ < 1
    image = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 1.0)
    image = np.where(organ, 1 + image, 0).astype(np.float32)
    lesion = np.zeros(shape, bool)
    radius = min(5.0, min(shape) / 10)
    inside = np.argwhere(organ)
    for place in inside[rng.permutation(len(inside))[:24]]:
        box = tuple(slice(max(p - 5, 0), p + 6) for p in place)
        apart = at[(slice(None), *box)] - place.reshape(3, 1, 1, 1)
        lesion[box] |= (apart**2).sum(0) < radius**2
    lesion &= organ
    return Case("brain", np.where(lesion, 2 + image, image), lesion, organ, SPACING)


def _painted_over(image: np.ndarray, mask: np.ndarray, sweeps: int) -> np.ndarray:
    """A box with its lesion filled by Jacobi sweeps from the mean of what is around."""
    domain = np.asarray(ndimage.binary_dilation(mask), bool)
    out = np.where(domain, image[~domain].mean(), image)
    kernel = ndimage.generate_binary_structure(3, 1) / 6.0
    kernel[1, 1, 1] = 0
    for _ in range(sweeps):
        out = np.where(domain, ndimage.convolve(out, kernel, mode="nearest"), image)
    return out
