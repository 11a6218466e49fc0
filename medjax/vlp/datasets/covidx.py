"""COVIDx 9A (Wang et al. 2020): images in three classes, no reports.

::

    <root>/train_COVIDx9A.txt, test_COVIDx9A.txt  (patient file class source; no header)
    <root>/train/<file>, <root>/test/<file>

A validation split is drawn from the training list by patient.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.data.ledger import Ledger
from medjax.data.tables import read_text
from medjax.vlp.datasets.study import Study, find_one

CLASSES = ("normal", "pneumonia", "COVID-19")


@dataclass(frozen=True)
class CovidX:
    """COVIDx, by default version 9A."""

    root: Path
    """Folder with the two lists and train/ and test/."""
    version: str = "9A"
    """Version in the names of the lists."""

    name = "covidx"
    has_text = False

    def read(self, ledger: Ledger) -> list[Study]:
        """All listed images."""
        studies: list[Study] = []
        for folder, split in (("train", ""), ("test", "test")):
            table = find_one(
                self.root, [f"{folder}_COVIDx{self.version}.txt"], "a COVIDx folder"
            )
            lines = read_text(table).split("\n")
            for number, line in enumerate(lines, 1):
                if line.strip():
                    self._add(studies, line, f"{table.name}:{number}", split, ledger)
        ledger.count("images in the lists", len(studies))
        return studies

    def _add(
        self, studies: list[Study], line: str, where: str, split: str, ledger: Ledger
    ) -> None:
        # A file name may hold spaces: only the ends of the line are sure.
        parts = line.split()
        if len(parts) < 4 or parts[-2] not in CLASSES:
            ledger.fault(where, "expected: patient file class source")
            return
        file = " ".join(parts[1:-2])
        folder = split or "train"
        studies.append(
            Study(
                id=f"{folder}/{Path(file).stem}",
                patient=parts[0],
                image=self.root / folder / file,
                labels={c: float(parts[-2] == c) for c in CLASSES},
                split=split,
            )
        )
