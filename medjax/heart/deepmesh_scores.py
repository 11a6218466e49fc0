"""DeepMesh's scores of contours, under their own names; on the host.

The predicted contour of a plane is made of the vertices that are less than 0.3 voxels
(of 2 mm) from it, rounded to pixels. Distances are in mm; ``boundf`` is the boundary
F-score after dilating by discs of 1 to 5 pixels, and their mean. A plane on which mesh
or contour is empty has no score. The published evaluation leaves it out of the mean,
which flatters a method that misses: the share of such planes stands beside every mean.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from medjax.metrics.surface import nearest

WITHIN = 0.6
"""mm: 0.3 voxels of 2 mm."""
RADII = (1, 2, 3, 4, 5)
"""Of the discs, pixels."""


def predicted_contour(
    vertices: Float[np.ndarray, "n 3"],
    plane: Float[np.ndarray, "3 3"],
    shape: tuple[int, int],
    *,
    within: float = WITHIN,
) -> Bool[np.ndarray, "h w"]:
    """Pixels of the vertices near a plane.

    Args:
        vertices: mm.
        plane: origin and steps, mm.
        shape: rows and columns.
        within: distance, mm.
    """
    normal = np.cross(plane[1], plane[2])
    away = vertices - plane[0]
    near = np.abs(away @ normal) < within * np.linalg.norm(normal)
    pixels = away[near] @ plane[1:].T / (plane[1:] ** 2).sum(axis=1)
    return drawn(pixels, shape)


def drawn(
    pixels: Float[np.ndarray, "m 2"], shape: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Points rounded to pixels; what is outside the image is left out.

    Args:
        pixels: row and column.
        shape: rows and columns.
    """
    image = np.zeros(shape, bool)
    at: Int[np.ndarray, "m 2"] = np.rint(pixels).astype(int)
    inside = ((at >= 0) & (at < shape)).all(axis=1)
    image[tuple(at[inside].T)] = True
    return image


def contour_scores(
    prediction: Bool[np.ndarray, "h w"],
    truth: Bool[np.ndarray, "h w"],
    spacing: Sequence[float],
) -> dict[str, float] | None:
    """``hd``, ``mcd`` and ``boundf`` of a plane; None where one is empty.

    ``mcd`` is half the sum of the two directed means.

    Args:
        prediction: pixels of the mesh.
        truth: pixels of the contour.
        spacing: of rows and columns, mm.
    """
    if not prediction.any() or not truth.any():
        return None
    mine, its = (
        np.argwhere(image) * np.asarray(spacing) for image in (prediction, truth)
    )
    there, back = nearest(mine, its), nearest(its, mine)
    scores = []
    for radius in RADII:
        row, column = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        disc = row**2 + column**2 <= radius**2
        precision = ndimage.binary_dilation(truth, disc)[prediction].mean()
        recall = ndimage.binary_dilation(prediction, disc)[truth].mean()
        both = precision + recall
        scores.append(2 * precision * recall / both if both else 0.0)
    return {
        "hd": float(max(there.max(), back.max())),
        "mcd": float(0.5 * (there.mean() + back.mean())),
        "boundf": float(np.mean(scores)),
    }


def deepmesh_scores(
    vertices: Float[np.ndarray, "n 3"],
    planes: Float[np.ndarray, "p 3 3"],
    contours: Sequence[Float[np.ndarray, "_ 2"]],
    shape: tuple[int, int],
) -> dict[str, float]:
    """Means over planes: ``deepmesh_hd``, ``_mcd``, ``_boundf`` and ``_dropped``.

    Args:
        vertices: mm.
        planes: of one view, mm.
        contours: of every plane, mm along rows and columns from pixel (0, 0).
        shape: rows and columns.

    Returns:
        mm, mm, share, and the share of planes without a score; NaN where none has one.
    """
    found = []
    for plane, contour in zip(planes, contours, strict=True):
        spacing = np.linalg.norm(plane[1:], axis=1).tolist()
        truth = drawn(np.asarray(contour) / np.asarray(spacing), shape)
        found.append(
            contour_scores(predicted_contour(vertices, plane, shape), truth, spacing)
        )
    kept = [scores for scores in found if scores is not None]
    names = ("hd", "mcd", "boundf")
    means = {
        f"deepmesh_{name}": float(np.mean([s[name] for s in kept])) if kept else np.nan
        for name in names
    }
    dropped = 1.0 - len(kept) / len(found) if found else np.nan
    return {**means, "deepmesh_dropped": dropped}
