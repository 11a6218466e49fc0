"""SIIM-ACR Pneumothorax Segmentation, stage 1: DICOM files and run lengths.

::

    <root>/dicom-images-train/<study>/<series>/<ImageId>.dcm
    <root>/train-rle.csv            (one row per lesion; "-1": none)

The second column is called " EncodedPixels", with a blank in front. Splits are drawn by
image: drawn by row, as some released code does it, one image may be trained on and
tested on.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.data.ledger import Ledger
from medjax.data.tables import read_table
from medjax.vlp.datasets.lesions import NONE
from medjax.vlp.datasets.study import Study, find_one

FINDING = "Pneumothorax"


@dataclass(frozen=True)
class SiimPneumothorax:
    """SIIM-ACR pneumothorax, stage 1."""

    root: Path
    """Folder with train-rle.csv and dicom-images-train/."""

    name = "siim_pneumothorax"
    has_text = False

    def read(self, ledger: Ledger) -> list[Study]:
        """One study per image of the table; lesions are gathered from their rows."""
        what = "a SIIM-ACR pneumothorax (stage 1) folder"
        table = find_one(self.root, ["train-rle.csv", "*rle*.csv"], what)
        folder = find_one(self.root, ["dicom-images-train", "dicom-images*"], what)
        files = {path.stem: path for path in sorted(folder.rglob("*.dcm"))}
        rows = read_table(table, ["ImageId", "EncodedPixels"], ledger=ledger)
        ledger.count(f"rows in {table.name}", len(rows))
        runs: dict[str, list[str]] = {}
        for line, row in rows:
            name = row["ImageId"]
            if name not in files:
                ledger.fault(f"{table.name}:{line}", "no film of this ImageId")
                continue
            found = runs.setdefault(name, [])
            if row["EncodedPixels"] not in NONE:
                found.append(row["EncodedPixels"])
        ledger.count("images", len(runs))
        return [
            Study(
                id=name,
                patient=name,
                image=files[name],
                labels={FINDING: float(bool(found))},
                lesions={FINDING: tuple(found)} if found else {},
            )
            for name, found in runs.items()
        ]
