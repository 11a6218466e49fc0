"""What mixing needs of a patch beside image and label, cut on the host.

Components of the lesions are numbered in each source as it is cut: no label map is
searched on the device. Places where a lesion may go are a density, zero outside of the
organ: where all training cases lie on one grid (registered, or slices of one extent)
it is how often lesions are there, else all of the organ alike. Methods that paste one
case into another get a second source, of another case, from the same place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medjax.metrics.lesionwise import components
from medjax.segmentation.lesionmix.bank import brain_of
from medjax.segmentation.lesionmix.location import lesion_prior
from medjax.segmentation.sampling import PatchConfig, Patches

HOST, DONOR = "host", "donor"
"""Prefixes of the fields of a batch."""


def organ_of(image: Float[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Where lesions can be, in a prepared image.

    All that differs from the corners, if these have one value and something differs
    (skull-stripped images); else everything.
    """
    corners = image[np.ix_(*[(0, -1)] * 3)]
    there = image != corners.flat[0]
    if (corners != corners.flat[0]).any() or not there.any():
        return np.ones(image.shape, bool)
    return brain_of(there.astype(np.float32))


class LesionPatches(Patches):
    """Patches that lesions can be put into and taken from.

    Args:
        cases: As for `Patches`, with images of one channel and one kind of lesion, 1.
        config: Sizes.
        organs: Of every case.
        spacing: Voxel size in the network's axes, mm.
        room: Lesions of a source that have numbers of their own; the others share the
            last one.
        paired: Whether a source of another case comes along.

    Raises:
        ValueError: For pairs of a single case.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        config: PatchConfig,
        organs: Sequence[Bool[np.ndarray, "..."]],
        spacing: tuple[float, ...],
        *,
        room: int,
        paired: bool,
    ) -> None:
        super().__init__(cases, config)
        if paired and len(cases) < 2:
            raise ValueError("mixing: pasting needs two training cases at least, got 1")
        self.organs, self.spacing = organs, spacing
        self.room, self.paired = room, paired
        self.prior = self._prior()

    def taken(
        self, number: int, case: Mapping[str, Any], corner: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Image and label, and ``host_...``: see :meth:`fields`."""
        return super().taken(number, case, corner) | self.fields(
            HOST, number, case, corner
        )

    def cut(
        self, row: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """One patch, and its donor where there are pairs."""
        number, case, corner = self.placed(row, generator)
        found = self.taken(number, case, corner)
        if not self.paired:
            return found
        # Another case, each as likely.
        step = 1 + int(generator.integers(len(self.cases) - 1))
        other = (number + step) % len(self.cases)
        donor = self.cases[other]
        ends = zip(corner, donor["label"].shape, case["label"].shape, strict=True)
        # About the middle of both, which is the same voxel where shapes are the same.
        there = tuple(first + (n - m) // 2 for first, n, m in ends)
        image = self.window(donor["image"], there)[..., 0]
        found[f"{DONOR}_image"] = np.ascontiguousarray(image, np.float32)
        return found | self.fields(DONOR, other, donor, there)

    def fields(
        self, prefix: str, number: int, case: Mapping[str, Any], corner: tuple[int, ...]
    ) -> dict[str, Any]:
        """What mixing needs of a source.

        Args:
            prefix: Of the names.
            number: Of the case.
            case: Itself.
            corner: First voxel.

        Returns:
            ``_components`` 1, 2, ... of the lesions; ``_volumes`` of each, mm^3 (mm^2
            of slices); ``_density`` of places, zero outside of the organ; ``_share`` of
            the organ of the case (or slice) that lies in the source.
        """
        organ = self.organs[number]
        here = self.window(organ, corner)
        whole = organ[max(corner[0], 0)] if self.flat else organ
        numbers, _ = components(self.window(case["label"], corner) == 1)
        numbers = np.minimum(numbers, self.room).astype(np.int32)
        voxels = np.bincount(numbers.ravel(), minlength=self.room + 1)[1:]
        density = here.astype(np.float32)
        if self.prior is not None:
            prior = self.prior[None] if self.flat else self.prior
            at = (0, *corner[1:]) if self.flat else corner
            density *= self.window(prior, at)
        share = here.sum() / max(whole.sum(), 1)
        return {
            f"{prefix}_components": numbers,
            f"{prefix}_volumes": (voxels * np.prod(self.spacing)).astype(np.float32),
            f"{prefix}_density": density,
            f"{prefix}_share": np.float32(share),
        }

    def _prior(self) -> Float[np.ndarray, "..."] | None:
        """How often lesions are where, nowhere quite never; None without one grid."""
        shapes = {
            organ.shape[1:] if self.flat else organ.shape for organ in self.organs
        }
        if len(shapes) > 1:
            return None
        masks = [self.cases[i]["label"] == 1 for i in range(len(self.cases))]
        if self.flat:
            masks = [plane for mask in masks for plane in mask]
        prior = lesion_prior(masks, self.spacing)
        most = float(prior.max())
        return prior / most + np.float32(1e-6) if most else None
