"""Prepared cases: in memory, or in ArrayRecord files with all that explains them.

A prepared folder holds its data set's description (files, labels, splits), the
preparation, the plan, and the cases of the splits that are trained on, cropped,
resampled and normalised. What is evaluated is read from its own files again, so scores
are of the scanner's grid.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from medjax.data.boundary import DataError, reading
from medjax.data.documents import revive
from medjax.data.ledger import Ledger
from medjax.data.record_writer import write_records
from medjax.data.records import Field, RecordSource, read_metadata
from medjax.progress import Progress
from medjax.segmentation.datasets.case import Case, DataSet
from medjax.segmentation.datasets.geometry import of_one_geometry
from medjax.segmentation.fingerprint import PlanConfig, fingerprint, plan, shape_of
from medjax.segmentation.plans import NetworkPlan
from medjax.segmentation.preparation import Preparation, Prepared, prepare
from medjax.segmentation.sampling import foreground_voxels

Row = Mapping[str, Any]
FIELDS = {
    "id": Field("text"),
    "image": Field("array", (None,), "float32"),
    "shape": Field("array", (4,), "int32"),
    "label": Field("array", (None,), "int16"),
    "voxels": Field("array", (None, 3), "int32"),
    "classes": Field("array", (None,), "int16"),
}
"""Images and label maps are flat, since cases have shapes of their own."""
WHAT = "prepared set for segmentation"
PATHS = {Path: Path}


@dataclasses.dataclass(frozen=True)
class SegmentationData:
    """What a run trains on and is scored on.

    Attributes:
        data: The set, with all its cases.
        preparation: What is done to every case.
        plan: Patch, batch size and network.
        train: Prepared training cases.
    """

    data: DataSet
    preparation: Preparation
    plan: NetworkPlan
    train: Sequence[Row]

    def cases(self, split: str) -> list[Case]:
        """The cases of a split, as files."""
        return [case for case in self.data.cases if case.split == split]


class PreparedCases(Sequence[Row]):
    """Prepared cases of a folder, by number."""

    def __init__(self, folder: Path, split: str) -> None:
        self.source = RecordSource(folder, split)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: SupportsIndex) -> Row:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = self.source[row]
        shape = tuple(int(n) for n in found["shape"])
        with reading(self.source.folder, WHAT, key=str(found["id"])):
            image = found["image"].reshape(shape)
            label = found["label"].reshape(shape[:3])
        return {**found, "image": image, "label": label}


def prepared_rows(
    data: DataSet, preparation: Preparation, splits: Sequence[str], ledger: Ledger
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Prepared cases one by one, each with its split.

    Args:
        data: Of any kind.
        preparation: Of the set.
        splits: Which cases.
        ledger: Takes those that cannot be read or do not fit the set; what it has
            already is not read again.
    """
    known = {skip.id for skip in ledger.skipped}
    wanted = [c for c in data.cases if c.split in splits and c.id not in known]
    with Progress("prepare", len(wanted), "cases") as progress:
        for case in wanted:
            progress.advance()
            try:
                images, label = data.read(case)
                if label is None:
                    raise DataError(f"{case.id}: no label map")
                found = prepare(
                    images, preparation, id=case.id, label=label, labels=data.labels
                )
            except (DataError, FileNotFoundError) as error:
                ledger.fault(case.id, str(error))
                continue
            yield case.split, row_of(found, len(data.labels.values))


def row_of(case: Prepared, count: int) -> dict[str, Any]:
    """A prepared case as patches are cut from it.

    Args:
        case: With a label map.
        count: Classes, the background included.

    Raises:
        ValueError: Without a label map.
    """
    if case.label is None:
        raise ValueError(f"{case.id}: a case to train on has a label map")
    voxels, classes = foreground_voxels(case.label, count)
    return {
        "id": case.id,
        "image": case.image.astype(np.float32),
        "label": case.label.astype(np.int16),
        "voxels": voxels,
        "classes": classes,
    }


def in_memory(data: DataSet, config: PlanConfig, ledger: Ledger) -> SegmentationData:
    """Plans and prepares a set without writing anything.

    Args:
        data: Of any kind.
        config: What is chosen of the plan.
        ledger: Takes cases that cannot be read.

    Raises:
        DataError: If no training case is left.
    """
    data = of_one_geometry(data, ledger)
    preparation, network = planned(data, config, ledger)
    rows = [row for _, row in prepared_rows(data, preparation, ["train"], ledger)]
    if not rows:
        raise DataError(f"{data.name}: no training case is left")
    return SegmentationData(data, preparation, network, rows)


def planned(
    data: DataSet, config: PlanConfig, ledger: Ledger
) -> tuple[Preparation, NetworkPlan]:
    """Preparation and network of a set, and a line that says what they are."""
    found = fingerprint(data, ledger)
    preparation, network = plan(
        found, data.channels, classes=data.labels.channels, config=config
    )
    ledger.log(
        f"plan: {shape_of(network.network)}, patch "
        f"{'x'.join(map(str, network.patch))}, batch {network.batch_size}"
    )
    return preparation, network


def write_prepared(
    data: DataSet,
    config: PlanConfig,
    out: Path,
    ledger: Ledger,
    *,
    overwrite: bool = False,
) -> SegmentationData:
    """Plans a set, and writes its training and validation cases into a folder.

    Args:
        data: Of files.
        config: What is chosen of the plan.
        out: The folder, which appears when it is complete.
        ledger: Takes cases that cannot be read; counts the others.
        overwrite: Replace a set that is there.

    Raises:
        FileExistsError: If something is there, and is not to be replaced.
        DataError: If no training case is left.
    """
    data = of_one_geometry(data, ledger)
    preparation, network = planned(data, config, ledger)
    counts: dict[str, int] = {}
    with write_records(
        out, name="segmentation", fields=FIELDS, overwrite=overwrite
    ) as writer:
        for split, row in prepared_rows(
            data, preparation, ["train", "validation"], ledger
        ):
            counts[split] = counts.get(split, 0) + 1
            flat = {"image": row["image"].ravel(), "label": row["label"].ravel()}
            shape = np.asarray(row["image"].shape, np.int32)
            writer.add(split, {**row, **flat, "shape": shape})
            writer.flush(split)  # whole volumes, which nobody wants to hold many of
        if not counts.get("train"):
            raise DataError(f"{data.name}: no training case is left")
        described = {
            "data": data,
            "preparation": preparation,
            "plan": network,
        }
        writer.metadata["segmentation"] = {
            key: _plain(dataclasses.asdict(value)) for key, value in described.items()
        }
    for split, count in counts.items():
        of = sum(case.split == split for case in data.cases)
        ledger.count(f"prepared for {split}", count, of - count)
    return open_prepared(out)


def open_prepared(folder: Path) -> SegmentationData:
    """A folder that :func:`write_prepared` finished.

    Raises:
        DataError: If it is none, or is damaged.
    """
    about = read_metadata(folder).get("segmentation")
    if not isinstance(about, dict):
        raise DataError(f"{folder}: not a prepared set for segmentation")
    with reading(folder, WHAT):
        data = revive(DataSet, about["data"], PATHS)
        preparation = revive(Preparation, about["preparation"])
        network = revive(NetworkPlan, about["plan"])
    return SegmentationData(data, preparation, network, PreparedCases(folder, "train"))


def _plain(value: Any) -> Any:
    """Paths as text, so that it is JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value.absolute()) if isinstance(value, Path) else value
