"""Surfaces in PLY files: text, or binary of either byte order.

A header lists elements and their properties. Of vertices x, y, z and ``surface`` are
read, of faces the list of corners; everything else is passed over, whatever it is.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medjax.data.boundary import DataError
from medjax.data.polygons import fans
from medjax.data.vtk import Surface

TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
}
"""Names of numbers, old and new."""
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
CORNERS = ("vertex_indices", "vertex_index")


class _Property(NamedTuple):
    """One property of an element; ``length`` is the type of a list's length."""

    name: str
    kind: str
    length: str | None


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[_Property]


def read(path: Path) -> Surface:
    """Reads a PLY file; to be called where errors are put into words.

    Raises:
        DataError: for a file that is no PLY.
        ValueError: for one that is not intact.
    """
    data = path.read_bytes()
    end = re.search(rb"end_header[ \t]*\r?\n?", data)
    if not data.startswith(b"ply") or end is None:
        raise DataError(f"{path}: no PLY file (no header of one)")
    order, elements = _header(data[: end.start()].decode("latin-1"))
    body = data[end.end() :]
    rest = _Text(body) if order == "" else _Binary(body, order)
    vertices, surface, faces = None, None, np.zeros((0, 3), int)
    for element in elements:
        columns = rest.read(element)
        if element.name == "vertex":
            axes = [columns.get(name) for name in "xyz"]
            if any(axis is None for axis in axes):
                raise ValueError("vertices without x, y and z")
            vertices = np.stack([axis for axis in axes if axis is not None], axis=-1)
            surface = columns.get("surface")
        if element.name == "face":
            lists = [columns[name] for name in CORNERS if name in columns]
            if not lists or lists[0][0].dtype.kind not in "iu":
                raise ValueError(f"faces without a list {CORNERS[0]} of integers")
            faces = fans(*lists[0])
    if vertices is None:
        raise ValueError("no element vertex")
    return Surface(vertices, faces, surface)


def _header(text: str) -> tuple[str, list[_Element]]:
    """The byte order, empty for text, and the elements."""
    order, elements = None, []
    for words in filter(None, (line.split() for line in text.splitlines())):
        if words[0] == "format":
            order = ORDERS[words[1]]
        elif words[0] == "element":
            elements.append(_Element(words[1], int(words[2]), []))
            if elements[-1].rows < 0:
                raise ValueError(f"element {words[1]} {words[2]}")
        elif words[0] == "property" and words[1] == "list":
            made = _Property(words[4], TYPES[words[3]], TYPES[words[2]])
            elements[-1].properties.append(made)
        elif words[0] == "property":
            made = _Property(words[2], TYPES[words[1]], None)
            elements[-1].properties.append(made)
    if order is None:
        raise ValueError("no format")
    return order, elements


class _Text:
    """Numbers as text."""

    def __init__(self, body: bytes) -> None:
        self.tokens, self.at = body.split(), 0

    def read(self, element: _Element) -> dict:
        """Columns by name; of a list all values, and how many each row has."""
        widths = len(element.properties)
        if not any(p.length for p in element.properties):
            rows = self._take(widths * element.rows)
            table = np.array(rows).reshape(element.rows, widths)
            return {
                p.name: table[:, i].astype(p.kind)
                for i, p in enumerate(element.properties)
            }
        columns = _Columns(element)
        for _ in range(element.rows):
            for p in element.properties:
                many = int(self._take(1)[0]) if p.length else 1
                columns.add(p.name, np.array(self._take(many)).astype(p.kind))
        return columns.whole()

    def _take(self, count: int) -> list[bytes]:
        found = self.tokens[self.at : self.at + max(count, 0)]
        if len(found) != count:
            raise ValueError(f"{len(found)} numbers where {count} are announced")
        self.at += count
        return found


