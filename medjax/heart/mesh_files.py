"""Meshes of hearts from files: in mm, faces outwards, surfaces by name."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from medjax.data import meshes
from medjax.data.boundary import DataError
from medjax.heart.meshes import Topology, in_millimetres, oriented
from medjax.heart.phantom_mesh import SURFACES
from medjax.heart.trees import read_4dsegment


def read_heart(
    path: str | Path, scale: float = 1.0
) -> tuple[Float64[np.ndarray, "t n 3"], Topology]:
    """Vertices over time in mm, and the topology with faces outwards.

    A file that says nothing of surfaces is one surface, ``mesh``.

    Args:
        path: of any format of :mod:`medjax.data.meshes`, or a folder of 4Dsegment.
        scale: mm per unit of the file.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where it is damaged or has other surfaces.
        ValueError: where it is no heart's size.
    """
    path = Path(path)
    mesh = read_4dsegment(path) if path.is_dir() else meshes.read(path)
    vertices = scale * np.asarray(mesh.vertices, np.float64)
    in_millimetres(vertices, flag="--scale")
    moving = vertices if vertices.ndim == 3 else vertices[None]
    surface, names = mesh.surface, SURFACES
    if surface is None:
        surface, names = np.zeros(moving.shape[1], np.int32), ("mesh",)
    elif surface.min() < 0 or surface.max() >= len(SURFACES):
        raise DataError(
            f"{path}: surfaces {np.unique(surface)[:8].tolist()}, expected 0 to 2 for "
            f"{SURFACES}"
        )
    elif surface.max() + 1 < len(SURFACES):
        names = SURFACES[: surface.max() + 1]
    faces = oriented(moving[0], mesh.faces)
    return moving, Topology.of(faces, moving.shape[1], surface, names)
