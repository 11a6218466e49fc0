"""Any CSV or JSONL of image paths and texts.

Which column holds what is said by flags; a name with braces is a pattern over the
columns of the row, so ``images/{patientid}.jpg`` makes a path where the table has only
an id. Texts are cut into sections where they have headers; a text without headers is
the report as a whole.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medjax.data.documents import fits, parse_json
from medjax.data.ledger import DataError, Ledger
from medjax.data.tables import Row, read_jsonl, read_table
from medjax.vlp.datasets.lesions import Box
from medjax.vlp.datasets.study import Study, number
from medjax.vlp.reports import split_sections

LESION = "Lesion"
"""What masks and boxes of a table show, as a label of the set."""
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
    """Columns of labels: 1, 0, empty for unknown, -1 for uncertain."""
    uncertain: Literal["ignore", "zero", "one"] | None = None
    """What a label of -1 becomes: unknown, 0 or 1; None: it is refused."""
    classes: str | None = None
    """Column of one class name per row; becomes one label per class."""
    images: Path | None = None
    """Folder that image paths are relative to."""
    suffix: str | None = None
    """What image paths end in on disk, where the table says otherwise: .png."""
    mask: str | None = None
    """Column or {pattern} of the path of a mask, an image as large as the film, 0 where
    nothing is; an empty cell: no lesion."""
    boxes: tuple[str, ...] = ()
    """Columns of boxes: x y width height in pixels of the file, one box a row and as
    many rows as a film has boxes; or one column with all boxes of a film as JSON,
    [[x, y, width, height], ...]. Empty cells: no box."""
    corners: bool = False
    """Boxes are x0 y0 x1 y1: the third and fourth number are the lower right corner."""

    name = "table"

    @property
    def has_text(self) -> bool:
        """Whether any text column is named."""
        return bool(self.text or self.findings or self.impression)

    def read(self, ledger: Ledger) -> list[Study]:
        """All rows that have what the flags ask for."""
        regex = self._patient_regex()
        self._check_places()
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
        studies = [(line, self._study(line, row, classes, regex)) for line, row in rows]
        if len(self.boxes) > 1:
            studies = self._gather(studies, ledger)
        if not (self.mask or self.boxes):
            return [study for _, study in studies]
        return [_labelled(study) for _, study in studies]

    def _rows(self, ledger: Ledger) -> list[tuple[int, Row]]:
        if not self.root.is_file():
            raise DataError(f"root: {self.root} is no file; expected a CSV or JSONL")
        if ".jsonl" in self.root.suffixes:
            nested = self.boxes if len(self.boxes) == 1 else ()
            return read_jsonl(self.root, self._columns(), ledger=ledger, nested=nested)
        tab = "\t" if ".tsv" in self.root.suffixes else ","
        return read_table(self.root, self._columns(), ledger=ledger, delimiter=tab)

    def _columns(self) -> list[str]:
        """Every column that the flags name."""
        named = [self.image, self.text, self.findings, self.impression, self.id]
        named += [self.patient, self.split, self.view, self.classes, *self.labels]
        named += [self.mask, *self.boxes]
        columns = (re.findall(r"{(.*?)}", n) or [n] for n in named if n)
        return list(dict.fromkeys(column for found in columns for column in found))

    def _sound(
        self, rows: list[tuple[int, Row]], ledger: Ledger
    ) -> list[tuple[int, Row]]:
        """Rows whose image exists, whose text is not empty and whose split is one."""
        kept = []
        for line, row in rows:
            texts = [
                _value(n, row) for n in (self.text, self.findings, self.impression)
            ]
            image, mask = self._image(row), self._mask(row)
            if self.image and (image is None or not _is_file(image)):
                name = _shown(_value(self.image, row)) or "none named"
                fault = f"no image ({name})"
            elif mask and not _is_file(mask):
                fault = f"no mask ({_shown(_value(self.mask, row))})"
            elif damage := self._damage(row):
                fault = damage
            elif self.has_text and not any(texts):
                fault = "empty report"
            elif _value(self.split, row).lower() not in SPLITS:
                fault = f"unknown split, expected one of {sorted(set(SPLITS) - {''})}"
            else:
                kept.append((line, row))
                continue
            name = _shown(_value(self.id, row) or _value(self.image, row))
            where = f"{self.root.name}:{line}" + f" ({name})" * bool(name)
            ledger.fault(where, fault)
        needs = ["image"] * bool(self.image) + ["text"] * self.has_text
        ledger.count(f"has {' and '.join(needs)}", len(kept), len(rows) - len(kept))
        return kept

    def _image(self, row: Mapping[str, str]) -> Path | None:
        name = _value(self.image, row)
        if not name:
            return None
        path = (self.images or self.root.parent) / name
        return path.with_suffix(self.suffix) if self.suffix and path.name else path

    def _mask(self, row: Mapping[str, str]) -> Path | None:
        name = _value(self.mask, row)
        return (self.images or self.root.parent) / name if name else None

    def _boxes(self, row: Mapping[str, str]) -> tuple[Box, ...]:
        return boxes_of([row[name] for name in self.boxes], corners=self.corners)

    def _damage(self, row: Mapping[str, str]) -> str:
        """What is wrong with the boxes of a row."""
        try:
            self._boxes(row)
        except DataError as error:
            return str(error)
        return ""

    def _check_places(self) -> None:
        if len(self.boxes) not in (0, 1, 4):
            raise DataError(
                f"boxes: expected one column or four, got {list(self.boxes)}"
            )
        if (self.mask or self.boxes) and not self.image:
            raise DataError("mask, boxes: lie on films: name the column of images")

    def _gather(
        self, studies: list[tuple[int, Study]], ledger: Ledger
    ) -> list[tuple[int, Study]]:
        """One study per film, with the boxes of all its rows."""
        films: dict[str, tuple[int, Study]] = {}
        for line, study in studies:
            begin, film = films.setdefault(study.id, (line, study))
            if begin == line:
                continue
            if replace(study, boxes=film.boxes) != film:
                fault = f"says something else of its film than line {begin}"
                ledger.fault(f"{self.root.name}:{line}", fault)
            else:
                films[study.id] = begin, replace(film, boxes=film.boxes + study.boxes)
        ledger.count("films with their boxes", len(films))
        return list(films.values())

    def _id(self, line: int, row: Mapping[str, str]) -> str:
        return _value(self.id, row) or _value(self.image, row) or str(line)

    def _patient_regex(self) -> re.Pattern[str] | None:
        if self.suffix is not None and not self.suffix.startswith("."):
            raise DataError(f"suffix: expected a point and letters, got {self.suffix}")
        try:
            return re.compile(self.patient_regex) if self.patient_regex else None
        except re.error as error:
            raise DataError(
                f"patient_regex: {self.patient_regex!r} is no regular expression "
                f"({error})"
            ) from None

    def _study(
        self,
        line: int,
        row: Row,
        classes: list[str],
        regex: re.Pattern[str] | None,
    ) -> Study:
        id = self._id(line, row)
        patient = _value(self.patient, row) or id
        if regex and (found := regex.search(patient)):
            patient = found.group(0)
        text = _value(self.text, row)
        sections = split_sections(text) if text else {}
        sectioned = bool(sections.keys() & {"findings", "impression"})
        where = f"{self.root.name}:{line}"
        labels = {c: self._label(where, c, row[c]) for c in self.labels}
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
            boxes=self._boxes(row),
            lesions={LESION: (mask,)} if (mask := self._mask(row)) else {},
        )

    def _label(self, where: str, column: str, value: str) -> float:
        if not value:
            return np.nan
        try:
            label = number(where, column, value)
        except DataError as error:
            hint = "a column of class names goes into --classes"
            raise DataError(f"{error} ({hint})") from None
        if label == -1 and self.uncertain is not None:
            return {"ignore": np.nan, "zero": 0.0, "one": 1.0}[self.uncertain]
        if label not in (0, 1):
            raise DataError(
                f"{where}: label {column!r} is {label:g}, expected 1, 0 or nothing "
                "(--uncertain says what becomes of -1)"
            )
        return label


def boxes_of(cells: Sequence[str], *, corners: bool) -> tuple[Box, ...]:
    """The boxes that cells of a row say.

    Args:
        cells: Four numbers, or all boxes as JSON.
        corners: The third and fourth number are the lower right corner.

    Returns:
        ``x, y, width, height`` of each.

    Raises:
        DataError: Saying what is wrong, without the text of a cell.
    """
    if not any(cells):
        return ()
    try:
        found: Any = parse_json(cells[0]) if len(cells) == 1 else [cells]
        if len(cells) == 1 and not fits(found, tuple[Box, ...]):
            raise ValueError
        numbers = np.asarray([[float(one) for one in box] for box in found])
        if not np.isfinite(numbers).all():
            raise ValueError
    except (ValueError, RecursionError, OverflowError):
        needed = "JSON, [[x, y, width, height], ...]"
        if len(cells) > 1:
            needed = "four numbers, or four empty cells"
        raise DataError(f"boxes: expected {needed}") from None
    boxes = []
    for n, (x, y, width, height) in enumerate(numbers.tolist(), 1):
        if corners:
            width, height = width - x, height - y
        if not (width > 0 and height > 0):
            needed = "x0 < x1 and y0 < y1" if corners else "width and height above 0"
            raise DataError(f"box {n}: expected {needed}")
        boxes.append((x, y, width, height))
    return tuple(boxes)


def _labelled(study: Study) -> Study:
    """With the label of a lesion; a mask that is not yet read leaves it unknown."""
    known = np.nan if study.lesions else 0.0
    shows = 1.0 if study.boxes else known
    return replace(study, labels={LESION: shows, **study.labels})


def _value(name: str | None, row: Mapping[str, str]) -> str:
    """The cell of a column, or a pattern filled from the row (empty if a part is)."""
    if not name:
        return ""
    columns = re.findall(r"{(.*?)}", name)
    if not columns:
        return row[name]
    if not all(row[column] for column in columns):
        return ""
    return re.sub(r"{(.*?)}", lambda found: row[found[1]], name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than any that a disk holds
        return False


def _shown(cell: str) -> str:
    """A name that a message may repeat; what could be a report is left out."""
    return cell if re.fullmatch(r"\S{1,120}", cell) else ""
