"""Surface meshes in the files that people have: VTK, PLY, STL, OBJ and npz.

Vertices keep their order and number, whether a face uses them or not: who compares two
meshes vertex by vertex depends on it. STL is the exception, since it holds no vertices,
only three corners per triangle; equal corners are merged, in the order in which they
first come. Polygons become fans of triangles. Coordinates are in mm and in the file's
precision; normals, textures, colours and all else are passed over.

A mesh that moves is an ``npz``, or one file per frame.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64, Int32

from medjax.data import npz, ply, vtk
from medjax.data.boundary import DataError, finite, reading
from medjax.data.polygons import fans
from medjax.data.vtk import Surface
from medjax.data.whole import whole

WHAT = "mesh"
Places: TypeAlias = Float32[np.ndarray, "*t n 3"] | Float64[np.ndarray, "*t n 3"]


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles between points.

    Attributes:
        vertices: mm; with frames before them if the mesh moves.
        faces: corners of triangles, in the file's direction of turning.
        surface: which surface every vertex lies on, where the file says.
    """

    vertices: Places
    faces: Int32[np.ndarray, "f 3"]
    surface: Int32[np.ndarray, " n"] | None = None


def read(path: str | Path) -> Mesh:
    """Reads a mesh by its name's ending.

    Args:
        path: ``.vtk``, ``.vtp``, ``.ply``, ``.stl``, ``.obj`` or ``.npz``.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: for another ending, a file that is damaged or holds no triangles,
            corners that are not there, or coordinates that are not finite.
    """
    path = Path(path)
    reader, _ = _known(path)
    if reader is None:
        arrays = npz.read(path)
        if missing := [name for name in ("vertices", "faces") if name not in arrays]:
            raise DataError(f"{path}: no {missing}, found {sorted(arrays)[:8]}")
        found = Surface(arrays["vertices"], arrays["faces"], arrays.get("surface"))
        return _checked(path, found, moving=True)
    with reading(path, WHAT), np.errstate(over="ignore", invalid="ignore"):
        found = reader(path)
    return _checked(path, found)


def write(path: str | Path, mesh: Mesh) -> None:
    """Writes a mesh by its name's ending; it reads back as it was, but from STL.

    VTK is written in binary as version 4.2, PLY and STL in binary.

    Args:
        path: ``.vtk``, ``.vtp``, ``.ply``, ``.stl``, ``.obj`` or ``.npz``.
        mesh: surface codes are kept by all but STL and OBJ.

    Raises:
        DataError: for another ending, and a moving mesh in another file than npz.
    """
    path = Path(path)
    _, writer = _known(path)
    if writer is None:
        arrays: dict[str, Any] = {"vertices": mesh.vertices, "faces": mesh.faces}
        if mesh.surface is not None:
            arrays["surface"] = mesh.surface
        with whole(path) as draft:
            np.savez(draft, **arrays)
        return
    if mesh.vertices.ndim != 2:
        raise DataError(
            f"{path}: vertices have shape {mesh.vertices.shape}; frames go into .npz, "
            "or into one file each by write_series"
        )
    with whole(path) as draft:
        writer(draft, Surface(mesh.vertices, mesh.faces, mesh.surface))


def write_series(path: str | Path, mesh: Mesh) -> list[Path]:
    """Writes every frame of a moving mesh into a file of its own.

    Args:
        path: ``heart.vtk`` makes ``heart_000.vtk`` and so on, which viewers open as one
            series.
        mesh: with one axis of frames.

    Raises:
        DataError: if there is none, or for an ending that is not a mesh's.
    """
    path = Path(path)
    if mesh.vertices.ndim != 3:
        raise DataError(
            f"{path}: vertices have shape {mesh.vertices.shape}, expected frames"
        )
    made = []
    for i, frame in enumerate(mesh.vertices):
        made.append(path.with_name(f"{path.stem}_{i:03d}{path.suffix}"))
        write(made[-1], dataclasses.replace(mesh, vertices=frame))
    return made


