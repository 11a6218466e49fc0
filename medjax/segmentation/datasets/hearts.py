"""Cardiac short-axis sets: ACDC, M&Ms and CMRxMotion, with one set of labels.

::

    ACDC        <root>/**/patient001/Info.cfg, patient001_frame01.nii.gz, …_gt.nii.gz;
                patient001_4d.nii.gz
    M&Ms        <root>/*.csv; <root>/**/CODE/CODE_sa.nii.gz, CODE_sa_gt.nii.gz
    CMRxMotion  <root>/**/P001-1-ED.nii.gz, P001-1-ED-label.nii.gz; IQA.csv

All become 1 LV, 2 myocardium, 3 RV. ACDC writes them the other way round, and its
frames count from 1; those of M&Ms count from 0. CMRxMotion's acquisitions of severe
motion have no label map. Cases of a patient stay together.
"""

import dataclasses
import re
from pathlib import Path

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.tables import read_table, read_text
from medjax.segmentation.datasets.case import (
    HEART,
    Case,
    DataSet,
    folder_of,
    number,
    with_splits,
    without_suffix,
)
from medjax.segmentation.labels import classes

LABELS = classes(HEART)
PHASES = ("ED", "ES")


@dataclasses.dataclass(frozen=True)
class Acdc:
    """Automated Cardiac Diagnosis Challenge: end-diastole and end-systole."""

    root: Path
    """Folder with patient folders, at any depth."""
    seed: int = 0
    """Of the split by patient; ``testing`` in a path is the test split."""
    labelled: bool = True
    """Leave out what has no label map."""
    cine: bool = False
    """All frames as one case, which has no label map, rather than two of them."""

    def read(self, ledger: Ledger) -> DataSet:
        """Two cases for each patient, or one of all frames.

        Raises:
            DataError: For an Info.cfg that does not name both frames.
        """
        root = folder_of(self.root, "ACDC's, with patient folders in it")
        cases = []
        for info in sorted(root.rglob("Info.cfg")):
            folder = info.parent
            inside = folder.relative_to(root).parts
            split = "test" if "testing" in inside else ""
            if self.cine:
                stem = f"{folder.name}_4d"
                found = _found(_either(folder, stem))
                cases.append(Case(stem, found, patient=folder.name, split=split))
                continue
            pairs = (line.partition(":") for line in read_text(info).split("\n"))
            said = {key.strip(): value.strip() for key, _, value in pairs}
            for phase in PHASES:
                frame = number(said.get(phase, ""), f"{info}: {phase}")
                stem = f"{folder.name}_frame{frame:02d}"
                cases.append(
                    Case(
                        f"{folder.name}_{phase}",
                        _found(_either(folder, stem)),
                        _either(folder, f"{stem}_gt"),
                        patient=folder.name,
                        split=split,
                    )
                )
        ledger.count("patients", len({case.patient for case in cases}))
        cases = _usable(cases, ledger, self.labelled)
        done = with_splits(cases, seed=self.seed, where=root)
        return DataSet("ACDC", ("cine MRI",), LABELS, done, ((1, 3), (3, 1)))


@dataclasses.dataclass(frozen=True)
class Mnms:
    """Multi-Centre, Multi-Vendor & Multi-Disease cardiac segmentation challenge."""

    root: Path
    """Folder with the table and, at any depth, a folder for each code."""
    seed: int = 0
    """Of the split by patient; ``Testing`` in a path is the test split, ``Validation``
    the validation split."""
    labelled: bool = True
    """Leave out what has no label map."""
    cine: bool = False
    """All frames as one case, which has no label map, rather than two of them."""

    def read(self, ledger: Ledger) -> DataSet:
        """Two cases for each code of the table, or one of all frames.

        Raises:
            DataError: Without one table, or for a frame that is no number.
        """
        root = folder_of(self.root, "M&Ms', with its table in it")
        tables = sorted(root.glob("*nformation*.csv"))
        if len(tables) != 1:
            raise DataError(
                f"{root}: expected one *Information*.csv, got {len(tables)}"
            )
        rows = read_table(tables[0], ["External code", *PHASES], ledger=ledger)
        ledger.count(f"rows in {tables[0].name}", len(rows))
        places = {path.parent.name: path for path in root.rglob("*_sa.nii.gz")}
        cases = []
        for line, row in rows:
            code = row["External code"]
            image, label, inside = places.get(code), None, ()
            if image is not None:
                label = _either(image.parent, f"{without_suffix(image)}_gt")
                inside = image.relative_to(root).parts
            split = "validation" if "Validation" in inside else ""
            split = "test" if "Testing" in inside else split
            if self.cine:
                case = Case(f"{code}_sa", _found(image), patient=code, split=split)
                cases.append(case)
                continue
            for phase in PHASES:
                frame = number(row[phase], f"{tables[0]}:{line}: {phase}")
                cases.append(
                    Case(
                        f"{code}_{phase}",
                        _found(image),
                        label,
                        patient=code,
                        split=split,
                        frame=frame,
                    )
                )
        cases = _usable(cases, ledger, self.labelled)
        done = with_splits(cases, seed=self.seed, where=tables[0])
        return DataSet("M&Ms", ("cine MRI",), LABELS, done)


@dataclasses.dataclass(frozen=True)
class CmrxMotion:
    """CMRxMotion: four acquisitions of a volunteer, from breath-hold to intensive."""

    root: Path
    """Folder with the images, at any depth."""
    seed: int = 0
    """Of the split by volunteer."""
    labelled: bool = True
    """Leave out what has no label map."""

    def read(self, ledger: Ledger) -> DataSet:
        """One case for each acquisition and phase."""
        root = folder_of(self.root, "CMRxMotion's, with images in it")
        cases = []
        for path in sorted(root.rglob("P*.nii*")):
            named = re.fullmatch(r"(P\d+)-(\d)-(ED|ES)", without_suffix(path))
            if named:
                label = _either(path.parent, f"{named[0]}-label")
                cases.append(Case(named[0], (path,), label, patient=named[1]))
        ledger.count("acquisitions and phases", len(cases))
        cases = _usable(cases, ledger, self.labelled)
        done = with_splits(cases, seed=self.seed, where=root)
        return DataSet("CMRxMotion", ("cine MRI",), LABELS, done)


def _either(folder: Path, stem: str) -> Path | None:
    """The file of that name, compressed or not."""
    for suffix in (".nii.gz", ".nii"):
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    return None


def _found(path: Path | None) -> tuple[Path, ...]:
    return () if path is None else (path,)


def _usable(cases: list[Case], ledger: Ledger, labelled: bool) -> list[Case]:
    cases = ledger.keep("with an image", cases, lambda c: bool(c.images))
    if not labelled:
        return cases
    return ledger.keep("with a label map", cases, lambda c: bool(c.label))
