"""Folders of nnU-Net and of the Medical Segmentation Decathlon.

::

    <root>/dataset.json
    <root>/imagesTr/CASE_0000.nii.gz, CASE_0001.nii.gz …   (nnU-Net: a file per channel)
    <root>/imagesTr/CASE.nii.gz                            (Decathlon: a fourth axis)
    <root>/labelsTr/CASE.nii.gz
    <root>/imagesTs, <root>/labelsTs                       (a test split, if labelled)

``dataset.json`` is of either version. The first has ``modality`` and ``labels`` from
number to name, and lists its cases under ``training``. The second has ``channel_names``
and ``labels`` from name to number, or to several numbers: those are regions, painted in
the order of ``regions_class_order``; a label called ``ignore`` is the highest. It may
name files by case under ``dataset``. ``splits_final.json`` beside it names folds.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from medjax.data.boundary import DataError, in_short, reading
from medjax.data.documents import parse_json, read_json
from medjax.data.ledger import Ledger
from medjax.segmentation.datasets.case import (
    Case,
    DataSet,
    folder_of,
    with_splits,
    without_suffix,
)
from medjax.segmentation.labels import Labels, classes

DOCUMENT = "dataset.json"
SPLITS = "splits_final.json"
WHAT = "description of a data set"


@dataclasses.dataclass(frozen=True)
class NnunetRaw:
    """A raw folder of nnU-Net, or a task of the Medical Segmentation Decathlon."""

    root: Path
    """Folder with dataset.json."""
    fold: int = 0
    """Of splits_final.json, if there is one."""
    seed: int = 0
    """Of the split by case, if there is none."""
    labelled: bool = True
    """Leave out what has no label map; else folds leave nothing out either."""

    def read(self, ledger: Ledger) -> DataSet:
        """One case per training image, and per test image.

        Raises:
            FileNotFoundError: Without the folder or its dataset.json.
            DataError: Where that does not describe a set.
        """
        root = folder_of(self.root, "one with dataset.json in it")
        about = read_json(root / DOCUMENT, WHAT)
        with reading(root / DOCUMENT, WHAT):
            channels = channels_of(about)
            labels = labels_of(about)
            ending = str(about.get("file_ending", ".nii.gz"))
        found = self._cases(root, about, len(channels), ending)
        kept = "images with a label map"
        if self.labelled:
            found = ledger.keep(kept, found, lambda c: bool(c.label))
        else:
            ledger.count("images", len(found))
        splits = self._splits(root) if self.labelled else {}
        cases = [
            dataclasses.replace(c, split=c.split or splits.get(c.id, "")) for c in found
        ]
        if splits:
            cases = ledger.keep(f"in fold {self.fold}", cases, lambda c: bool(c.split))
        name = str(about.get("name", root.name))
        done = with_splits(cases, seed=self.seed, where=root / DOCUMENT)
        return DataSet(name, channels, labels, done)

    def _cases(
        self, root: Path, about: dict[str, Any], channels: int, ending: str
    ) -> list[Case]:
        if isinstance(about.get("dataset"), dict):
            with reading(root / DOCUMENT, WHAT, key="dataset"):
                return [
                    Case(
                        name,
                        tuple(root / path for path in entry["images"]),
                        root / entry["label"] if entry.get("label") else None,
                        patient=name,
                    )
                    for name, entry in about["dataset"].items()
                ]
        parts = {"Tr": "", "Ts": "test"}
        files = {part: _files(root / f"images{part}", ending) for part in parts}
        labels = {part: _files(root / f"labels{part}", ending) for part in parts}
        drawn = {stem for by in labels.values() for stem in by}
        # Decathlon tasks may count patients as nnU-Net counts channels.
        whole = any(stem in drawn for by in files.values() for stem in by)
        cases = []
        for part, split in parts.items():
            for name, images in _by_case(files[part], drawn, whole).items():
                if len(images) not in (1, channels):
                    raise DataError(
                        f"{root}: case {name} has {len(images)} images, expected "
                        f"{f'{channels} or ' if channels > 1 else ''}one"
                    )
                label = labels[part].get(name)
                cases.append(Case(name, images, label, patient=name, split=split))
        if not cases:
            raise DataError(f"{root}: no image with {ending} in imagesTr")
        return cases

    def _splits(self, root: Path) -> dict[str, str]:
        path = root / SPLITS
        if not path.is_file():
            return {}
        with reading(path, "list of folds"):
            folds = parse_json(path.read_text("utf-8"))
            if not 0 <= self.fold < len(folds):
                raise DataError(f"{path}: {len(folds)} folds, none is {self.fold}")
            fold = folds[self.fold]
            both = sorted(set(fold["train"]) & set(fold["val"]))
            if both:
                raise DataError(f"{path}: {in_short(both)} are in both splits")
            return dict.fromkeys(fold["train"], "train") | dict.fromkeys(
                fold["val"], "validation"
            )


def channels_of(about: dict[str, Any]) -> tuple[str, ...]:
    """Names of the channels, of either version."""
    names = about.get("channel_names", about.get("modality"))
    if not isinstance(names, dict) or not names:
        raise ValueError("expected 'channel_names' or 'modality', by number")
    return tuple(str(names[key]) for key in sorted(names, key=int))


def labels_of(about: dict[str, Any]) -> Labels:
    """Labels of either version; regions and the ignored one of the second."""
    given = about.get("labels")
    if not isinstance(given, dict) or not given:
        raise ValueError("expected 'labels'")
    if all(re.fullmatch(r"\d+", str(key)) for key in given):
        return classes({str(name): int(key) for key, name in given.items()})
    ignore = given.get("ignore")
    if ignore is not None and not isinstance(ignore, int):
        raise ValueError(f"label 'ignore' is {ignore!r}, expected one number")
    sets = {
        name: tuple(value) if isinstance(value, list) else (int(value),)
        for name, value in given.items()
        if name != "ignore"
    }
    if all(len(values) == 1 for values in sets.values()):
        named = {name: values[0] for name, values in sets.items()}
        return classes(named, ignore=ignore)
    regions = {name: values for name, values in sets.items() if values != (0,)}
    painted = tuple(int(v) for v in about.get("regions_class_order", ()))
    values = tuple(sorted({0, *(v for region in regions.values() for v in region)}))
    return Labels(
        values, tuple(regions), tuple(regions.values()), painted, ignore=ignore
    )


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Files of that ending, by name."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        path.name[: -len(ending)] if ending else without_suffix(path): path
        for path in paths
        if path.is_file()
        and path.name.endswith(ending)
        and not path.name.startswith(".")
    }


def _by_case(
    files: dict[str, Path], labels: set[str], whole: bool
) -> dict[str, tuple[Path, ...]]:
    """Files of each case in the order of their channels.

    Args:
        files: By name.
        labels: Names of label maps.
        whole: Whether a number at the end is of a case, not of a channel, where no
            label map tells.
    """
    found: dict[str, dict[int, Path]] = {}
    strange = []
    for stem, path in files.items():
        name, number = stem, 0
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
        if numbered is not None and (
            numbered[1] in labels or not (whole or stem in labels)
        ):
            name, number = numbered[1], int(numbered[2])
        if number in found.setdefault(name, {}):
            strange.append(path)
        found[name][number] = path
    if strange:
        names = in_short([path.name for path in strange])
        raise DataError(f"{strange[0].parent}: {names} name a channel twice")
    return {name: tuple(by[i] for i in sorted(by)) for name, by in found.items()}
