"""The formats of hearts: surface meshes."""

from pathlib import Path

import numpy as np

from medjax.data import meshes, ply, vtk
from tests.mutation import mutators as m
from tests.mutation.formats import Format

GOLDEN = Path(__file__).parents[2] / "golden" / "meshes"
"""Files that VTK wrote."""
BINARY = (*m.BYTES, *m.TEXT[:6])
ENDINGS = ("vtk", "vtp", "ply", "stl", "obj", "npz")


def _build_meshes(folder: Path) -> None:
    for path in GOLDEN.iterdir():
        if path.name != "appended.vtp":
            (folder / path.name).write_bytes(path.read_bytes())
    points = np.arange(36.0).reshape(3, 4, 3) % 7
    faces = np.array([(0, 1, 2), (0, 3, 1)], np.int32)
    codes = np.array([0, 1, 0, 1], np.int32)
    meshes.write(folder / "moving.npz", meshes.Mesh(points, faces, codes))
    for ending in ENDINGS[:-1]:
        meshes.write(folder / f"own.{ending}", meshes.Mesh(points[0], faces, codes))
    text = vtk.Surface(points[0], faces, codes)
    vtk.write_legacy(folder / "text.vtk", text, binary=False)
    ply.write(folder / "text.ply", text, binary=False)


def _reader(ending: str):
    """Reads all files of an ending; some formats have no codes, others no frames."""

    def read(folder: Path) -> list:
        every = [meshes.read(path) for path in sorted(folder.glob(f"*.{ending}"))]
        return [(mesh.vertices, mesh.faces) for mesh in every]

    return read


FORMATS = {
    "meshes": Format(
        build=_build_meshes,
        reads={ending: _reader(ending) for ending in ENDINGS},
        damage={
            "*.vtk": BINARY,
            "*.vtp": (*m.BYTES[:6], *m.TEXT),
            "*.ply": BINARY,
            "*.stl": BINARY,
            "*.obj": m.TEXT,
            "*.npz": m.BYTES,
        },
    )
}
