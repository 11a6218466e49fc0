"""Dice and IoU from mergeable counts, empty structures defined.

An `Overlap` holds three counts per case and structure, from which every overlap follows
exactly. Structures are labels of a map, or regions: sets of labels that may share some
(BraTS' whole tumour is 1, 2 and 4). Counting works on NumPy arrays of any shape without
compiling, and inside ``jit`` and ``vmap``.

Where neither side holds a structure, both are right: Dice and IoU are 1. Where one side
is empty they are 0. medpy and MONAI give NaN for some of these cases and drop them from
means. :meth:`Overlap.cases` tells how many there were.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Int, Shaped

from medjax.metrics.cases import Cases

AnyArray: TypeAlias = np.ndarray | jax.Array
Structure: TypeAlias = int | tuple[int, ...]
"""A label, or a region made of several."""


class Overlap(NamedTuple):
    """Voxels of each structure: in both, in the prediction, in the truth."""

    both: Int[AnyArray, "*b k"]
    predicted: Int[AnyArray, "*b k"]
    present: Int[AnyArray, "*b k"]

    @property
    def dice(self) -> Any:
        """``2 |A and B| / (|A| + |B|)``; 1 where both are empty, 0 where one is."""
        return _ratio(2 * self.both, self.predicted + self.present)

    @property
    def iou(self) -> Any:
        """``|A and B| / |A or B|``; 1 where both are empty, 0 where one is."""
        return _ratio(self.both, self.predicted + self.present - self.both)

    def pooled(self) -> "Overlap":
        """The counts of all cases together, for one overlap of the whole set."""
        axes = tuple(range(self.both.ndim - 1))
        return Overlap(*(count.sum(axes) for count in self))

    def cases(self, metric: str = "dice") -> list[Cases]:
        """Mean over cases of ``dice`` or ``iou``, one entry per structure.

        Raises:
            ValueError: for another name.
        """
        if metric not in ("dice", "iou"):
            raise ValueError(f"metric={metric!r}: expected 'dice' or 'iou'")
        k = self.both.shape[-1]
        values, said, true = (
            np.asarray(a).reshape(-1, k)
            for a in (getattr(self, metric), self.predicted, self.present)
        )
        columns = zip(values.T, said.T > 0, true.T > 0, strict=True)
        return [Cases.of(v, predicted=p, present=t) for v, p, t in columns]


def overlap(
    prediction: Shaped[AnyArray, "*b_space"],
    truth: Shaped[AnyArray, "*b_space"],
    *,
    structures: Sequence[Structure],
    rank: int,
) -> Overlap:
    """Counts the voxels of each structure in two label maps.

    Args:
        prediction: label maps, integer or bool.
        truth: label maps of the same shape.
        structures: which labels or regions; the background is one only if it is named.
        rank: how many of the last axes are space; those before are cases.

    Returns:
        Counts of shape cases x structures.

    Raises:
        ValueError: if shapes differ, or have fewer axes than ``rank``.
    """
    if prediction.shape != truth.shape or prediction.ndim < rank:
        raise ValueError(
            f"prediction {prediction.shape} and truth {truth.shape}: expected one "
            f"shape of at least {rank} axes"
        )
    space = tuple(range(prediction.ndim - rank, prediction.ndim))
    xp = prediction.__array_namespace__()
    counts = []
    for structure in structures:
        p, t = inside(prediction, structure), inside(truth, structure)
        counts.append([(p & t).sum(space), p.sum(space), t.sum(space)])
    return Overlap(*(xp.stack(column, axis=-1) for column in zip(*counts, strict=True)))


def inside(
    labels: Shaped[AnyArray, "..."], structure: Structure
) -> Bool[AnyArray, "..."]:
    """The mask of a label or of a region."""
    first, *others = (structure,) if isinstance(structure, int) else structure
    mask = labels == first
    for label in others:
        mask = mask | (labels == label)
    return mask


def _ratio(part: AnyArray, whole: AnyArray) -> Any:
    xp = part.__array_namespace__()
    return xp.where(whole > 0, part / xp.maximum(whole, 1), 1.0)
