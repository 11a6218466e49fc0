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
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume, write
from medjax.data.volumes import grid_of, to_canonical
from medjax.data.whole import whole
from medjax.segmentation.datasets.case import Case, DataSet, without_suffix
from medjax.segmentation.datasets.geometry import files_apart, warn_of
from medjax.segmentation.inference import Tile, WindowConfig, planes
from medjax.segmentation.memory import needed, refuse_too_large
from medjax.segmentation.preparation import (
    Prepared,
    prepare,
    restore,
    restore_labels,
    target_grid,
)
from medjax.segmentation.sampled import every_draw
from medjax.segmentation.system import SegmentationSystem
from medjax.segmentation.systems import SegmentationRecord, family
from medjax.segmentation.uncertainty import entropy
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.typing import Variables

WRITTEN = ("prob", "entropy")
"""What can be written beside the label map of every system."""
OF_DRAWS = ("mi", "variance")
"""What can be written beside it of systems that give several answers."""
LEVELS = "levels"
"""The same of each level by itself, of systems that have latents at several."""


Images = Sequence[str | Path | Case | Sequence[str | Path]]
"""NIfTI files; of several channels, a sequence of files each; or cases of a set."""
Frames = Sequence[Sequence[Volume]]
"""Of each frame of an image, a volume for each channel."""
Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Segmented:
    """What a network says of one image, on the image's grid.

    Attributes:
        id: Of the image.
        labels: Values as in the files of the training set; a fourth axis of frames
            where the image has them.
        maps: By name, a last axis of channels where there are several.
    """

    id: str
    labels: Volume
    maps: Mapping[str, Volume]


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A trained system with all that it needs to be used.

    Attributes:
        record: Its settings.
        step: Updates behind the weights.
        system: Its pure functions.
        variables: The weights.
        mesh: Devices that tiles are split over; None: one. The answer is the same.
    """

    record: SegmentationRecord
    step: int
    system: SegmentationSystem
    variables: Variables
    mesh: Mesh | None = None

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the maps that can be written beside the label map."""
        found = WRITTEN if self.system.sample is None else WRITTEN + OF_DRAWS
        return (*found, LEVELS) if self.system.parts else found

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
            if len(found) == 1:
                return found[0]
            step = frames[0][0].time_step
            maps = {
                key: _moving([f.maps[key] for f in found], step)
                for key in found[0].maps
            }
            return Segmented(name, _moving([f.labels for f in found], step), maps)

        for found in self._of_each(images, one, ledger, nan_to):
            if out is not None:
                self.save(found, Path(out))
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
        labels = self.record.system.labels

        def one(name: str, frames: Frames) -> list[Volume]:
            drawn = [
                self.draw(volumes, id=name, count=count, seed=seed, window=window)
                for volumes in frames
            ]
            found = [
                [dataclasses.replace(p, data=labels.write(p.data)) for p in answer]
                for answer in zip(*drawn, strict=True)
            ]
            if len(frames) == 1:
                return [answer[0] for answer in found]
            return [_moving(answer, frames[0][0].time_step) for answer in found]

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

    def segment(
        self,
        volumes: Sequence[Volume],
        *,
        id: str,
        maps: Sequence[str] = (),
        window: WindowConfig | None = None,
    ) -> Segmented:
        """One image in memory.

        Args:
            volumes: One for each channel.
            id: For messages.
            maps: Of :attr:`written`.
            window: Tiles; those of the run by default.

        Raises:
            DataError: For an image that does not fit the run, or the memory.
        """
        numbers = self.record.system.labels.channels + len(self.written)
        case = self._prepared(volumes, id, numbers)
        said = self.said(case, window=window)
        order, labels = self.record.preparation.order, self.record.system.labels
        found = restore_labels(said["probability"], case, order, labels)
        restored = {}
        if "prob" in maps:
            restored["prob"] = restore(
                said["probability"], case, order, outside=labels.nothing
            )
        wanted = {name: said[name] for name in maps if name not in ("prob", LEVELS)}
        if LEVELS in maps:
            for name, part in self.system.parts.items():
                alone = dataclasses.replace(self, variables={**self.variables, **part})
                wanted[name] = alone.said(case, window=window)["mi"]
        for name, values in wanted.items():
            only = restore(values, case, order, outside=(0.0,))
            restored[name] = dataclasses.replace(only, data=only.data[..., 0])
        return Segmented(id, found, restored)

    def draw(
        self,
        volumes: Sequence[Volume],
        *,
        id: str,
        count: int,
        seed: int = 0,
        window: WindowConfig | None = None,
    ) -> list[Volume]:
        """Probabilities of several answers to one image, a fourth axis of channels.

        Args:
            volumes: One for each channel.
            id: For messages.
            count: How many; 0: one in which nothing is drawn.
            seed: Of the draws.
            window: Tiles, without their mirror images: what noise does to one of them
                is another draw, and the mean of draws is none. Those of the run by
                default.

        Raises:
            ValueError: For a system that has one answer.
            DataError: For an image that does not fit the run, or the memory.
        """
        if self.system.sample is None:
            raise ValueError(
                f"samples: a run of {family(self.record.system)!r} has one answer"
            )
        numbers = max(count, 1) * self.record.system.labels.channels
        case = self._prepared(volumes, id, numbers)
        tile = every_draw(self.system.sample, count)
        window = self.record.window if window is None else window
        window = dataclasses.replace(window, mirror=False)
        # One key for all tiles: an answer is one of the whole image.
        found = self._raw(case, tile, window, seed=seed, shared=True)
        every = np.concatenate([piece["draw"] for piece in found])
        order, labels = self.record.preparation.order, self.record.system.labels
        answers = np.split(every, every.shape[-1] // labels.channels, axis=-1)
        return [restore(p, case, order, outside=labels.nothing) for p in answers]

    def _prepared(self, volumes: Sequence[Volume], id: str, numbers: int) -> Prepared:
        """The image as the network sees it, once there is room for what is said of it.

        Args:
            volumes: One for each channel.
            id: For messages.
            numbers: That will be said of every voxel.
        """
        preparation = self.record.preparation
        original = grid_of(to_canonical(volumes[0]))
        seen = target_grid(original, preparation.spacing).shape
        channels = len(preparation.channels)
        size = needed(seen, original.shape, channels=channels, numbers=numbers)
        refuse_too_large(id, size, seen)
        return prepare(volumes, preparation, id=id)

    def said(
        self, case: Prepared, *, window: WindowConfig | None = None
    ) -> dict[str, np.ndarray]:
        """Probabilities and maps in the network's axes, ``z y x q``.

        Args:
            case: Prepared as in training.
            window: Tiles; those of the run by default.
        """
        # Piece by piece, so that no whole volume of probabilities is on the device.
        pieces = self._raw(case, self.system.tile, window)
        done = [self._finished(piece) for piece in pieces]
        return {name: np.concatenate([d[name] for d in done]) for name in done[0]}

    def _raw(
        self,
        case: Prepared,
        tile: Tile,
        window: WindowConfig | None,
        *,
        seed: int = 0,
        shared: bool = False,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Averages over tiles, piece by piece."""
        config = self.record.window if window is None else window
        shared = shared or config.shared_key or self.system.shared_key
        return planes(
            tile,
            self.variables,
            case.image,
            patch=self.record.system.patch,
            config=dataclasses.replace(config, shared_key=shared),
            key=jax.random.key(seed),
            mesh=self.mesh,
        )

    def _finished(self, averages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What follows from averages over tiles; not compiled, shapes are many."""
        found = dict(self.system.finish(jax.tree.map(jnp.asarray, dict(averages))))
        if "entropy" not in found:
            found["entropy"] = entropy(found["probability"], self.record.system.labels)
        return {name: np.asarray(value) for name, value in found.items()}

    def save(self, found: Segmented, folder: Path) -> list[Path]:
        """Writes a label map and maps as NIfTI, and ``<id>.json`` with its volumes.

        Of an image with frames, volumes are lists.

        Args:
            found: Of :meth:`segment`.
            folder: Made where it is missing.

        Returns:
            The files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        labels = self.record.system.labels
        files = {"": found.labels} | {f"_{k}": v for k, v in found.maps.items()}
        paths = []
        for suffix, volume in files.items():
            path = folder / f"{found.id}{suffix}.nii.gz"
            step = volume.time_step
            write(path, volume.data, affine=volume.affine, time_step=step)
            paths.append(path)
        voxel = float(np.prod(found.labels.spacing)) / 1000
        inside = {
            name: np.isin(found.labels.data, value).sum((0, 1, 2))
            for name, value in labels.structures.items()
        }
        volumes = {name: (n * voxel).tolist() for name, n in inside.items()}
        summary = {
            "id": found.id,
            "files": [path.name for path in paths],
            "volume_ml": volumes,
            "step": self.step,
        }
        path = folder / f"{found.id}.json"
        with whole(path) as draft:
            draft.write_text(json.dumps(summary, indent=1) + "\n")
        return [*paths, path]


def case_of(image: str | Path | Case | Sequence[str | Path]) -> Case:
    """One of :data:`Images`, without the label map that a case may have."""
    if isinstance(image, Case):
        return dataclasses.replace(image, label=None)
    paths = [image] if isinstance(image, str | Path) else image
    paths = tuple(Path(path) for path in paths)
    return Case(without_suffix(paths[0]).removesuffix("_0000"), paths)


def _moving(frames: Sequence[Volume], step: float | None) -> Volume:
    """Frames on a fourth axis, before one of channels; seconds between them."""
    data = np.stack([frame.data for frame in frames], axis=3)
    return dataclasses.replace(frames[0], data=data, time_step=step)


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
