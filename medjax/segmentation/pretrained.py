"""A trained segmentation, opened from its run's folder.

>>> model = medjax.load("runs/segment-tiny")            # doctest: +SKIP
>>> for found in model.predict(["a.nii.gz"], out="predicted"):  # doctest: +SKIP
...     print(found.id, found.labels.data.shape)

Images are prepared as in training, whatever their voxel size and orientation, and what
comes out lies on their own grid.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume, write
from medjax.data.whole import whole
from medjax.segmentation.datasets.case import Case, DataSet, without_suffix
from medjax.segmentation.inference import WindowConfig, planes
from medjax.segmentation.preparation import (
    Preparation,
    Prepared,
    prepare,
    restore,
    restore_labels,
)
from medjax.segmentation.system import (
    SegmentationConfig,
    SegmentationSystem,
    segmentation_system,
)
from medjax.segmentation.uncertainty import entropy
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.record import load_record, save_record
from medjax.typing import Variables

FAMILIES: Mapping[str, tuple[type, Any]] = {
    "segmentation": (SegmentationConfig, segmentation_system),
}
"""The class of a system's settings and what makes the system of them."""
WRITTEN = ("prob", "entropy")
"""What can be written beside the label map; systems that sample add theirs."""


@dataclasses.dataclass(frozen=True)
class SegmentationRecord:
    """What ``system.json`` holds."""

    system: SegmentationConfig
    """Settings of the system."""
    preparation: Preparation
    """What is done to every image."""
    data: str
    """What it was trained on, for titles."""
    window: WindowConfig = WindowConfig()
    """Tiles, unless others are asked for."""

    def build(self) -> SegmentationSystem:
        """The system."""
        name = family(self.system)
        return FAMILIES[name][1](self.system)

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a folder, made where it is missing."""
        save_record(workdir, family(self.system), self)

    @classmethod
    def load(cls, workdir: Path) -> "SegmentationRecord":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: Where there is none.
            DataError: Where it is damaged, of another version, or of another domain.
        """
        kinds = {name: kind for name, (kind, _) in FAMILIES.items()}
        return load_record(workdir, cls, kinds)


def family(config: Any) -> str:
    """The name in :data:`FAMILIES` of a system's settings."""
    return next(name for name, (kind, _) in FAMILIES.items() if type(config) is kind)


@dataclasses.dataclass(frozen=True)
class Segmented:
    """What a network says of one image, on the image's grid.

    Attributes:
        id: Of the image.
        labels: Values as in the files of the training set.
        maps: By name, a fourth axis of channels where there are several.
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
    """

    record: SegmentationRecord
    step: int
    system: SegmentationSystem
    variables: Variables

    def predict(
        self,
        images: Sequence[str | Path | Sequence[str | Path]],
        *,
        out: str | Path | None = None,
        written: Sequence[str] = (),
        window: WindowConfig | None = None,
        ledger: Ledger | None = None,
    ) -> Iterator[Segmented]:
        """One image after the other, as they get done.

        Args:
            images: NIfTI files; of several channels, a sequence of files each, or one
                with a fourth axis.
            out: Folder for the label maps, ``<id>.nii.gz``, and what else is written.
            written: Of :data:`WRITTEN`: maps beside the labels.
            window: Tiles; those of the run by default.
            ledger: Takes images that cannot be read; by default they raise.

        Raises:
            DataError: For an image that cannot be read, if the ledger raises.
        """
        strange = sorted(set(written) - {*WRITTEN})
        if strange:
            raise ValueError(f"written: {strange}, expected some of {list(WRITTEN)}")
        ledger = Ledger() if ledger is None else ledger
        names = [channel.name for channel in self.record.preparation.channels]
        labels = self.record.system.labels
        reader = DataSet(self.record.data, tuple(names), labels, ())
        for given in images:
            several = isinstance(given, Sequence) and not isinstance(given, str)
            paths = [Path(p) for p in (given if several else [given])]  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]
            name = without_suffix(paths[0]).removesuffix("_0000")
            try:
                volumes, _ = reader.read(Case(name, tuple(paths)))
                found = self.segment(volumes, id=name, maps=written, window=window)
            except (DataError, FileNotFoundError) as error:
                ledger.fault(name, str(error))
                continue
            if out is not None:
                self.save(found, Path(out))
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
            maps: Of :data:`WRITTEN`.
            window: Tiles; those of the run by default.
        """
        case = prepare(volumes, self.record.preparation, id=id)
        said = self.said(case, window=window)
        order, labels = self.record.preparation.order, self.record.system.labels
        found = restore_labels(said["probability"], case, order, labels)
        beyond = (1.0 if not labels.regions else 0.0, *(0.0,) * (labels.channels - 1))
        restored = {}
        if "prob" in maps:
            restored["prob"] = restore(said["probability"], case, order, outside=beyond)
        if "entropy" in maps:
            only = restore(said["entropy"], case, order, outside=(0.0,))
            restored["entropy"] = dataclasses.replace(only, data=only.data[..., 0])
        return Segmented(id, found, restored)

    def said(
        self, case: Prepared, *, window: WindowConfig | None = None
    ) -> dict[str, np.ndarray]:
        """Probabilities and maps in the network's axes, ``z y x q``.

        Args:
            case: Prepared as in training.
            window: Tiles; those of the run by default.
        """
        config = self.record.window if window is None else window
        config = dataclasses.replace(
            config, shared_key=config.shared_key or self.system.shared_key
        )
        pieces = planes(
            self.system.tile,
            self.variables,
            case.image,
            patch=self.record.system.patch,
            config=config,
        )
        # Piece by piece, so that no whole volume of probabilities is on the device.
        done = [self._finished(piece) for piece in pieces]
        return {name: np.concatenate([d[name] for d in done]) for name in done[0]}

    def _finished(self, averages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What follows from averages over tiles; not compiled, shapes are many."""
        found = dict(self.system.finish(jax.tree.map(jnp.asarray, dict(averages))))
        if "entropy" not in found:
            found["entropy"] = entropy(found["probability"], self.record.system.labels)
        return {name: np.asarray(value) for name, value in found.items()}

    def save(self, found: Segmented, folder: Path) -> list[Path]:
        """Writes a label map and maps as NIfTI, and ``summary.json`` of the case.

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
            write(path, volume.data, affine=volume.affine)
            paths.append(path)
        voxel = float(np.prod(found.labels.spacing)) / 1000
        volumes = {
            name: float(np.isin(found.labels.data, value).sum() * voxel)
            for name, value in labels.structures.items()
        }
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


def open_run(folder: str | Path, *, step: int | None = None) -> Segmenter:
    """Opens the folder of a trained segmentation.

    Args:
        folder: Of the run.
        step: Which checkpoint; default the newest.

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
    return Segmenter(record, step, record.build(), variables)
