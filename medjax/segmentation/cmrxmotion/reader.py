"""The challenge's tree.

::

    data/P001-1/P001-1-ED.nii.gz  P001-1-ED-label.nii.gz  P001-1-ES.nii.gz ...
    IQA.csv                       Image,Label: P001-1-ED,1

``P001-1`` is a volunteer and an acquisition. Images have a trailing axis of one; labels
are 1 LV, 2 myocardium, 3 RV. Grades are 1 mild, 2 intermediate, 3 severe, and what is
severe has no segmentation. Affines of image and label may disagree: the image's holds.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medjax.data import nifti
from medjax.data.boundary import DataError, in_short
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume
from medjax.data.tables import read_table
from medjax.data.volumes import with_geometry_of

ACQUISITIONS = {1: "breath_hold", 2: "half", 3: "free", 4: "intensive"}
"""What the volunteer did; names as in :mod:`medjax.mri.motion`."""
GRADES = (1, 2, 3)
LABELS = {"LV": 1, "MYO": 2, "RV": 3}
PHASES = ("ED", "ES")
_NAME = re.compile(r"(P\d+)-(\d+)-(ED|ES)")


@dataclasses.dataclass(frozen=True)
class Scan:
    """One frame of one acquisition.

    Attributes:
        name: ``P001-1-ED``.
        patient: ``P001``; what sets are split by.
        acquisition: 1 to 4; see :data:`ACQUISITIONS`.
        phase: end-diastole or end-systole.
        image: the file.
        label: the file; None where there is none.
        grade: 1 to 3; None where it is not told.
    """

    name: str
    patient: str
    acquisition: int
    phase: Literal["ED", "ES"]
    image: Path
    label: Path | None
    grade: int | None


def find(root: str | Path, *, ledger: Ledger | None = None) -> tuple[Scan, ...]:
    """All scans below a folder, sorted by name.

    Args:
        root: the folder that holds ``data`` and ``IQA.csv``, or ``data`` itself; a part
            without grades (the test set) has no ``IQA.csv``.
        ledger: receives grades without an image, images without a grade where there is
            a table, and rows that do not fit.

    Raises:
        FileNotFoundError: for no such folder, or one without scans.
        DataError: on the first fault, unless the ledger skips them.
    """
    root = Path(root)
    ledger = Ledger() if ledger is None else ledger
    data = root / "data" if (root / "data").is_dir() else root
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such folder of CMRxMotion")
    tables = [p for p in (root / "IQA.csv", root.parent / "IQA.csv") if p.is_file()]
    grades = read_grades(tables[0], ledger=ledger) if tables else {}
    scans = []
    for path in sorted(data.glob("*/*.nii.gz")):
        match = _NAME.fullmatch(path.name.removesuffix(".nii.gz"))
        if match is None:
            continue  # labels, and what else lies there
        patient, number, phase = match.groups()
        name = match[0]
        if int(number) not in ACQUISITIONS:
            ledger.fault(name, f"acquisition {number}, expected 1 to 4")
            continue
        if grades and name not in grades:
            ledger.fault(name, f"no grade in {tables[0].name}")
        label = path.with_name(f"{name}-label.nii.gz")
        scans.append(
            Scan(
                name,
                patient,
                int(number),
                "ED" if phase == "ED" else "ES",
                path,
                label if label.is_file() else None,
                grades.get(name),
            )
        )
    if not scans:
        raise FileNotFoundError(f"{data}: no scan P*/P*-[1-4]-(ED|ES).nii.gz")
    for name in sorted(set(grades) - {scan.name for scan in scans}):
        ledger.fault(name, "a grade without an image")
    return tuple(scans)


def read_grades(path: str | Path, *, ledger: Ledger | None = None) -> dict[str, int]:
    """Grades by the scan's name, from a table ``Image,Label``.

    Args:
        path: ``IQA.csv``, or a submission of task 1.
        ledger: receives rows with another grade, and names that come twice.

    Raises:
        FileNotFoundError: for no such file.
        DataError: where it cannot be read, lacks a column, or has a faulty row and the
            ledger raises.
    """
    path = Path(path)
    ledger = Ledger() if ledger is None else ledger
    grades: dict[str, int] = {}
    for line, row in read_table(path, ["Image", "Label"], ledger=ledger):
        name = row["Image"].removesuffix(".gz").removesuffix(".nii")
        where = f"{path.name}:{line}"
        # Spreadsheets write whole numbers as 1.0.
        said = row["Label"].removesuffix(".0")
        if said not in ("1", "2", "3"):
            ledger.fault(where, "the grade is none of 1, 2 and 3")
        elif name in grades:
            ledger.fault(where, "the scan was graded before")
        else:
            grades[name] = int(said)
    return grades


def read_scan(scan: Scan) -> tuple[Volume, Volume | None]:
    """Image and labels on one grid.

    Raises:
        FileNotFoundError: where a file has gone.
        DataError: where one is damaged, shapes differ, or a label is none of 0 to 3.
    """
    image = nifti.read(scan.image, ndim=3)
    if scan.label is None:
        return image, None
    label = nifti.read_labels(scan.label, ndim=3)
    if found := sorted(set(np.unique(label.data).tolist()) - {0, *LABELS.values()}):
        raise DataError(f"{scan.label}: labels {found}, expected 0 to 3")
    if label.data.shape != image.data.shape:
        raise DataError(
            f"{scan.name}: the image has shape {image.data.shape}, its labels "
            f"{label.data.shape}"
        )
    told = f"{scan.name}: image and label map"
    return image, with_geometry_of(image, label, what=told)


def readable(scans: Sequence[Scan], *, ledger: Ledger) -> tuple[Scan, ...]:
    """The scans whose files can be read, all of them.

    Args:
        scans: of a tree.
        ledger: takes the others.

    Raises:
        DataError: for a file that cannot be read, if the ledger raises.
    """
    found = []
    for scan in scans:
        try:
            read_scan(scan)
        except (DataError, FileNotFoundError) as error:
            ledger.fault(scan.name, str(error))
            continue
        found.append(scan)
    return tuple(found)


def split_by_patient(
    scans: Sequence[Scan], shares: Mapping[str, float], *, seed: int
) -> dict[str, tuple[Scan, ...]]:
    """Parts of a set, no volunteer in two of them.

    Args:
        scans: of all volunteers.
        shares: part to its share of the volunteers; what they lack of 1 is left out.
        seed: of the order.

    Raises:
        ValueError: for shares that are negative or exceed 1, or a part without anybody.
    """
    if min(shares.values(), default=-1) < 0 or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"shares {dict(shares)}: expected 0 or more, and 1 at most")
    patients = sorted({scan.patient for scan in scans})
    order = np.random.default_rng(seed).permutation(patients).tolist()
    edges = np.rint(np.cumsum([0.0, *shares.values()]) * len(order)).astype(int)
    parts = {}
    for name, start, stop in zip(shares, edges, edges[1:], strict=False):
        chosen = set(order[start:stop])
        if not chosen and shares[name] > 0:
            raise ValueError(
                f"part {name!r} of {len(order)} volunteers ({in_short(order)}) would "
                "be empty"
            )
        parts[name] = tuple(scan for scan in scans if scan.patient in chosen)
    return parts
