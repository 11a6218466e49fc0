"""Upload a prepared set, or a folder of some: ``python -m experiments.prepare upload``.

::

    python -m experiments.prepare upload --root prepared/mimic --out s3://bucket/mimic
    python -m experiments.imitate paper --data.root s3://bucket/mimic

What says which files belong together is written last, so that nobody reads an upload
that was cut; the same command does it again. ``--out s3://...`` of the other
preparations does the same at their end.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from medjax.train.ending import ends_in_words
from medjax.train.sets import address_of, on_disk, upload


@dataclasses.dataclass(frozen=True)
class Upload:
    """What goes where."""

    root: Path
    """Folder of a prepared set, or of some."""
    out: Path
    """Its gs:// or s3:// address."""
    overwrite: bool = False
    """Replace sets that are there."""


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Uploads.

    Raises:
      ValueError: out is no address.
    """
    prog = "python -m experiments.prepare upload"
    asked = tyro.cli(Upload, args=arguments, description=__doc__, prog=prog)
    on_disk(asked.root, "root")
    if (address := address_of(asked.out)) is None:
        raise ValueError(f"out: {asked.out}: expected an address, as s3://bucket/set")
    upload(asked.root, address, overwrite=asked.overwrite)
    print(f"prepared set: {address}")
