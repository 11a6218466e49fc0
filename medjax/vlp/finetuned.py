"""A fine-tuned run, opened from its folder: probabilities of findings on any film.

>>> model = medjax.load("runs/finetune-tiny")          # doctest: +SKIP
>>> model.predict(["a.png", "b.dcm"])                  # doctest: +SKIP
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from medjax.data.ledger import Ledger
from medjax.vlp.applied import Applied
from medjax.vlp.classifier import ClassifierConfig, ClassifierSystem, classifier
from medjax.vlp.films import Film
from medjax.vlp.tuned import TunedRecord, open_best

FAMILY = "classifier"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierRecord(TunedRecord):
    """What ``system.json`` holds of a classifier."""

    families: ClassVar[Mapping[str, type]] = {FAMILY: ClassifierConfig}
    system: ClassifierConfig

    def build(self) -> ClassifierSystem:
        """The system."""
        return classifier(self.system, self.image, len(self.findings))


@dataclasses.dataclass(frozen=True)
class Finetuned(Applied):
    """A classifier with all that it needs to be used; see `Applied`."""

    record: ClassifierRecord
    system: ClassifierSystem

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the columns of what `predict` gives."""
        return self.record.findings

    def predict(
        self, images: Sequence[str | Path] | np.ndarray, *, batch_size: int = 64
    ) -> Float[np.ndarray, "n k"]:
        """The probability of each finding.

        Args:
            images: Files of any kind that training reads, or uint8 films
                ``[n, size, size]`` prepared already.
            batch_size: Films at a time.

        Returns:
            float32 in [0, 1], one row per film, one column per name in ``findings``.

        Raises:
            DataError: For a file that cannot be read.
            ValueError: For an array that is no stack of prepared films.
        """
        return self.image_rows("predict", images, batch_size)

    def image_features(
        self, images: Sequence[str | Path] | np.ndarray, *, batch_size: int = 64
    ) -> Float[np.ndarray, "n d"]:
        """What the tower knows, before the linear layer; as `predict`."""
        return self.image_rows("features", images, batch_size)

    def predict_films(
        self, films: Sequence[Film], *, ledger: Ledger, batch_size: int = 64
    ) -> tuple[list[str], Float[np.ndarray, "n k"]]:
        """Probabilities of the films that can be read; the others go to the ledger.

        Args:
            films: Of `medjax.vlp.films.find_films`.
            ledger: Collects, or raises, the faults of files.
            batch_size: Films at a time.

        Returns:
            Ids and, row by row, float32 probabilities.
        """
        return self.film_rows("predict", films, ledger=ledger, batch_size=batch_size)


def open_classifier(folder: str | Path) -> Finetuned:
    """Opens a fine-tuned run, at its best checkpoint.

    Raises:
        FileNotFoundError: Where the folder is not a run's.
        DataError: Where what the run says of itself is damaged.
        ValueError: Where there is no checkpoint.
    """
    folder = Path(folder)
    return open_best(Finetuned, folder, ClassifierRecord.load(folder))
