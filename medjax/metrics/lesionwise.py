"""How many lesions were found, by their size.

Dice is ruled by the few large lesions. Here every connected component counts once: a
true lesion is found (tp) or not (fn), a predicted component that touches no true lesion
is false (fp). A component over two true lesions finds both. Components are joined over
faces, edges and corners (26 neighbours in 3-D, 8 in 2-D). Counts add up over cases;
sensitivity, PPV and F1 come from the sums. With nothing to find and nothing predicted,
all three are 1.

Components smaller than the first edge of the size bins are left out of the truth and of
the false ones (a few voxels are noise of the annotation), and counted.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

EDGES = (3.0, 10.0, 50.0, 250.0, 1000.0)
"""Lower edges of the bins in mm^3; the last bin is open."""


@dataclasses.dataclass(frozen=True)
class LesionCounts:
    """Lesions per size bin; found and missed by true size, false by their own.

    Attributes:
        edges: lower edges of the bins, mm^3.
        found: true lesions that were found.
        missed: true lesions that were not.
        false: predicted components that touch no true lesion.
        too_small: true and predicted components below the first edge, left out.
    """

    edges: tuple[float, ...]
    found: Int[np.ndarray, " bins"]
    missed: Int[np.ndarray, " bins"]
    false: Int[np.ndarray, " bins"]
    too_small: Int[np.ndarray, "2"]

    def __add__(self, other: "LesionCounts") -> "LesionCounts":
        """The counts of both cases.

        Raises:
            ValueError: if they were binned differently.
        """
        if self.edges != other.edges:
            raise ValueError(f"bins {self.edges} and {other.edges} do not add up")
        return LesionCounts(
            self.edges,
            self.found + other.found,
            self.missed + other.missed,
            self.false + other.false,
            self.too_small + other.too_small,
        )

    @property
    def sensitivity(self) -> float:
        """The share of true lesions that is found; 1 with none to find."""
        return _share(self.found, self.missed)

    @property
    def ppv(self) -> float:
        """Found lesions per found and false ones; 1 with nothing predicted."""
        return _share(self.found, self.false)

    @property
    def f1(self) -> float:
        """``2 tp / (2 tp + fp + fn)``, as ISLES counts it; 1 where both are empty."""
        return _share(2 * self.found, self.missed + self.false)

    @property
    def sensitivity_by_size(self) -> np.ndarray:
        """Per bin; NaN in one without true lesions."""
        return _shares(self.found, self.missed)

    @property
    def ppv_by_size(self) -> np.ndarray:
        """Per bin, found by their true size and false by their own; NaN in one without
        either."""
        return _shares(self.found, self.false)

    @property
    def f1_by_size(self) -> np.ndarray:
        """Per bin, by the same sizes; NaN in one without any lesion."""
        return _shares(2 * self.found, self.missed + self.false)


def lesion_counts(
    prediction: Bool[np.ndarray, "*space"],
    truth: Bool[np.ndarray, "*space"],
    spacing: Sequence[float],
    *,
    iou: float | None = None,
    edges: Sequence[float] = EDGES,
) -> LesionCounts:
    """Counts the lesions of one case.

    Args:
        prediction: a mask.
        truth: a mask on the same grid.
        spacing: voxel size in mm, one number per axis.
        iou: what it takes to find a lesion: ``None``, one voxel of overlap; a number,
            at least this IoU with the union of the components that touch it.
        edges: lower edges of the size bins, mm^3, rising.

    Raises:
        ValueError: if shapes and spacing do not fit each other.
    """
    if prediction.shape != truth.shape or len(spacing) != prediction.ndim:
        raise ValueError(
            f"prediction {prediction.shape}, truth {truth.shape} and spacing "
            f"{tuple(spacing)}: expected one shape and a number for each of its axes"
        )
    true, said = (components(mask)[0] for mask in (truth, prediction))
    true_voxels, said_voxels = (np.bincount(c.ravel())[1:] for c in (true, said))
    n_true, n_said = len(true_voxels), len(said_voxels)
    # Every pair of touching components with its shared voxels.
    both = truth & prediction
    pairs, shared = np.unique(
        np.stack([true[both], said[both]]), axis=1, return_counts=True
    )
    lesion, component = pairs - 1
    overlap = np.bincount(lesion, shared, minlength=n_true)
    matched = np.bincount(lesion, said_voxels[component], minlength=n_true)
    found = overlap > 0
    if iou is not None:
        found &= overlap >= iou * (true_voxels + matched - overlap)
    false = ~np.isin(np.arange(n_said), component)
    voxel = float(np.prod(spacing))
    # Bin 0 of digitize is below the first edge.
    size = np.digitize(true_voxels * voxel, edges) - 1
    false_size = np.digitize(said_voxels * voxel, edges)[false] - 1

    def binned(bins: np.ndarray) -> np.ndarray:
        return np.bincount(bins[bins >= 0], minlength=len(edges))

    small = [int((bins < 0).sum()) for bins in (size, false_size)]
    return LesionCounts(
        tuple(edges),
        binned(size[found]),
        binned(size[~found]),
        binned(false_size),
        np.array(small),
    )


def volume_error(
    prediction: Bool[np.ndarray, "*space"],
    truth: Bool[np.ndarray, "*space"],
    spacing: Sequence[float],
) -> tuple[float, float]:
    """Predicted minus true volume in mL, and relative to the true one.

    Args:
        prediction: a mask.
        truth: a mask.
        spacing: voxel size in mm, one number per axis.

    Returns:
        (mL, share); the share is 0 where both are empty, infinite where only the truth
        is.
    """
    voxel = float(np.prod(spacing)) / 1000
    said, true = prediction.sum() * voxel, truth.sum() * voxel
    if not true:
        return float(said), float("inf") if said else 0.0
    return float(said - true), float((said - true) / true)


def components(
    mask: Bool[np.ndarray, "*space"], *, corners: bool = True
) -> tuple[Int[np.ndarray, "*space"], int]:
    """Numbers of the connected components from 1, 0 outside; and how many they are.

    Args:
        mask: of any number of axes.
        corners: joined over faces, edges and corners, or over faces alone.
    """
    numbers = np.zeros(mask.shape, np.int32)
    near = ndimage.generate_binary_structure(mask.ndim, mask.ndim if corners else 1)
    found: Any = ndimage.label(mask, near, output=numbers)
    return numbers, int(found)


def _shares(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    whole = part + rest
    share = np.full(len(whole), np.nan)
    return np.divide(part, whole, out=share, where=whole > 0)


def _share(part: np.ndarray, rest: np.ndarray) -> float:
    whole = part.sum() + rest.sum()
    return float(part.sum() / whole) if whole else 1.0
