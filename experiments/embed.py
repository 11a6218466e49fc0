"""Embeddings of films and texts by a trained run, in one file.

::

    python -m experiments.embed runs/imitate-tiny --images films --out e.npz
    python -m experiments.embed runs/imitate-tiny --images table.csv --column path \\
        --texts reports.txt --out e.npz

``e.npz`` holds ``image`` (float32, one unit-norm row per film) with ``image_ids``, and
``text`` with ``texts``, ready for a dot product; ``run``, ``step`` and ``weights`` (the
SHA-256 of all weights) say what made it. Films are prepared as in training, DICOM and
16-bit files included. Those that cannot be read are listed in ``e.npz.skipped.csv`` and
make the status 1, unless ``--on-error skip``. Stopped and started again, it goes on.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from medjax.data.ledger import Ledger, OnError
from medjax.data.whole import whole
from medjax.train.ending import ends_in_words
from medjax.vlp.embedding import embed_in_parts, finish, read_lines
from medjax.vlp.films import find_films
from medjax.vlp.pretrained import open_pair


@dataclasses.dataclass(frozen=True)
class Embed:
    """What to embed, and where it goes."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    images: str | None = None
    """Folder, pattern, table (CSV, TSV, JSONL) or file of films."""
    column: str = "image"
    """Of a table: column or {pattern} of the image path."""
    texts: Path | None = None
    """Text file with one text per line."""
    out: Path = Path("embeddings.npz")
    """Where the embeddings go."""
    batch_size: int = 64
    """Films or texts at a time."""
    on_error: OnError = "raise"
    """A film that cannot be read: list it and end with status 1, or list it alone."""


def run(config: Embed) -> int:
    """Embeds what the flags name; returns the status."""
    if config.images is None and config.texts is None:
        raise ValueError("images, texts: expected one of them, got neither")
    print(f"opening {config.run}", flush=True)
    pair = open_pair(config.run)
    ledger = Ledger("skip")
    found: dict[str, np.ndarray] = {}
    if config.images is not None:
        films = find_films(config.images, column=config.column)
        ids, rows = embed_in_parts(
            pair.embed_films,
            films,
            config.out,
            checksum=pair.checksum,
            ledger=ledger,
            batch_size=config.batch_size,
        )
        found |= {"image_ids": np.asarray(ids, str), "image": rows}
    if config.texts is not None:
        texts = read_lines(config.texts)
        rows = pair.embed_texts(texts, batch_size=config.batch_size)
        found |= {"texts": np.asarray(texts, str), "text": rows}
    # np.savez would add an ending to names without one.
    with whole(config.out) as draft, draft.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            run=str(config.run),
            step=pair.step,
            weights=pair.checksum,
            **found,
        )
    shapes = ", ".join(f"{k} {v.shape}" for k, v in found.items() if v.ndim == 2)
    print(f"embeddings: {config.out} ({shapes})")
    return finish(ledger, config.out, config.on_error)


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.embed"
    return run(tyro.cli(Embed, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
