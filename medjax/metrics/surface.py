"""Surface distances in mm, with the convention in the name.

"HD95" is three different numbers. Two packages take the voxels of a mask that touch its
outside (beyond the image is outside) and either pool both directions before the
percentile (``medpy``) or take the larger of the two percentiles (``monai``). The third
(``deepmind``) puts elements at voxel corners, weighs them by the surface's area there
(:mod:`medjax.metrics.surfels`) and takes the larger of two weighted percentiles. They
differ by half on the same pair of masks, so no function here has a default for it.

Average symmetric distances differ likewise: the mean over the elements of both
directions together (``pooled``: medpy from 0.5, MONAI) or the mean of the two means
(``directed``).

Distances come from a k-d tree of the surface's elements, on the host in float64: exact
for any spacing, and work that goes with the surface, not with the grid.

Where one of the masks is empty there is no distance. Both empty: the prediction is
right, distances are 0 and the surface Dice is 1. One empty: the surface Dice is 0 and
the distance is what ``empty`` says, by default the image's diagonal, so that a miss
never improves a mean. :class:`medjax.metrics.cases.Cases` counts them.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial import KDTree

from medjax.metrics import surfels

Elements = Literal["voxels", "surfels"]
Hd95 = Literal["medpy", "monai", "deepmind"]
Assd = Literal["pooled", "directed"]
Empty: TypeAlias = Literal["diagonal", "inf", "nan"] | float
"""The distance where one mask is empty and the other is not."""


@dataclasses.dataclass(frozen=True)
class SurfaceDistances:
    """How far every surface element of each mask lies from the other's surface.

    Attributes:
        to_truth: of the prediction's elements, mm.
        to_prediction: of the truth's elements, mm.
        predicted: weights of the prediction's elements; their number is 0 where it is
            empty.
        present: weights of the truth's elements.
        elements: border ``voxels``, all of weight 1, or ``surfels`` at voxel corners,
            weighing their area.
        diagonal: of the image, mm.
    """

    to_truth: Float[np.ndarray, " p"]
    to_prediction: Float[np.ndarray, " t"]
    predicted: Float[np.ndarray, " p"]
    present: Float[np.ndarray, " t"]
    elements: Elements
    diagonal: float

    def hd(self, *, empty: Empty = "diagonal") -> float:
        """The Hausdorff distance: the largest of all distances."""
        if (known := self._of_empty(empty)) is not None:
            return known
        return float(max(self.to_truth.max(), self.to_prediction.max()))

    def hd95(self, convention: Hd95, *, empty: Empty = "diagonal") -> float:
        """The 95th percentile of the distances.

        Args:
            convention: whose; ``deepmind`` needs surfels, the others voxels.
            empty: the distance where one mask is empty.

        Raises:
            ValueError: for another convention, or the other kind of elements.
        """
        if convention not in _ELEMENTS:
            raise ValueError(
                f"convention={convention!r}: expected one of {list(_ELEMENTS)}"
            )
        if self.elements != _ELEMENTS[convention]:
            raise ValueError(
                f"HD95 as {convention} has it is of {_ELEMENTS[convention]}, these are "
                f"{self.elements}"
            )
        if (known := self._of_empty(empty)) is not None:
            return known
        if convention == "medpy":
            both = np.concatenate([self.to_truth, self.to_prediction])
            return float(np.percentile(both, 95))
        if convention == "monai":
            return float(max(np.percentile(d, 95) for d, _ in self._directions))
        return float(max(_weighted_percentile(d, w, 95) for d, w in self._directions))

    def assd(self, convention: Assd, *, empty: Empty = "diagonal") -> float:
        """The average symmetric surface distance; surfels count by their area."""
        if (known := self._of_empty(empty)) is not None:
            return known
        if convention == "directed":
            return float(np.mean(self.directed_means))
        distances = np.concatenate([self.to_truth, self.to_prediction])
        weights = np.concatenate([self.predicted, self.present])
        return float(np.average(distances, weights=weights))

    @property
    def directed_means(self) -> tuple[float, float]:
        """Mean distance from the prediction to the truth, and the other way; not empty.

        DeepMind's pair in the other order, if these are surfels.
        """
        to_truth, to_prediction = (
            float(np.average(d, weights=w)) for d, w in self._directions
        )
        return to_truth, to_prediction

    def nsd(self, tolerance: float) -> float:
        """The normalised surface distance (surface Dice): the share within a tolerance.

        Of voxels it is MONAI's default, of surfels DeepMind's and MONAI's with
        ``use_subvoxels``.

        Args:
            tolerance: mm; a distance equal to it is within.
        """
        total = self.predicted.sum() + self.present.sum()
        if not total:
            return 1.0
        within = sum(w[d <= tolerance].sum() for d, w in self._directions)
        return float(within / total)

    @property
    def _directions(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self.to_truth, self.predicted), (self.to_prediction, self.present)]

    def _of_empty(self, empty: Empty) -> float | None:
        """The distance if a mask is empty, else nothing."""
        if self.predicted.size and self.present.size:
            return None
        if not self.predicted.size and not self.present.size:
            return 0.0
        return self.diagonal if empty == "diagonal" else float(empty)


_ELEMENTS: dict[str, Elements] = {
    "medpy": "voxels",
    "monai": "voxels",
    "deepmind": "surfels",
}


def surface_distances(
    prediction: Bool[np.ndarray, "*space"],
    truth: Bool[np.ndarray, "*space"],
    spacing: Sequence[float],
    *,
    elements: Elements,
) -> SurfaceDistances:
    """Measures between the surfaces of two masks.

    Args:
        prediction: a mask of two or three axes (of any number for voxels).
        truth: a mask on the same grid.
        spacing: voxel size in mm, one number per axis.
        elements: what a surface is made of.

    Raises:
        ValueError: if shapes and spacing do not fit each other.
    """
    if prediction.shape != truth.shape or len(spacing) != prediction.ndim:
        raise ValueError(
            f"prediction {prediction.shape}, truth {truth.shape} and spacing "
            f"{tuple(spacing)}: expected one shape and a number for each of its axes"
        )
    found = [_surface(mask, spacing, elements) for mask in (prediction, truth)]
    (p, predicted), (t, present) = found
    return SurfaceDistances(
        to_truth=_on_grid(p, t, spacing),
        to_prediction=_on_grid(t, p, spacing),
        predicted=predicted,
        present=present,
        elements=elements,
        diagonal=float(np.linalg.norm(np.multiply(prediction.shape, spacing))),
    )


def hd95(
    prediction: Bool[np.ndarray, "*space"],
    truth: Bool[np.ndarray, "*space"],
    spacing: Sequence[float],
    *,
    convention: Hd95,
    empty: Empty = "diagonal",
) -> float:
    """The 95th percentile of the distances between two surfaces, mm.

    Args:
        prediction: a mask.
        truth: a mask on the same grid.
        spacing: voxel size in mm, one number per axis.
        convention: ``medpy`` (CMRxMotion, ACDC), ``monai`` or ``deepmind``.
        empty: the distance where one mask is empty.

    Raises:
        ValueError: for another convention, or shapes that do not fit.
    """
    elements = _ELEMENTS.get(convention, "voxels")
    measured = surface_distances(prediction, truth, spacing, elements=elements)
    return measured.hd95(convention, empty=empty)


def surface_scores(
    prediction: Bool[np.ndarray, "*space"],
    truth: Bool[np.ndarray, "*space"],
    spacing: Sequence[float],
    *,
    tolerance: float,
    empty: Empty = "diagonal",
) -> dict[str, float]:
    """All surface metrics of a pair of masks, each under the name of its convention.

    Args:
        prediction: a mask of two or three axes.
        truth: a mask on the same grid.
        spacing: voxel size in mm, one number per axis.
        tolerance: of the surface Dice, mm.
        empty: the distance where one mask is empty.

    Returns:
        ``hd``, ``hd95_medpy``, ``hd95_monai``, ``hd95_deepmind``, ``assd_pooled``,
        ``assd_directed``, ``nsd_voxels`` and ``nsd_surfels``; mm but for the last two.
    """
    voxels = surface_distances(prediction, truth, spacing, elements="voxels")
    areas = surface_distances(prediction, truth, spacing, elements="surfels")
    return {
        "hd": voxels.hd(empty=empty),
        "hd95_medpy": voxels.hd95("medpy", empty=empty),
        "hd95_monai": voxels.hd95("monai", empty=empty),
        "hd95_deepmind": areas.hd95("deepmind", empty=empty),
        "assd_pooled": voxels.assd("pooled", empty=empty),
        "assd_directed": voxels.assd("directed", empty=empty),
        "nsd_voxels": voxels.nsd(tolerance),
        "nsd_surfels": areas.nsd(tolerance),
    }


def nearest(
    points: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, " n"]:
    """The distance of every point to the nearest of the others; infinite without any.

    Args:
        points: coordinates in mm: voxel centres, mesh vertices, contour points.
        others: coordinates in the same frame.
    """
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    distances, _ = KDTree(others).query(points)
    return np.asarray(distances, np.float64)


def _on_grid(
    points: np.ndarray, others: np.ndarray, spacing: Sequence[float]
) -> Float[np.ndarray, " n"]:
    """`nearest` for indices of a grid, the distance taken from their difference.

    Coordinates in mm carry rounding that would push a distance of exactly the tolerance
    beyond it.
    """
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    scale = np.asarray(spacing, float)
    _, partner = KDTree(others * scale).query(points * scale)
    return np.linalg.norm((points - others[partner]) * scale, axis=1)


def _surface(
    mask: np.ndarray, spacing: Sequence[float], elements: Elements
) -> tuple[np.ndarray, np.ndarray]:
    """Grid indices and weights of a mask's surface elements."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return np.zeros((0, mask.ndim), int), np.zeros(0)
    inside = mask[box[0]]
    start = [edge.start for edge in box[0]]
    if elements == "voxels":
        at = np.argwhere(inside & ~np.asarray(ndimage.binary_erosion(inside), bool))
        return at + start, np.ones(len(at))
    # Corner i lies half a voxel before voxel i, in both masks.
    weights = surfels.areas(tuple(spacing))[_codes(inside)]
    return np.argwhere(weights > 0) + start, weights[weights > 0]


def _codes(mask: np.ndarray) -> np.ndarray:
    """For every voxel corner, which of the voxels around it are inside, as bits."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for bit, offset in enumerate(itertools.product((0, 1), repeat=mask.ndim)):
        ends = zip(offset, codes.shape, strict=True)
        window = tuple(slice(first, first + n) for first, n in ends)
        codes |= padded[window] << np.uint8(bit)
    return codes


def _weighted_percentile(
    distances: np.ndarray, weights: np.ndarray, percent: float
) -> float:
    """The smallest distance up to which that share of the weight lies."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    place = np.searchsorted(share, percent / 100)
    return distances[order][min(place, len(order) - 1)]
