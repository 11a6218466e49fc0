"""Probabilities of findings on films, by a fine-tuned run.

::

    python -m experiments.finetune runs/mimic --data films.csv --target Edema Mass
    python -m experiments.classify runs/finetune-tiny --images films --out findings.csv

One row per film: its id, a probability for each finding the run was fine-tuned on, the
run and the SHA-256 of its weights. Films are prepared as in training, DICOM and 16-bit
files included. Those that cannot be read are listed in ``findings.csv.skipped.csv`` and
make the status 1, unless ``--on-error skip``. Stopped and started again, it goes on.
Probabilities are as good as the run's reliability curve says, and not for patients.
"""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from medjax.data.ledger import Ledger, OnError
from medjax.data.whole import whole
from medjax.train.ending import ends_in_words
from medjax.vlp.embedding import embed_in_parts, finish
from medjax.vlp.films import find_films
from medjax.vlp.finetuned import open_classifier


@dataclasses.dataclass(frozen=True)
class Classify:
    """Which films, and where the probabilities go."""

    run: tyro.conf.Positional[Path]
    """Folder of a fine-tuned run."""
    images: str
    """Folder, pattern, table (CSV, TSV, JSONL) or file of films."""
    column: str = "image"
    """Of a table: column or {pattern} of the image path."""
    out: Path = Path("findings.csv")
    """Where the probabilities go."""
    batch_size: int = 64
    """Films at a time."""
    on_error: OnError = "raise"
    """A film that cannot be read: list it and end with status 1, or list it alone."""


def run(config: Classify) -> int:
    """Classifies what the flags name; returns the status."""
    model = open_classifier(config.run)
    ledger = Ledger("skip")
    films = find_films(config.images, column=config.column)
    ids, rows = embed_in_parts(
        model.predict_films,
        films,
        config.out,
        checksum=model.checksum,
        ledger=ledger,
        batch_size=config.batch_size,
    )
    with whole(config.out) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", *model.findings, "run", "weights"])
        for id, row in zip(ids, rows, strict=True):
            cells = [f"{value:.6f}" for value in row]
            table.writerow([id, *cells, config.run, model.checksum[:16]])
    print(f"findings: {config.out} ({len(ids)} films, {len(model.findings)} findings)")
    return finish(ledger, config.out, config.on_error)


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.classify"
    return run(tyro.cli(Classify, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
