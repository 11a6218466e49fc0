"""The two pairs of masks whose golden values all public packages were run on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pair:
    """Prediction, truth, voxel size in mm, and how many voxels the two have."""

    a: np.ndarray
    b: np.ndarray
    spacing: tuple[float, ...]
    sizes: tuple[int, int]


def _ellipsoid(shape, centre, radii):
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    terms = zip(axes, centre, radii, strict=True)
    return sum(((x - c) / r) ** 2 for x, c, r in terms) < 1


def _ellipses() -> Pair:
    a = _ellipsoid((64, 80), (30, 38), (18, 22))
    b = _ellipsoid((64, 80), (33, 42), (15, 24))
    b[5:9, 5:9] = True
    return Pair(a, b, (1.5, 0.8), (1241, 1135))


def _ellipsoids() -> Pair:
    a = _ellipsoid((12, 48, 40), (6, 24, 20), (4, 14, 12))
    b = _ellipsoid((12, 48, 40), (5.5, 30, 26), (3, 12, 13))
    b[9:11, 40:44, 3:8] = True
    return Pair(a, b, (6.0, 1.25, 1.5), (2759, 2042))


ELLIPSES, ELLIPSOIDS = _ellipses(), _ellipsoids()
