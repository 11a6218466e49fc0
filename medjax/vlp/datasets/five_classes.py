"""CheXpert 5x200: films that show one of five findings, for retrieval and accuracy.

GLoRIA's test set: of CheXpert's frontal training films 200 for each of five findings,
each film positive for that one alone. Its list was drawn without a seed, so nobody has
it but its authors; here a seed and the SHA-256 of the list say which films these are.
Papers do not agree on what the other findings must be: ``others="zero"`` asks for an
explicit 0 in every one of the five, ``"blank"`` takes unmentioned ones for absent as
well; uncertain ones (-1) never pass. All other labels of CheXpert must be 0 or blank,
"No Finding" and "Support Devices" are not looked at.

Films of the set must not be pre-trained on. Where there are no reports (CheXpert's are
not public), the texts to be found come from a table of one's own.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.tables import read_table
from medjax.data.whole import whole
from medjax.vlp.datasets.study import CHEXPERT_FINDINGS, find_one

CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Pleural Effusion",
)
UNSEEN = ("No Finding", "Support Devices")
Others = Literal["zero", "blank"]


@dataclass(frozen=True)
class FiveClasses:
    """Which films may be of the set, and which of them are."""

    root: Path
    """CheXpert's folder, with train.csv in it or below."""
    each: int = 200
    """Films of each finding."""
    others: Others = "blank"
    """What the other four findings must be: 0 (zero), or 0 or not mentioned (blank)."""
    seed: int = 0
    """Of the draw."""

    def draw(self, ledger: Ledger) -> list[tuple[Path, str]]:
        """The films and their finding, finding by finding.

        Raises:
            DataError: A wrong folder, or fewer films of a finding than asked for.
        """
        table = find_one(
            self.root, ["train.csv", "CheXpert-v1.0*/train.csv"], "a CheXpert folder"
        )
        columns = ["Path", "Frontal/Lateral", *CHEXPERT_FINDINGS]
        rows = [row for _, row in read_table(table, columns, ledger=ledger)]
        ledger.count(f"rows in {table.name}", len(rows))
        rows = ledger.keep("frontal", rows, lambda r: r["Frontal/Lateral"] != "Lateral")
        found: dict[str, list[Path]] = {name: [] for name in CLASSES}
        for row in rows:
            if finding := only(row, self.others):
                inside = Path(*Path(row["Path"]).parts[1:])
                found[finding].append(table.parent / inside)
        chosen = []
        for name, films in found.items():
            ledger.count(f"{name} alone", len(films))
            if len(films) < self.each:
                raise DataError(
                    f"{table}: {len(films)} films show {name} alone, expected "
                    f"{self.each} at least"
                )
            rng = np.random.default_rng([self.seed, CLASSES.index(name)])
            picked = rng.permutation(len(films))[: self.each]
            chosen += [(films[i], name) for i in np.sort(picked)]
        return chosen


def only(row: dict[str, str], others: Others) -> str | None:
    """The one finding of five that a row of CheXpert shows; None: none, or not alone.

    Args:
        row: Cells by column.
        others: What the other four must be.
    """
    values = {name: row[name].strip().removesuffix(".0") for name in CHEXPERT_FINDINGS}
    positive = [name for name in CLASSES if values[name] == "1"]
    if len(positive) != 1:
        return None
    strict, loose = ("0",), ("0", "")
    for name, value in values.items():
        if name in (*positive, *UNSEEN):
            continue
        allowed = strict if name in CLASSES and others == "zero" else loose
        if value not in allowed:
            return None
    return positive[0]


def write_list(path: Path, films: Sequence[tuple[Path, str]]) -> str:
    """Writes ``image,class`` and returns the SHA-256 of the list.

    Args:
        path: Of the table; images are named as they lie from its folder.
        films: Of :meth:`FiveClasses.draw`.

    Returns:
        Over file names and classes, wherever the images lie.
    """
    digest = hashlib.sha256()
    with whole(path) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "class"])
        for film, name in films:
            table.writerow([film.resolve(), name])
            # Patient, study and view name a film of CheXpert.
            digest.update(f"{'/'.join(film.parts[-3:])},{name}\n".encode())
    return digest.hexdigest()
