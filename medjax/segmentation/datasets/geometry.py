"""Files of a case that say that they lie elsewhere than its first image.

Programs that turn, move or convert one file of a case and not the others leave two
geometries for one grid. The first image's is taken, and whoever uses the set is told
once which files say otherwise (nnU-Net's issues 2526, 2551 and 3005); or such cases are
refused.
"""

import dataclasses
import warnings
from collections.abc import Iterable
from pathlib import Path

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.nifti import read_geometry
from medjax.data.volumes import Grid, lying_apart
from medjax.segmentation.datasets.case import Case, DataSet


def of_one_geometry(data: DataSet, ledger: Ledger) -> DataSet:
    """The set, told which of its files lie apart from their case's first image.

    Headers alone are read. One warning lists the files; where the set is strict about
    geometry, their cases are faults and left out.

    Args:
        data: Of any kind.
        ledger: Counts such cases, and takes those that are left out.

    Raises:
        DataError: For the first of them, if the set is strict and the ledger raises.
    """
    if not any(case.images for case in data.cases):
        return data  # phantoms lie where they are drawn
    apart = files_apart(data.cases)
    if data.strict_geometry:
        for case, told in apart.items():
            ledger.fault(case, told)
    if data.strict_geometry or not apart:
        kept = ledger.keep(
            "files of one geometry", data.cases, lambda case: case.id not in apart
        )
        return dataclasses.replace(data, cases=tuple(kept))
    name = f"geometry of the first image taken in {len(apart)}"
    ledger.count(name, len(data.cases))
    warn_of(apart)
    return data


def files_apart(cases: Iterable[Case]) -> dict[str, str]:
    """By case, which of its files lie apart from its first image, and how far.

    Files that cannot be read, or whose shapes differ, are left to whoever reads them.
    """
    apart = {}
    for case in cases:
        others = [*case.images[1:], *([case.label] if case.label else [])]
        first = _grid(case.images[0]) if case.images and others else None
        told = []
        for path in others:
            grid = _grid(path)
            if first is None or grid is None or grid.shape != first.shape:
                continue
            if gap := lying_apart(first, grid):
                away = f"{path} lies up to {gap:.3g} mm from {case.images[0].name}"
                told.append(away)
        if told:
            apart[case.id] = "; ".join(told)
    return apart


def warn_of(apart: dict[str, str]) -> None:
    """One warning for all of :func:`files_apart`, if there are any."""
    if not apart:
        return
    listed = "\n".join(f"  {case}: {told}" for case, told in apart.items())
    warnings.warn(
        f"files of {len(apart)} cases lie apart from the case's first image, whose "
        f"geometry is taken:\n{listed}",
        stacklevel=3,
    )


def _grid(path: Path) -> Grid | None:
    """Of a file's first three axes, or nothing."""
    try:
        shape, affine = read_geometry(path)
    except (DataError, FileNotFoundError):
        return None
    return Grid((*shape, 1, 1)[:3], affine)
