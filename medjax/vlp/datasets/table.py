"""Any CSV or JSONL of image paths and texts.

Which column holds what is said by flags; a name with braces is a pattern over the
columns of the row, so ``images/{patientid}.jpg`` makes a path where the table has only
an id. Texts are cut into sections where they have headers; a text without headers is
the report as a whole.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medjax.data.ledger import DataError, Ledger
from medjax.vlp.datasets.study import Study, check_columns, read_table
from medjax.vlp.reports import split_sections

SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validate": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "": "",
}


@dataclass(frozen=True)
class Table:
    """A CSV (.csv, .csv.gz, .tsv) or JSONL file of image paths and texts."""

    root: Path
    """The file; image paths are relative to its folder unless images says otherwise."""
    image: str | None = "image"
    """Column or {pattern} of the image path; None: reports without images."""
    text: str | None = "text"
    """Column or {pattern} of the report; None: images without reports."""
    findings: str | None = None
    """Column of the findings, if they have one of their own."""
    impression: str | None = None
    """Column of the impression, if it has one of its own."""
    id: str | None = None
    """Column of a unique id; default: the image path, or else the row number."""
    patient: str | None = None
    """Column of the patient; default: every row is another patient."""
    patient_regex: str | None = None
    """What of the patient column (or id) names the patient, e.g. COVID-[0-9]+."""
    split: str | None = None
    """Column with train, valid or test."""
    view: str | None = None
    """Column of the view position."""
    keep_views: tuple[str, ...] = ()
    """Views to keep, such as PA AP; empty: all."""
    labels: tuple[str, ...] = ()
    """Columns of numeric labels: 1, 0, empty for unknown."""
    classes: str | None = None
    """Column of one class name per row; becomes one label per class."""
    images: Path | None = None
    """Folder that image paths are relative to."""

    name = "table"

    @property
    def has_text(self) -> bool:
        """Whether any text column is named."""
        return bool(self.text or self.findings or self.impression)

    def read(self, ledger: Ledger) -> list[Study]:
        """All rows that have what the flags ask for."""
        rows = self._rows(ledger)
        ledger.count(f"rows in {self.root.name}", len(rows))
        rows = self._sound(rows, ledger)
        if self.keep_views:
            rows = ledger.keep(
                f"view {'/'.join(self.keep_views)}",
                rows,
                lambda row: row[1].get(self.view or "", "") in self.keep_views,
            )
        names = {row[self.classes] for _, row in rows} if self.classes else set()
        classes = sorted(names - {""})
        return [self._study(number, row, classes) for number, row in rows]

    def _rows(self, ledger: Ledger) -> list[tuple[int, dict[str, str]]]:
        if not self.root.is_file():
            raise DataError(f"root: {self.root} is no file; expected a CSV or JSONL")
        if self.root.suffix != ".jsonl":
            tab = "\t" if ".tsv" in self.root.suffixes else ","
            rows = read_table(self.root, self._columns(), delimiter=tab)
            return list(enumerate(rows, 1))
        rows = []
        for number, line in enumerate(self.root.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                rows.append((number, {k: _cell(v) for k, v in row.items()}))
            except (json.JSONDecodeError, AttributeError) as error:
                ledger.fault(f"{self.root.name}:{number}", f"no JSON object ({error})")
        # A key may be absent from a line; a column that no line has is a mistake.
        columns = list(dict.fromkeys(k for _, row in rows for k in row))
        check_columns(self.root, columns, self._columns())
        return [(n, dict.fromkeys(columns, "") | row) for n, row in rows]

    def _columns(self) -> list[str]:
        """Every column that the flags name."""
        named = [self.image, self.text, self.findings, self.impression, self.id]
        named += [self.patient, self.split, self.view, self.classes, *self.labels]
        columns = (re.findall(r"{(.*?)}", n) or [n] for n in named if n)
        return list(dict.fromkeys(column for found in columns for column in found))

    def _sound(
        self, rows: list[tuple[int, dict[str, str]]], ledger: Ledger
    ) -> list[tuple[int, dict[str, str]]]:
        """Rows whose image exists, whose text is not empty and whose split is one."""
        kept = []
        for number, row in rows:
            texts = [
                _value(n, row) for n in (self.text, self.findings, self.impression)
            ]
            image = self._image(row)
            if self.image and (image is None or not image.is_file()):
                name = _value(self.image, row) or "none named"
                fault = f"no image ({name})"
            elif self.has_text and not any(texts):
                fault = "empty report"
            elif _value(self.split, row).lower() not in SPLITS:
                fault = f"unknown split {_value(self.split, row)!r}"
            else:
                kept.append((number, row))
                continue
            ledger.fault(f"row {number} ({self._id(number, row)})", fault)
        needs = ["image"] * bool(self.image) + ["text"] * self.has_text
        ledger.count(f"has {' and '.join(needs)}", len(kept), len(rows) - len(kept))
        return kept

    def _image(self, row: Mapping[str, str]) -> Path | None:
        name = _value(self.image, row)
        return (self.images or self.root.parent) / name if name else None

    def _id(self, number: int, row: Mapping[str, str]) -> str:
        return _value(self.id, row) or _value(self.image, row) or str(number)

    def _study(self, number: int, row: dict[str, str], classes: list[str]) -> Study:
        id = self._id(number, row)
        patient = _value(self.patient, row) or id
        if self.patient_regex and (found := re.search(self.patient_regex, patient)):
            patient = found.group(0)
        text = _value(self.text, row)
        sections = split_sections(text) if text else {}
        sectioned = bool(sections.keys() & {"findings", "impression"})
        labels = {c: _number(id, c, row[c]) for c in self.labels}
        if self.classes:
            known = row[self.classes]
            labels |= {c: float(c == known) if known else np.nan for c in classes}
        return Study(
            id=id,
            patient=patient,
            image=self._image(row),
            findings=_value(self.findings, row) or sections.get("findings", ""),
            impression=_value(self.impression, row) or sections.get("impression", ""),
            report="" if sectioned else text,
            labels=labels,
            split=SPLITS[_value(self.split, row).lower()],
            view=_value(self.view, row),
        )


def _value(name: str | None, row: Mapping[str, str]) -> str:
    """The cell of a column, or a pattern filled from the row (empty if a part is)."""
    if not name:
        return ""
    columns = re.findall(r"{(.*?)}", name)
    if not columns:
        return row[name]
    return name.format_map(row) if all(row[column] for column in columns) else ""


def _cell(value: object) -> str:
    return "" if value is None else str(value).strip()


def _number(id: str, column: str, value: str) -> float:
    if not value:
        return np.nan
    try:
        return float(value)
    except ValueError:
        raise DataError(
            f"{id}: label {column!r} is {value!r}, expected a number or nothing "
            "(a column of class names goes into --classes)"
        ) from None
