"""Many films by a trained run: resumable, and no film goes silently."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medjax.data.boundary import reading
from medjax.data.ledger import Ledger, OnError, Skip
from medjax.data.whole import whole
from medjax.progress import Progress
from medjax.vlp.films import Film

PART = 2048
"""Films after which what is done is kept, should the command be stopped."""


def read_lines(path: Path) -> list[str]:
    """The texts of a file, one per line; empty lines are left out.

    Raises:
      ValueError: There is none.
    """
    with reading(path, "text file"):
        texts = [line.strip() for line in path.read_text("utf-8-sig").split("\n")]
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError(f"texts: {path} has no line with a text")
    return texts


def embed_in_parts(
    work: Callable[..., tuple[list[str], np.ndarray]],
    films: Sequence[Film],
    out: Path,
    *,
    checksum: str,
    ledger: Ledger,
    batch_size: int,
) -> tuple[list[str], np.ndarray]:
    """Embeds or classifies films, keeping finished parts beside ``out`` until the end.

    Args:
      work: What a run does with films and a ledger: ``embed_films`` of two towers,
        ``predict_films`` of a classifier.
      films: What to embed.
      out: Where the result will go; parts lie in ``<out>.parts``.
      checksum: Of the run's weights: parts by others are not gone on with.
      ledger: Collects what cannot be read.
      batch_size: Films at a time.

    Returns:
      Ids of the films that could be read, and embeddings or probabilities.
    """
    folder = out.with_name(f"{out.name}.parts")
    asked = json.dumps([checksum, [(f.id, str(f.path)) for f in films]])
    name = hashlib.sha256(asked.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    ids: list[str] = []
    rows: list[np.ndarray] = []
    with Progress("embed", len(films), "films") as progress:
        for start in range(0, len(films), PART):
            some = films[start : start + PART]
            path = folder / f"{name}_{start}.npz"
            if not path.exists():
                part = Ledger("skip", log=ledger.log)
                kept, found = work(some, ledger=part, batch_size=batch_size)
                faults = [(skip.id, skip.reason) for skip in part.skipped]
                with whole(path) as draft:
                    np.savez(draft, ids=kept, rows=found, faults=json.dumps(faults))
            with reading(path, "part of embeddings"), np.load(path) as kept:
                ids += kept["ids"].tolist()
                rows.append(kept["rows"])
                ledger.skipped += [Skip(*f) for f in json.loads(str(kept["faults"]))]
            progress.advance(len(some))
    shutil.rmtree(folder)
    full = [part for part in rows if len(part)]
    return ids, np.concatenate(full) if full else np.zeros((0, 0), np.float32)


def finish(ledger: Ledger, out: Path, on_error: OnError) -> int:
    """Says what could not be read, and the status that follows from it."""
    if not ledger.skipped:
        return 0
    path = out.with_name(f"{out.name}.skipped.csv")
    ledger.write_skipped(path)
    print(f"{ledger.summary()}\nlist: {path}")
    return 0 if on_error == "skip" else 1
