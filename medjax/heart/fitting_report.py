"""What a fit to label maps leaves: volumes beside those of the labels, and a page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped

from medjax.heart.appearance import LABELS
from medjax.heart.clinical import Diastole, function, label_volumes, mesh_volumes
from medjax.heart.drawing import drawn
from medjax.heart.fitting import Fitted
from medjax.report import Card, Report
from medjax.report.picture import enlarged, grey, outlined

SHOWN = 4
"""Slices of a frame on the page."""


def scores(
    fitted: Fitted,
    labels: Integer[np.ndarray, "t i j k"],
    affine: Float[np.ndarray, "4 4"],
    *,
    diastole: Diastole = "first",
) -> dict[str, Any]:
    """Volumes and ejection fraction of mesh and labels, and what lies between them.

    Args:
        fitted: of :func:`medjax.heart.fitting.fit`.
        labels: that it was fitted to.
        affine: voxel indices to mm.
        diastole: which frame is end-diastole.

    Returns:
        Plain data: ``volumes`` by structure (mL of both, mean absolute difference),
        ``ef`` of both, ``dice``, ``diastole`` and ``systole`` of the labels.
    """
    counted = label_volumes(labels, affine)
    meshed = mesh_volumes(fitted.vertices, fitted.topology, close=True)
    ends = {
        name: function(curves, diastole=diastole)
        for name, curves in (("labels", counted), ("mesh", meshed))
    }
    return {
        "volumes": {
            name: {
                "labels_ml": [round(float(v), 3) for v in counted[name]],
                "mesh_ml": [round(float(v), 3) for v in curve],
                "mae_ml": float(np.abs(curve - counted[name]).mean()),
            }
            for name, curve in meshed.items()
        },
        "ef": {name: one.features["LVEF"] for name, one in ends.items()},
        "diastole": ends["labels"].diastole,
        "systole": ends["labels"].systole,
        "dice": {name: float(np.mean(v)) for name, v in fitted.dice.items()},
        "worst_dice": {name: float(np.min(v)) for name, v in fitted.dice.items()},
    }


def told(found: Mapping[str, Any]) -> str:
    """The scores as lines of text."""
    lines = []
    for name, both in found["volumes"].items():
        for whose in ("labels", "mesh"):
            curve = " ".join(f"{v:.1f}" for v in both[f"{whose}_ml"])
            lines.append(f"{name} of {whose}, mL: {curve}")
        dice, worst = found["dice"][name], found["worst_dice"][name]
        lines.append(
            f"{name}: mean absolute difference {both['mae_ml']:.2f} mL, Dice "
            f"{dice:.3f}, {worst:.3f} in the worst frame"
        )
    ef = found["ef"]
    lines.append(
        f"ejection fraction: labels {ef['labels']:.1f} %, mesh {ef['mesh']:.1f} % "
        f"(end-diastole is frame {found['diastole']})"
    )
    return "\n".join(lines)


def page(
    name: str,
    found: Mapping[str, Any],
    fitted: Fitted,
    labels: Integer[np.ndarray, "t i j k"],
    affine: Float[np.ndarray, "4 4"],
    image: Shaped[np.ndarray, "i j k t"] | None = None,
) -> Report:
    """Curves of volumes, and the mesh's outline on slices at both ends of the cycle.

    Args:
        name: of the file.
        found: of :func:`scores`.
        fitted: the mesh.
        labels: that it was fitted to.
        affine: voxel indices to mm.
        image: cine to draw on; labels are drawn on where there is none.
    """
    report = Report(f"A mesh fitted to {name}", "outlines: the mesh").text(told(found))
    for structure, both in found["volumes"].items():
        pairs = zip(both["labels_ml"], both["mesh_ml"], strict=True)
        rows = [{"frame": t, "labels": a, "mesh": b} for t, (a, b) in enumerate(pairs)]
        report.curves(f"{structure}, mL", rows, x="frame")
    held = np.flatnonzero(labels.any((0, 1, 2)))
    chosen = held[np.linspace(0, len(held) - 1, SHOWN + 2).astype(int)[1:-1]]
    high = 1.0 if image is None else float(np.percentile(image, 99))
    frames = list(dict.fromkeys((found["diastole"], found["systole"])))
    maps = drawn(fitted.vertices[frames], fitted.topology, affine, labels.shape[1:])
    for frame, mesh in zip(frames, maps, strict=True):
        cards = []
        for k in chosen:
            below = labels[frame, :, :, k] / (2.0 * max(LABELS.values()))
            if image is not None:
                below = image[:, :, k, frame] / high
            outlines = outlined(grey(enlarged(below)), enlarged(mesh[:, :, k]))
            cards.append(Card(outlines, f"frame {frame}, slice {k}"))
        report.gallery(cards)
    return report
