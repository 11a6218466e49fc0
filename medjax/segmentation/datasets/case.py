"""What every reader of a data set gives: files by case, and what their labels are."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from medjax.data.boundary import DataError, in_short
from medjax.data.ledger import Ledger
from medjax.data.nifti import Volume, read, read_labels
from medjax.data.volumes import grid_of, lying_apart, resample
from medjax.segmentation.labels import Labels

SPLITS = ("train", "validation", "test")
HEART = {"LV": 1, "myocardium": 2, "RV": 3}
"""The labels that all cardiac sets are brought to."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One image with its label map, as files."""

    id: str
    """Unique in the set."""
    images: tuple[Path, ...]
    """One file for each channel, or one that holds them all on its fourth axis."""
    label: Path | None = None
    """Of the annotation, where there is one."""
    patient: str = ""
    """Whose it is; cases of one patient stay in one split."""
    split: str = ""
    """``train``, ``validation``, ``test``, or not said."""
    frame: int | None = None
    """Of files whose fourth axis is time, from 0."""


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The cases of a data set, and what is in them."""

    name: str
    """For titles."""
    channels: tuple[str, ...]
    """Of the image, as the set calls them: CT is normalised differently."""
    labels: Labels
    """Of the annotation."""
    cases: tuple[Case, ...]
    """In a fixed order."""
    recode: tuple[tuple[int, int], ...] = ()
    """Values of its files, and what they become before anything else sees them."""
    nan_to: float | None = None
    """What voxels that are NaN or infinite are taken for; None: they are a fault."""
    resample_labels: bool = False
    """Bring label maps of another shape to their image's grid, by where they say that
    they are; else they are a fault."""
    strict_geometry: bool = False
    """Refuse cases with files that lie elsewhere than their first image; else its
    geometry is taken for all."""

    def read(self, case: Case) -> tuple[list[Volume], Volume | None]:
        """One volume for each channel, and the label map, where the first one is.

        Shapes may differ: whoever puts them together refuses that.

        Raises:
            FileNotFoundError: For a file that is missing.
            DataError: For a file that cannot be read, is no volume, or lies elsewhere
                in a set that is strict about it.
        """
        images = []
        for path in case.images:
            found = self._volumes(case, read(path, nan_to=self.nan_to), path)
            images += [self._placed(v, path, [*images, *found][0]) for v in found]
        label = None
        if case.label is not None:
            volume = read_labels(case.label, tolerance=0.01)
            label = self._volumes(case, volume, case.label)[0]
            if self.recode:
                label = dataclasses.replace(
                    label, data=recoded(label.data, dict(self.recode))
                )
            if self.resample_labels and label.data.shape != images[0].data.shape:
                label = resample(label, grid_of(images[0]), interpolation="labels")
            label = self._placed(label, case.label, images[0])
        return images, label

    def probability(self, case: Case) -> Float[np.ndarray, "i j k c"] | None:
        """Of every label inside, over all annotators, where that is known at all."""
        del case
        return None

    def _placed(self, volume: Volume, path: Path, first: Volume) -> Volume:
        """A volume of a case, with the geometry of the first."""
        if volume.data.shape != first.data.shape:
            return volume
        gap = lying_apart(grid_of(first), grid_of(volume))
        if gap and self.strict_geometry:
            raise DataError(f"{path}: lies up to {gap:.3g} mm from the first image")
        return dataclasses.replace(volume, affine=first.affine, spacing=first.spacing)

    def _volumes(self, case: Case, volume: Volume, path: Path) -> list[Volume]:
        data = volume.data
        if data.ndim == 2:
            data = data[..., None]
        if data.ndim not in (3, 4):
            raise DataError(f"{path}: shape {data.shape}, expected a volume")
        if data.ndim == 3:
            parts = [data]
        elif case.frame is not None:
            if not 0 <= case.frame < data.shape[3]:
                raise DataError(
                    f"{path}: {data.shape[3]} frames, expected one of number "
                    f"{case.frame}"
                )
            parts = [data[..., case.frame]]
        else:
            parts = [data[..., i] for i in range(data.shape[3])]
        spacing = tuple(np.linalg.norm(volume.affine[:3, :3], axis=0).tolist())
        step = volume.time_step
        return [Volume(part, volume.affine, spacing, step) for part in parts]


@runtime_checkable
class Reader(Protocol):
    """A kind of data set: a dataclass of flags whose ``read`` finds the cases."""

    def read(self, ledger: Ledger) -> DataSet:
        """The set; every filter is counted in the ledger."""
        ...


def recoded(labels: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """Values replaced all at once; those that the table lacks stay."""
    out = labels.copy()
    for value, new in table.items():
        out[labels == value] = new
    return out


def with_splits(
    cases: Iterable[Case],
    *,
    seed: int,
    where: Path,
    shares: tuple[float, float] = (0.2, 0.2),
) -> tuple[Case, ...]:
    """Cases without a split get one, by patient.

    Args:
        cases: Of a set.
        seed: Of the draw.
        where: File or folder that lists them, for messages.
        shares: Of the patients, for validation and test; where the set names a test
            split itself, it stays and no other is drawn.

    Raises:
        DataError: For two cases of one id, or a patient in two splits.
    """
    cases = tuple(cases)
    check_ids(cases, where)
    named = {case.split for case in cases}
    free = sorted({c.patient or c.id for c in cases if not c.split})
    order = np.random.default_rng(seed).permutation(len(free))
    validation = 0 if "validation" in named else round(shares[0] * len(free))
    test = 0 if "test" in named else round(shares[1] * len(free))
    if len(free) > 2:
        validation = max(validation, int("validation" not in named))
        test = max(test, int("test" not in named))
    drawn = {}
    for place, number in enumerate(order):
        later = "test" if place < validation + test else "train"
        drawn[free[number]] = "validation" if place < validation else later
    done = tuple(
        c if c.split else dataclasses.replace(c, split=drawn[c.patient or c.id])
        for c in cases
    )
    check_patients(done, where)
    return done


def check_ids(cases: Sequence[Case], where: Path) -> None:
    """Refuses two cases of one id."""
    ids = [case.id for case in cases]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise DataError(f"{where}: cases {in_short(twice)} are there more than once")


def check_patients(cases: Sequence[Case], where: Path) -> None:
    """Refuses a patient whose cases are in two splits."""
    splits: dict[str, set[str]] = {}
    for case in cases:
        splits.setdefault(case.patient or case.id, set()).add(case.split)
    torn = sorted(name for name, found in splits.items() if len(found) > 1)
    if torn:
        raise DataError(
            f"{where}: patients {in_short(torn)} are in more than one split"
        )


def folder_of(root: Path, what: str) -> Path:
    """The root, if it is a folder.

    Raises:
        FileNotFoundError: If it is not.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder, expected {what}")
    return root


def number(text: str, where: str) -> int:
    """A whole number of up to six digits.

    Raises:
        DataError: For anything else.
    """
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise DataError(f"{where}: expected a whole number")
    return int(text)


def without_suffix(path: Path) -> str:
    """A file's name without ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name)
