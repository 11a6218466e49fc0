"""HDF5 files, read so that damage ends with an error and not with the process.

Three formats of k-space are HDF5 inside. They share what its library lacks: messages
with the file's name, sizes that are believed only as far as the file could hold them,
and an end. Variable-length values (texts, ISMRMRD's readouts) lie in global heaps, and
where an entry of a heap is zeroed, HDF5 to 2.0 walks in place for ever; nothing can
interrupt it, so heaps are looked at first.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.data.boundary import DataError, affordable, reading

HEAP = b"GCOL\x01\0\0\0"
"""Signature, version and reserved bytes of a global heap collection."""
Span = tuple[int, int]


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
    affordable(path, dataset.shape, dataset.dtype, f"'{key}'")
    if dataset.chunks:
        affordable(path, dataset.chunks, dataset.dtype, f"a chunk of '{key}'")
    with reading(path, what, key=key):
        return np.asarray((dataset.fields(fields) if fields else dataset)[index])


def check_heaps(path: str | Path, file: Any, *, skip: Sequence[str] = ()) -> None:
    """Refuses a file with a global heap that HDF5 would never come back from.

    Args:
        path: The file.
        file: The same, open.
        skip: Data sets of numbers, in which no heap can lie: they are not searched.

    Raises:
        DataError: If an entry of a heap is zeroed.
    """
    held = os.path.getsize(path)
    spans = [(0, 0), *sorted(s for k in skip for s in _spans(file, k)), (held, held)]
    with (
        Path(path).open("rb") as raw,
        mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for (_, start), (stop, _) in zip(spans[:-1], spans[1:], strict=True):
            place = data.find(HEAP, start, min(stop, held))
            while place >= 0:
                if _endless(data, place):
                    raise DataError(
                        f"{path}: not an intact HDF5 file (the heap at byte {place} "
                        "has a zeroed entry)"
                    )
                place = data.find(HEAP, place + 1, min(stop, held))


def _spans(file: Any, key: str) -> Iterator[Span]:
    """First byte, and first byte behind, of every piece of a data set."""
    if key not in file or file[key].id.get_storage_size() == 0:
        return
    stored, base = file[key].id, file.userblock_size
    if file[key].chunks:
        for i in range(stored.get_num_chunks()):
            chunk = stored.get_chunk_info(i)
            start = base + chunk.byte_offset
            yield start, start + chunk.size
    elif (offset := stored.get_offset()) is not None:
        yield base + offset, base + offset + stored.get_storage_size()


def _endless(data: mmap.mmap, place: int) -> bool:
    """Whether walking a collection from entry to entry would stop moving.

    An entry is a 2-byte number, 6 bytes of counts, an 8-byte size and the value, padded
    to 8 bytes; number 0 is free space, whose size counts its own header. The library
    counts in 64 bits: padding wraps the largest sizes to nothing, and it walks on.
    """
    end = place + int.from_bytes(data[place + 8 : place + 16], "little")
    at = place + 16
    while at + 16 <= min(end, len(data)):
        number = int.from_bytes(data[at : at + 2], "little")
        size = int.from_bytes(data[at + 8 : at + 16], "little")
        step = size if number == 0 else (16 + (size + 7) // 8 * 8) % 2**64
        if step == 0:
            return True
        at += step
    return False
