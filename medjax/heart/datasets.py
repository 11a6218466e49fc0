"""Cardiac data sets as they lie on a disk: cases with images, labels and conditions.

Trees of UK Biobank (as ``ukbb_cardiac`` leaves it), ACDC and M&Ms; those of DeepMesh
and CHeart are in :mod:`medjax.heart.trees`. They number structures differently: ACDC
calls the right ventricle 1, most others the left one. Each source has one table here,
and after reading all maps have the codes of :data:`medjax.heart.appearance.LABELS`.
A table alone cannot see that a folder is of another source, so it is checked that what
is called the left ventricle is the one that muscle encloses.

Frames count from 0 here, from 1 in ACDC.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int32, Integer

from medjax.data import nifti
from medjax.data.boundary import DataError, in_short, reading
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume
from medjax.data.tables import read_table, read_text
from medjax.heart.appearance import LABELS

Source = Literal["ukb", "acdc", "mnms", "deepmesh", "cheart"]
SOURCES: Mapping[str, Mapping[int, str]] = {
    "ukb": {1: "lv", 2: "myo", 3: "rv"},
    "ukb along the heart": {1: "lv", 2: "myo", 3: "rv", 4: "la", 5: "ra"},
    "acdc": {1: "rv", 2: "myo", 3: "lv"},
    "mnms": {1: "lv", 2: "myo", 3: "rv"},
    "cheart": {1: "lv", 2: "myo", 4: "rv"},
}
"""What the codes of label maps mean; atria are outside here."""
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
class Labels:
    """Label maps of some frames of a cycle.

    Attributes:
        data: codes of :data:`medjax.heart.appearance.LABELS`.
        frames: which frames of the cycle they are; :data:`SYSTOLE` may be the last.
        affine: voxel indices to mm.
    """

    data: Int32[np.ndarray, "t i j k"]
    frames: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"]


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
        return _read_labels(self.labels, self.source)

    def read_view_labels(self, view: str) -> Labels:
        """The label maps of a long-axis view.

        Args:
            view: of ``view_labels``.

        Raises:
            DataError: as of :meth:`read_labels`.
        """
        return _read_labels({None: self.view_labels[view]}, "ukb along the heart")


def labelled(cases: Sequence[Case], root: Path) -> list[Case]:
    """The cases that have label maps; how many have none is said.

    A quarter of M&Ms' training cases of one vendor was published without.

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


def _read_labels(paths: Mapping[int | None, Path], source: str) -> Labels:
    """Label maps of single frames, or of all in one file."""
    maps: dict[int, np.ndarray] = {}
    affine = None
    for frame, path in paths.items():
        volume = nifti.read_labels(path, ndim=4 if frame is None else 3)
        if affine is not None and not np.allclose(affine, volume.affine, atol=1e-3):
            raise DataError(f"{path}: lies on another grid than the other frames")
        affine = volume.affine
        several = volume.data if frame is None else volume.data[..., None]
        for i, one in enumerate(np.moveaxis(several, -1, 0)):
            if one.any():
                maps[i if frame is None else frame] = one
    frames = tuple(sorted(maps, key=lambda frame: (frame == SYSTOLE, frame)))
    where = next(iter(paths.values()))
    if affine is None or not frames:
        raise DataError(f"{where}: no frame has a label")
    if len({one.shape for one in maps.values()}) != 1:
        raise DataError(f"{where}: label maps of several shapes")
    stored = np.stack([maps[frame] for frame in frames])
    return Labels(canonical(stored, source, where), frames, affine)


def canonical(
    stored: Integer[np.ndarray, "t i j k"],
    source: str,
    where: str | Path,
    *,
    plane: tuple[int, int] = (1, 2),
) -> Int32[np.ndarray, "t i j k"]:
    """Label maps with the codes of this domain.

    Args:
        stored: with the codes of the source.
        source: key of :data:`SOURCES`.
        where: the file, for messages.
        plane: axes of a short-axis slice.

    Raises:
        DataError: for a code that the source has not, or ventricles that are exchanged.
    """
    table = SOURCES[source]
    found = np.unique(stored)
    unknown = [int(code) for code in found if code and int(code) not in table]
    if unknown:
        raise DataError(
            f"{where}: labels {in_short(found.tolist())}, of which {source} has not "
            f"{unknown}; it has {dict(table)}"
        )
    labels = np.zeros(stored.shape, np.int32)
    for code, name in table.items():
        labels[stored == code] = LABELS.get(name, 0)
    left, right = (enclosed(labels, LABELS[name], plane) for name in ("lv", "rv"))
    if right > left:
        if source != "mnms":
            raise DataError(
                f"{where}: muscle encloses what {source} calls the right ventricle "
                f"({right:.0%} of its border, of the left one's {left:.0%}): is this "
                "tree of another --data.format?"
            )
        exchange = np.array([0, LABELS["rv"], LABELS["myo"], LABELS["lv"]], np.int32)
        labels = exchange[labels]
    return labels


def enclosed(
    labels: Integer[np.ndarray, "t i j k"], code: int, plane: tuple[int, int]
) -> float:
    """Share of a structure's border, in short-axis slices, that is with muscle.

    Returns:
        0 to 1; 0.5 where there is no border.
    """
    touching = border = 0
    for axis in plane:
        lines = np.moveaxis(labels, axis, 0)
        for one, other in ((lines[:-1], lines[1:]), (lines[1:], lines[:-1])):
            edge = (one == code) & (other != code)
            border += int(edge.sum())
            touching += int((edge & (other == LABELS["myo"])).sum())
    return touching / border if border else 0.5


def places(
    mask: Bool[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "n 3"]:
    """Where the voxels of a mask are, mm.

    Args:
        mask: of a volume.
        affine: voxel indices to mm.
    """
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]


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


SYSTOLE = -1
"""In place of a frame's number, for end-systole that only volumes can tell."""
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
