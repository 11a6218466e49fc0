"""BART's array files: a text header ``.hdr`` and raw complex floats ``.cfl``.

Axes keep BART's own order, in which every position has a meaning (:data:`DIMENSIONS`);
the first axis is fastest on disk, trailing axes of size one are dropped.
"""

import math
from pathlib import Path

import numpy as np

from medjax.data.boundary import DataError, finite, reading
from medjax.data.whole import whole

WHAT = "BART file"
DIMENSIONS = (
    *("read", "phase 1", "phase 2", "coil", "maps", "TE", "coefficients"),
    *("coefficients 2", "iteration", "shift", "time", "time 2", "level", "slice"),
    *("average", "batch"),
)
"""What BART's dimensions 0 to 15 are (``misc/mri.h``)."""


def read(path: str | Path) -> np.ndarray:
    """Read a BART array.

    Args:
        path: the name with or without ``.cfl``/``.hdr``.

    Returns:
        complex64, axes in BART's order.

    Raises:
        FileNotFoundError: where header or data is missing.
        DataError: where the header has no dimensions, the sizes disagree, or values
            are not finite.
    """
    header, data = _pair(path)
    for file in (header, data):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file")
    with reading(header, WHAT):
        shape = _dimensions(header)
    with reading(data, WHAT):
        expected, found = 8 * math.prod(shape), data.stat().st_size
        if found != expected:
            raise DataError(
                f"{data}: {found} bytes, but {header.name} says {shape}: {expected} "
                "bytes"
            )
        array = np.fromfile(data, "<c8").reshape(shape, order="F")
        return finite(data, array, "the array", DIMENSIONS[: array.ndim])


def write(path: str | Path, array: np.ndarray) -> None:
    """Write a BART array.

    Args:
        path: the name with or without ``.cfl``/``.hdr``.
        array: any numbers, axes in BART's order; stored as complex64.
    """
    header, data = _pair(path)
    shape = (*array.shape, *[1] * (16 - array.ndim))
    with whole(data) as draft:
        # Not by `tofile`, which does not tell where the last bytes found no room.
        draft.write_bytes(np.asarray(array).astype("<c8").tobytes("F"))
        with whole(header) as words:
            words.write_text("# Dimensions\n" + " ".join(map(str, shape)) + "\n")


def _pair(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in {".cfl", ".hdr"} else path
    return stem.with_name(stem.name + ".hdr"), stem.with_name(stem.name + ".cfl")


def _dimensions(header: Path) -> tuple[int, ...]:
    """The line after ``# Dimensions``; other sections are skipped."""
    lines = iter(header.read_text("latin-1").splitlines())
    for line in lines:
        if line.strip().lower() == "# dimensions":
            words = next(lines, "").split()
            if words and all(word.isascii() and word.isdecimal() for word in words):
                shape = [int(word) for word in words]
                while len(shape) > 1 and shape[-1] == 1:
                    shape.pop()
                return tuple(shape)
    raise DataError(f"{header}: no line of sizes after '# Dimensions'")
