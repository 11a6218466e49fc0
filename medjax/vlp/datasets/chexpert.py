"""CheXpert, full and small (Irvin et al. 2019): images and labels, no reports.

::

    <root>/CheXpert-v1.0-small/train.csv          (root may also be that folder itself)
    <root>/CheXpert-v1.0-small/valid.csv
    <root>/CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg

The tables' paths begin with the name of the folder, which users rename: it is stripped.
As the literature does, the official ``valid.csv`` (234 images read by radiologists) is
the test split here, and a validation split is drawn from ``train.csv`` by patient.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.data.ledger import Ledger
from medjax.vlp.datasets.study import (
    CHEXPERT_FINDINGS,
    LabelPolicy,
    Study,
    find_one,
    read_table,
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
        studies = self._read(root, table, "") + self._read(root, valid, "test")
        ledger.count("images in train.csv and valid.csv", len(studies))
        if self.frontal:
            studies = ledger.keep(
                "frontal", studies, lambda study: study.view != "Lateral"
            )
        return studies

    def _read(self, root: Path, table: Path, split: str) -> list[Study]:
        rows = read_table(
            table, ["Path", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS]
        )
        studies = []
        for row in rows:
            inside = Path(*Path(row["Path"]).parts[1:])
            lateral = row["Frontal/Lateral"] == "Lateral"
            studies.append(
                Study(
                    id=inside.with_suffix("").as_posix(),
                    patient=inside.parts[1] if len(inside.parts) > 1 else str(inside),
                    image=root / inside,
                    labels={f: self.labels(f, row[f]) for f in CHEXPERT_FINDINGS},
                    split=split,
                    view="Lateral" if lateral else row["AP/PA"] or "Frontal",
                )
            )
        return studies
