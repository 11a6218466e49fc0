"""Scores of films for classes that were never trained, by sentences alone.

::

    python -m experiments.zero_shot runs/imitate-tiny --images films \\
        --classes Pneumonia "Pleural Effusion" --out scores.csv
    python -m experiments.zero_shot runs/imitate-tiny --images table.csv \\
        --prompts prompts.json --out scores.csv

A score is the cosine of a film to the sentences that say "it is there" minus that to
those that say "it is not"; above 0 the film is nearer to the former. ``prompts.json``
holds ``{"class": [["It is there."], ["It is not."]]}``; ``--classes`` takes the
sentences of ``medjax.vlp.prompts``, in a ``--wording``. GLoRIA's test, which says what
is there in several ways and takes the best, standardised over the films::

    python -m experiments.zero_shot runs/gloria --images films --wording sampled \\
        --ensemble.combine max --ensemble.similarity both --ensemble.transductive

The table names in every row the run and the SHA-256 of its weights; the wording, with
the number and the seed of sentences that were sampled; the version of this library's
sentences, or a SHA-256 of those of ``prompts.json``; and how they were put together.
Films that cannot be read are listed in ``scores.csv.skipped.csv`` and make the status
1, unless ``--on-error skip``. Scores order films of one class; they are no
probabilities, and not for patients.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from medjax.data.boundary import DataError, reading
from medjax.data.ledger import Ledger, OnError
from medjax.data.whole import whole
from medjax.train.ending import ends_in_words
from medjax.vlp.embedding import embed_in_parts, finish
from medjax.vlp.ensembles import (
    EnsembleConfig,
    Prompts,
    class_scores,
    sentences,
    standardised,
)
from medjax.vlp.films import Film, find_films
from medjax.vlp.pretrained import Pretrained, open_pair
from medjax.vlp.prompts import PROMPTS_VERSION, Wording, prompts


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
    sampled: int = 5
    """Sentences of a class with the wording ``sampled``."""
    prompt_seed: int = 0
    """Of their choice."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """How the sentences of a class become its score."""
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
            isinstance(side, list) and all(isinstance(t, str) for t in side)
            for side in sides
        )
        and sides[0]
        for sides in content.values()
    )
    if not sound or not content:
        raise DataError(
            f'{path}: expected {{"class": [["it is there"], ["it is not"]]}}, two '
            "lists of sentences for every class, the second maybe empty"
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
        how = {"sampled": config.sampled, "seed": config.prompt_seed}
        classes = {name: prompts(name, config.wording, **how) for name in names}
    ledger = Ledger("skip")
    films = find_films(config.images, column=config.column)
    ids, scores = scored(config, pair, films, classes, ledger)
    with whole(config.out) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        origin = {"run": config.run, "weights": pair.checksum[:16]}
        origin |= protocol(config, classes)
        table.writerow(["id", *classes, *origin])
        for id, row in zip(ids, scores, strict=True):
            cells = [f"{value:.6f}" for value in row]
            table.writerow([id, *cells, *origin.values()])
    print(f"scores: {config.out} ({len(ids)} films, {len(classes)} classes)")
    return finish(ledger, config.out, config.on_error)


def protocol(config: ZeroShot, classes: Prompts) -> dict[str, str]:
    """What scores depend on beside films and weights, by column of the table.

    Args:
      config: the flags.
      classes: the sentences that were compared.
    """
    wording, version = str(config.wording), PROMPTS_VERSION
    if config.prompts is not None:
        said = json.dumps(classes).encode()
        version = hashlib.sha256(said).hexdigest()[:16]
        wording = config.prompts.name
    elif config.wording == "sampled":
        wording = f"sampled {config.sampled} seed {config.prompt_seed}"
    how = config.ensemble
    ensemble = [how.combine, how.similarity, *["transductive"] * how.transductive]
    return {"wording": wording, "prompts": version, "ensemble": " ".join(ensemble)}


def scored(
    config: ZeroShot,
    pair: Pretrained,
    films: Sequence[Film],
    classes: Prompts,
    ledger: Ledger,
) -> tuple[list[str], np.ndarray]:
    """Ids and scores of the films that can be read, a column per class."""
    how = config.ensemble
    embed = functools.partial(
        embed_in_parts,
        films=films,
        out=config.out,
        ledger=ledger,
        batch_size=config.batch_size,
    )
    if how.combine == "embeddings":
        directions = pair.prompt_directions(classes)
        ids, rows = embed(pair.embed_films, checksum=pair.checksum)
        scores = rows @ directions.T if len(rows) else rows
    else:
        asked = sentences(classes)
        compare = pair.against(asked.texts, how.similarity).film_rows
        known = json.dumps([pair.checksum, how.similarity, asked.texts])
        work = functools.partial(compare, "similarity")
        ids, rows = embed(work, checksum=known)
        scores = class_scores(rows, asked, how.combine) if len(rows) else rows
    return ids, standardised(scores) if how.transductive and len(rows) else scores


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.zero_shot"
    return run(tyro.cli(ZeroShot, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
