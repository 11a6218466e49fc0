"""Radiographs to apply a trained tower to: found, read, and prepared as in training."""

import glob
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from medjax.data.boundary import DataError, reading
from medjax.data.images import SUFFIXES as IMAGES
from medjax.data.images import ResizeMode, fit_square, read_image
from medjax.data.ledger import Ledger
from medjax.vlp.datasets.table import Table

SUFFIXES = (*IMAGES, "")
"""What is taken for an image in a folder; DICOM files often have no suffix."""
TABLES = (".csv", ".tsv", ".jsonl", ".gz")


@dataclass(frozen=True)
class Film:
    """A file and what it is called in the output."""

    id: str
    path: Path


def find_films(where: str | Path, *, column: str = "image") -> list[Film]:
    """The films that a folder, a pattern, a table or one file names, sorted by id.

    Args:
        where: A folder (searched to its depth, hidden files left out), a pattern such
            as ``"films/*.png"``, a CSV, TSV or JSONL table, or an image.
        column: Of a table: column or {pattern} of the image path.

    Returns:
        One film at least; the id is the path below the folder, or as it was given.

    Raises:
        DataError: If nothing is found, or the table lacks the column.
    """
    path = Path(where)
    if path.is_dir():
        inside = (p for p in sorted(path.rglob("*")) if p.is_file())
        found = [
            Film(p.relative_to(path).as_posix(), p)
            for p in inside
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        ]
    elif path.is_file() and path.suffix.lower() in TABLES:
        ledger = Ledger("skip", log=lambda line: None)
        rows = Table(path, image=column, text=None, images=None).read(ledger)
        found = [Film(row.id, row.image) for row in rows if row.image is not None]
        if not found and ledger.skipped:
            raise DataError(f"{path}: no row has an image; {ledger.summary(3)}")
    elif path.is_file():
        found = [Film(path.name, path)]
    else:
        names = sorted(glob.glob(str(where), recursive=True))
        found = [Film(name, Path(name)) for name in names if Path(name).is_file()]
    if not found:
        raise DataError(
            f"images: found none at {where}, expected a folder, a pattern, a table or "
            f"a file; in folders {', '.join(filter(None, SUFFIXES))} are taken"
        )
    return found


def read_film(path: Path, size: int, resize: ResizeMode) -> UInt8[np.ndarray, "s s"]:
    """One film as training saw films.

    Raises:
        DataError: If it cannot be read, or is blank.
        FileNotFoundError: If it is missing.
    """
    image = read_image(path)
    with reading(path, "radiograph"):
        return fit_square(image, size, mode=resize)[0]


def read_films(
    films: Sequence[Film], size: int, resize: ResizeMode, *, chunk: int, ledger: Ledger
) -> Iterator[tuple[list[Film], UInt8[np.ndarray, "n s s"]]]:
    """Chunks of films in order, decoded in threads one chunk ahead.

    Args:
        films: Of :func:`find_films`.
        size: Side of the square.
        resize: How a film becomes it.
        chunk: Films at a time.
        ledger: Takes what cannot be read; those films are left out.

    Yields:
        The films that could be read, and their pixels.

    Raises:
        DataError: At a film that cannot be read, if the ledger raises.
    """

    def load(film: Film) -> np.ndarray | Exception:
        try:
            return read_film(film.path, size, resize)
        except (DataError, FileNotFoundError) as error:
            return error

    chunks = [films[i : i + chunk] for i in range(0, len(films), chunk)]
    with ThreadPoolExecutor() as pool:
        ahead = [pool.submit(load, film) for film in chunks[0]]
        for number, part in enumerate(chunks):
            now, ahead = ahead, []
            if number + 1 < len(chunks):
                ahead = [pool.submit(load, film) for film in chunks[number + 1]]
            kept, pixels = [], []
            for film, pending in zip(part, now, strict=True):
                result = pending.result()
                if isinstance(result, Exception):
                    ledger.fault(film.id, str(result))
                else:
                    kept.append(film)
                    pixels.append(result)
            if kept:
                yield kept, np.stack(pixels)
