"""Scores of films for classes that were never trained, by sentences alone.

::

    python -m experiments.zero_shot runs/imitate-tiny --images films \\
        --classes Pneumonia "Pleural Effusion" --out scores.csv
    python -m experiments.zero_shot runs/imitate-tiny --images table.csv \\
        --prompts prompts.json --out scores.csv

A score is the cosine of a film to the sentences that say "it is there" minus that to
those that say "it is not"; above 0 the film is nearer to the former. ``prompts.json``
holds ``{"class": [["It is there."], ["It is not."]]}``; ``--classes`` takes the
sentences of ``medjax.vlp.prompts``, in a ``--wording``. The table names the run and the
SHA-256 of its weights in every row. Films that cannot be read are listed in
``scores.csv.skipped.csv`` and make the status 1, unless ``--on-error skip``. Scores
order films of one class; they are no probabilities, and not for patients.
"""

import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from medjax.data.boundary import DataError, reading
from medjax.data.ledger import Ledger, OnError
from medjax.data.whole import whole
from medjax.train.ending import ends_in_words
from medjax.vlp.embedding import embed_in_parts, finish
from medjax.vlp.films import find_films
from medjax.vlp.pretrained import Prompts, open_pair
from medjax.vlp.prompts import Wording, prompts


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Which films, which classes, and where the scores go."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    images: str
    """Folder, pattern, table (CSV, TSV, JSONL) or file of films."""
    column: str = "image"
    """Of a table: column or {pattern} of the image path."""
    classes: tuple[str, ...] = ()
    """Names of findings; default: those of the run's own data."""
    wording: Wording = "dictated"
    """How classes become sentences: as dictated, or as a published test says them."""
    prompts: Path | None = None
    """JSON of class to two lists of sentences: it is there, it is not."""
    out: Path = Path("scores.csv")
    """Where the scores go."""
    batch_size: int = 64
    """Films at a time."""
    on_error: OnError = "raise"
    """A film that cannot be read: list it and end with status 1, or list it alone."""


def read_prompts(path: Path) -> Prompts:
    """Class to sentences, from JSON.

    Raises:
      DataError: For another structure.
    """
    with reading(path, "JSON of prompts"):
        content = json.loads(path.read_text())
    sound = isinstance(content, dict) and all(
        isinstance(sides, list)
        and len(sides) == 2
        and all(
            isinstance(side, list) and side and all(isinstance(t, str) for t in side)
            for side in sides
        )
        for sides in content.values()
    )
    if not sound or not content:
        raise DataError(
            f'{path}: expected {{"class": [["it is there"], ["it is not"]]}}, two '
            "lists of sentences for every class"
        )
    return {name: (there, absent) for name, (there, absent) in content.items()}


def run(config: ZeroShot) -> int:
    """Scores what the flags name; returns the status."""
    if config.classes and config.prompts is not None:
        raise ValueError("classes, prompts: expected one of them, got both")
    print(f"opening {config.run}", flush=True)
    pair = open_pair(config.run)
    if config.prompts is not None:
        classes = read_prompts(config.prompts)
    else:
        names = config.classes or pair.record.findings
        classes = {name: prompts(name, config.wording) for name in names}
    directions = pair.prompt_directions(classes)
    ledger = Ledger("skip")
    films = find_films(config.images, column=config.column)
    ids, rows = embed_in_parts(
        pair.embed_films,
        films,
        config.out,
        checksum=pair.checksum,
        ledger=ledger,
        batch_size=config.batch_size,
    )
    scores = rows @ directions.T if len(rows) else rows
    with whole(config.out) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", *classes, "run", "weights"])
        for id, score in zip(ids, scores, strict=True):
            cells = [f"{value:.6f}" for value in score]
            table.writerow([id, *cells, config.run, pair.checksum[:16]])
    print(f"scores: {config.out} ({len(ids)} films, {len(classes)} classes)")
    return finish(ledger, config.out, config.on_error)


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.zero_shot"
    return run(tyro.cli(ZeroShot, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
