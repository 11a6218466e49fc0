"""HDF5 files, read so that damage ends with an error and not with the process.

Three formats of k-space are HDF5 inside. They share what its library lacks: messages
with the file's name, and sizes that are believed only as far as the file could hold
them. What it does not survive is looked for beforehand: :mod:`medjax.data.heaps`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.data.boundary import affordable, reading


def library() -> Any:
    """h5py, or what to install."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "HDF5 files need h5py: pip install 'medjax[medical]'"
        ) from error
    return h5py


@contextlib.contextmanager
def opened(path: str | Path, what: str) -> Iterator[Any]:
    """An open HDF5 file; whatever goes wrong while it is open names the file.

    Args:
        path: The file.
        what: What it is taken for, as a message says it.

    Raises:
        FileNotFoundError: If it is missing.
        ImportError: If h5py is not installed.
        DataError: If it is no intact file.
    """
    h5py = library()
    with reading(path, what):
        if not Path(path).is_file():
            raise FileNotFoundError
        with h5py.File(path, "r") as file:
            yield file


def values(
    path: str | Path,
    dataset: Any,
    index: Any = (),
    *,
    what: str,
    fields: Sequence[str] | None = None,
) -> np.ndarray:
    """What a data set holds, or a part of it.

    Args:
        path: Its file.
        dataset: The h5py data set.
        index: As in indexing.
        what: The format, as a message says it.
        fields: Of a compound type only these members.

    Raises:
        DataError: If it is larger than the file could hold, or cannot be read.
    """
    key = dataset.name.lstrip("/")
    with reading(path, what, key=key):
        check_type(dataset.id.get_type())
    affordable(path, dataset.shape, dataset.dtype, f"'{key}'")
    if dataset.chunks:
        affordable(path, dataset.chunks, dataset.dtype, f"a chunk of '{key}'")
    with reading(path, what, key=key):
        return np.asarray((dataset.fields(fields) if fields else dataset)[index])


def check_type(kind: Any) -> None:
    """Refuses numbers that NumPy has no type of the same size for.

    h5py takes a wider one for them, inside a record without moving what comes behind,
    and reading then writes beyond the memory that was asked for.

    Args:
        kind: An h5py type identifier.

    Raises:
        ValueError: If there is such a number in it, however deep.
    """
    h5t = library().h5t
    if isinstance(kind, h5t.TypeCompoundID):
        for i in range(kind.get_nmembers()):
            check_type(kind.get_member_type(i))
    elif isinstance(kind, h5t.TypeArrayID | h5t.TypeVlenID):
        check_type(kind.get_super())
    elif isinstance(kind, h5t.TypeFloatID | h5t.TypeIntegerID):
        if kind.dtype.itemsize != kind.get_size():
            raise ValueError(f"numbers of {kind.get_size()} bytes and no usual form")
