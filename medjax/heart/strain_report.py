"""Strain of a heart in words and on a page: curves, segments, a bull's-eye."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from medjax.data.boundary import DataError
from medjax.heart import fitting
from medjax.heart.aha import NAMES
from medjax.heart.analysis import MeshStrain
from medjax.heart.bullseye import bullseye
from medjax.heart.fitting import FitConfig
from medjax.heart.meshes import Topology
from medjax.report import Card, Report

SYSTOLIC = "circumferential, endocardium, at end-systole"
LOW = -35.0
"""Of the bull's-eye, %; it ends at 0."""


def of_labels(
    path: Path,
    labels: Integer[np.ndarray, "t i j k"],
    affine: Float[np.ndarray, "4 4"],
    config: FitConfig,
) -> tuple[Float[np.ndarray, "t n 3"], Topology]:
    """A mesh fitted to label maps of a cycle; prints how well it is theirs.

    Args:
        path: of the label maps.
        labels: with the codes of this domain.
        affine: voxel indices to mm.
        config: how it is fitted.

    Raises:
        DataError: for one frame, which has no strain.
        ValueError: for label maps that no mesh can be fitted to.
    """
    if len(labels) < 2:
        raise DataError(f"{path}: one frame, expected label maps of a cycle")
    found = fitting.fit(labels, affine, config)
    dice = "  ".join(f"{k} {np.mean(v):.3f}" for k, v in found.dice.items())
    print(f"\n{path}: strain is of a mesh that was fitted to these label maps")
    print(f"  Dice with them: {dice}")
    print("  labels do not show motion along the walls: around the heart it is unknown")
    return found.vertices, found.topology


def told(found: MeshStrain) -> str:
    """Peaks of every curve and the segments, a line each, %.

    Args:
        found: strain of a heart.
    """
    lines = []
    for name, curve in found.curves.items():
        values = 100 * np.array([curve.end_systolic, curve.peak, curve.drift])
        row = zip(("end-systole", "peak", "last frame"), values, strict=True)
        lines.append(f"  {name:<9}" + "  ".join(f"{k} {v:6.1f}" for k, v in row))
    if found.segments is None:
        lines.append("  no segments: no right ventricle says where the septum is")
        return "\n".join(lines)
    lines.append(f"  {SYSTOLIC}:")
    for name, value in zip(NAMES, found.segments, strict=True):
        shown = f"{100 * value:6.1f}" if np.isfinite(value) else "  none"
        lines.append(f"  {name:<20} {shown}")
    return "\n".join([*lines, f"  {_empty(found.segments)}"])


def section(page: Report, name: str, found: MeshStrain) -> None:
    """A heart's section of a page.

    Args:
        page: that goes on.
        name: of the heart.
        found: its strain.
    """
    frames = range(len(next(iter(found.curves.values())).values))
    rows = [
        {"frame": t} | {k: 100 * curve.values[t] for k, curve in found.curves.items()}
        for t in frames
    ]
    page.section(name).curves("strain, %", rows, x="frame")
    if found.segments is not None:
        eye = bullseye(100 * found.segments, LOW, 0.0)
        remarks = [(f"{LOW:g} to 0", None), (_empty(found.segments), None)]
        page.gallery([Card(eye, f"{SYSTOLIC}, %", remarks)])


def _empty(segments: np.ndarray) -> str:
    return f"{int(np.isnan(segments).sum())} segments hold no endocardium"
