"""The bank: every lesion of the training cases, cut out, standardised and sorted.

Made once on the host. Lesions are connected components (over faces, edges and corners).
Each is cut out in a box around its middle, its intensities in units of its own brain's
mean and standard deviation, so that it can be put into another. There are two box
sizes, since 19 of 20 lesions fit a small one even when enlarged: only the few large
ones cost a large gather.

A bank is of training cases alone: `LesionBank.cases` names them, and
:func:`refuse_shared` refuses to go on where one of them is validated on.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from medjax.data.boundary import DataError
from medjax.metrics.lesionwise import components
from medjax.segmentation.lesionmix.location import Marginals, lesion_prior, marginals
from medjax.segmentation.sampling import window

BOXES = (32, 96)
"""Voxels along each axis of the boxes."""
GROWTH = 1.8
"""A lesion goes into the smallest box that holds it at this many times its size."""
MIN_MM3 = 3.0
"""Smaller components are noise of the annotation."""
RING_VOXELS = 2
"""Width of the ring of tissue around a lesion."""


@dataclasses.dataclass(frozen=True)
class Case:
    """An image with its lesions, on the host.

    Attributes:
        name: as in the data set.
        image: None where a case only tells sizes and places of its lesions.
        lesion: its mask.
        organ: where lesions can be; None: the brain, from the image.
        spacing: voxel size in mm, one number per axis.
    """

    name: str
    image: Float[np.ndarray, "*space"] | None
    lesion: Bool[np.ndarray, "*space"]
    organ: Bool[np.ndarray, "*space"] | None
    spacing: tuple[float, ...]


class Crops(NamedTuple):
    """Lesions that share a box size.

    Attributes:
        image: of the lesion and around it, standardised by its host.
        mask: of this lesion alone, its middle in the middle of the box.
        volume: mm^3.
        ring: mean of the standardised intensities around the lesion.
    """

    image: Float[Array, "m *box"]
    mask: Bool[Array, "m *box"]
    volume: Float[Array, " m"]
    ring: Float[Array, " m"]


class Donors(NamedTuple):
    """What of a bank goes to the device.

    Attributes:
        crops: one entry per box size in use, the largest boxes first.
        places: where lesions are, as :func:`.location.draw_voxel` reads it.
        smallest: volume of the smallest lesion, mm^3.
    """

    crops: tuple[Crops, ...]
    places: Marginals
    smallest: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class LesionBank:
    """A bank on the host.

    Attributes:
        donors: for the device.
        loads: of every case, mm^3; those without lesions count.
        cases: names of all cases that went in.
        spacing: voxel size in mm, of all of them.
        dropped: lesions left out: reason to how many.
    """

    donors: Donors
    loads: Float[np.ndarray, " cases"]
    cases: tuple[str, ...]
    spacing: tuple[float, ...]
    dropped: dict[str, int]

    @property
    def lesions(self) -> int:
        """How many it holds."""
        return sum(len(crops.volume) for crops in self.donors.crops)


def brain_of(image: Float[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """The brain of a skull-stripped image: the largest piece that is not 0, filled.

    Intensities may be negative, and single voxels inside may be 0.

    Raises:
        DataError: for an image without any other value than 0.
    """
    labels, count = components(image != 0, corners=False)
    if not count:
        raise DataError("image: all voxels are 0, so that there is no brain in it")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(labels == sizes.argmax()))


def make_bank(
    cases: Sequence[Case],
    *,
    boxes: Sequence[int] = BOXES,
    min_mm3: float = MIN_MM3,
    one_grid: bool = True,
    most: int | None = None,
) -> LesionBank:
    """Cuts all lesions out.

    Args:
        cases: of the training set; those without an image give loads and places alone.
        boxes: voxels along each axis of the boxes, rising.
        min_mm3: smaller lesions are left out.
        one_grid: all cases lie on one, so that places are learnt by voxel; else the
            bank knows none, and :attr:`Donors.places` is for whoever uses it to fill.
        most: lesions kept, spread evenly over all; None: all of them.

    Raises:
        DataError: if cases differ in spacing (or, on one grid, in shape), a name comes
            twice, or there is not one lesion that fits.
    """
    _check(cases, one_grid=one_grid)
    spacing, shape = cases[0].spacing, cases[0].lesion.shape
    voxel = float(np.prod(spacing))
    found: dict[int, list[tuple[np.ndarray, np.ndarray, float, float]]] = {}
    dropped = {f"below {min_mm3:g} mm^3": 0, "larger than the largest box": 0}
    small, large = dropped
    organs = np.zeros(shape, bool)
    masks, loads, names = [], [], []
    for case in cases:
        loads.append(case.lesion.sum() * voxel)
        names.append(case.name)
        organ = case.organ
        if case.image is None:
            organ = case.lesion
        elif organ is None:
            organ = brain_of(case.image)
        if one_grid:
            masks.append(case.lesion)
            organs |= organ
        if case.image is None:
            continue
        inside = case.image[organ]
        spread = float(inside.std())
        if not spread > 0:
            raise DataError(f"{case.name}: the organ has one intensity throughout")
        standard = (case.image - float(inside.mean())) / spread
        numbers, _ = components(case.lesion)
        for number, where in enumerate(ndimage.find_objects(numbers), 1):
            voxels = int((numbers[where] == number).sum())
            side = max(s.stop - s.start for s in where)
            fitting = [b for b in boxes if side * GROWTH <= b]
            if voxels * voxel < min_mm3:
                dropped[small] += 1
            elif side > boxes[-1]:
                dropped[large] += 1
            else:
                box = fitting[0] if fitting else boxes[-1]
                middle = [(s.start + s.stop) // 2 for s in where]
                at = [m - box // 2 for m in middle], (box,) * len(shape)
                crop = window(standard, *at).astype(np.float32)
                mask = window(numbers == number, *at)
                ring = ndimage.binary_dilation(mask, iterations=RING_VOXELS)
                ring &= window(organ & ~case.lesion, *at)
                level = float(crop[ring].mean()) if ring.any() else 0.0
                found.setdefault(box, []).append((crop, mask, voxels * voxel, level))
    if not found:
        raise DataError(
            f"bank: no lesion in {len(cases)} cases that could be cut out ({dropped})"
        )
    crops = []
    total = sum(map(len, found.values()))
    for box in sorted(found, reverse=True):
        of_box = found[box]
        if most is not None and total > most:
            kept = max(len(of_box) * most // total, 1)
            chosen = np.linspace(0, len(of_box) - 1, kept).round().astype(int)
            of_box = [of_box[i] for i in chosen]
        image, mask, volume, ring = (np.stack(x) for x in zip(*of_box, strict=True))
        crops.append(
            Crops(
                jnp.asarray(image, jnp.float32),
                jnp.asarray(mask),
                jnp.asarray(volume, jnp.float32),
                jnp.asarray(ring, jnp.float32),
            )
        )
    prior = np.ones((1,) * len(spacing), np.float32)
    if one_grid:
        prior = lesion_prior(masks, spacing) * organs
    smallest = min(float(c.volume.min()) for c in crops)
    return LesionBank(
        Donors(
            tuple(crops),
            marginals(jnp.asarray(prior)),
            jnp.asarray(smallest, jnp.float32),
        ),
        np.array(loads),
        tuple(names),
        spacing,
        dropped,
    )


def refuse_shared(bank: LesionBank, validation: Iterable[str]) -> None:
    """Refuses a bank that holds a case to be validated on.

    Raises:
        DataError: naming the cases.
    """
    shared = sorted(set(bank.cases) & set(validation))
    if shared:
        raise DataError(f"bank: holds cases of the validation set: {shared}")


def _check(cases: Sequence[Case], *, one_grid: bool) -> None:
    if not cases:
        raise DataError("bank: expected cases, got none")
    names = [case.name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"bank: cases come twice: {twice}")
    first = cases[0]
    for case in cases:
        one = case.lesion.shape == first.lesion.shape
        if (one_grid and not one) or not np.allclose(
            case.spacing, first.spacing, rtol=1e-3
        ):
            raise DataError(
                f"{case.name}: shape {case.lesion.shape} and spacing {case.spacing}, "
                f"{first.name} has {first.lesion.shape} and {first.spacing}; a bank "
                "needs one grid"
            )
        for what in (case.image, case.organ):
            if what is not None and what.shape != case.lesion.shape:
                raise DataError(
                    f"{case.name}: image or organ of shape {what.shape}, lesion mask "
                    f"of {case.lesion.shape}"
                )
