"""A fine-tuned run, opened from its folder: probabilities of findings on any film.

>>> model = medjax.load("runs/finetune-tiny")          # doctest: +SKIP
>>> model.predict(["a.png", "b.dcm"])                  # doctest: +SKIP
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from medjax.data.images import ResizeMode
from medjax.data.ledger import Ledger
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.record import load_record, save_record
from medjax.train.sharding import replicated
from medjax.train.stopping import StoppingConfig, past_scores
from medjax.vlp.applied import Applied
from medjax.vlp.classifier import ClassifierConfig, ClassifierSystem, classifier
from medjax.vlp.films import Film
from medjax.vlp.towers import ImageTowerConfig

FAMILY = "classifier"


@dataclasses.dataclass(frozen=True)
class ClassifierRecord:
    """What ``system.json`` holds of a classifier.

    Attributes:
        system: what was trained.
        image: the tower.
        image_size: side of the square films it was trained on.
        resize: how a film becomes that square.
        findings: names of what it predicts.
        stopping: which validation score chose the weights.
        start: what the tower started from.
        data: what it was trained on, for titles.
        can: what the system can do, the names of its ``apply``.
    """

    system: ClassifierConfig
    image: ImageTowerConfig
    image_size: int
    resize: ResizeMode
    findings: tuple[str, ...]
    stopping: StoppingConfig
    start: str
    data: str
    can: tuple[str, ...] = ()

    def build(self) -> ClassifierSystem:
        """The system."""
        return classifier(self.system, self.image, len(self.findings))

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a run's folder."""
        # Where its weights came from is another machine's business: they are here.
        here = dataclasses.replace(self.image, checkpoint=None)
        save_record(workdir, FAMILY, dataclasses.replace(self, image=here))

    @classmethod
    def load(cls, workdir: Path) -> "ClassifierRecord":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            DataError: where it is damaged, of another version, or no classifier's.
        """
        return load_record(workdir, cls, {FAMILY: ClassifierConfig})


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


def best_step(folder: Path, stopping: StoppingConfig) -> int:
    """The checkpoint that validation chose; the newest where none was scored.

    Raises:
        ValueError: Where there is no checkpoint.
    """
    steps = saved_steps(folder)
    if not steps:
        raise ValueError(f"{folder} has no checkpoint yet: train it first")
    scores = past_scores(folder, stopping.metric)
    kept = {step: score for step, score in scores.items() if step in steps}
    return stopping.best(kept) if kept else steps[-1]


def open_classifier(folder: str | Path) -> Finetuned:
    """Opens a fine-tuned run, at its best checkpoint.

    Raises:
        FileNotFoundError: Where the folder is not a run's.
        DataError: Where what the run says of itself is damaged.
        ValueError: Where there is no checkpoint.
    """
    folder = Path(folder)
    record = ClassifierRecord.load(folder)
    step = best_step(folder, record.stopping)
    mesh = make_mesh(MeshConfig(), devices=jax.local_devices())
    return Finetuned(
        folder=folder,
        record=record,
        step=step,
        system=record.build(),
        variables=load_variables(folder, step=step, sharding=replicated(mesh)),
        mesh=mesh,
    )
