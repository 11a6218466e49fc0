"""Global heaps of HDF5 files, looked at before HDF5's library does.

Values of variable length (texts, ISMRMRD's readouts) lie in collections of entries, and
a data set or attribute holds references: how many elements, which collection, which
entry. HDF5 to 2.0 believes both. Where an entry is zeroed it walks in place for ever,
and where an entry is larger than its reference says it writes behind the memory that it
asked for: neither ends in an error that could be caught.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.data.boundary import DataError
from medjax.data.hdf5 import library

COLLECTION = b"GCOL\x01\0\0\0"
"""Signature, version and reserved bytes of a collection."""
REFERENCE = np.dtype([("elements", "<u4"), ("address", "<u8"), ("entry", "<u4")])
"""A value of variable length in its place, of files with 8-byte addresses."""
Span = tuple[int, int]
Heaps = dict[int, dict[int, int]]
"""Addresses of collections, and bytes of their entries by number."""


def check_heaps(
    path: str | Path,
    file: Any,
    *,
    values: Sequence[str] = (),
    texts: bool = False,
    numbers: Sequence[str] = (),
) -> None:
    """Refuses a file with a global heap that HDF5 would not come back from.

    Args:
        path: The file.
        file: The same, open.
        values: Data sets that hold references. Compressed ones are not looked into:
            their check sums are.
        texts: Attributes that are texts will be read, too.
        numbers: Data sets in which no heap and no reference lies: not searched.

    Raises:
        DataError: If an entry is zeroed, or is not of the size that is referred to.
    """
    held = os.path.getsize(path)
    known = sorted(span for key in numbers for span in _spans(file, key))
    starts, stops = zip((0, 0), *known, (held, held), strict=True)
    gaps = list(zip(stops[:-1], starts[1:], strict=True))
    base = file.userblock_size
    with (
        Path(path).open("rb") as raw,
        mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        heaps: Heaps = {}
        for place in _find(data, COLLECTION, gaps):
            heaps[place - base] = _entries(path, data, place)
        for key in values:
            if key in file:
                for element, found in _references(data, file, key):
                    _check_sizes(path, heaps, found, element)
        if texts:
            for address in heaps:
                for place in _find(data, address.to_bytes(8, "little"), gaps):
                    found = data[place - 4 : place + 12]
                    if len(found) == REFERENCE.itemsize:
                        _check_sizes(path, heaps, np.frombuffer(found, REFERENCE), 1)


def _find(data: mmap.mmap, what: bytes, gaps: Sequence[Span]) -> Iterator[int]:
    for start, stop in gaps:
        place = data.find(what, start, stop)
        while place >= 0:
            yield place
            place = data.find(what, place + 1, stop)


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


def _entries(path: str | Path, data: mmap.mmap, place: int) -> dict[int, int]:
    """Bytes of every entry of a collection.

    An entry is a 2-byte number, 6 bytes of counts, an 8-byte size and the value, padded
    to 8 bytes; number 0 is free space, whose size counts its own header. The library
    counts in 64 bits: padding wraps the largest sizes to nothing, and it walks on.
    """
    end = place + int.from_bytes(data[place + 8 : place + 16], "little")
    at, sizes = place + 16, {}
    while at + 16 <= min(end, len(data)):
        number = int.from_bytes(data[at : at + 2], "little")
        size = int.from_bytes(data[at + 8 : at + 16], "little")
        step = size if number == 0 else (16 + (size + 7) // 8 * 8) % 2**64
        if step == 0:
            raise _damaged(path, f"the heap at byte {place} has a zeroed entry")
        if number:
            sizes[number] = size
        at += step
    return sizes


def _references(
    data: mmap.mmap, file: Any, key: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Bytes of an element, and all references, of every such part of a data set."""
    h5t = library().h5t
    stored = file[key].id
    if stored.get_create_plist().get_nfilters():
        return
    kind = stored.get_type()
    parts, row = [(0, kind)], REFERENCE.itemsize
    if isinstance(kind, h5t.TypeCompoundID):
        members = range(kind.get_nmembers())
        parts = [(kind.get_member_offset(i), kind.get_member_type(i)) for i in members]
        row = kind.get_size()
    for offset, part in parts:
        if isinstance(part, h5t.TypeVlenID):
            element = part.get_super().get_size()
        elif isinstance(part, h5t.TypeStringID) and part.is_variable_str():
            element = 1
        else:
            continue
        at = np.dtype(
            {
                "names": ["reference"],
                "formats": [REFERENCE],
                "offsets": [offset],
                "itemsize": row,
            }
        )
        for start, stop in _spans(file, key):
            whole = (min(stop, len(data)) - start) // row
            yield (
                element,
                np.frombuffer(data[start : start + whole * row], at)["reference"],
            )


def _check_sizes(
    path: str | Path, heaps: Heaps, references: np.ndarray, element: int
) -> None:
    for elements, address, entry in references.tolist():
        size = heaps.get(address, {}).get(entry, 0)
        if elements and size != elements * element:
            raise _damaged(
                path,
                f"{elements} elements of {element} bytes are said to be entry {entry} "
                f"of the heap at byte {address}, which has {size} bytes",
            )


def _damaged(path: str | Path, why: str) -> DataError:
    return DataError(f"{path}: not an intact HDF5 file ({why})")
