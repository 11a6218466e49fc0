"""MATLAB v5 to v7 files, as far as they hold numeric arrays.

Read here and not by scipy, which a damaged file can end with the process. The format is
a row of tagged elements (MathWorks, "MAT-File Format", 1999 and later): compressed ones
hold another element, a matrix holds flags, sizes, a name, and one or two elements of
numbers, which may be stored in a narrower type than the array has.
"""

import dataclasses
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medjax.data.boundary import DataError

HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
_CLASSES = {
    **{6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2"},
    **{12: "i4", 13: "u4", 14: "i8", 15: "u8"},
}
_COMPLEX, _LOGICAL = 0x0800, 0x0200


@dataclasses.dataclass(frozen=True)
class Variable:
    """One array of a file.

    Attributes:
        shape: in MATLAB's order.
        flags: class in the lowest byte, then bits.
        parts: stored type and bytes of the real and, if complex, the imaginary part.
        order: of bytes, ``"<"`` or ``">"``.
    """

    shape: tuple[int, ...]
    flags: int
    parts: tuple[tuple[int, memoryview], ...]
    order: str

    def array(self, where: str) -> np.ndarray:
        """The numbers, axes in the reverse of MATLAB's order.

        Args:
            where: file and variable, for messages.

        Raises:
            DataError: If it is no numeric array, or its parts have other sizes.
        """
        kind = _CLASSES.get(self.flags & 0xFF)
        if kind is None:
            raise DataError(f"{where} is text, a struct or a cell, expected numbers")
        parts = []
        for stored, raw in self.parts[: 2 if self.flags & _COMPLEX else 1]:
            values = np.frombuffer(raw, self.order + _STORED[stored])
            if values.size != math.prod(self.shape):
                raise DataError(
                    f"{where} has {values.size} numbers for shape {self.shape}"
                )
            parts.append(values.astype(kind).reshape(self.shape[::-1]))
        if len(parts) < 1 + bool(self.flags & _COMPLEX):
            raise DataError(f"{where} lacks its numbers")
        if len(parts) == 2:
            single = np.can_cast(kind, np.float32)
            whole = np.empty(parts[0].shape, np.complex64 if single else np.complex128)
            whole.real, whole.imag = parts
            return whole
        return parts[0].astype(bool) if self.flags & _LOGICAL else parts[0]


def load(path: str | Path) -> dict[str, Variable]:
    """All variables of a file; their numbers are not looked at yet.

    Args:
        path: a file whose header says MATLAB 5.0.

    Raises:
        Exception: Of any kind, for a damaged file: call it inside
            :func:`medjax.data.boundary.reading`.
    """
    raw = Path(path).read_bytes()
    order = {b"IM": "<", b"MI": ">"}[raw[126:128]]
    found = {}
    for kind, data in _elements(memoryview(raw)[HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            kind, data = next(_elements(memoryview(zlib.decompress(data)), order))
        if kind == _MATRIX:
            name, variable = _matrix(data, order)
            if name:  # else what functions left behind
                found[name] = variable
    return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of every element; small ones lie in their own tag."""
    at = 0
    while at < len(data):
        first, size = struct.unpack_from(order + "II", data, at)
        if first >> 16:
            kind, size, start, step = first & 0xFFFF, first >> 16, at + 4, 8
        else:
            kind, start = first, at + 8
            step = 8 + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError(f"an element of {size} bytes at byte {at} is cut short")
        yield kind, data[start : start + size]
        at += step


def _matrix(data: memoryview, order: str) -> tuple[str, Variable]:
    elements = _elements(data, order)
    flags = struct.unpack_from(order + "I", next(elements)[1])[0]
    shape = np.frombuffer(next(elements)[1], order + "i4")
    if len(shape) < 2 or (shape < 0).any():
        raise ValueError(f"a matrix has the sizes {shape.tolist()}")
    name = bytes(next(elements)[1]).decode("ascii")
    parts = tuple(elements) if flags & 0xFF in _CLASSES else ()
    return name, Variable(tuple(int(n) for n in shape), flags, parts, order)
