"""NIH ChestX-ray14 (Wang et al. 2017): images and labels, no reports.

::

    <root>/Data_Entry_2017.csv  or  Data_Entry_2017_v2020.csv
    <root>/train_val_list.txt, test_list.txt
    <root>/images/00000001_000.png        (or images_001/images/..., as unpacked)

The 2017 table has unquoted commas in two of its column names and one at the end of each
line, so a CSV reader that goes by names shifts them; the first seven columns are the
same in both tables and are read by position. The official lists are disjoint by
patient; other splits in use (BenchX, MRM) give other numbers.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.data.ledger import Ledger
from medjax.data.tables import check_columns, read_records, read_text
from medjax.vlp.datasets.study import Study, find_one

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID")


@dataclass(frozen=True)
class NihCxr14:
    """NIH ChestX-ray14."""

    root: Path
    """Folder with the table, the two lists and the images."""

    name = "nih_cxr14"
    has_text = False

    def read(self, ledger: Ledger) -> list[Study]:
        """All images of the two official lists."""
        what = "an NIH ChestX-ray14 folder"
        # The corrected table of 2020 sorts after the one of 2017 and is preferred.
        table = find_one(self.root, ["Data_Entry_2017*.csv"], what)
        records = read_records(table, ledger=ledger)
        _, header = next(records, (0, []))
        check_columns(table, header[:4], COLUMNS)
        rows = []
        for line, row in records:
            if len(row) < len(COLUMNS):
                fault = f"{len(row)} cells, expected {len(COLUMNS)} or more"
                ledger.fault(f"{table.name}:{line}", fault)
                continue
            rows.append(row)
        ledger.count(f"images in {table.name}", len(rows))
        split = dict.fromkeys(self._list("train_val_list.txt", what), "")
        split |= dict.fromkeys(self._list("test_list.txt", what), "test")
        rows = ledger.keep("in an official list", rows, lambda row: row[0] in split)
        images = {path.name: path for path in self.root.glob("images*/**/*.png")}
        studies = []
        for row in rows:
            present = set(row[1].split("|")) - {"No Finding"}
            if unknown := present - set(FINDINGS):
                ledger.fault(row[0], f"{len(unknown)} findings that are not of the set")
                continue
            studies.append(
                Study(
                    id=row[0].removesuffix(".png"),
                    patient=row[3],
                    image=images.get(row[0], self.root / "images" / row[0]),
                    labels={f: float(f in present) for f in FINDINGS},
                    split=split[row[0]],
                    view=row[6] if len(row) > 6 else "",
                )
            )
        return studies

    def _list(self, name: str, what: str) -> list[str]:
        return read_text(find_one(self.root, [name], what)).split()