def _checked(path: Path, found: Surface, *, moving: bool = False) -> Mesh:
    """What was read as a mesh, if it is one."""
    vertices, faces, surface = found
    ranks = (2, 3) if moving else (2,)
    if vertices.ndim not in ranks or vertices.shape[-1] != 3 or 0 in vertices.shape:
        raise DataError(f"{path}: vertices of shape {vertices.shape}, expected n 3")
    if vertices.dtype.kind != "f" or vertices.itemsize < 4:
        vertices = vertices.astype(np.float32)
    finite(path, vertices, "the mesh", ("frame", "vertex", "axis")[-vertices.ndim :])
    if faces.ndim != 2 or faces.shape[1:] != (3,) or faces.dtype.kind not in "iu":
        raise DataError(
            f"{path}: faces are {faces.dtype} of shape {faces.shape}, expected whole "
            "numbers of shape f 3"
        )
    count = vertices.shape[-2]
    if not len(faces):
        raise DataError(f"{path}: {count} vertices and no triangles")
    if faces.min() < 0 or faces.max() >= count:
        raise DataError(
            f"{path}: a triangle has corners {faces.min()} to {faces.max()} of a mesh "
            f"of {count} vertices"
        )
    if surface is not None and (
        surface.shape != (count,)
        or surface.dtype.kind not in "iu"
        or np.abs(surface.astype(np.float64)).max() > np.iinfo(np.int32).max
    ):
        raise DataError(
            f"{path}: surface is {surface.dtype} of shape {surface.shape}, expected a "
            f"whole number for each of {count} vertices"
        )
    codes = None if surface is None else surface.astype(np.int32)
    kind = np.float64 if vertices.itemsize > 4 else np.float32
    return Mesh(vertices.astype(kind), faces.astype(np.int32), codes)


def _read_obj(path: Path) -> Surface:
    """``v x y z`` and ``f`` with corners ``a``, ``a/b``, ``a//c`` or ``a/b/c``."""
    text = path.read_bytes().replace(b"\\\n", b" ").decode("latin-1")
    vertices: list[list[str]] = []
    corners: list[int] = []
    sizes: list[int] = []
    for words in filter(None, (line.split() for line in text.splitlines())):
        if words[0] == "v":
            vertices.append(words[1:4])
        elif words[0] == "f":
            # Counted from 1; negative ones from the latest vertex backwards.
            numbers = [int(word.partition("/")[0]) for word in words[1:]]
            if 0 in numbers:
                raise ValueError(f"corner 0 in face {len(sizes)}")
            corners += [n - 1 if n > 0 else len(vertices) + n for n in numbers]
            sizes.append(len(numbers))
    places = np.array(vertices or np.zeros((0, 3))).astype(np.float64)
    return Surface(places, fans(np.array(corners, int), np.array(sizes, int)), None)


def _write_obj(path: Path, mesh: Surface) -> None:
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    path.write_text("\n".join(lines) + "\n")


_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])


def _read_stl(path: Path) -> Surface:
    """Binary if it is as long as its count says: some of those begin ``solid`` too."""
    data = path.read_bytes()
    count = int.from_bytes(data[80:84], "little")
    if len(data) >= 84 and len(data) == 84 + _STL.itemsize * count:
        corners = np.frombuffer(data, _STL, count, 84)["corners"].reshape(-1, 3)
    elif data.lstrip()[:5].lower() == b"solid":
        found = re.findall(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", data)
        corners = np.array(found or np.zeros((0, 3))).astype(np.float32)
    else:
        raise DataError(f"{path}: {len(data)} bytes are no STL file of {count} faces")
    # Minus zero is zero.
    every, first, which = np.unique(
        corners + np.float32(0), axis=0, return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Surface(every[order], rank[which.reshape(-1)].reshape(-1, 3), None)


def _write_stl(path: Path, mesh: Surface) -> None:
    rows = np.zeros(len(mesh.faces), _STL)
    rows["corners"] = at = mesh.vertices[mesh.faces]
    normal = np.cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0])
    size = np.linalg.norm(normal, axis=1, keepdims=True)
    rows["normal"] = normal / np.where(size > 0, size, 1)
    head = b"surface".ljust(80) + len(rows).to_bytes(4, "little")
    path.write_bytes(head + rows.tobytes())


_Reader = Callable[[Path], Surface]
_Writer = Callable[[Path, Surface], None]
_FORMATS: dict[str, tuple[_Reader | None, _Writer | None]] = {
    ".vtk": (vtk.read_legacy, vtk.write_legacy),
    ".vtp": (vtk.read_xml, vtk.write_xml),
    ".ply": (ply.read, ply.write),
    ".stl": (_read_stl, _write_stl),
    ".obj": (_read_obj, _write_obj),
    ".npz": (None, None),
}


def _known(path: Path) -> tuple[_Reader | None, _Writer | None]:
    if path.suffix.lower() not in _FORMATS:
        raise DataError(
            f"{path}: no mesh by its ending, expected one of {', '.join(_FORMATS)}"
        )
    return _FORMATS[path.suffix.lower()]
