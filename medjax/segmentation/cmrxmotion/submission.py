"""What the challenge's two tasks are handed in as."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from medjax.data import nifti
from medjax.data.nifti import Volume
from medjax.data.whole import whole
from medjax.segmentation.cmrxmotion.reader import GRADES, LABELS


def write_grades(path: str | Path, grades: Mapping[str, int]) -> None:
    """Task 1: ``output.csv`` with columns ``Image,Label``, rows sorted by name.

    Args:
        path: of the table.
        grades: name of the scan to its grade.

    Raises:
        ValueError: for a grade that is none of 1, 2 and 3.
    """
    wrong = {name: g for name, g in grades.items() if g not in GRADES}
    if wrong:
        raise ValueError(f"grades {wrong}: expected 1, 2 or 3")
    with whole(path) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("Image", "Label"))
        table.writerows(sorted(grades.items()))


def write_segmentation(
    folder: str | Path, name: str, labels: Integer[np.ndarray, "i j k"], image: Volume
) -> Path:
    """Task 2: one label map on its image's grid, as ``<name>.nii.gz``.

    Args:
        folder: of the submission; made where it is missing.
        name: of the scan, ``P001-1-ED``.
        labels: 0 to 3.
        image: which they are of.

    Returns:
        The file.

    Raises:
        ValueError: for another shape than the image's, or another label.
    """
    if labels.shape != image.data.shape:
        raise ValueError(
            f"{name}: labels of shape {labels.shape}, the image has {image.data.shape}"
        )
    if found := sorted(set(np.unique(labels).tolist()) - {0, *LABELS.values()}):
        raise ValueError(f"{name}: labels {found}, expected 0 to 3")
    path = Path(folder) / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, labels.astype(np.uint8), affine=image.affine)
    return path
