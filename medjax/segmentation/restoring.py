"""The network's answer as the scanner sees it: on the grid of the file.

Maps of one number per voxel are brought back as they are. A label map is the class that
is most likely *there*, on the file's grid; for that all classes are interpolated, and a
whole-body scan has no room for a hundred of them. So they are asked for as the network
hands them out, plane by plane: of each slab of the file the best class so far is kept,
and the planes are forgotten. The labels are those of the whole to the last bit.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from medjax.data.nifti import Volume
from medjax.data.volumes import Passage, resample
from medjax.segmentation.labels import Labels
from medjax.segmentation.preparation import Prepared


class RunningLabels:
    """A label map of a file, made of probabilities that come plane by plane.

    Args:
        prepared: The case.
        order: The network's axes (:class:`.preparation.Preparation`).
        labels: What the channels are.
    """

    def __init__(
        self, prepared: Prepared, order: Sequence[int], labels: Labels
    ) -> None:
        self.labels, self.original = labels, prepared.original
        self.back = (*np.argsort(order), 3)
        self.axis = int(order[0])
        self.passage = Passage(prepared.grid, prepared.original, self.axis)
        # Outside of what the network saw is background.
        self.found = np.full(
            self.original.shape, 0 if labels.regions else labels.written[0]
        ).astype(labels.written.dtype)
        self.count = 0
        self.last: np.ndarray | None = None

    def add(self, planes: Float[np.ndarray, "z y x k"]) -> None:
        """The next planes of the network's first axis.

        Args:
            planes: Probabilities; of exclusive classes, logits too.
        """
        before, after = self.count, self.count + len(planes)
        first = before if self.last is None else before - 1
        held = planes if self.last is None else np.concatenate([self.last, planes])
        turned = np.transpose(held, self.back).astype(np.float32, copy=False)
        for place, points, inside in self.passage.slabs(before, after):
            shares = (
                self.passage.values(turned[..., i], first, points)
                for i in range(self.labels.channels)
            )
            best = np.full(inside.shape, -np.inf, np.float32)
            slab = self.found[place].copy()
            values = self.labels.written
            for i, share in enumerate(shares):
                if self.labels.regions:
                    better = share > 0.5
                else:
                    better = share > best
                    best[better] = share[better]
                slab[better & inside] = values[i]
            self.found[place] = slab
        self.count, self.last = after, planes[-1:].copy()

    @property
    def volume(self) -> Volume:
        """The label map, once all planes are there."""
        return Volume(self.found, self.original.affine, self.original.spacing)


def restore(
    maps: Float[np.ndarray, "z y x q"],
    prepared: Prepared,
    order: Sequence[int],
    *,
    outside: Sequence[float],
) -> Volume:
    """Maps of the network on the grid of the file.

    Args:
        maps: In the network's axes.
        prepared: The case they are of.
        order: The network's axes (:class:`.preparation.Preparation`).
        outside: Value of each map beyond what the network saw.

    Returns:
        float32, a fourth axis of maps.
    """
    back = np.transpose(maps, (*np.argsort(order), 3)).astype(np.float32)
    spacing, original = prepared.grid.spacing, prepared.original
    found = np.empty((*original.shape, len(outside)), np.float32)
    for i, value in enumerate(outside):
        one = Volume(back[..., i], prepared.grid.affine, spacing)
        found[..., i] = resample(one, original, interpolation="linear", fill=value).data
    return Volume(found, original.affine, original.spacing)
