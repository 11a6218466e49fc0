"""A list of CheXpert 5x200: ``python -m experiments.prepare five_classes --help``.

::

    python -m experiments.prepare five_classes --root CheXpert-v1.0-small \\
        --out five.csv
    python -m experiments.retrieve runs/mimic --queries five.csv --classes class \\
        --corpus reports.csv --texts report

It prints a count after every filter and the SHA-256 of the list, which is what two
numbers have to share to be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from medjax.data.ledger import Ledger, OnError
from medjax.train.ending import ends_in_words
from medjax.vlp.datasets.five_classes import FiveClasses, write_list


@dataclass(frozen=True)
class Draw:
    """Which films, and where the list goes."""

    data: tyro.conf.OmitArgPrefixes[FiveClasses]
    """Where they come from."""
    out: Path = Path("five.csv")
    """The list, with columns image and class."""
    on_error: OnError = "raise"
    """A row that does not fit: stop, or list and go on."""


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the list."""
    prog = "python -m experiments.prepare five_classes"
    asked = tyro.cli(Draw, args=arguments, description=__doc__, prog=prog)
    films = asked.data.draw(Ledger(asked.on_error))
    digest = write_list(asked.out, films)
    print(f"list: {asked.out} ({len(films)} films); sha256 {digest[:16]}")
