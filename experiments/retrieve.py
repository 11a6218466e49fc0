"""The nearest reports of films, the nearest films of sentences, as a table and a page.

::

    python -m experiments.retrieve runs/imitate-tiny --queries films \\
        --corpus reports.txt --k 10 --out hits.csv
    python -m experiments.retrieve runs/imitate-tiny --queries questions.txt \\
        --corpus films --out hits.csv
    python -m experiments.retrieve runs/imitate-tiny --queries films --corpus films
    python -m experiments.retrieve runs/mimic --queries five.csv --corpus reports.csv \\
        --texts report --classes class

Queries and corpus are films (a folder, a pattern, a table, an image) or texts (a
``.txt`` file, one per line). ``hits.csv`` has one row per query and rank, with the
cosine, the run and the SHA-256 of its weights; ``hits.html`` shows the first queries.
With ``--classes`` both sides are tables with one class name per row, and precision at
5, 10 and 100 is printed: of the nearest, how many are of the query's class (GLoRIA's
measure on CheXpert 5x200, whose list ``experiments.prepare five_classes`` draws).
"""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger, OnError
from medjax.data.whole import whole
from medjax.report import Card, Report
from medjax.train.ending import ends_in_words
from medjax.vlp.datasets import Table
from medjax.vlp.embedding import embed_in_parts, finish, read_lines
from medjax.vlp.films import Film, find_films, read_film
from medjax.vlp.pretrained import Pretrained, open_pair
from medjax.vlp.retrieval import precision_at

SHOWN = 12
"""Queries on the page."""
DEEP = 5
"""Hits of each on the page."""


