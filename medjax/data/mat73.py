"""MATLAB files as MRI centres write them: v7.3 (HDF5), and v5 as a fallback.

A v7.3 file is HDF5 behind a 512-byte MATLAB header. MATLAB stores columns first, so
every array reads back with its axes reversed: ``(kx, ky, coil, slice, frame)`` in
MATLAB is ``(frame, slice, coil, ky, kx)`` here. Complex numbers are a compound of
``real`` and ``imag``, single or double. Each call opens the file, copies what was
asked for, and closes it, so that worker processes neither share nor leak handles.

v5 files, which HDF5 cannot open, are read through scipy and transposed to the same
axis order.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

HEADER_BYTES = 512
_COMPLEX = {"f4": np.complex64, "f8": np.complex128}


def read(
    path: str | Path,
    key: str | None = None,
    *,
    ndim: int | tuple[int, ...] | None = None,
    index: tuple[Any, ...] = (),
) -> np.ndarray:
    """Read one variable, axes in HDF5 order (the reverse of MATLAB's).

    Args:
        path: a ``.mat`` file.
        key: the variable; ``None`` where the file holds exactly one.
        ndim: expected number of axes, one or several possibilities.
        index: slices of the leading axes; only these are read from disk.

    Returns:
        The array: complex64 or complex128 for compound data, else as stored
        (MATLAB logicals as bool).

    Raises:
        FileNotFoundError: where there is no such file.
        KeyError: where the variable is missing or ambiguous.
        ValueError: where the file is truncated or not MATLAB's, or the variable is
            not a numeric array of the expected rank. Every message names file and key.
    """
    path = Path(path)
    if _is_v5(path):
        return _read_v5(path, key, ndim, index)
    with _open(path) as file:
        names = [name for name in file if not name.startswith("#")]
        key = _choose(path, names, key)
        where = f"{path}: variable '{key}'"
        node = file[key]
        if not hasattr(node, "dtype"):
            raise ValueError(f"{where} is a MATLAB struct, expected a numeric array")
        _check_rank(where, node.shape, ndim)
        try:
            raw = node[index]
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{where} cannot be read, truncated? {error}") from error
        return _numeric(where, np.asarray(raw), node.attrs.get("MATLAB_class", b""))


def variables(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes (HDF5 axis order) of a file's variables.

    Args:
        path: a ``.mat`` file.

    Returns:
        Name to shape; structs and cells have shape ``()``.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is truncated or not MATLAB's.
    """
    path = Path(path)
    if _is_v5(path):
        return {name: shape[::-1] for name, shape, _ in scipy.io.whosmat(path)}
    with _open(path) as file:
        return {
            name: tuple(getattr(file[name], "shape", ()))
            for name in file
            if not name.startswith("#")
        }


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a v7.3 file that MATLAB opens; axes are reversed on the way, as in read.

    Args:
        path: where to write; an existing file is replaced.
        arrays: name to array: complex, floating point, integer or bool.
    """
    h5py = _h5py()
    with h5py.File(path, "w", userblock_size=HEADER_BYTES) as file:
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


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "reading HDF5 files needs h5py: pip install 'medjax[medical]'"
        ) from error
    return h5py


def _open(path: Path) -> Any:
    h5py = _h5py()
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path}: not an intact MATLAB v7.3 file ({path.stat().st_size} bytes): "
            f"{error}"
        ) from error


def _is_v5(path: Path) -> bool:
    """A v5 header says so in its text; a missing file is reported here, once."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        return file.read(19).startswith(b"MATLAB 5.0")


def _read_v5(
    path: Path,
    key: str | None,
    ndim: int | tuple[int, ...] | None,
    index: tuple[Any, ...],
) -> np.ndarray:
    key = _choose(path, [name for name, _, _ in scipy.io.whosmat(path)], key)
    where = f"{path}: variable '{key}'"
    try:
        array = scipy.io.loadmat(path, variable_names=[key])[key].T
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{where} cannot be read, truncated? {error}") from error
    _check_rank(where, array.shape, ndim)
    return _numeric(where, array[index], b"")


def _choose(path: Path, names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key is None:
        raise KeyError(f"{path}: holds {sorted(names)}, say which one")
    if key not in names:
        raise KeyError(f"{path}: no variable '{key}', only {sorted(names)}")
    return key


def _check_rank(
    where: str, shape: tuple[int, ...], ndim: int | tuple[int, ...] | None
) -> None:
    wanted = (ndim,) if isinstance(ndim, int) else ndim
    if wanted is not None and len(shape) not in wanted:
        axes = " or ".join(map(str, wanted))
        raise ValueError(f"{where} has shape {shape}, expected {axes} axes")


def _numeric(where: str, raw: np.ndarray, matlab_class: bytes) -> np.ndarray:
    """Compound real/imag to complex, logicals to bool; refuse everything else."""
    if raw.dtype.names == ("real", "imag"):
        part = raw.dtype["real"].str.lstrip("<=")
        if raw.dtype["imag"] == raw.dtype["real"] and part in _COMPLEX:
            return np.ascontiguousarray(raw).view(_COMPLEX[part])
    elif bytes(matlab_class) == b"logical":
        return raw.astype(bool)
    elif raw.dtype.kind in "biufc":
        return raw
    raise ValueError(f"{where} has dtype {raw.dtype}, expected numbers")