class _Binary:
    """Numbers in binary."""

    def __init__(self, body: bytes, order: str) -> None:
        self.body, self.at, self.order = body, 0, order

    def read(self, element: _Element) -> dict:
        """Columns by name; of a list all values, and how many each row has."""
        # Rows mostly have lists as long as the first one's: then they are one table.
        lengths, at = {}, self.at
        for p in element.properties if element.rows else []:
            if p.length:
                lengths[p.name] = int(self._take(1, p.length)[0])
            self._take(lengths.get(p.name, 1), p.kind)
        self.at = at
        fields = []
        for p in element.properties:
            if p.length:
                fields.append((f"{p.name} length", self.order + p.length))
            width = (lengths[p.name],) if p.name in lengths else ()
            fields.append((p.name, self.order + p.kind, width))
        dtype = np.dtype(fields)
        raw = self.body[at : at + dtype.itemsize * element.rows]
        if len(raw) == dtype.itemsize * element.rows:
            table = np.frombuffer(raw, dtype, element.rows) if raw else None
            if table is not None and all(
                (table[f"{name} length"] == n).all() for name, n in lengths.items()
            ):
                self.at += len(raw)
                return {
                    p.name: (
                        table[p.name].reshape(-1).astype(p.kind),
                        np.full(element.rows, lengths[p.name]),
                    )
                    if p.length
                    else table[p.name].astype(p.kind)
                    for p in element.properties
                }
        columns = _Columns(element)
        for _ in range(element.rows):
            for p in element.properties:
                many = int(self._take(1, p.length)[0]) if p.length else 1
                columns.add(p.name, self._take(many, p.kind))
        return columns.whole()

    def _take(self, count: int, kind: str) -> np.ndarray:
        dtype = np.dtype(self.order + kind)
        raw = self.body[self.at : self.at + max(count, 0) * dtype.itemsize]
        if len(raw) != count * dtype.itemsize:
            raise ValueError(f"{len(raw)} bytes where {count} numbers are announced")
        self.at += len(raw)
        return np.frombuffer(raw, dtype).astype(kind)


class _Columns:
    """Columns of an element, gathered row by row."""

    def __init__(self, element: _Element) -> None:
        self.element = element
        self.rows: dict[str, list[np.ndarray]] = {
            p.name: [] for p in element.properties
        }

    def add(self, name: str, values: np.ndarray) -> None:
        self.rows[name].append(values)

    def whole(self) -> dict:
        found = {}
        for p in self.element.properties:
            rows = self.rows[p.name]
            values = np.concatenate([np.zeros(0, p.kind), *rows])
            sizes = np.array([len(row) for row in rows], np.int64)
            found[p.name] = (values, sizes) if p.length else values
        return found


def write(path: Path, mesh: Surface, *, binary: bool = True) -> None:
    """Writes a PLY file.

    Args:
        path: where to.
        mesh: float32 or float64 vertices, int32 faces.
        binary: little-endian numbers instead of text.
    """
    kind = "double" if mesh.vertices.dtype == np.float64 else "float"
    with_codes = mesh.surface is not None
    head = [
        *("ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0"),
        f"element vertex {len(mesh.vertices)}",
        *(f"property {kind} {axis}" for axis in "xyz"),
        *(["property int surface"] if with_codes else []),
        f"element face {len(mesh.faces)}",
        *("property list uchar int vertex_indices", "end_header", ""),
    ]
    number = f"<{mesh.vertices.dtype.kind}{mesh.vertices.itemsize}"
    codes = [("surface", "<i4")] if with_codes else []
    rows = np.zeros(len(mesh.vertices), [("at", number, 3), *codes])
    rows["at"] = mesh.vertices
    if with_codes:
        rows["surface"] = mesh.surface
    cells = np.zeros(len(mesh.faces), [("size", "u1"), ("corner", "<i4", 3)])
    cells["size"], cells["corner"] = 3, mesh.faces
    start = "\n".join(head).encode()
    if binary:
        path.write_bytes(start + rows.tobytes() + cells.tobytes())
        return
    lines = [" ".join(map(str, (*row[0], *row[1:]))) for row in rows.tolist()] + [
        " ".join(map(str, (size, *corner))) for size, corner in cells.tolist()
    ]
    path.write_bytes(start + ("\n".join(lines) + "\n").encode())
