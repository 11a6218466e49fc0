"""Who trains, who validates, who tests: by lists of ids, proven disjoint, with a hash.

Numbers of two papers compare only if their splits do, and for most public sets several
are in use. A list says one split: a text file with one id a line, or a CSV with a
column ``id`` (or the ids in its first column). An id is a study's id in the prepared
set, with or without the suffix of its image file. What is found is said: ids that are
nobody's, studies or patients in more than one split, and the SHA-256 of the whole
assignment, which goes into every result.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medjax.data.boundary import DataError, reading
from medjax.data.images import SUFFIXES
from medjax.data.tables import read_text

SPLITS: tuple[str, ...] = ("train", "valid", "test")
Overlaps = Literal["refuse", "count"]


@dataclass(frozen=True)
class Studies:
    """Every study of a set, in one order.

    Attributes:
        ids: their names.
        patients: a number per study, shared by those of one patient.
        splits: the set's own split of each.
    """

    ids: Sequence[str]
    patients: Sequence[int]
    splits: Sequence[str]


@dataclass(frozen=True)
class Splits:
    """Which studies take part in what.

    Attributes:
        rows: per split, places in `Studies`.
        unknown: per split, how many listed ids are no study's.
        shared: patients that are in more than one split.
        digest: SHA-256 of ids by split.
    """

    rows: Mapping[str, list[int]]
    unknown: Mapping[str, int]
    shared: int
    digest: str

    def lines(self) -> list[str]:
        """What was found, for the terminal."""
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self.rows.items())
        missing = {name: n for name, n in self.unknown.items() if n}
        found = [f"splits: {sizes} studies; sha256 {self.digest[:16]}"]
        found += [
            f"  {n} ids of the {name} list are no study's"
            for name, n in missing.items()
        ]
        if self.shared:
            found.append(
                f"  WARNING: {self.shared} patients are in more than one split"
            )
        return found

    def summary(self) -> dict[str, Any]:
        """The same for ``evaluation.json``."""
        return {
            "studies": {name: len(rows) for name, rows in self.rows.items()},
            "unknown_ids": dict(self.unknown),
            "patients_in_several": self.shared,
            "sha256": self.digest,
        }


def read_ids(path: Path) -> list[str]:
    """The ids of a list, each once, in order.

    Raises:
        FileNotFoundError: No such file.
        DataError: It cannot be read, or holds no id.
    """
    text = read_text(path)
    if ".csv" in path.suffixes:
        with reading(path, "list of ids"):
            table = [row for row in csv.reader(text.split("\n")) if row]
        header = [cell.strip() for cell in table[0]] if table else []
        named = "id" in header
        column = header.index("id") if named else 0
        ids = [row[column] for row in table[named:] if len(row) > column]
    else:
        ids = text.split("\n")
    ids = list(dict.fromkeys(name.strip() for name in ids if name.strip()))
    if not ids:
        raise DataError(f"{path}: expected one id a line, found none")
    return ids


def assign(
    studies: Studies,
    lists: Mapping[str, Path | None],
    *,
    overlaps: Overlaps = "refuse",
) -> Splits:
    """The splits that lists name; where there is none, the set's own.

    Args:
        studies: Of the prepared set.
        lists: Split to its list of ids, for all three splits or for none.
        overlaps: Whether patients in more than one split are refused, or counted.

    Raises:
        DataError: Some splits have a list and others have none, a list names no study,
            a study is in two lists, or patients are in two splits and that is refused.
    """
    named = {split: path for split, path in lists.items() if path is not None}
    unknown = dict.fromkeys(SPLITS, 0)
    rows: dict[str, list[int]] = {}
    if not named:
        rows = {
            split: [i for i, own in enumerate(studies.splits) if own == split]
            for split in SPLITS
        }
    elif missing := [split for split in SPLITS if split not in named]:
        raise DataError(
            f"splits: lists of ids for {list(named)} and none for {missing}; name all "
            "three, or none to take the set's own splits"
        )
    else:
        places = _places(studies.ids)
        for split, path in named.items():
            ids = read_ids(path)
            rows[split] = list(dict.fromkeys(places[i] for i in ids if i in places))
            unknown[split] = sum(name not in places for name in ids)
            if not rows[split]:
                example = studies.ids[0] if studies.ids else "none"
                raise DataError(
                    f"{path}: none of its {len(ids)} ids is a study of the set, whose "
                    f"ids look like {example!r}"
                )
        _refuse_doubles(studies, rows)
    seen = Counter(
        patient
        for chosen in rows.values()
        for patient in {studies.patients[i] for i in chosen}
    )
    shared = sum(count > 1 for count in seen.values())
    if shared and overlaps == "refuse":
        raise DataError(
            f"splits: {shared} patients are in more than one split, so that scores "
            "would tell of films that were trained on; --overlaps count goes on"
        )
    return Splits(rows, unknown, shared, _digest(studies, rows))


def _places(ids: Sequence[str]) -> dict[str, int]:
    """Every spelling of an id that names one study alone."""
    exact = {name: i for i, name in enumerate(ids)}
    bare = Counter(_bare(name) for name in ids)
    short = {_bare(name): i for name, i in exact.items() if bare[_bare(name)] == 1}
    long = {f"{name}{s}": i for name, i in short.items() for s in SUFFIXES}
    return {**long, **short, **exact}


def _bare(name: str) -> str:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def _refuse_doubles(studies: Studies, rows: Mapping[str, Sequence[int]]) -> None:
    seen = Counter(i for chosen in rows.values() for i in chosen)
    twice = [studies.ids[i] for i, count in seen.items() if count > 1]
    if twice:
        raise DataError(
            f"splits: {len(twice)} studies are in more than one list, such as "
            f"{twice[0]!r}"
        )


def _digest(studies: Studies, rows: Mapping[str, Sequence[int]]) -> str:
    named = {split: sorted(studies.ids[i] for i in rows[split]) for split in SPLITS}
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()
