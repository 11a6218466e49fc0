"""Which set is segmented: from flags to phantoms, raw folders or prepared cases."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from medjax.data.boundary import DataError, in_short
from medjax.data.ledger import Ledger, OnError
from medjax.segmentation.datasets import READERS, Case, DataSet
from medjax.segmentation.datasets.case import check_ids
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
from medjax.train.sets import CACHE, here, on_disk

RawFormat = Literal["nnunet", "acdc", "mnms", "cmrxmotion", "bids", "table"]
Format = Literal["embedded", "ambiguous", "prepared", RawFormat]
NAMELESS = ("bids", "table")
"""Formats that do not say what their channels are."""
CINES = ("acdc", "mnms")
"""Formats with more frames than have label maps."""
PHANTOMS = ("embedded", "ambiguous")
"""Formats that no folder holds."""


@dataclasses.dataclass(frozen=True)
class SegmentationDataConfig:
    """What is segmented."""

    root: Path | None = None
    """Folder of a set, or a CSV; of a prepared one the gs:// or s3:// address too;
    None: phantoms."""
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
    strict_geometry: bool = False
    """A case with files that lie elsewhere than its first image is a fault; else that
    image's geometry is taken, with one warning that lists them."""
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
    cache: Path = CACHE
    """Folder of this machine that prepared sets of an object store are fetched to."""


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
        ValueError: For a folder without a format, phantoms with a folder, or a set
            that was prepared without the strictness that is asked for.
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
        found = _opened(here(data.root, data.cache), data)
        return dataclasses.replace(found, plan=chosen(found.plan, plan))

    def prepare() -> None:
        if not folder.exists():
            write_prepared(read_raw(data, ledger), plan, folder, ledger)

    on_first(prepare, what="prepared data")
    return _opened(folder, data)


def _opened(folder: Path, asked: SegmentationDataConfig) -> SegmentationData:
    """A prepared set, if it was as strict about geometry as it should be."""
    found = open_prepared(folder)
    if asked.strict_geometry and not found.data.strict_geometry:
        raise ValueError(
            f"data.strict_geometry: {folder} was prepared without; prepare it anew"
        )
    return found


def read_raw(
    config: SegmentationDataConfig, ledger: Ledger, **options: bool
) -> DataSet:
    """The cases of a raw set.

    Args:
        config: Which, and its labels where the set does not say them.
        ledger: Counts filters.
        options: Of the reader: ``labelled``, and ``cine`` of those that have it.

    Raises:
        ValueError: For flags that the format does not have, or labels without values.
    """
    on_disk(config.root, f"data.root ({config.format})")
    kind = READERS[config.format]
    flags: dict[str, Any] = {"root": config.root, "seed": config.seed, **options}
    given = {"channels": config.channels, "labels": config.labels}
    if config.format in NAMELESS:
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
        strict_geometry=config.strict_geometry,
    )


def images_to_segment(
    roots: Sequence[str],
    format: RawFormat,
    channels: Sequence[str],
    ledger: Ledger,
    *,
    named: Sequence[str] = (),
    cine: bool = False,
) -> tuple[Case, ...]:
    """The images of raw sets, whether they have label maps or not.

    Args:
        roots: Folders of sets, or CSVs.
        format: What lies there.
        channels: Of the network.
        ledger: Counts filters, and says where a set calls channels otherwise.
        named: Of BIDS: suffixes of the channels; by default what the network calls
            them.
        cine: Of ACDC and M&Ms: all frames, rather than end-diastole and end-systole.

    Raises:
        ValueError: For flags that the format does not have.
        DataError: If nothing is found, or for a set of other channels, or an id that
            comes twice or is no name of a file.
    """
    if cine and format not in CINES:
        raise ValueError(f"cine: {format} has none, expected {' or '.join(CINES)}")
    if named and format != "bids":
        raise ValueError(f"channels: {format} says itself which they are")
    options = {"labelled": False, **({"cine": True} if cine else {})}
    asked = tuple(named or channels) if format in NAMELESS else ()
    found: list[Case] = []
    for root in roots:
        config = SegmentationDataConfig(Path(root), format, channels=asked)
        data = read_raw(config, ledger, **options)
        theirs, ours = ", ".join(data.channels), ", ".join(channels)
        if len(data.channels) != len(channels):
            raise DataError(f"{root}: channels {theirs}, the run's are {ours}")
        if theirs != ours:
            ledger.log(f"{root}: channels {theirs} are taken for the run's {ours}")
        found += [dataclasses.replace(case, label=None) for case in data.cases]
    if not found:
        raise DataError(f"images: found none of format {format} in {in_short(roots)}")
    check_ids(found, Path(roots[0] if len(roots) == 1 else "images"))
    if strange := [case.id for case in found if Path(case.id).name != case.id]:
        raise DataError(f"images: cases {in_short(strange)} are no names of files")
    return tuple(found)


def _named(label: str) -> tuple[str, int]:
    name, _, value = label.partition("=")
    if not name or not value.isdigit():
        raise ValueError(f"data.labels: {label!r}, expected name=value")
    return name, int(value)
