"""Holds the pages of results to their numbers: ``python -m experiments.results``."""

import dataclasses
import sys

import tyro

from experiments.results.pages import changed
from medjax.train.ending import ends_in_words


@dataclasses.dataclass(frozen=True)
class Pages:
    """What is done about pages that say other than the numbers."""

    write: bool = False
    """Write their tables anew; without, list them and end with status 1."""


@ends_in_words
def main() -> int:
    """Compares, and writes if asked to."""
    config = tyro.cli(Pages, description=__doc__, prog="python -m experiments.results")
    pages = changed()
    for path, text in pages.items():
        if config.write:
            path.write_text(text)
        print(f"{path}: {'written' if config.write else 'not what its numbers say'}")
    if not pages:
        print("every page says what its numbers say")
    return 1 if pages and not config.write else 0


if __name__ == "__main__":
    sys.exit(main())
