"""Prepare images and label maps once: ``python -m experiments.prepare segmentation``.

Examples::

    python -m experiments.prepare segmentation --format nnunet \\
        --root Dataset001_Brain --out prepared/brain
    python -m experiments.prepare segmentation --format bids --root isles \\
        --channels dwi --out prepared/isles --plan.rank 2

It prints a count after every filter, the plan (patch, batch, network) and what was
skipped, and leaves the full list in ``<out>.skipped.csv``. The folder appears when it
is complete; ``experiments.segment --data.format prepared --data.root OUT`` trains on
it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from medjax.data.ledger import Ledger, OnError
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.prepared import write_prepared
from medjax.segmentation.sets import RawFormat, SegmentationDataConfig, read_raw
from medjax.train.ending import ends_in_words
from medjax.train.sets import CACHE, address_of, written


@dataclasses.dataclass(frozen=True)
class Config:
    """What to read, and where it goes."""

    root: Path
    """Folder of a set, or a CSV."""
    out: Path
    """Folder of the prepared set, or its gs:// or s3:// address; what is evaluated is
    read from its own files, wherever the set is."""
    format: RawFormat = "nnunet"
    """What lies there; nnunet reads the Decathlon too."""
    channels: tuple[str, ...] = ()
    """Of BIDS: suffixes of images; of a table: names of its channels."""
    labels: tuple[str, ...] = ()
    """Of BIDS and tables: names and values of labels, as in lesion=1."""
    ignore: int | None = None
    """Of BIDS and tables: value of voxels that nobody annotated."""
    plan: PlanConfig = PlanConfig()
    """What is chosen of patch and network."""
    seed: int = 0
    """Of the split, where the set names none."""
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
    overwrite: bool = False
    """Replace a set that is there."""
    cache: Path = CACHE
    """Of an address as out: folder of this machine where the set is written first."""


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Prepares a set."""
    prog = "python -m experiments.prepare segmentation"
    config = tyro.cli(Config, args=arguments, description=__doc__, prog=prog)
    ledger = Ledger(config.on_error)
    shared = {f.name for f in dataclasses.fields(SegmentationDataConfig)}
    flags = {k: v for k, v in vars(config).items() if k in shared}
    data = read_raw(SegmentationDataConfig(**flags), ledger)
    for split in ("train", "validation", "test"):
        ledger.count(split, sum(case.split == split for case in data.cases))
    again = config.overwrite
    with written(config.out, config.cache, overwrite=again) as folder:
        write_prepared(data, config.plan, folder, ledger, overwrite=again)
        print(ledger.summary())
        if ledger.skipped:
            ledger.write_skipped(folder.with_name(f"{folder.name}.skipped.csv"))
    print(f"prepared set: {address_of(config.out) or config.out}")
