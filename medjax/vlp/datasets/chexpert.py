"""CheXpert, full and small (Irvin et al. 2019): images and labels, no reports.

::

    <root>/CheXpert-v1.0-small/train.csv          (root may also be that folder itself)
    <root>/CheXpert-v1.0-small/valid.csv
    <root>/CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg

or as the full set is handed out, the training images in batches::

    <root>/CheXpert-v1.0 batch 1 (validate & csv)/train.csv, valid.csv, valid/...
    <root>/CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg

The tables' paths begin with the name of the folder, which users rename: it is stripped.
CheXpert Plus, which has reports, is a table (see ``experiments.prepare``).
As the literature does, the official ``valid.csv`` (234 images read by radiologists) is
the test split here, and a validation split is drawn from ``train.csv`` by patient.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.data.ledger import Ledger
from medjax.data.tables import read_table
from medjax.vlp.datasets.study import (
    CHEXPERT_FINDINGS,
    LabelPolicy,
    Study,
    find_one,
)


@dataclass(frozen=True)
class CheXpert:
    """CheXpert-v1.0 or CheXpert-v1.0-small."""

    root: Path
    """Folder with train.csv and valid.csv, or the one above it."""
    frontal: bool = True
    """Keep frontal views only."""
    labels: LabelPolicy = LabelPolicy(blank="negative", uncertain="mgca")
    """What blank and uncertain labels become."""
    suffix: str | None = None
    """What image files end in, where they were converted: .png."""

    name = "chexpert"
    has_text = False

    def read(self, ledger: Ledger) -> list[Study]:
        """All images that pass the filters."""
        table = find_one(
            self.root,
            ["train.csv", "CheXpert-v1.0*/train.csv"],
            "a CheXpert folder",
        )
        root = table.parent
        valid = find_one(root, ["valid.csv"], "a CheXpert folder")
        batches = _batches(root)
        studies = self._read(root, table, "", batches, ledger)
        studies += self._read(root, valid, "test", {}, ledger)
        ledger.count("images in train.csv and valid.csv", len(studies))
        if self.frontal:
            studies = ledger.keep(
                "frontal", studies, lambda study: study.view != "Lateral"
            )
        return studies

    def _read(
        self,
        root: Path,
        table: Path,
        split: str,
        batches: dict[str, Path],
        ledger: Ledger,
    ) -> list[Study]:
        columns = ["Path", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS]
        studies = []
        for line, row in read_table(table, columns, ledger=ledger):
            where = f"{table.name}:{line}"
            inside = Path(*Path(row["Path"]).parts[1:])
            if len(inside.parts) < 3:
                fault = "Path: expected folder/split/patient/study/file"
                ledger.fault(where, fault)
                continue
            patient, image = inside.parts[1], root / inside
            if patient in batches:
                image = batches[patient] / Path(*inside.parts[2:])
            lateral = row["Frontal/Lateral"] == "Lateral"
            studies.append(
                Study(
                    id=inside.with_suffix("").as_posix(),
                    patient=patient,
                    image=image.with_suffix(self.suffix) if self.suffix else image,
                    labels={
                        f: self.labels(f, row[f], where) for f in CHEXPERT_FINDINGS
                    },
                    split=split,
                    view="Lateral" if lateral else row["AP/PA"] or "Frontal",
                )
            )
        return studies


def _batches(root: Path) -> dict[str, Path]:
    """Folders of the training patients that lie in batches beside the tables."""
    if (root / "train").is_dir():
        return {}
    folders = [*root.parent.glob("*batch*(train*)"), *root.glob("*batch*(train*)")]
    return {
        patient.name: patient
        for folder in sorted(folders)
        for patient in (*folder.glob("patient*"), *folder.glob("train/patient*"))
    }
