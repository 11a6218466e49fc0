"""Volumes, ejection fractions and masses, from moving meshes and from label volumes.

Volume-time curves in mL come first, by whatever way; the twelve numbers of clinical
reports follow from them by one function. Which frame is end-diastole is a convention
that shifts the ejection fraction by points, so it is named: the frame that the scanner
triggered at (``"first"``), the frame of the largest volume, or a number. End-systole is
the frame of the smallest left-ventricular volume.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Integer

from medjax.heart.appearance import LABELS
from medjax.heart.meshes import Topology, volumes
from medjax.heart.phantom import DENSITY

ASSUMED_RATE = 60.0
"""Beats a minute where a study does not say."""
FEATURES: Sequence[str] = (
    "LVEDV LVM RVEDV LVESV LVESM RVESV LVSV LVCO LVEF RVSV RVCO RVEF".split()
)
"""mL, g, L/min and %: volumes and masses at end-diastole and end-systole, stroke
volumes, cardiac outputs, ejection fractions."""
Diastole: TypeAlias = Literal["first", "largest"] | int
Curves: TypeAlias = Mapping[str, Float[np.ndarray, " t"]]
"""``lv``, ``myo`` and ``rv`` in mL over the cycle; ``rv`` may be absent."""


@dataclasses.dataclass(frozen=True)
class Function:
    """How a heart pumps.

    Attributes:
        curves: volumes over the cycle, mL.
        diastole: frame of end-diastole.
        systole: frame of end-systole.
        heart_rate: beats a minute.
        rate_assumed: whether nobody measured it.
    """

    curves: Curves
    diastole: int
    systole: int
    heart_rate: float
    rate_assumed: bool

    @property
    def features(self) -> dict[str, float]:
        """The numbers of :data:`FEATURES`; NaN where there is no right ventricle."""
        ends = {"ED": self.diastole, "ES": self.systole}
        found: dict[str, float] = dict.fromkeys(FEATURES, float("nan"))
        for side in ("lv", "rv"):
            if side not in self.curves:
                continue
            name, curve = side.upper(), self.curves[side]
            full, empty = (float(curve[ends[end]]) for end in ("ED", "ES"))
            stroke = full - empty
            found |= {
                f"{name}EDV": full,
                f"{name}ESV": empty,
                f"{name}SV": stroke,
                f"{name}CO": stroke * self.heart_rate / 1e3,
                f"{name}EF": 100 * stroke / full if full > 0 else float("nan"),
            }
        if "myo" in self.curves:
            mass = DENSITY * np.asarray(self.curves["myo"])
            found |= {"LVM": float(mass[ends["ED"]]), "LVESM": float(mass[ends["ES"]])}
        return found

    def remarks(self) -> list[str]:
        """What a reader has to know of the numbers."""
        told = [
            f"end-diastole is frame {self.diastole}, end-systole frame {self.systole}"
        ]
        if self.rate_assumed:
            told.append(f"cardiac output at an assumed {self.heart_rate:g} beats/min")
        return told


def function(
    curves: Curves, *, diastole: Diastole = "first", heart_rate: float | None = None
) -> Function:
    """How a heart pumps, from its volumes over the cycle.

    Args:
        curves: ``lv`` and, if known, ``myo`` and ``rv``, mL.
        diastole: the convention, or the frame.
        heart_rate: beats a minute; ``None`` assumes 60 and says so.

    Raises:
        ValueError: without a left ventricle, for curves of unequal length, or a frame
            that is not there.
    """
    lengths = {name: len(curve) for name, curve in curves.items()}
    if "lv" not in curves or len(set(lengths.values())) != 1 or not lengths["lv"]:
        raise ValueError(f"curves: expected 'lv' and others as long, got {lengths}")
    lv = np.asarray(curves["lv"])
    if isinstance(diastole, str):
        frame = 0 if diastole == "first" else int(np.argmax(lv))
    else:
        frame = diastole
    if not 0 <= frame < len(lv):
        raise ValueError(f"diastole is frame {frame}, expected 0 to {len(lv) - 1}")
    assumed = heart_rate is None
    rate = ASSUMED_RATE if heart_rate is None else heart_rate
    return Function(curves, frame, int(np.argmin(lv)), rate, assumed)


def label_volumes(
    labels: Integer[np.ndarray, "t i j k"],
    affine: Float[np.ndarray, "4 4"],
    codes: Mapping[str, int] = LABELS,
) -> dict[str, Float[np.ndarray, " t"]]:
    """Volumes by counting voxels.

    Args:
        labels: one label map per frame.
        affine: voxel indices to mm.
        codes: names of labels. Every structure is counted by its own name, never all
            that is not background.

    Returns:
        mL by name; a structure that no frame holds is absent.
    """
    voxel = abs(float(np.linalg.det(affine[:3, :3]))) / 1e3
    found = {name: (labels == code).sum((1, 2, 3)) for name, code in codes.items()}
    return {name: voxel * count for name, count in found.items() if count.any()}


def mesh_volumes(
    vertices: Float[np.ndarray, "t n 3"], topology: Topology, *, close: bool = False
) -> dict[str, Float[np.ndarray, " t"]]:
    """Volumes inside the surfaces ``endo``, ``epi`` and ``rv`` of a moving mesh.

    Args:
        vertices: mm.
        topology: with those names.
        close: closes walls that are open at the base by flat fans.

    Returns:
        mL: ``lv``, ``myo`` where there is an epicardium, ``rv`` where there is one.

    Raises:
        ValueError: for an open mesh, unless ``close`` is set, or one without ``endo``.
    """
    topology.code("endo")
    # In float64: the wall is a small difference of large volumes.
    inside = volumes(np.asarray(vertices, np.float64), topology, close=close)
    found = {"lv": inside["endo"] / 1e3}
    if "epi" in inside:
        found["myo"] = (inside["epi"] - inside["endo"]) / 1e3
    if "rv" in inside:
        found["rv"] = inside["rv"] / 1e3
    return found
