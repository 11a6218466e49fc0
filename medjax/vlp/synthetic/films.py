"""Other films of the same reports: the one column in which arms of a comparison differ.

Rows keep their order, texts, labels and random sentences; a film is drawn anew in every
epoch where there are several of a report.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int, UInt8

from medjax.data.pipeline import Source

Transform = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class OtherFilms:
    """Replaces the films of a source.

    Attributes:
      images: of every row of the source, k films.
      rows: which rows to keep, in this order; None: all.
      generators: what made them, for the record of a run that is trained on them.
    """

    images: UInt8[np.ndarray, "n k h w"]
    rows: Int[np.ndarray, " m"] | None = None
    generators: tuple[Mapping[str, Any], ...] = ()

    def __call__(
        self, source: Source, transform: Transform | None
    ) -> tuple[Source, Transform]:
        """The source with these films, and the random part of a row.

        Args:
          source: rows with ``image``.
          transform: the random part that the source has already.

        Raises:
          ValueError: another number of rows, or of rows that are kept.
        """
        if len(self.images) != len(source):
            raise ValueError(
                f"images: expected films of {len(source)} rows, got {len(self.images)}"
            )
        rows = np.arange(len(source)) if self.rows is None else self.rows
        if not len(rows) or rows.min() < 0 or rows.max() >= len(source):
            raise ValueError(
                f"rows: expected some of 0 to {len(source) - 1}, got {len(rows)}"
            )
        return _Replaced(source, self.images, rows), DrawFilm(transform)


class _Replaced:
    """Rows whose ``image`` holds all films of their report, ``[k, h, w]``."""

    def __init__(self, source: Source, images: np.ndarray, rows: np.ndarray) -> None:
        self.source, self.images, self.rows = source, images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        place = int(self.rows[row])
        return {**self.source[place], "image": self.images[place]}


@dataclasses.dataclass(frozen=True)
class DrawFilm:
    """Random map of the pipeline: one film of each report per step.

    It comes after all else that is random in a row, so that two arms with the same seed
    draw the same sentences.
    """

    before: Transform | None = None

    def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Replaces ``image`` [k, h, w] by one of them."""
        if self.before is not None:
            row = self.before(row, rng)
        films = row["image"]
        return {**row, "image": films[rng.integers(len(films))]}
