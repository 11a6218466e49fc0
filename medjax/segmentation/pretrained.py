"""A trained segmentation, opened from its run's folder.

>>> model = medjax.load("runs/segment-tiny")            # doctest: +SKIP
>>> for found in model.predict(["a.nii.gz"], out="predicted"):  # doctest: +SKIP
...     print(found.id, found.labels.data.shape)
>>> (answers,) = model.samples(["a.nii.gz"], 8)           # doctest: +SKIP
>>> (maps,) = model.uncertainty(["a.nii.gz"])             # doctest: +SKIP

Images are prepared as in training, whatever their voxel size and orientation, and what
comes out lies on their own grid. A network of one channel takes the fourth axis of a
file for frames: each is segmented by itself, and what comes out has that axis too.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jax.sharding import Mesh

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume
from medjax.segmentation.applied import Applied
from medjax.segmentation.datasets.case import Case, DataSet, without_suffix
from medjax.segmentation.datasets.geometry import files_apart, warn_of
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.segmented import Segmented, in_motion, moving, save
from medjax.segmentation.systems import SegmentationRecord
from medjax.train.checkpoint import load_variables, saved_steps

Images = Sequence[str | Path | Case | Sequence[str | Path]]
"""NIfTI files; of several channels, a sequence of files each; or cases of a set."""
Frames = Sequence[Sequence[Volume]]
"""Of each frame of an image, a volume for each channel."""
Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Segmenter(Applied):
    """A trained system with all that it needs to be used on files.

    Images in memory go to :meth:`segment`, :meth:`several` and :meth:`draw`.
    """

    def predict(
        self,
        images: Images,
        *,
        out: str | Path | None = None,
        written: Sequence[str] = (),
        window: WindowConfig | None = None,
        ledger: Ledger | None = None,
        nan_to: float | None = None,
    ) -> Iterator[Segmented]:
        """One image after the other, as they get done.

        Args:
            images: NIfTI files; of several channels, a sequence of files each, or one
                with a fourth axis; of one channel, a fourth axis is of frames. Or
                cases of a set, whose label maps are not looked at.
            out: Folder for the label maps, ``<id>.nii.gz``, and what else is written.
            written: Of :attr:`written`: maps beside the labels.
            window: Tiles; those of the run by default.
            ledger: Takes images that cannot be read; by default they raise.
            nan_to: What voxels that are NaN or infinite are taken for; None: an image
                with any cannot be read.

        Raises:
            DataError: For an image that cannot be read, if the ledger raises.
        """
        strange = sorted(set(written) - {*self.written})
        if strange:
            raise ValueError(
                f"written: {strange}, expected some of {list(self.written)} of this run"
            )

        def one(name: str, frames: Frames) -> Segmented:
            found = [
                self.segment(volumes, id=name, maps=written, window=window)
                for volumes in frames
            ]
            return in_motion(found, frames[0][0].time_step)

        for found in self._of_each(images, one, ledger, nan_to):
            if out is not None:
                save(found, Path(out), self.record.system.labels, step=self.step)
            yield found

    def uncertainty(
        self, images: Images, *, out: str | Path | None = None, **options: Any
    ) -> Iterator[Segmented]:
        """:meth:`predict` with all maps of uncertainty that the system has."""
        maps = [name for name in self.written if name != "prob"]
        return self.predict(images, out=out, written=maps, **options)

    def samples(
        self,
        images: Images,
        count: int = 16,
        *,
        seed: int = 0,
        window: WindowConfig | None = None,
        ledger: Ledger | None = None,
    ) -> Iterator[list[Volume]]:
        """Label maps of several answers to one image after the other.

        Args:
            images: As :meth:`predict` takes them.
            count: How many; an ensemble has no more than members.
            seed: Of the draws.
            window: Tiles; those of the run by default.
            ledger: Takes images that cannot be read; by default they raise.

        Raises:
            ValueError: For a system that has one answer.
            DataError: For an image that cannot be read, if the ledger raises.
        """

        def one(name: str, frames: Frames) -> list[Volume]:
            found = [
                self.several(volumes, id=name, count=count, seed=seed, window=window)
                for volumes in frames
            ]
            if len(found) == 1:
                return found[0]
            step = frames[0][0].time_step
            return [moving(answer, step) for answer in zip(*found, strict=True)]

        return self._of_each(images, one, ledger)

    def _of_each(
        self,
        images: Images,
        one: Callable[[str, Frames], Found],
        ledger: Ledger | None,
        nan_to: float | None = None,
    ) -> Iterator[Found]:
        """What is found in each image that can be read."""
        ledger = Ledger() if ledger is None else ledger
        names = [channel.name for channel in self.record.preparation.channels]
        labels = self.record.system.labels
        reader = DataSet(self.record.data, tuple(names), labels, (), nan_to=nan_to)
        cases = [case_of(given) for given in images]
        warn_of(files_apart(cases))
        for case in cases:
            try:
                volumes, _ = reader.read(case)
                several = len(names) == len(case.images) == 1
                found = one(case.id, [[v] for v in volumes] if several else [volumes])
            except (DataError, FileNotFoundError) as error:
                ledger.fault(case.id, str(error))
                continue
            yield found


def case_of(image: str | Path | Case | Sequence[str | Path]) -> Case:
    """One of :data:`Images`, without the label map that a case may have."""
    if isinstance(image, Case):
        return dataclasses.replace(image, label=None)
    paths = [image] if isinstance(image, str | Path) else image
    paths = tuple(Path(path) for path in paths)
    return Case(without_suffix(paths[0]).removesuffix("_0000"), paths)


def open_run(
    folder: str | Path, *, step: int | None = None, mesh: Mesh | None = None
) -> Segmenter:
    """Opens the folder of a trained segmentation.

    Args:
        folder: Of the run.
        step: Which checkpoint; default the newest.
        mesh: Devices that tiles are split over; None: one.

    Raises:
        FileNotFoundError: Where the folder is not a run's.
        DataError: Where what it says of itself is damaged.
        ValueError: Where there is no checkpoint.
    """
    folder = Path(folder)
    record = SegmentationRecord.load(folder)
    steps = saved_steps(folder)
    if not steps:
        raise ValueError(f"{folder} has no checkpoint yet: train it first")
    step = steps[-1] if step is None else step
    variables = load_variables(folder, step=step)
    return Segmenter(record, step, record.build(), variables, mesh)
