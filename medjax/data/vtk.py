"""Surfaces in VTK's files: legacy ``.vtk`` (versions 2 to 5.1) and XML ``.vtp``.

The legacy format is text in which the numbers are text or big-endian binary. Numbers
are counted, not lines: writers put any number on a line. From 5.1 polygons are offsets,
one more than there are polygons, and corners; before, every polygon begins with its
number of corners. Of the data at points only ``surface`` is read; blocks called FIELD
and METADATA are passed over. Written is 4.2, which older programs read too.

Of the XML format, what is inline is read: numbers as text or in base64, plain or packed
by zlib. Numbers appended behind the document are not XML any more and are refused.
"""

import base64
import itertools
import re
import zlib
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from medjax.data.boundary import DataError, affordable
from medjax.data.polygons import fans, strips

TYPES = {
    "char": "i1",
    "unsigned_char": "u1",
    "short": "i2",
    "unsigned_short": "u2",
    "int": "i4",
    "unsigned_int": "u4",
    "long": "i8",
    "unsigned_long": "u8",
    "vtkidtype": "i4",
    "vtktypeint32": "i4",
    "vtktypeint64": "i8",
    "float": "f4",
    "double": "f8",
}
"""Names of numbers in legacy files."""
_TOKEN = re.compile(rb"\S+")


class Surface(NamedTuple):
    """What a file says; not checked yet.

    Attributes:
        vertices: ``n 3``.
        faces: corners of triangles, ``f 3``.
        surface: a code per vertex, where the file has them.
    """

    vertices: np.ndarray
    faces: np.ndarray
    surface: np.ndarray | None


class _Legacy:
    """A legacy file and how far it has been read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.binary = False

    def line(self) -> str:
        """The next line that is not empty; nothing at the end of the file."""
        while self.at < len(self.data):
            end = self.data.find(b"\n", self.at)
            end = len(self.data) if end < 0 else end
            text = self.data[self.at : end].strip()
            self.at = end + 1
            if text:
                return text[:300].decode("latin-1")
        return ""

    def skip_block(self) -> None:
        """Goes on behind the next empty line."""
        empty = re.compile(rb"\n[ \t\r]*\n").search(self.data, self.at - 1)
        self.at = empty.end() if empty else len(self.data)

    def numbers(self, count: int, kind: str) -> np.ndarray:
        """So many numbers of a type."""
        if kind.lower() not in TYPES:
            raise ValueError(f"numbers of type {kind}, expected one of {sorted(TYPES)}")
        dtype = np.dtype(TYPES[kind.lower()])
        if count < 0:
            raise ValueError(f"{count} numbers announced")
        if self.binary:
            raw = self.data[self.at : self.at + count * dtype.itemsize]
            self.at += len(raw)
            found = np.frombuffer(raw, dtype.newbyteorder(">")).astype(dtype)
        else:
            matches = list(itertools.islice(_TOKEN.finditer(self.data, self.at), count))
            self.at = matches[-1].end() if matches else self.at
            found = np.array([m.group() for m in matches]).astype(dtype)
        if len(found) != count:
            raise ValueError(f"{len(found)} numbers where {count} are announced")
        return found

    def cells(self, words: list[str], modern: bool) -> tuple[np.ndarray, np.ndarray]:
        """Corners of polygons or strips, and how many each has."""
        many, size = int(words[1]), int(words[2])
        if not modern:
            return _counted(self.numbers(size, "int"), many)
        offsets = self.numbers(many, self.line().split()[1])
        corners = self.numbers(size, self.line().split()[1])
        return corners, np.diff(offsets)


def read_legacy(path: Path) -> Surface:
    """Reads a legacy file; to be called where errors are put into words.

    Raises:
        DataError: for another kind of data than a surface.
        ValueError: for a file that is not intact.
    """
    file = _Legacy(path.read_bytes())
    head = re.match(r"# vtk DataFile Version (\d+)\.\d+", file.line())
    if head is None:
        raise DataError(f"{path}: no legacy VTK file (its first line does not say so)")
    modern = int(head[1]) >= 5
    # The title is a line even where it is empty.
    file.at = file.data.find(b"\n", file.at) + 1
    form = file.line().upper()
    if form not in ("ASCII", "BINARY"):
        raise ValueError(f"{form[:40]!r} where ASCII or BINARY is expected")
    file.binary = form == "BINARY"
    vertices, surface, faces = None, None, []
    while words := file.line().split():
        keyword = words[0].upper()
        if keyword == "DATASET" and words[1:] != ["POLYDATA"]:
            raise DataError(
                f"{path}: holds {' '.join(words[1:])[:40]}, expected POLYDATA: save "
                "the surface"
            )
        if keyword == "METADATA":
            file.skip_block()
        elif keyword == "FIELD":
            for _ in range(int(words[2])):
                _, size, many, kind = file.line().split()
                file.numbers(int(size) * int(many), kind)
                if file.data[file.at : file.at + 12].split()[:1] == [b"METADATA"]:
                    file.skip_block()
        elif keyword == "POINTS":
            vertices = file.numbers(3 * int(words[1]), words[2]).reshape(-1, 3)
        elif keyword in ("VERTICES", "LINES"):
            file.cells(words, modern)
        elif keyword == "POLYGONS":
            faces.append(fans(*file.cells(words, modern)))
        elif keyword == "TRIANGLE_STRIPS":
            faces.append(strips(*file.cells(words, modern)))
        elif keyword == "POINT_DATA":
            surface = _point_data(file, int(words[1]))
            break
        elif keyword == "CELL_DATA":
            break
        elif keyword != "DATASET":
            raise ValueError(f"{keyword[:40]!r} where a part of a surface is expected")
    if vertices is None:
        raise ValueError("no POINTS")
    return Surface(vertices, np.concatenate([np.zeros((0, 3), int), *faces]), surface)


def _point_data(file: _Legacy, count: int) -> np.ndarray | None:
    """The codes, if they are the first of the data at points."""
    words = file.line().split()
    if words[:2] != ["SCALARS", "surface"] or words[3:] not in ([], ["1"]):
        return None
    if not file.line().startswith("LOOKUP_TABLE"):
        raise ValueError("no LOOKUP_TABLE behind SCALARS")
    return file.numbers(count, words[2])


def _counted(cells: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners and sizes of polygons each of which begins with its size."""
    if len(cells) == 4 * many and (cells[::4] == 3).all():
        return cells.reshape(-1, 4)[:, 1:].reshape(-1), np.full(many, 3)
    starts, at = [], 0
    while at < len(cells):
        if cells[at] < 0:
            raise ValueError(f"a polygon of {cells[at]} corners")
        starts.append(at)
        at += 1 + int(cells[at])
    if len(starts) != many:
        raise ValueError(f"{len(starts)} polygons where {many} are announced")
    sizes = cells[starts]
    return np.delete(cells, starts), sizes


