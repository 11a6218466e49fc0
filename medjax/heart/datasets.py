"""Cardiac data sets as they lie on a disk: cases with images, labels and conditions.

Trees of UK Biobank (as ``ukbb_cardiac`` leaves it), ACDC and M&Ms; those of DeepMesh
and CHeart are in :mod:`medjax.heart.trees`, and what the codes of their label maps mean
is in :mod:`medjax.heart.label_maps`.

Frames count from 0 here, from 1 in ACDC.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medjax.data import nifti
from medjax.data.boundary import DataError, in_short, reading
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume
from medjax.data.tables import read_table, read_text
from medjax.heart.label_maps import SYSTOLE, Labels, read_frames

Source = Literal["ukb", "acdc", "mnms", "deepmesh", "cheart"]
CONDITIONS = {
    "age": "age",
    "sex": "sex",
    "gender": "sex",
    "height": "height",
    "weight": "weight",
    "sbp": "blood_pressure",
    "heart rate": "heart_rate",
}
"""Columns of tables, in small letters, and what they are called here."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One study, unread.

    Attributes:
        name: of the person.
        source: whose conventions its files have.
        image: short-axis cine, ``i j k t``.
        labels: of single frames, or under ``None`` of all in one file.
        diastole: frame of end-diastole.
        systole: frame of end-systole; ``None`` where only volumes can tell.
        long_axis: other views by name; a missing one is absent.
        view_labels: of these views, all frames in one file; a missing one is absent.
        conditions: what is known of the person, by the names in
            :class:`medjax.heart.population.Person`; sex is 1 for men.
        group: diagnosis, where the source has one.
    """

    name: str
    source: Source
    image: Path
    labels: Mapping[int | None, Path]
    diastole: int = 0
    systole: int | None = None
    long_axis: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    view_labels: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    conditions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    group: str = ""

    def read_image(self) -> Volume:
        """The short-axis cine.

        Raises:
            DataError: where it is damaged or has not four axes.
        """
        return nifti.read(self.image, ndim=4)

    def read_labels(self) -> Labels:
        """All label maps that there are.

        M&Ms keeps a file of all frames of which two are filled: empty ones are no
        label maps. Where its ventricles are numbered as ACDC's, that is taken as read.

        Raises:
            DataError: where a file is damaged, holds an unknown code, maps lie on
                different grids, or muscle encloses what is called the right ventricle.
        """
        if not self.labels:
            raise DataError(f"{self.name}: no label maps in {self.image.parent}")
        return read_frames(self.labels, self.source)

    def read_view_labels(self, view: str) -> Labels:
        """The label maps of a long-axis view.

        Args:
            view: of ``view_labels``.

        Raises:
            DataError: as of :meth:`read_labels`.
        """
        return read_frames({None: self.view_labels[view]}, "ukb along the heart")


def labelled(cases: Sequence[Case], root: Path) -> list[Case]:
    """The cases that have label maps; how many have none is said.

    M&Ms' training set has 25 people, of one vendor, without.

    Args:
        cases: of a tree.
        root: of the tree, for messages.

    Raises:
        DataError: where none has any.
    """
    kept = [case for case in cases if case.labels]
    if not kept:
        raise DataError(
            f"data.root: {root}: {len(cases)} people, none of them with label maps"
        )
    if len(kept) < len(cases):
        Ledger().count("people with label maps", len(kept), len(cases) - len(kept))
    return kept


def open_tree(
    root: Path, source: Source, *, ledger: Ledger | None = None
) -> list[Case]:
    """The cases of a tree, sorted by name.

    Args:
        root: folder of the data set.
        source: whose tree it is.
        ledger: receives cases at fault; the first one is raised without one.

    Raises:
        DataError: where the folder is absent or holds no case of that source.
    """
    readers: dict[str, Callable[[Path, Ledger], list[Case]]] = {
        "ukb": _ukb,
        "acdc": _acdc,
        "mnms": _mnms,
    }
    if source not in readers:
        raise ValueError(f"source {source!r}: expected one of {list(readers)}")
    if not root.is_dir():
        raise DataError(f"data.root: {root}: no such folder")
    cases = readers[source](root, ledger or Ledger(log=lambda line: None))
    if not cases:
        found = in_short(sorted(p.name for p in root.iterdir()))
        raise DataError(
            f"data.root: {root} holds no case of {source} ({LAYOUTS[source]}), it "
            f"holds {found}"
        )
    return sorted(cases, key=lambda case: case.name)


LAYOUTS = {
    "ukb": "<id>/sa.nii.gz and seg_sa.nii.gz or label_sa.nii.gz",
    "acdc": "patient001/Info.cfg and patient001_4d.nii.gz",
    "mnms": "<code>/<code>_sa.nii.gz and a table with 'External code'",
}
"""What a case looks like, for messages."""


def _existing(folder: Path, *names: str) -> Path | None:
    """The first of some names that is there, with or without ``.gz``."""
    every = [folder / f"{name}{end}" for name in names for end in (".nii.gz", ".nii")]
    return next((path for path in every if path.is_file()), None)


def _ukb(root: Path, ledger: Ledger) -> list[Case]:
    cases = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        if (image := _existing(folder, "sa")) is None:
            continue
        labels: dict[int | None, Path] = {}
        if (whole := _existing(folder, "seg_sa", "label_sa")) is not None:
            labels[None] = whole
        else:
            ends = {0: "ED", SYSTOLE: "ES"}
            for frame, end in ends.items():
                if one := _existing(folder, f"seg_sa_{end}", f"label_sa_{end}"):
                    labels[frame] = one
        views = {v: _existing(folder, f"la_{v}") for v in ("2ch", "4ch")}
        long_axis = {v: path for v, path in views.items() if path is not None}
        # seg_la_* are of the atria; with ventricles as well ukbb_cardiac says seg4.
        maps = {
            v: path
            for v in long_axis
            if (path := _existing(folder, f"seg4_la_{v}", f"label4_la_{v}"))
        }
        cases.append(
            Case(
                folder.name,
                "ukb",
                image,
                labels,
                long_axis=long_axis,
                view_labels=maps,
            )
        )
    return cases


def _acdc(root: Path, ledger: Ledger) -> list[Case]:
    cases = []
    for info in sorted(root.rglob("Info.cfg")):
        folder, name = info.parent, info.parent.name
        image = _existing(folder, f"{name}_4d")
        if image is None:
            ledger.fault(name, f"no {name}_4d.nii.gz beside Info.cfg")
            continue
        told = _info(info)
        with reading(info, "Info.cfg of ACDC"):
            ends = [int(told[end]) for end in ("ED", "ES")]
            known = {k: float(told[k.title()]) for k in ("height", "weight")}
        maps = {n - 1: _existing(folder, f"{name}_frame{n:02d}_gt") for n in ends}
        labels: dict[int | None, Path] = {
            k: v for k, v in maps.items() if v is not None
        }
        diastole, systole = (end - 1 for end in ends)
        cases.append(
            Case(
                name,
                "acdc",
                image,
                labels,
                diastole,
                systole,
                conditions=known,
                group=told.get("Group", ""),
            )
        )
    return cases


def _info(path: Path) -> dict[str, str]:
    """``Key: value`` lines."""
    lines = [line.partition(":") for line in read_text(path).splitlines()]
    return {key.strip(): value.strip() for key, mark, value in lines if mark}


def _mnms(root: Path, ledger: Ledger) -> list[Case]:
    images = {p.name.removesuffix("_sa.nii.gz"): p for p in root.rglob("*_sa.nii.gz")}
    needed = ("External code", "ED", "ES")
    tables = [p for p in sorted(root.glob("*.csv")) if needed[0] in read_text(p)]
    if images and not tables:
        raise DataError(f"data.root: {root}: no table with the columns {needed}")
    cases = []
    for table in tables:
        for line, row in read_table(table, needed, ledger=ledger):
            name = row["External code"]
            if name not in images:
                continue  # the table names cases of splits that were not released
            ends = _frames(row)
            if ends is None:
                ledger.fault(f"{table.name}:{line}", "ED and ES are not frames")
                continue
            image = images[name]
            maps = _existing(image.parent, f"{name}_sa_gt")
            cases.append(
                Case(
                    name,
                    "mnms",
                    image,
                    {} if maps is None else {None: maps},
                    *ends,
                    conditions=conditions_of(row),
                    group=row.get("Pathology", ""),
                )
            )
    return cases


def _frames(row: Mapping[str, str]) -> tuple[int, int] | None:
    try:
        diastole, systole = (int(float(row[end])) for end in ("ED", "ES"))
    except ValueError:
        return None
    return (diastole, systole) if min(diastole, systole) >= 0 else None


def conditions_of(row: Mapping[str, str]) -> dict[str, float]:
    """What a table's row tells of a person; cells that are no numbers are left out.

    Args:
        row: by column; names in any case. A sex is M, F, male, female, 1 or 0.
    """
    found: dict[str, float] = {}
    for column, cell in row.items():
        name = CONDITIONS.get(column.strip().lower())
        if name == "sex" and cell.strip().lower() in ("m", "male", "f", "female"):
            found[name] = float(cell.strip().lower().startswith("m"))
        elif name is not None:
            try:
                value = float(cell)
            except ValueError:
                continue
            if np.isfinite(value):
                found[name] = value
    return found
