"""Patches of cases: where they are cut, and how many of them must hold a structure.

The last third of every batch is cut around a voxel of the foreground (nnU-Net): its
class is drawn among those that the case has, then the voxel. Which rows these are
depends on their place in the global batch alone, so any number of processes cuts the
same patches. A case lies in memory or in a prepared set; lists of a few thousand voxels
of each class come with it, so that no label map is searched while training.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int, Shaped

from medjax.nn.nnunet import Axes

VOXELS = 10_000
"""Of every class that are listed."""


@dataclasses.dataclass(frozen=True)
class PatchConfig:
    """Which patches make a batch."""

    patch: Axes
    """What the network sees, voxels."""
    source: Axes
    """What is cut, larger, so that a turned patch is full."""
    batch_size: int
    """Of the global batch."""
    foreground: float = 1 / 3
    """Share of the batch, its last rows, that is cut around the foreground."""
    batches: int = 250
    """Of an epoch."""

    @property
    def rows(self) -> int:
        """Patches of an epoch."""
        return self.batches * self.batch_size

    def forced(self, row: int) -> bool:
        """Whether a row of the global batch is cut around the foreground."""
        return row >= round(self.batch_size * (1 - self.foreground))


class Patches:
    """Rows of an epoch, for :func:`medjax.data.pipeline.build_pipeline`.

    A row is only its number; :meth:`cut` does the work, with the pipeline's own
    generator, which gives every epoch other patches.

    Args:
        cases: Mappings with ``image`` ``z y x c``, ``label`` ``z y x``, and ``voxels``
            ``n 3`` with their ``classes`` ``n`` (:func:`foreground_voxels`).
        config: Sizes.

    Raises:
        ValueError: If there is no case.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]], config: PatchConfig) -> None:
        if not len(cases):
            raise ValueError("patches: there is no case to cut them from")
        self.cases, self.config = cases, config

    def __len__(self) -> int:
        return self.config.rows

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        return {}

    def cut(
        self, row: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """One patch: ``image`` and ``label`` of the source's extent.

        Args:
            row: With ``index``, its number in the epoch.
            generator: Of this row and epoch.
        """
        return self.taken(*self.placed(row, generator))

    def placed(
        self, row: Mapping[str, Any], generator: np.random.Generator
    ) -> tuple[int, Mapping[str, Any], tuple[int, ...]]:
        """Where a patch is cut.

        Args:
            row: With ``index``, its number in the epoch.
            generator: Of this row and epoch.

        Returns:
            Number of the case, the case, and the first voxel of the source.
        """
        config = self.config
        number = int(generator.integers(len(self.cases)))
        case = self.cases[number]
        patch = (1, *config.patch) if self.flat else config.patch
        around = None
        if config.forced(int(row["index"]) % config.batch_size):
            around = foreground_voxel(case["voxels"], case["classes"], generator)
        corner = place(
            case["label"].shape, patch, self.extent, generator, around=around
        )
        return number, case, corner

    def taken(
        self, number: int, case: Mapping[str, Any], corner: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """``image`` and ``label`` of a source.

        Args:
            number: Of the case.
            case: Itself.
            corner: First voxel, negative before the volume.
        """
        image, label = (self.window(case[name], corner) for name in ("image", "label"))
        return {
            "image": np.ascontiguousarray(image, np.float32),
            "label": np.ascontiguousarray(label, np.int16),
        }

    def window(
        self, array: Shaped[np.ndarray, "..."], corner: tuple[int, ...]
    ) -> Shaped[np.ndarray, "..."]:
        """A source cut out of an array of a case; of slices without their axis."""
        found = window(array, corner, self.extent)
        return found[0] if self.flat else found

    @property
    def flat(self) -> bool:
        """Whether patches are of slices."""
        return len(self.config.patch) == 2

    @property
    def extent(self) -> tuple[int, ...]:
        """Of a source, along the three axes of a case."""
        source = self.config.source
        return (1, *source) if self.flat else source


def foreground_voxels(
    label: Int[np.ndarray, "z y x"], count: int, *, most: int = VOXELS
) -> tuple[Int[np.ndarray, "n 3"], Int[np.ndarray, " n"]]:
    """Up to ``most`` voxels of every class but the background, spread evenly.

    Args:
        label: Inside labels.
        count: Classes, the background included; higher labels are left out.
        most: Of each class.

    Returns:
        Their places, and the class of each.
    """
    flat = label.reshape(-1)
    found = [np.zeros(0, np.int64)]
    for value in range(1, count):
        at = np.flatnonzero(flat == value)
        if len(at) > most:
            at = at[np.linspace(0, len(at) - 1, most).round().astype(int)]
        found.append(at)
    at = np.concatenate(found)
    places = np.stack(np.unravel_index(at, label.shape), axis=-1)
    return places.astype(np.int32), flat[at].astype(np.int16)


def foreground_voxel(
    voxels: Int[np.ndarray, "n 3"],
    classes: Int[np.ndarray, " n"],
    generator: np.random.Generator,
) -> Int[np.ndarray, "3"] | None:
    """A voxel of a class that is there, all classes being equally likely.

    Args:
        voxels: Of :func:`foreground_voxels`.
        classes: Of each.
        generator: Draws the class, then the voxel.

    Returns:
        Nothing where the case is all background.
    """
    present = np.unique(classes)
    if not len(present):
        return None
    among = np.flatnonzero(classes == generator.choice(present))
    return voxels[generator.choice(among)]


def place(
    shape: Sequence[int],
    patch: Sequence[int],
    source: Sequence[int],
    generator: np.random.Generator,
    *,
    around: Int[np.ndarray, " r"] | None = None,
) -> tuple[int, ...]:
    """First voxel of what is cut; negative before the volume.

    The source may reach beyond the volume, but the patch in its middle does not, unless
    it is larger; then the volume is about its middle.

    Args:
        shape: Of the volume.
        patch: What the network sees.
        source: What is cut.
        generator: Draws the place.
        around: A voxel to be in the middle, as far as that is possible.
    """
    corner = []
    for axis, (n, p, s) in enumerate(zip(shape, patch, source, strict=True)):
        beyond = max(s - p, s - n)
        low = -(beyond // 2)
        high = max(n + math.ceil(beyond / 2) - s, low)
        if around is None:
            corner.append(int(generator.integers(low, high + 1)))
        else:
            corner.append(int(np.clip(int(around[axis]) - s // 2, low, high)))
    return tuple(corner)


def window(
    array: Shaped[np.ndarray, "..."], corner: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """A box of an array; zeros beyond its borders.

    Args:
        array: The axes of space, and any behind them.
        corner: First voxel.
        shape: Of the box.
    """
    out = np.zeros((*shape, *array.shape[len(shape) :]), array.dtype)
    there, here = [], []
    for first, length, n in zip(corner, shape, array.shape, strict=False):
        low, high = max(first, 0), min(first + length, n)
        if low >= high:
            return out
        there.append(slice(low, high))
        here.append(slice(low - first, high - first))
    out[tuple(here)] = array[tuple(there)]
    return out
