"""MATLAB files as MRI centres write them: v7.3 (HDF5), and v5 as a fallback.

A v7.3 file is HDF5 behind a 512-byte MATLAB header. MATLAB stores columns first, so
every array reads back with its axes reversed: ``(kx, ky, coil, slice, frame)`` in
MATLAB is ``(frame, slice, coil, ky, kx)`` here. MATLAB drops trailing axes of size one,
which are the leading ones here: :func:`lead` puts them back. Complex numbers are a
compound of ``real`` and ``imag``, single, double or integer, or two variables
``x_real`` and ``x_imag``. Each call opens the file, copies what was asked for, and
closes it, so that worker processes neither share nor leak handles.

v5 files, which are not HDF5, are read by :mod:`medjax.data.mat5` in the same axis
order. Of v4 it is only said that they are.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medjax.data import hdf5, mat5
from medjax.data.boundary import DataError, finite, reading

HEADER_BYTES = 512
WHAT = "MATLAB v7.3 file"
WHAT_V5 = "MATLAB v5 file"
_PAIRS = (("real", "imag"), ("re", "im"), ("r", "i"))


def read(
    path: str | Path,
    key: str | None = None,
    *,
    ndim: int | tuple[int, ...] | None = None,
    index: tuple[slice, ...] = (),
    axes: Sequence[str] = (),
) -> np.ndarray:
    """Read one variable, axes in HDF5 order (the reverse of MATLAB's).

    Args:
        path: a ``.mat`` file.
        key: the variable; ``None`` where the file holds exactly one.
        ndim: expected number of axes, one or several possibilities.
        index: slices of the leading axes; only these are read from disk.
        axes: what the axes are called, for messages.

    Returns:
        The array: complex64 or complex128 for compound data and for pairs of
        variables, else as stored (MATLAB logicals as bool).

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where the file is damaged or not MATLAB's, the variable is missing,
            ambiguous, not a numeric array of the expected rank, or holds values that
            are not finite. Every message names file and key.
    """
    path = Path(path)
    version = _version(path)
    read_one = _read_v5 if version == 5 else _read_v73
    start = [part.start or 0 for part in index]
    parts = [
        finite(
            path, read_one(path, name, ndim, index), f"variable '{name}'", axes, start
        )
        for name in _choose(path, list(variables(path)), key)
    ]
    if len(parts) == 1:
        return parts[0]
    real, imag = parts
    if real.shape != imag.shape or "c" in (real.dtype.kind, imag.dtype.kind):
        raise DataError(
            f"{path}: variable '{key or 'real and imag'}': its parts are {real.dtype} "
            f"of shape {real.shape} and {imag.dtype} of shape {imag.shape}, expected "
            "real numbers of one shape"
        )
    return _complex(real, imag)


def lead(array: np.ndarray, ndim: int) -> np.ndarray:
    """The same array with the axes of size one that MATLAB dropped at its end.

    Args:
        array: axes in HDF5 order.
        ndim: how many axes it should have.

    Returns:
        With leading axes of size one, or as it is if it has enough.
    """
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def variables(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes (HDF5 axis order) of a file's variables.

    Args:
        path: a ``.mat`` file.

    Returns:
        Name to shape; structs and cells have shape ``()``.

    Raises:
        FileNotFoundError: where there is no such file.
        DataError: where the file is damaged or not MATLAB's.
    """
    path = Path(path)
    if _version(path) == 5:
        with reading(path, WHAT_V5):
            return {name: v.shape[::-1] for name, v in mat5.load(path).items()}
    with hdf5.opened(path, WHAT) as file:
        return {
            name: tuple(getattr(file[name], "shape", None) or ())
            for name in file
            if not name.startswith("#")
        }


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a v7.3 file that MATLAB opens; axes are reversed on the way, as in read.

    Args:
        path: where to write; an existing file is replaced.
        arrays: name to array: complex, floating point, integer or bool.
    """
    with hdf5.library().File(path, "w", userblock_size=HEADER_BYTES) as file:
        for name, array in arrays.items():
            array = np.asarray(array)
            if np.iscomplexobj(array):
                part = np.real(array).dtype
                raw = np.empty(array.shape, [("real", part), ("imag", part)])
                raw["real"], raw["imag"] = np.real(array), np.imag(array)
            else:
                part = array.dtype
                raw = array.astype(np.uint8) if part.kind == "b" else array
            dataset = file.create_dataset(name, data=raw)
            dataset.attrs["MATLAB_class"] = np.bytes_(_matlab_class(part))
            if part.kind == "b":
                dataset.attrs["MATLAB_int_decode"] = np.int32(1)
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 ."
    with open(path, "r+b") as file:
        # 116 bytes of text, 8 of subsystem offset, version 0x0200, endian mark.
        file.write(text.ljust(116) + bytes(8) + b"\x00\x02IM")


def _matlab_class(dtype: np.dtype) -> str:
    names = {"float32": "single", "float64": "double", "bool": "logical"}
    return names.get(dtype.name, dtype.name)


def _version(path: Path) -> Literal[5, 7]:
    """Which reader a file needs; v4 and absence are reported here, once."""
    with reading(path, "MATLAB file"):
        with path.open("rb") as file:
            head = file.read(20)
        if head.startswith(b"MATLAB 5.0"):
            return 5
        if _is_v4(head):
            raise DataError(
                f"{path}: is a MATLAB v4 file, whose arrays have two axes; save it "
                "again with '-v7.3' (or '-v7')"
            )
        return 7


def _is_v4(head: bytes) -> bool:
    """v4 has no text: a type of four digits MOPT, two sizes, a flag, a name's length.

    M is the byte order, O is 0, P the precision (0 to 5) and T the kind (0 to 2).
    """
    if len(head) < 20:
        return False
    for order in ("<i4", ">i4"):
        kind, rows, columns, imaginary, name = np.frombuffer(head, order).tolist()
        digits = (kind // 1000, kind // 100 % 10, kind // 10 % 10, kind % 10)
        fits = all(0 <= d <= most for d, most in zip(digits, (4, 0, 5, 2), strict=True))
        if fits and rows > 0 and columns > 0 and imaginary in (0, 1) and 1 < name < 65:
            return True
    return False


def _read_v73(
    path: Path, key: str, ndim: int | tuple[int, ...] | None, index: tuple[slice, ...]
) -> np.ndarray:
    where = f"{path}: variable '{key}'"
    with hdf5.opened(path, WHAT) as file, reading(path, WHAT, key=key):
        node = file[key]
        if getattr(node, "shape", None) is None:
            raise DataError(f"{where} is a MATLAB struct, expected a numeric array")
        _check_rank(where, node.shape, ndim)
        raw = hdf5.values(path, node, index, what=WHAT)
        return _numeric(path, key, raw, node.attrs.get("MATLAB_class", b""))


def _read_v5(
    path: Path, key: str, ndim: int | tuple[int, ...] | None, index: tuple[slice, ...]
) -> np.ndarray:
    where = f"{path}: variable '{key}'"
    with reading(path, WHAT_V5, key=key):
        variable = mat5.load(path)[key]
        _check_rank(where, variable.shape, ndim)
        return variable.array(where)[index]


def _choose(path: Path, names: Sequence[str], key: str | None) -> tuple[str, ...]:
    """The variable, or the two that hold its real and imaginary part."""
    pairs = _pairs(names)
    if key is None and len(names) == 1:
        return (names[0],)
    if key is None and len(names) == 2 and len(pairs) == 1:
        return next(iter(pairs.values()))
    if key is None:
        raise DataError(f"{path}: holds {sorted(names)}, say which one")
    if key in names:
        return (key,)
    if key in pairs:
        return pairs[key]
    raise DataError(f"{path}: no variable '{key}', only {sorted(names)}")


def _pairs(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Complex variables that were saved as two: ``x_real`` and ``x_imag``, say."""
    found: dict[str, tuple[str, str]] = {}
    known = {name.lower(): name for name in names}
    for real, imag in _PAIRS:
        for name in names:
            match = re.fullmatch(rf"(.+?)(_?){real}", name, re.IGNORECASE)
            if match is None or (len(real) == 1 and not match[2]):
                continue
            other = known.get(f"{match[1]}{match[2]}{imag}".lower())
            if other is not None:
                found[match[1]] = (name, other)
    return found


def _check_rank(
    where: str, shape: tuple[int, ...], ndim: int | tuple[int, ...] | None
) -> None:
    wanted = (ndim,) if isinstance(ndim, int) else ndim
    if wanted is not None and len(shape) not in wanted:
        axes = " or ".join(map(str, wanted))
        raise DataError(f"{where} has shape {shape}, expected {axes} axes")


def _numeric(path: Path, key: str, raw: np.ndarray, matlab_class: Any) -> np.ndarray:
    """Compound real/imag to complex, logicals to bool; refuse everything else."""
    parts = ("real", "imag")
    if raw.dtype.names == parts:
        kinds = {raw.dtype[part].kind for part in parts}
        if kinds <= set("iuf"):
            return _complex(raw["real"], raw["imag"])
    elif matlab_class == b"logical" and raw.dtype.kind in "biu":
        return raw.astype(bool)
    elif raw.dtype.kind in "biufc":
        return raw
    raise DataError(f"{path}: variable '{key}' has dtype {raw.dtype}, expected numbers")


def _complex(real: np.ndarray, imag: np.ndarray) -> np.ndarray:
    """Both parts together: complex64 where single precision holds them exactly."""
    single = all(np.can_cast(part.dtype, np.float32) for part in (real, imag))
    array = np.empty(real.shape, np.complex64 if single else np.complex128)
    array.real, array.imag = real, imag
    return array
