"""Grades of heart scans, by what breathing did to them: 1 mild to 3 severe.

::

    python -m experiments.cmrxmotion
    python -m experiments.grade runs/cmrxmotion-tiny/grade-ordinal scans/ \\
        --out grades.csv

Images are NIfTI files, folders or patterns of them, of one channel and three axes; what
a folder has of label maps is counted and left out. The table has a row per scan: its
name, the grade (the one with the smallest expected distance from the true one), the
probability of each, and the run. What cannot be read is listed in
``grades.csv.skipped.csv`` and makes the status 1, unless ``--on-error skip``. Trained
on phantoms, it has seen no real scan.
"""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from medjax.data.ledger import Ledger, OnError
from medjax.data.whole import whole
from medjax.segmentation.cmrxmotion.grader import open_grader
from medjax.segmentation.cmrxmotion.reader import GRADES
from medjax.segmentation.images import find_images
from medjax.train.ending import ends_in_words
from medjax.vlp.embedding import finish


@dataclasses.dataclass(frozen=True)
class Grade:
    """Which scans, and where their grades go."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained grader."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """NIfTI files, folders or patterns."""
    out: Path = Path("grades.csv")
    """Where the grades go."""
    on_error: OnError = "raise"
    """A scan that cannot be read: list it and end with status 1, or list it alone."""


def run(config: Grade) -> int:
    """Grades what the flags name; returns the status."""
    model = open_grader(config.run)
    ledger = Ledger("skip")
    paths = [path for (path,) in find_images(config.images, 1, ledger)]
    count = 0
    with whole(config.out) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "grade", *(f"p{grade}" for grade in GRADES), "run"])
        for found in model.grade(paths, ledger=ledger):
            cells = [f"{value:.6f}" for value in found.probabilities]
            table.writerow([found.id, found.grade, *cells, config.run])
            count += 1
    print(f"grades: {config.out} ({count} of {len(paths)} scans)")
    return finish(ledger, config.out, config.on_error)


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.grade"
    return run(tyro.cli(Grade, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
