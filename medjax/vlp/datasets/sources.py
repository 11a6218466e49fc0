"""Which files a prepared set was made of: known again without reading them whole.

The hash of a source is over all that its studies say, and over a glimpse of every
film, and of every mask that is a file: its size, beginning and end. Reading all of
every film would take as long as preparing them; even two glimpses of each of 400,000
are minutes on a network's disk.
So a set keeps, per study, the size and the time of change of its film beside the
glimpse (``films.json``), and a film whose size and time are unchanged is not opened
again. Whoever changes a film and sets its time back is not found out; preparing into
another folder looks at everything.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medjax.data.boundary import DataError
from medjax.data.documents import fits, read_json
from medjax.vlp.datasets.study import Study

FILMS = "films.json"
GLIMPSE = 4096  # bytes of a film's file at either end, by which it is known again

Glimpses = Mapping[str, list]
"""Study to size, time of change in nanoseconds, and SHA-256 of both ends of its film;
a film that is not there has the size -1. Masks stand under names of their own."""
NOTHING: list = [0, 0, ""]
"""Of a study without film."""


def known_films(folder: Path) -> Glimpses:
    """What a prepared set knows of its films; sets of earlier versions know nothing.

    Raises:
        DataError: If the file that says it is damaged.
    """
    path = folder / FILMS
    if not path.is_file():
        return {}
    known = read_json(path, "list of films")
    if not fits(known, Mapping[str, tuple[int, int, str]]):
        raise DataError(f"{path}: expected size, time and hash of each film")
    return known


def look_at_films(studies: Sequence[Study], known: Glimpses) -> dict[str, list]:
    """Size, time and glimpse of every film and mask.

    Args:
        studies: Whose films.
        known: What was seen of them before: a film of equal size and time of change is
            not opened.
    """
    files: dict[str, Path | None] = {}
    for study in studies:
        files |= {study.id: study.image, **_masks(study)}

    def look(name: str) -> list:
        return _look(files[name], known.get(name, NOTHING))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(files, pool.map(look, files), strict=True))


def source_hash(
    studies: Sequence[Study], texts: Mapping[str, Mapping[str, str]], films: Glimpses
) -> str:
    """Of all that studies hold: tells whether two sets were made from equal files.

    Args:
        studies: In order.
        texts: Their cleaned texts, by id.
        films: What was seen of their films; empty where films do not matter.
    """
    digest = hashlib.sha256()
    for study in studies:
        labels = [(name, str(value)) for name, value in study.labels.items()]
        said = (study.id, study.patient, study.split, dict(texts[study.id]), labels)
        size, _, ends = films.get(study.id, NOTHING)
        digest.update(repr((*said, study.boxes, (size, ends))).encode())
        if study.lesions:
            masks = _masks(study)
            ends = {path: films.get(name, NOTHING) for name, path in masks.items()}
            told = {
                finding: tuple(
                    (ends[one][0], ends[one][2]) if isinstance(one, Path) else one
                    for one in lesions
                )
                for finding, lesions in study.lesions.items()
            }
            digest.update(repr(told).encode())
    return digest.hexdigest()


def _masks(study: Study) -> dict[str, Path]:
    """Files of its masks, by the names that they are known by."""
    every = [one for lesions in study.lesions.values() for one in lesions]
    paths = [one for one in every if isinstance(one, Path)]
    return {f"{study.id}/mask/{n}": path for n, path in enumerate(paths)}


def _look(path: Path | None, known: list) -> list:
    if path is None:
        return NOTHING
    try:
        found = path.stat()
        if [found.st_size, found.st_mtime_ns] == known[:2]:
            return known
        with path.open("rb") as file:
            begin = file.read(GLIMPSE)
            file.seek(max(0, found.st_size - GLIMPSE))
            ends = hashlib.sha256(begin + file.read(GLIMPSE)).hexdigest()
        return [found.st_size, found.st_mtime_ns, ends]
    except OSError:
        return [-1, 0, ""]
