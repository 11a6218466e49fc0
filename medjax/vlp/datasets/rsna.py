"""RSNA Pneumonia Detection Challenge, stage 2: DICOM files, a label and boxes.

::

    <root>/stage_2_train_images/<patientId>.dcm
    <root>/stage_2_train_labels.csv               (one row per box)
    <root>/stage_2_detailed_class_info.csv

The challenge's own test labels were never published; splits are drawn from the 26,684
training images. The common shares are 60/20/20.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.data.ledger import Ledger
from medjax.data.tables import read_table
from medjax.vlp.datasets.study import Study, find_one, number

CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")


@dataclass(frozen=True)
class RsnaPneumonia:
    """RSNA pneumonia, stage 2."""

    root: Path
    """Folder with the two tables and stage_2_train_images/."""

    name = "rsna_pneumonia"
    has_text = False

    def read(self, ledger: Ledger) -> list[Study]:
        """One study per image; boxes of one image are gathered from their rows."""
        what = "an RSNA pneumonia (stage 2) folder"
        labels = find_one(self.root, ["stage_2_train_labels.csv"], what)
        classes = find_one(self.root, ["stage_2_detailed_class_info.csv"], what)
        images = find_one(self.root, ["stage_2_train_images"], what)
        box = ("x", "y", "width", "height")
        rows = read_table(labels, ["patientId", *box, "Target"], ledger=ledger)
        ledger.count("rows in stage_2_train_labels.csv", len(rows))
        class_of = {
            row["patientId"]: row["class"]
            for _, row in read_table(classes, ["patientId", "class"], ledger=ledger)
        }
        boxes: dict[str, list[tuple[float, float, float, float]]] = {}
        target: dict[str, float] = {}
        for line, row in rows:
            name, where = row["patientId"], f"{labels.name}:{line}"
            target[name] = number(where, "Target", row["Target"])
            found = boxes.setdefault(name, [])
            if row["x"]:
                x, y, w, h = (number(where, k, row[k]) for k in box)
                found.append((x, y, w, h))
        ledger.count("images", len(boxes))
        return [
            Study(
                id=name,
                patient=name,
                image=images / f"{name}.dcm",
                labels={"Pneumonia": target[name]}
                | {c: float(class_of.get(name) == c) for c in CLASSES},
                boxes=tuple(found),
            )
            for name, found in boxes.items()
        ]
