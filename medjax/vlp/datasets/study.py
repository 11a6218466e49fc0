"""What every data set is read into, and the small tools that all readers use."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from medjax.data.ledger import DataError, Ledger
from medjax.vlp.datasets.lesions import Box, Lesion
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
        lesions: Finding to its lesions, in pixels of the file
            (:data:`medjax.vlp.datasets.lesions.Lesion`).
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
    boxes: tuple[Box, ...] = ()
    lesions: Mapping[str, tuple[Lesion, ...]] = field(default_factory=dict)

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

    def __call__(self, finding: str, value: str, where: str = "") -> float:
        """The label of one cell of a table, of the row ``where``."""
        match value.strip():
            case "":
                return 0.0 if self.blank == "negative" else np.nan
            case "-1" | "-1.0":
                positive = finding in ("Atelectasis", "Edema")
                mgca = 1.0 if positive else 0.0
                choice = {"negative": 0.0, "positive": 1.0, "mgca": mgca}
                return choice.get(self.uncertain, np.nan)
            case other:
                return number(where, finding, other)


def number(where: str, column: str, value: str) -> float:
    """A cell as a finite number.

    Raises:
        DataError: Naming the row and the column, not the value.
    """
    try:
        found = float(value)
    except ValueError:
        found = np.nan
    if not np.isfinite(found):
        raise DataError(f"{where}: {column!r}: expected a number")
    return found


def check_labels(studies: Iterable[Study]) -> None:
    """Refuse labels that no probe can be trained or judged by.

    Raises:
        DataError: A label that is neither 1, 0 nor unknown; names study and finding.
    """
    for study in studies:
        for finding, value in study.labels.items():
            if value not in (0.0, 1.0) and not np.isnan(value):
                raise DataError(
                    f"{study.id}: label {finding!r} is {value:g}, expected 1, 0 or "
                    "nothing"
                )


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