@dataclasses.dataclass(frozen=True)
class Retrieve:
    """What is looked for, and among what."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    queries: str
    """Films, or a .txt file of texts."""
    corpus: str
    """Films, or a .txt file of texts."""
    column: str = "image"
    """Of a table: column or {pattern} of the image path."""
    texts: str | None = None
    """Of a table: column of texts, which make the corpus in place of films."""
    classes: str | None = None
    """Column of both tables with one class name per row; prints precision at K."""
    k: int = 10
    """Hits per query."""
    out: Path = Path("hits.csv")
    """Where the hits go; the page lies beside it."""
    batch_size: int = 64
    """Films or texts at a time."""
    on_error: OnError = "raise"
    """A film that cannot be read: list it and end with status 1, or list it alone."""


class Side(NamedTuple):
    """Queries or corpus: what each is called, where it lies, where it points."""

    names: list[str]
    films: dict[str, Film]
    """Empty for texts."""
    rows: np.ndarray
    classes: list[str] = []
    """Of each, where a column says so."""


def classes_of(table: Table, names: Sequence[str]) -> list[str]:
    """The class of each row that was embedded, by its id.

    Raises:
      DataError: a row has none.
    """
    found = {}
    for study in table.read(Ledger("skip", log=lambda line: None)):
        found[study.id] = [name for name, value in study.labels.items() if value == 1]
    if missing := [name for name in names if len(found[name]) != 1]:
        raise DataError(f"{table.root}: {len(missing)} rows have no {table.classes}")
    return [found[name][0] for name in names]


def embedded(
    where: str, name: str, pair: Pretrained, config: Retrieve, ledger: Ledger
) -> Side:
    """One side, by what it is."""
    if Path(where).suffix.lower() == ".txt":
        texts = read_lines(Path(where))
        return Side(texts, {}, pair.embed_texts(texts, batch_size=config.batch_size))
    if name == "corpus" and config.texts:
        return embedded_texts(Path(where), pair, config)
    films = find_films(where, column=config.column)
    part = config.out.with_name(f"{config.out.name}.{name}")
    ids, rows = embed_in_parts(
        pair.embed_films,
        films,
        part,
        checksum=pair.checksum,
        ledger=ledger,
        batch_size=config.batch_size,
    )
    classes = []
    if config.classes:
        table = Table(Path(where), config.column, None, classes=config.classes)
        classes = classes_of(table, ids)
    return Side(ids, {film.id: film for film in films}, rows, classes)


def embedded_texts(where: Path, pair: Pretrained, config: Retrieve) -> Side:
    """The texts of a table, with their classes."""
    table = Table(where, None, config.texts, classes=config.classes)
    studies = table.read(Ledger("skip", log=lambda line: None))
    classes = classes_of(table, [s.id for s in studies]) if config.classes else []
    texts = [study.text for study in studies]
    rows = pair.embed_texts(texts, batch_size=config.batch_size)
    return Side(texts, {}, rows, classes)


def precision(queries: Side, corpus: Side) -> dict[str, Any]:
    """Precision at 5, 10 and 100 by class, and what guessing gets.

    Raises:
      DataError: a side has no classes, or a query's class is none of the corpus'.
    """
    names = sorted(set(corpus.classes))
    if not (queries.classes and names) or set(queries.classes) - set(names):
        raise DataError(
            "classes: expected queries and corpus to be tables whose classes are the "
            f"same, got {sorted(set(queries.classes))} and {names}"
        )
    own = np.asarray([names.index(name) for name in queries.classes])
    shown = np.asarray([[name == c for c in names] for name in corpus.classes])
    return precision_at(
        queries.rows, corpus.rows, own, shown.astype(np.float32), names=names
    )


def run(config: Retrieve) -> int:
    """Searches; returns the status."""
    if config.k < 1:
        raise ValueError(f"k: expected 1 at least, got {config.k}")
    print(f"opening {config.run}", flush=True)
    pair = open_pair(config.run)
    ledger = Ledger("skip")
    queries = embedded(config.queries, "queries", pair, config, ledger)
    corpus = embedded(config.corpus, "corpus", pair, config, ledger)
    if not (queries.names and corpus.names):
        raise ValueError(f"queries, corpus: nothing could be read. {ledger.summary()}")
    if config.classes:
        found = precision(queries, corpus)
        print(f"guessing {np.mean(list(found['chance'].values())):.3f}")
        for name in (name for name in found if name.startswith("P@")):
            each = ", ".join(f"{k} {v:.3f}" for k, v in found[name].items())
            print(f"{name}: {each}")
    rows, scores = pair.nearest(queries.rows, corpus.rows, k=config.k)
    with whole(config.out) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["query", "rank", "hit", "cosine", "run", "weights"])
        for query, hits, cosines in zip(queries.names, rows, scores, strict=True):
            for rank, (hit, cosine) in enumerate(zip(hits, cosines, strict=True), 1):
                cells = [query, rank, corpus.names[hit], f"{cosine:.6f}"]
                table.writerow([*cells, config.run, pair.checksum[:16]])
    page = show(queries, corpus, rows, scores, pair, config)
    path = page.save(config.out.with_suffix(".html"))
    print(f"hits: {config.out} ({len(queries.names)} queries); page: {path}")
    return finish(ledger, config.out, config.on_error)


def show(
    queries: Side,
    corpus: Side,
    rows: np.ndarray,
    scores: np.ndarray,
    pair: Pretrained,
    config: Retrieve,
) -> Report:
    """The first queries with their nearest hits."""
    page = Report(
        "Retrieval",
        f"{pair.folder}, step {pair.step}: {config.k} nearest of {len(corpus.names)}",
    )
    page.notice("Texts and films below may be of real patients.")

    def picture(side: Side, name: str) -> np.ndarray:
        record = pair.record
        return read_film(side.films[name].path, record.image_size, record.resize)

    for number, name in enumerate(queries.names[:SHOWN]):
        found = list(zip(rows[number][:DEEP], scores[number][:DEEP], strict=True))
        page.section(name if not queries.films else f"film {name}")
        cards = [Card(picture(queries, name), "query")] if queries.films else []
        hits = [(corpus.names[hit], float(cosine)) for hit, cosine in found]
        if corpus.films:
            cards += [
                Card(picture(corpus, hit), f"{cosine:.3f}", [(hit, None)])
                for hit, cosine in hits
            ]
        if cards:
            page.gallery(cards)
        if not corpus.films:
            page.table([{"cosine": cosine, "text": hit} for hit, cosine in hits])
    return page


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.retrieve"
    return run(tyro.cli(Retrieve, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