def write_legacy(path: Path, mesh: Surface, *, binary: bool = True) -> None:
    """Writes version 4.2.

    Args:
        path: where to.
        mesh: float32 or float64 vertices, int32 faces.
        binary: big-endian numbers instead of text.
    """
    kind = "double" if mesh.vertices.dtype == np.float64 else "float"
    cells = np.pad(mesh.faces, ((0, 0), (1, 0)), constant_values=3)
    parts = [
        f"# vtk DataFile Version 4.2\nsurface\n{'BINARY' if binary else 'ASCII'}\n"
        f"DATASET POLYDATA\nPOINTS {len(mesh.vertices)} {kind}\n".encode(),
        _numbers(mesh.vertices, binary),
        f"POLYGONS {len(cells)} {cells.size}\n".encode(),
        _numbers(cells.astype(np.int32), binary),
    ]
    if mesh.surface is not None:
        head = f"POINT_DATA {len(mesh.vertices)}\nSCALARS surface int 1\n"
        parts.append((head + "LOOKUP_TABLE default\n").encode())
        parts.append(_numbers(mesh.surface.astype(np.int32)[:, None], binary))
    path.write_bytes(b"".join(parts))


def _numbers(rows: np.ndarray, binary: bool) -> bytes:
    if binary:
        return rows.astype(rows.dtype.newbyteorder(">")).tobytes() + b"\n"
    # The shortest text that reads back as the same number.
    return "".join(" ".join(map(str, row)) + "\n" for row in rows.tolist()).encode()


def read_xml(path: Path) -> Surface:
    """Reads a ``.vtp``; to be called where errors are put into words.

    Raises:
        DataError: for another kind of data, or numbers that are not inline.
        ValueError: for a file that is not intact.
    """
    content = path.read_bytes()
    if b"<AppendedData" in content:
        raise DataError(
            f"{path}: its numbers are appended behind the document, expected them "
            "inline: save it as ASCII or Binary, or read it with pyvista"
        )
    root = ElementTree.fromstring(content)
    data = root.find("PolyData")
    if data is None:
        raise DataError(
            f"{path}: holds {str(root.get('type'))[:40]}, expected PolyData: save the "
            "surface"
        )
    arrays = _Inline(path, root)
    pieces = []
    for piece in data.iterfind("Piece"):
        vertices = arrays.read(piece, "Points", None).reshape(-1, 3)
        faces = []
        for name, cut in (("Polys", fans), ("Strips", strips)):
            if piece.find(name) is not None:
                corners = arrays.read(piece, name, "connectivity")
                ends = arrays.read(piece, name, "offsets").astype(np.int64)
                faces.append(cut(corners, np.diff(ends, prepend=0)))
        codes = [a.get("Name") for a in piece.iterfind("PointData/DataArray")]
        pieces.append(
            Surface(
                vertices,
                np.concatenate([np.zeros((0, 3), int), *faces]),
                arrays.read(piece, "PointData", "surface")
                if "surface" in codes
                else None,
            )
        )
    starts = np.cumsum([0, *(len(p.vertices) for p in pieces)])
    faces = [p.faces + start for p, start in zip(pieces, starts, strict=False)]
    codes = [p.surface for p in pieces if p.surface is not None]
    return Surface(
        np.concatenate([p.vertices for p in pieces]),
        np.concatenate(faces),
        np.concatenate(codes) if len(codes) == len(pieces) else None,
    )


