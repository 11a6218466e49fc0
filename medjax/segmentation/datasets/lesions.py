"""Lesion sets in BIDS' layout, and tables of any image and label.

::

    <root>/sub-*/[ses-*/]anat|dwi/sub-*_FLAIR.nii.gz
    <root>/derivatives/**/sub-*_{msk,mask,dseg,lesion*}.nii.gz

ISLES, ATLAS and most lesion sets look like that. Image and mask belong together if they
agree in subject and session.
"""

import dataclasses
import re
from pathlib import Path

from medjax.data.boundary import DataError, in_short
from medjax.data.ledger import Ledger
from medjax.data.tables import read_table
from medjax.segmentation.datasets.case import (
    SPLITS,
    Case,
    DataSet,
    folder_of,
    number,
    with_splits,
    without_suffix,
)
from medjax.segmentation.labels import classes

MASKS = r"(msk|mask|dseg|lesion[^_]*)"


@dataclasses.dataclass(frozen=True)
class Bids:
    """Lesion masks in BIDS' layout."""

    root: Path
    """Folder with sub-* and derivatives/."""
    images: tuple[str, ...] = ("FLAIR",)
    """Suffixes of the image files, one for each channel: ``dwi``, ``adc``, ``T1w``."""
    masks: str = MASKS
    """Regular expression of the suffix of label maps."""
    labels: tuple[tuple[str, int], ...] = (("lesion", 1),)
    """Names and values in the masks."""
    ignore: int | None = None
    """Value of what nobody annotated (WMH: 2)."""
    seed: int = 0
    """Of the split by subject."""
    labelled: bool = True
    """Leave out what has no label map."""

    def read(self, ledger: Ledger) -> DataSet:
        """One case for each subject and session with all images and a mask.

        Raises:
            DataError: If none is found, or one has two images of a kind, or two masks
                of which one is needed.
        """
        root = folder_of(self.root, "one in BIDS' layout")
        files = [p for p in sorted(root.rglob("sub-*.nii*")) if p.is_file()]
        images: dict[tuple[str, str], dict[str, list[Path]]] = {}
        masks: dict[tuple[str, str], list[Path]] = {}
        for path in files:
            key, suffix = _entities(path)
            derived = "derivatives" in path.relative_to(root).parts
            if re.fullmatch(self.masks, suffix):
                masks.setdefault(key, []).append(path)
            elif suffix in self.images and not derived:
                images.setdefault(key, {}).setdefault(suffix, []).append(path)
        of_images = (found for by in images.values() for found in by.values())
        needed = masks.values() if self.labelled else ()
        for what, groups in (("masks", needed), ("images", of_images)):
            twice = [p.name for found in groups if len(found) > 1 for p in found]
            if twice:
                raise DataError(
                    f"{root}: several {what} of one session: {in_short(twice)}"
                )
        ledger.count(f"sessions with one of {', '.join(self.images)}", len(images))
        cases = [
            Case(
                "_".join(filter(None, key)),
                tuple(by[s][0] for s in self.images if s in by),
                masks[key][0] if key in masks else None,
                patient=key[0],
            )
            for key, by in images.items()
        ]
        count = len(self.images)
        cases = ledger.keep("with all images", cases, lambda c: len(c.images) == count)
        if self.labelled:
            cases = ledger.keep("with a mask", cases, lambda c: c.label is not None)
        if not cases:
            masked = f" and a mask that ends in {self.masks}" if self.labelled else ""
            raise DataError(f"{root}: no subject with {', '.join(self.images)}{masked}")
        labels = classes(dict(self.labels), ignore=self.ignore)
        done = with_splits(cases, seed=self.seed, where=root)
        return DataSet(root.name, self.images, labels, done)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A CSV of images and label maps, paths relative to it.

    Columns ``image`` and ``label``, and if they are there ``image_1`` … (further
    channels), ``case``, ``patient``, ``split`` and ``frame`` (from 0). Rows with a
    ``case`` each may name one image: then they are its annotators. Without ``patient``
    an image is a patient, so that neither they nor its frames are torn apart.
    """

    root: Path
    """The CSV."""
    channels: tuple[str, ...] = ("image",)
    """Names of the channels; one called CT is normalised as CT is."""
    labels: tuple[tuple[str, int], ...] = (("structure", 1),)
    """Names and values in the label maps."""
    ignore: int | None = None
    """Value of what nobody annotated."""
    seed: int = 0
    """Of the split by patient, if the table has none."""
    labelled: bool = True
    """Leave out what has no label map; else there need be no column ``label``, and
    annotators of one image are one case."""

    def read(self, ledger: Ledger) -> DataSet:
        """One case for each row.

        Raises:
            DataError: For a split or a frame that is none.
        """
        columns = ["image", *(f"image_{i}" for i in range(1, len(self.channels)))]
        needed = [*columns, "label"] if self.labelled else columns
        rows = read_table(self.root, needed, ledger=ledger)
        ledger.count(f"rows in {self.root.name}", len(rows))
        folder, cases = self.root.parent, []
        for line, row in rows:
            where = f"{self.root.name}:{line}"
            split, frame = row.get("split", ""), row.get("frame", "")
            split = {"val": "validation", "valid": "validation"}.get(split, split)
            if split and split not in SPLITS:
                raise DataError(f"{where}: the split is none of {', '.join(SPLITS)}")
            stem = without_suffix(Path(row["image"]))
            label = row.get("label", "")
            cases.append(
                Case(
                    row.get("case") or f"{stem}{frame and '_'}{frame}",
                    tuple(folder / row[column] for column in columns),
                    folder / label if label else None,
                    patient=row.get("patient", "") or row["image"],
                    split=split,
                    frame=number(frame, f"{where}: frame") if frame else None,
                )
            )
        if self.labelled:
            cases = ledger.keep("with a label map", cases, lambda c: bool(c.label))
        else:
            first = {(c.images, c.frame): c for c in reversed(cases)}
            cases = ledger.keep(
                "of one image each", cases, lambda c: c is first[c.images, c.frame]
            )
        if not cases:
            labelled = " and a label map" if self.labelled else ""
            raise DataError(f"{self.root}: no row with an image{labelled}")
        labels = classes(dict(self.labels), ignore=self.ignore)
        done = with_splits(cases, seed=self.seed, where=self.root)
        return DataSet(self.root.stem, self.channels, labels, done)


def _entities(path: Path) -> tuple[tuple[str, str], str]:
    """Subject and session, and the suffix."""
    *entities, suffix = without_suffix(path).split("_")
    by = dict(e.split("-", 1) for e in entities if "-" in e)
    # ATLAS writes its masks as label-L_desc-T1lesion_mask.
    return (by.get("sub", ""), by.get("ses", "")), suffix
