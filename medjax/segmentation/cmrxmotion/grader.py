"""A trained grader, opened from its run's folder: what breathing did to anyone's scans.

>>> model = medjax.load("runs/cmrxmotion-tiny/grade-ordinal")  # doctest: +SKIP
>>> for found in model.grade(["a.nii.gz"]):  # doctest: +SKIP
...     print(found.id, found.grade, found.probabilities)

Grades are the challenge's: 1 mild, 2 intermediate, 3 severe. What is *said* is the
grade with the smallest expected distance from the true one.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int

from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume
from medjax.data.volumes import grid_of, resample, spaced, to_canonical
from medjax.segmentation.cmrxmotion.quality import (
    QualityConfig,
    QualitySystem,
    least_distance,
)
from medjax.segmentation.datasets.case import without_suffix
from medjax.segmentation.sampling import window
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.record import load_record, save_record
from medjax.train.system import Apply
from medjax.typing import Variables

FAMILIES: Mapping[str, type] = {"grader": QualityConfig}
"""The class of the settings, by what ``system.json`` calls the family."""


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """How graders see scans."""

    slices: int = 8
    """Of a stack, spread evenly over those that there are."""
    size: int = 64
    """Rows and columns, the middle of the image."""
    pixel: float | None = None
    """mm; None: as they are."""


def stack_of(image: Volume, config: StackConfig) -> Float[np.ndarray, "d h w"]:
    """A scan as graders see it.

    Args:
        image: any orientation; its axis with the longest voxels counts slices.
        config: extent and pixels.
    """
    turned = to_canonical(image)
    across = int(np.argmax(turned.spacing))
    if config.pixel is not None:
        sizes = [config.pixel] * 3
        sizes[across] = turned.spacing[across]
        grid = spaced(grid_of(turned), sizes)
        turned = resample(turned, grid, interpolation="linear")
    data = np.moveaxis(turned.data, across, 0).astype(np.float32)
    chosen = np.linspace(0, len(data) - 1, config.slices).round().astype(int)
    corner = [(n - config.size) // 2 for n in data.shape[1:]]
    shape = (config.slices, config.size, config.size)
    return window(data[chosen], [0, *corner], shape)


@dataclasses.dataclass(frozen=True)
class GraderRecord:
    """What ``system.json`` holds of a grader.

    Attributes:
        system: network and head.
        stack: how it sees scans.
        batch_size: stacks at a time.
        data: what it was trained on, for titles.
        can: what the system can do, the names of its ``apply``.
    """

    system: QualityConfig
    stack: StackConfig
    batch_size: int
    data: str
    can: tuple[str, ...] = ("grade",)

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a run's folder."""
        save_record(workdir, next(iter(FAMILIES)), self)

    @classmethod
    def load(cls, workdir: Path) -> "GraderRecord":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            DataError: where it is damaged, of another version, or no grader's.
        """
        return load_record(workdir, cls, FAMILIES)


@dataclasses.dataclass(frozen=True)
class Graded:
    """What a grader says of a scan.

    Attributes:
        id: of the scan, its file's name.
        grade: 1, 2 or 3.
        probabilities: of each grade.
    """

    id: str
    grade: int
    probabilities: Float[np.ndarray, "3"]


@dataclasses.dataclass(frozen=True)
class TrainedGrader:
    """A grader with its weights.

    Attributes:
        record: its settings.
        asked: weights and stacks to probabilities, compiled once.
        variables: the weights.
    """

    record: GraderRecord
    asked: Apply
    variables: Variables

    @classmethod
    def of(cls, record: GraderRecord, variables: Variables) -> "TrainedGrader":
        """With its network compiled when it is first asked."""
        apply = QualitySystem(record.system).apply["grade"]
        return cls(record, jax.jit(apply), variables)

    def grade(
        self, images: Sequence[str | Path], *, ledger: Ledger | None = None
    ) -> Iterator[Graded]:
        """One scan after the other, as they get done.

        Args:
            images: NIfTI files of three axes (a fourth of one is none).
            ledger: takes files that cannot be read; by default they raise.

        Raises:
            DataError: for a file that cannot be read, if the ledger raises.
        """
        ledger = Ledger() if ledger is None else ledger
        readable = self._read(images, ledger)
        while batch := [*itertools.islice(readable, self.record.batch_size)]:
            p = self.probabilities(np.stack([stack for _, stack in batch]))
            said = least_distance(p)
            for (name, _), grade, row in zip(batch, said, p, strict=True):
                yield Graded(name, int(grade), row)

    def _read(
        self, images: Sequence[str | Path], ledger: Ledger
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Names and stacks of the files that can be read."""
        for path in map(Path, images):
            name = without_suffix(path)
            try:
                stack = stack_of(nifti.read(path, ndim=3), self.record.stack)
            except (DataError, FileNotFoundError) as error:
                ledger.fault(name, str(error))
                continue
            yield name, stack

    def probabilities(
        self, stacks: Float[np.ndarray, "n d h w"]
    ) -> Float[np.ndarray, "n 3"]:
        """Of the grades 1, 2 and 3."""
        size, found = self.record.batch_size, []
        for first in range(0, len(stacks), size):
            batch = stacks[first : first + size]
            # One shape, so that one program is compiled.
            missing = size - len(batch)
            full = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
            found.append(np.asarray(self.asked(self.variables, full))[: len(batch)])
        return np.concatenate(found)

    def grades(self, stacks: Float[np.ndarray, "n d h w"]) -> Int[np.ndarray, " n"]:
        """Those with the smallest expected distance from the true one."""
        return least_distance(self.probabilities(stacks))


def open_grader(folder: str | Path) -> TrainedGrader:
    """Opens the folder of a trained grader, at its newest checkpoint.

    Raises:
        FileNotFoundError: where the folder is not a run's.
        DataError: where what it says of itself is damaged.
        ValueError: where there is no checkpoint.
    """
    folder = Path(folder)
    record = GraderRecord.load(folder)
    if not saved_steps(folder):
        raise ValueError(f"{folder} has no checkpoint yet: train it first")
    return TrainedGrader.of(record, load_variables(folder))
