"""What every data set is read into, and the small tools that all readers use."""

import csv
import gzip
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from medjax.data.ledger import DataError, Ledger
from medjax.vlp.reports import join_sections

CHEXPERT_FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """One image with what is said of it; either may be missing.

    Attributes:
        id: Unique in the data set.
        patient: Shared by all studies of one patient.
        image: The file, or ``None`` for a report without image.
        findings: Text of that section, empty if missing.
        impression: Text of that section, empty if missing.
        report: The text where it does not come in these two sections.
        labels: Finding to 1, 0 or NaN (not known); equal keys in a whole data set.
        split: The official one (``train``, ``valid``, ``test``), or empty: to be drawn.
        view: As the data set writes it (``PA``, ``AP``, ``Frontal``, ...).
        boxes: ``x, y, width, height`` of each, in pixels of the file.
    """

    id: str
    patient: str
    image: Path | None = None
    findings: str = ""
    impression: str = ""
    report: str = ""
    labels: Mapping[str, float] = field(default_factory=dict)
    split: str = ""
    view: str = ""
    boxes: tuple[tuple[float, float, float, float], ...] = ()

    @property
    def text(self) -> str:
        """The report that is read whole."""
        return self.report or join_sections(self.findings, self.impression)


@runtime_checkable
class Reader(Protocol):
    """Reads one data set; a frozen dataclass whose fields are its flags."""

    @property
    def name(self) -> str:
        """Lower case, underscores: it becomes part of file names."""
        ...

    @property
    def has_text(self) -> bool:
        """Whether its studies come with reports."""
        ...

    def read(self, ledger: Ledger) -> list[Study]:
        """All studies, with filters counted and faults reported."""
        ...


@dataclass(frozen=True)
class LabelPolicy:
    """What the labels of the CheXpert labeller become (1, 0, -1 uncertain, blank)."""

    blank: Literal["unknown", "negative"] = "unknown"
    """A finding that the report does not mention."""
    uncertain: Literal["unknown", "negative", "positive", "mgca"] = "unknown"
    """A finding that may be there. mgca: positive for atelectasis and edema, negative
    for the others, as in the linear probes of MGCA and its successors."""

    def __call__(self, finding: str, value: str) -> float:
        """The label of one cell of a table."""
        match value.strip():
            case "":
                return 0.0 if self.blank == "negative" else np.nan
            case "-1" | "-1.0":
                positive = finding in ("Atelectasis", "Edema")
                mgca = 1.0 if positive else 0.0
                choice = {"negative": 0.0, "positive": 1.0, "mgca": mgca}
                return choice.get(self.uncertain, np.nan)
            case other:
                return float(other)


def read_table(
    path: Path, required: Sequence[str], *, delimiter: str = ","
) -> list[dict[str, str]]:
    """Rows of a CSV file in UTF-8 or else Windows-1252, with cells stripped.

    Args:
        path: Ends in ``.gz`` if gzipped.
        required: Columns that must be there.
        delimiter: Between cells.

    Raises:
        DataError: If the file cannot be read or lacks a column; names those it has.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: unreadable table ({error})") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")  # what spreadsheets on Windows write
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [column.strip() for column in next(rows, [])]
    check_columns(path, header, required)
    return [
        {k: v.strip() for k, v in zip(header, row, strict=False)}
        | dict.fromkeys(header[len(row) :], "")
        for row in rows
        if row
    ]


def check_columns(path: Path, header: Sequence[str], required: Iterable[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: Naming the missing columns and those that came.
    """
    missing = [column for column in required if column not in header]
    if missing:
        raise DataError(f"{path}: no column {missing}, the columns are {list(header)}")


def find_one(root: Path, patterns: Sequence[str], what: str) -> Path:
    """The first file or folder under ``root`` that matches, the newest name last wins.

    Raises:
        DataError: Saying what tree was expected and what the folder holds instead.
    """
    for pattern in patterns:
        found = sorted(root.glob(pattern))
        if found:
            return found[-1]
    if not root.is_dir():
        raise DataError(f"root: {root} is not a folder; expected {what}")
    holds = sorted(p.name for p in root.iterdir())
    more = f" and {len(holds) - 8} more" if len(holds) > 8 else ""
    raise DataError(
        f"root: {root} does not look like {what}: expected {' or '.join(patterns)}, "
        f"found {holds[:8] or 'an empty folder'}{more}"
    )


def drop_duplicates(studies: Iterable[Study], ledger: Ledger) -> list[Study]:
    """Keep the first study of each id; the others are faults."""
    seen: set[str] = set()
    studies, kept = list(studies), []
    for study in studies:
        if study.id in seen:
            ledger.fault(study.id, "duplicate id")
            continue
        seen.add(study.id)
        kept.append(study)
    if dropped := len(studies) - len(kept):
        ledger.count("unique id", len(kept), dropped)
    return kept


def split_by_patient(
    studies: Sequence[Study], *, valid: float, test: float, seed: int
) -> list[Study]:
    """Draw a split for studies that have none, the same for all of a patient.

    A patient's place follows from a hash of seed and patient alone, so it does not
    change when studies are added or filtered. Where the data set has an official test
    split, only ``valid`` is drawn from the rest, and likewise for an official
    validation split.

    Args:
        studies: Read studies.
        valid: Share of patients for validation.
        test: Share of patients for testing.
        seed: Other seeds give other splits.

    Raises:
        ValueError: If the shares are negative or leave nothing to train on.
    """
    if min(valid, test) < 0 or valid + test >= 1:
        raise ValueError(
            f"valid, test: expected shares that sum to less than 1, got {valid}, {test}"
        )
    official = {study.split for study in studies}
    test = 0.0 if "test" in official else test
    valid = 0.0 if "valid" in official else valid

    def draw(patient: str) -> str:
        digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return "test" if place < test else "valid" if place < test + valid else "train"

    return [s if s.split else replace(s, split=draw(s.patient)) for s in studies]
