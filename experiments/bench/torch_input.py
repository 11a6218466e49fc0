"""Their reading: a torch ``DataLoader`` over the same rows and the same decoder."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from medjax.data.pipeline import Source


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Our source as a map-style data set."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        # A copy, since what a row holds is read-only and PyTorch warns of that.
        return {k: torch.from_numpy(np.array(v)) for k, v in self.source[row].items()}


def batches(source: Source, batch_size: int, workers: int, count: int) -> Iterator[Any]:
    """Shuffled batches, as one would ask for them.

    Args:
      source: Rows by number.
      batch_size: Rows of a batch.
      workers: Processes that read; 0 reads in this one.
      count: Batches there are to be, however few the rows: drawn with replacement, so
        that no end of an epoch is timed.
    """
    # Stacking a batch is no work for several threads, which wait for each other.
    torch.set_num_threads(1)
    rows = Rows(source)
    sampler = RandomSampler(rows, replacement=True, num_samples=batch_size * count)
    loader = DataLoader(
        rows,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        # A fork of a process with JAX's threads in it may hang.
        multiprocessing_context="spawn" if workers else None,
    )
    return iter(loader)
