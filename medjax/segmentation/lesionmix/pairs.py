"""Images and lesion masks of a folder, paired by their names; and where mixes go.

Files are told by two patterns with ``{case}`` in them, such as ``{case}_FLAIR.nii.gz``
and ``{case}_GT.nii.gz``. A mask without an image still tells how much lesion people
have, and where. All cases lie on one grid (registered, as to MNI space): places are
learnt by voxel.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.data.volumes import bounding_box, with_geometry_of
from medjax.segmentation.lesionmix.bank import Case, brain_of


@dataclasses.dataclass(frozen=True)
class Pair:
    """Files of one case; without an image, its mask alone."""

    case: str
    image: Path | None
    mask: Path


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Cases read, and where they were.

    Attributes:
        cases: cut to the box that holds every organ.
        volumes: the whole images, by case; what is written has their geometry.
        start: first voxel of the box.
    """

    cases: tuple[Case, ...]
    volumes: dict[str, Volume]
    start: tuple[int, ...]

    def whole(self, case: str, part: np.ndarray, *, outside: np.ndarray) -> Volume:
        """An array of the box put back into the whole grid of a case.

        Args:
            case: which.
            part: of the box's shape.
            outside: of the whole shape: what lies around the box.
        """
        volume = self.volumes[case]
        data = outside.astype(part.dtype).copy()
        ends = zip(self.start, part.shape, strict=True)
        data[tuple(slice(a, a + n) for a, n in ends)] = part
        return dataclasses.replace(volume, data=data)


def find_pairs(root: str | Path, *, image: str, mask: str) -> tuple[Pair, ...]:
    """All masks below a folder with their images, sorted by case.

    Args:
        root: the folder.
        image: pattern of the image's path below it.
        mask: pattern of the mask's.

    Raises:
        ValueError: for a pattern without ``{case}``.
        FileNotFoundError: for no such folder, or no mask in it.
        DataError: where two files are of one case.
    """
    root = Path(root)
    if "{case}" not in image or "{case}" not in mask:
        raise ValueError(f"image {image!r}, mask {mask!r}: expected {{case}} in both")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    expression = "(.+)".join(map(re.escape, mask.split("{case}", 1)))
    expression = expression.replace(re.escape("{case}"), r"\1")
    pairs: dict[str, Pair] = {}
    for path in sorted(root.glob(mask.replace("{case}", "*"))):
        match = re.fullmatch(expression, path.relative_to(root).as_posix())
        if match is None:
            continue
        case = match[1]
        if case in pairs:
            raise DataError(f"{case}: both {pairs[case].mask} and {path}")
        found = root / image.replace("{case}", case)
        pairs[case] = Pair(case, found if found.is_file() else None, path)
    if not pairs:
        raise FileNotFoundError(f"{root}: no mask {mask}")
    return tuple(pairs[case] for case in sorted(pairs))


def read_pairs(pairs: tuple[Pair, ...], *, margin: int = 2) -> Cohort:
    """Reads them, finds brains, and cuts all to one box.

    Args:
        pairs: from :func:`find_pairs`.
        margin: voxels kept around the organs.

    Raises:
        FileNotFoundError: where a file has gone.
        DataError: where one is damaged, a mask is not on its image's grid, the grids of
            cases differ, or no case has an image.
    """
    read: list[Case] = []
    volumes: dict[str, Volume] = {}
    union: np.ndarray | None = None
    for pair in pairs:
        mask = nifti.read_labels(pair.mask, ndim=3)
        lesion, picture, organ = mask.data > 0, None, None
        if pair.image is not None:
            image = nifti.read(pair.image, ndim=3)
            if image.data.shape != mask.data.shape:
                raise DataError(
                    f"{pair.case}: image {image.data.shape} and mask "
                    f"{mask.data.shape} differ in shape"
                )
            with_geometry_of(image, mask, what=f"{pair.case}: image and mask")
            picture, volumes[pair.case] = image.data, image
            organ = brain_of(picture)
        here = lesion if organ is None else lesion | organ
        if union is not None and union.shape != here.shape:
            raise DataError(
                f"{pair.case}: shape {here.shape}, the cases before have {union.shape}"
            )
        union = here if union is None else union | here
        read.append(Case(pair.case, picture, lesion, organ, mask.spacing))
    if union is None or not volumes:
        raise DataError(f"none of {len(pairs)} cases has an image")
    start, shape = bounding_box(union, margin=margin)
    box = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    cut = [
        dataclasses.replace(
            case,
            image=None if case.image is None else case.image[box],
            lesion=case.lesion[box],
            organ=None if case.organ is None else case.organ[box],
        )
        for case in read
    ]
    return Cohort(tuple(cut), volumes, start)
