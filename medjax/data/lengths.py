"""Batches of sequences, padded no further than the longest of them asks for.

Where most sequences are short and one length has to hold them all, most of a batch is
padding. A batch may instead be cut to the smallest of a few lengths that holds all of
it; and since a batch of random rows nearly always has a long one, rows that need the
same length can be brought together: within a window of a few batches, and no further.
Which rows an epoch has, and what is random in each, stays as it was.

Everything follows from the seed and the lengths of *all* rows, so every process knows
without asking how long the whole batch is of which it reads a part.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Lengths:
    """How long the sequences of a source are, and what lengths a batch may have.

    Attributes:
        rows: Of every row, its longest sequence.
        fields: The sequences: columns of equal length, padded at their end.
        sizes: Lengths of a batch, ascending; the last is that of the columns.
        window: Batches among which rows are brought together; 1: batches hold the rows
            that they would hold anyway.
    """

    rows: Int[np.ndarray, " n"]
    fields: tuple[str, ...]
    sizes: tuple[int, ...]
    window: int = 1

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted({*self.sizes}):
            raise ValueError(f"sizes: expected ascending lengths, got {self.sizes}")
        if self.window < 1:
            raise ValueError(f"window: expected at least 1, got {self.window}")

    @property
    def needed(self) -> Int[np.ndarray, " n"]:
        """Of every row, the number of the smallest size that holds it.

        With a place to spare: what fills its batch is then what was cut, as it is where
        all batches have the last size.
        """
        found = np.searchsorted(self.sizes, self.rows, side="right")
        return np.minimum(found, len(self.sizes) - 1)

    def identity(self) -> dict[str, Any]:
        """What decides which rows meet in a batch; JSON holds it."""
        return {
            "fields": list(self.fields),
            "sizes": list(self.sizes),
            "window": self.window,
            "rows": f"{zlib.crc32(self.needed.astype(np.uint8).tobytes()):08x}",
        }


class Grouping:
    """Which rows meet in which batch, window by window.

    Args:
        needed: Number of a size, by place: of all places of an epoch, epoch by epoch.
        batches: Global ones of an epoch.
        size: Rows of each.
        window: Batches among which rows move.
        seed: Of the order of a window's batches; None: the shortest first.
    """

    def __init__(
        self,
        needed: Sequence[Any] | grain.MapDataset,
        *,
        batches: int,
        size: int,
        window: int,
        seed: int | None,
    ) -> None:
        self._needed, self._batches, self._size = needed, batches, size
        self._window, self._seed = window, seed
        self._kept: tuple[Any, Any, Any] = (None, None, None)

    def place(self, index: int) -> int:
        """The place, all epochs counted, of the row that comes to be at another."""
        epoch, place = divmod(index, len(self._needed))
        number, inside = divmod(place, self._size)
        if number >= self._batches:  # of no batch
            return index
        places, _ = self._of(epoch, number)
        return int(places[number % self._window, inside])

    def needs(self, epoch: int, number: int) -> int:
        """The number of the size that holds a global batch."""
        return int(self._of(epoch, number)[1][number % self._window])

    def _of(self, epoch: int, number: int) -> tuple[Any, Any]:
        """Places of the rows of all batches of a window, and the sizes they need."""
        first = number - number % self._window
        kept = self._kept
        if kept[0] != (epoch, first):
            count = min(self._window, self._batches - first)
            start = epoch * len(self._needed) + first * self._size
            needed = np.array(
                [self._needed[start + i] for i in range(count * self._size)]
            )
            order = np.argsort(needed, kind="stable").reshape(count, self._size)
            order.sort(axis=1)  # inside a batch as they were
            if self._seed is not None:
                drawn = np.random.default_rng((self._seed, epoch, first))
                order = drawn.permutation(order)
            kept = (epoch, first), start + order, needed[order].max(axis=1)
            self._kept = kept
        return kept[1], kept[2]


class Grouped(grain.MapDataset):
    """Rows in the order in which they meet in batches."""

    def __init__(self, parent: grain.MapDataset, grouping: Grouping) -> None:
        """Moves the rows of a parent, each with all that was random in it."""
        super().__init__(parent)
        self._grouping = grouping

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._parent[self._grouping.place(index)]


class Cut(grain.MapDataset):
    """A process's part of each global batch, as long as all of the batch needs."""

    def __init__(
        self, parent: grain.MapDataset, grouping: Grouping, lengths: Lengths
    ) -> None:
        """Cuts the batches of a parent, of which there is one per global batch."""
        super().__init__(parent)
        self._grouping, self._lengths = grouping, lengths

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        size = self._lengths.sizes[self._grouping.needs(*divmod(index, len(self)))]
        batch = self._parent[index]
        cut = {name: batch[name][:, :size] for name in self._lengths.fields}
        return {**batch, **cut}
