"""Which set is segmented: from flags to phantoms, raw folders or prepared cases."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from medjax.data.ledger import Ledger, OnError
from medjax.segmentation.datasets import READERS, DataSet
from medjax.segmentation.datasets.embedded import ambiguous_phantoms, lesion_phantoms
from medjax.segmentation.fingerprint import PlanConfig, chosen
from medjax.segmentation.phantoms.ambiguous import AmbiguousConfig
from medjax.segmentation.phantoms.lesions import LOADS, LesionConfig
from medjax.segmentation.prepared import (
    SegmentationData,
    in_memory,
    open_prepared,
    write_prepared,
)
from medjax.train.agree import on_first

Format = Literal[
    "embedded",
    "ambiguous",
    "prepared",
    "nnunet",
    "acdc",
    "mnms",
    "cmrxmotion",
    "bids",
    "table",
]
PHANTOMS = ("embedded", "ambiguous")
"""Formats that no folder holds."""


@dataclasses.dataclass(frozen=True)
class SegmentationDataConfig:
    """What is segmented."""

    root: Path | None = None
    """Folder of a set, or a CSV; None: phantoms."""
    format: Format = "embedded"
    """What lies there: raw data, or what experiments.prepare segmentation made; of
    phantoms: brains with lesions, or objects that annotators draw differently."""
    channels: tuple[str, ...] = ()
    """Of BIDS: suffixes of images; of a table: names of its channels."""
    labels: tuple[str, ...] = ()
    """Of BIDS and tables: names and values of labels, as in ``lesion=1``."""
    ignore: int | None = None
    """Of BIDS and tables: value of voxels that nobody annotated."""
    on_error: OnError = "raise"
    """A case that cannot be read: stop, or list it and go on."""
    nan_to: float | None = None
    """What voxels that are NaN or infinite are taken for; None: they are a fault."""
    resample_labels: bool = False
    """Bring label maps of another shape to their image's grid; else they are a
    fault."""
    phantom: LesionConfig = LesionConfig(lesions=LOADS["uniform"])
    """Of lesion phantoms: what they are like."""
    ambiguous: AmbiguousConfig = AmbiguousConfig()
    """Of ambiguous phantoms: what they are like."""
    annotators: tuple[int, int] = (4, 16)
    """Of every training and every test image of ambiguous phantoms."""
    train_cases: int = 32
    """Of phantoms: how many to train on."""
    test_cases: int = 12
    """Of phantoms: how many are held out."""
    seed: int = 0
    """Of the split, the training phantoms, and the patches."""
    foreground: float = 1 / 3
    """Share of every batch that is cut around the foreground."""
    workers: int = 0
    """Interpreters that read beside each process; 0: threads."""


def prepared_set(
    data: SegmentationDataConfig, plan: PlanConfig, folder: Path, ledger: Ledger
) -> SegmentationData:
    """The set that the flags name, planned and prepared.

    Args:
        data: Which.
        plan: What is chosen of patch and network.
        folder: Raw sets are prepared into it once.
        ledger: Counts filters, takes what cannot be read.

    Raises:
        ValueError: For a folder without a format, or phantoms with a folder.
    """
    if (data.root is None) != (data.format in PHANTOMS):
        raise ValueError(
            f"data: root is {data.root} and format {data.format!r}; a folder needs a "
            "format, and phantoms have none"
        )
    if data.format == "ambiguous":
        phantoms = ambiguous_phantoms(
            data.ambiguous,
            seed=data.seed,
            train=data.train_cases,
            test=data.test_cases,
            annotators=data.annotators,
        )
        return in_memory(phantoms, plan, ledger)
    if data.root is None:
        counts = {"train": data.train_cases, "validation": 0, "test": data.test_cases}
        phantoms = lesion_phantoms(data.phantom, seed=data.seed, **counts)
        return in_memory(phantoms, plan, ledger)
    if data.format == "prepared":
        found = open_prepared(data.root)
        return dataclasses.replace(found, plan=chosen(found.plan, plan))

    def prepare() -> None:
        if not folder.exists():
            write_prepared(read_raw(data, ledger), plan, folder, ledger)

    on_first(prepare, what="prepared data")
    return open_prepared(folder)


def read_raw(config: SegmentationDataConfig, ledger: Ledger) -> DataSet:
    """The cases of a raw set.

    Args:
        config: Which, and its labels where the set does not say them.
        ledger: Counts filters.

    Raises:
        ValueError: For flags that the format does not have, or labels without values.
    """
    kind = READERS[config.format]
    flags: dict[str, Any] = {"root": config.root, "seed": config.seed}
    given = {"channels": config.channels, "labels": config.labels}
    if config.format in ("bids", "table"):
        if config.channels:
            name = "images" if config.format == "bids" else "channels"
            flags[name] = config.channels
        if config.labels:
            flags["labels"] = tuple(map(_named, config.labels))
        flags["ignore"] = config.ignore
    elif any(given.values()) or config.ignore is not None:
        raise ValueError(f"data: {config.format} says itself what its labels are")
    return dataclasses.replace(
        kind(**flags).read(ledger),
        nan_to=config.nan_to,
        resample_labels=config.resample_labels,
    )


def _named(label: str) -> tuple[str, int]:
    name, _, value = label.partition("=")
    if not name or not value.isdigit():
        raise ValueError(f"data.labels: {label!r}, expected name=value")
    return name, int(value)