class _Inline:
    """Numbers inside an XML document."""

    def __init__(self, path: Path, root: ElementTree.Element) -> None:
        self.path = path
        order = root.get("byte_order", "LittleEndian")
        header = root.get("header_type", "UInt32")
        packer = root.get("compressor")
        known = {"LittleEndian": "<", "BigEndian": ">"}
        if order not in known or header not in ("UInt32", "UInt64"):
            raise ValueError(f"byte_order {order!r}, header_type {header!r}")
        if packer not in (None, "vtkZLibDataCompressor"):
            raise DataError(f"{path}: packed by {packer[:40]}, expected zlib or none")
        self.order, self.packed = known[order], packer is not None
        self.header = np.dtype(self.order + ("u4" if header == "UInt32" else "u8"))

    def read(
        self, piece: ElementTree.Element, part: str, name: str | None
    ) -> np.ndarray:
        """The array of a name in a part, the only one if no name is given."""
        found = [
            array
            for array in piece.iterfind(f"{part}/DataArray")
            if name is None or array.get("Name") == name
        ]
        if len(found) != 1:
            raise ValueError(
                f"{len(found)} arrays {name or ''} in {part}, expected one"
            )
        array = found[0]
        kind = re.fullmatch(r"(U?Int|Float)(8|16|32|64)", array.get("type", ""))
        if kind is None:
            raise ValueError(f"{part}: numbers of type {array.get('type')}")
        letter = {"Int": "i", "UInt": "u", "Float": "f"}[kind[1]]
        dtype = np.dtype(f"{self.order}{letter}{int(kind[2]) // 8}")
        text = (array.text or "").encode()
        if array.get("format") == "ascii":
            numbers = np.array(text.split() or np.zeros(0)).astype(dtype)
        elif array.get("format") == "binary":
            numbers = np.frombuffer(self._bytes(b"".join(text.split())), dtype)
        else:
            raise ValueError(f"{part}: format {array.get('format')}")
        return numbers.astype(dtype.newbyteorder("="))

    def _bytes(self, text: bytes) -> bytes:
        """What base64 stands for; packed numbers are in blocks behind their sizes."""
        word = self.header.itemsize
        if not self.packed:
            whole = base64.b64decode(text, validate=True)
            (size,) = np.frombuffer(whole[:word], self.header).tolist()
            if len(whole) != word + size:
                raise ValueError(
                    f"{len(whole) - word} bytes where {size} are announced"
                )
            return whole[word:]
        first = base64.b64decode(text[: 4 * -(-word // 3)])
        (blocks,) = np.frombuffer(first[:word], self.header).tolist()
        affordable(self.path, (3 + blocks,), self.header, "a list of blocks")
        length = 4 * -(-(3 + blocks) * word // 3)
        head = base64.b64decode(text[:length], validate=True)
        _, size, last, *lengths = np.frombuffer(
            head[: (3 + blocks) * word], self.header
        ).tolist()
        packed, parts = base64.b64decode(text[length:], validate=True), []
        affordable(self.path, (blocks, size), np.uint8, "a packed array")
        for i, taken in enumerate(lengths):
            wanted = last if last and i == blocks - 1 else size
            # No more is unpacked than was announced.
            part = zlib.decompressobj().decompress(packed[:taken], wanted + 1)
            if taken and len(part) != wanted:
                raise ValueError(f"a block of {len(part)} bytes, announced {wanted}")
            parts.append(part)
            packed = packed[taken:]
        return b"".join(parts)


def write_xml(path: Path, mesh: Surface) -> None:
    """Writes a ``.vtp`` with its numbers inline, in base64.

    Args:
        path: where to.
        mesh: float32 or float64 vertices, int32 faces.
    """
    ends = 3 * np.arange(1, len(mesh.faces) + 1)
    data = "" if mesh.surface is None else _array("surface", mesh.surface, 1)
    path.write_text(
        '<?xml version="1.0"?>\n<VTKFile type="PolyData" version="1.0" '
        'byte_order="LittleEndian" header_type="UInt64">\n<PolyData>\n'
        f'<Piece NumberOfPoints="{len(mesh.vertices)}" NumberOfVerts="0" '
        f'NumberOfLines="0" NumberOfStrips="0" NumberOfPolys="{len(mesh.faces)}">\n'
        f"<PointData>\n{data}</PointData>\n"
        f"<Points>\n{_array('Points', mesh.vertices, 3)}</Points>\n"
        f"<Polys>\n{_array('connectivity', mesh.faces, 1)}"
        f"{_array('offsets', ends.astype(np.int32), 1)}</Polys>\n"
        "</Piece>\n</PolyData>\n</VTKFile>\n"
    )


def _array(name: str, values: np.ndarray, width: int) -> str:
    kind = {"i": "Int", "f": "Float"}[values.dtype.kind] + str(8 * values.itemsize)
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    text = base64.b64encode(np.array([len(raw)], "<u8").tobytes() + raw).decode()
    return (
        f'<DataArray type="{kind}" Name="{name}" NumberOfComponents="{width}" '
        f'format="binary">{text}</DataArray>\n'
    )
