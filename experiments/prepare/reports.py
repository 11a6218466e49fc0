"""Turn a data set into a prepared set, once: ``python -m experiments.prepare --help``.

Examples::

    python -m experiments.prepare mimic --root mimic-cxr-jpg --out prepared/mimic
    python -m experiments.prepare openi --root openi --out prepared/openi \\
        --render drawn --distinct
    python -m experiments.prepare table --root notes.csv --out prepared/mine \\
        --image "images/{id}.jpg" --text report --patient patient --on-error skip

It prints a count after every filter and the list of what was skipped, and leaves the
full list in ``skipped.csv``. The folder appears when it is complete: a run that was
stopped leaves nothing behind and is started again; a finished one returns at once.
With ``--out s3://bucket/set`` (or gs://) it is then uploaded, and read from there by
``--data.root s3://bucket/set``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, Union

import tyro

from medjax.data.ledger import Ledger, OnError
from medjax.train.ending import ends_in_words
from medjax.train.sets import CACHE, address_of, on_disk, written
from medjax.vlp.datasets import READERS, PrepareConfig, Reader, prepare

R = TypeVar("R")


@dataclass(frozen=True)
class Prepare(Generic[R]):
    """What to read, what to make of it, and where it goes."""

    data: tyro.conf.OmitArgPrefixes[R]
    """Which data set, and where it lies."""
    out: Path
    """Folder of the prepared set, or its gs:// or s3:// address."""
    config: tyro.conf.OmitArgPrefixes[PrepareConfig] = PrepareConfig()
    """What the prepared set looks like."""
    on_error: OnError = "raise"
    """An unreadable image, a duplicate id, an empty report: stop, or list and go on."""
    overwrite: bool = False
    """Replace a set that was prepared with other settings."""
    cache: Path = CACHE
    """Of an address as out: folder of this machine where the set is written first."""


def command(arguments: Sequence[str] | None = None) -> Prepare[Reader]:
    """The command line as data; one sub-command per data set."""
    commands: Any = Union[  # noqa: UP007 - built from a list
        tuple(
            Annotated[
                Prepare[reader],  # pyright: ignore[reportInvalidTypeArguments]
                tyro.conf.subcommand(name, description=reader.__doc__),
            ]
            for name, reader in READERS.items()
        )
    ]
    return tyro.cli(commands, args=arguments, prog="python -m experiments.prepare")


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare a set."""
    asked = command(arguments)
    on_disk(getattr(asked.data, "root", None), "root")
    with written(asked.out, asked.cache, overwrite=asked.overwrite) as folder:
        prepare(
            asked.data,
            folder,
            asked.config,
            ledger=Ledger(asked.on_error),
            overwrite=asked.overwrite,
        )
    print(f"prepared set: {address_of(asked.out) or asked.out}")
