"""Damage inside a compression or a container, which stays valid around it.

A flipped bit of a gzip file is found by its checksum: what a reader does with damaged
*content* is only seen if the content is damaged first and packed again.
"""

import gzip
import io
import json
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.mutation import mutators as m


def _pick(mutators: Sequence[m.Mutator], rng: np.random.Generator) -> m.Mutator:
    return mutators[int(rng.integers(len(mutators)))]


def in_gzip(*mutators: m.Mutator) -> m.Mutator:
    """The unpacked content is damaged and packed again."""

    def inside_gzip(data: bytes, rng: np.random.Generator) -> bytes:
        return gzip.compress(_pick(mutators, rng)(gzip.decompress(data), rng), mtime=0)

    return inside_gzip


def gzip_bomb(data: bytes, rng: np.random.Generator) -> bytes:
    """A hundred kilobytes that unpack to many megabytes of zeros behind the content."""
    return gzip.compress(gzip.decompress(data) + bytes(200 << 20), 1, mtime=0)


def in_tar(*mutators: m.Mutator) -> m.Mutator:
    """A member of a gzipped tar archive is damaged, or the archive inside the gzip."""

    def inside_tar(data: bytes, rng: np.random.Generator) -> bytes:
        raw = gzip.decompress(data)
        if rng.random() < 0.4:
            return gzip.compress(_pick(m.BYTES, rng)(raw, rng), mtime=0)
        packed = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(raw)) as old:
            members = [one for one in old.getmembers() if one.isfile()]
            chosen = members[int(rng.integers(len(members)))]
            with tarfile.open(fileobj=packed, mode="w") as new:
                for one in members:
                    file = old.extractfile(one)
                    content = file.read() if file else b""
                    if one is chosen:
                        content = _pick(mutators, rng)(content, rng)
                        one.size = len(content)
                    new.addfile(one, io.BytesIO(content))
        return gzip.compress(packed.getvalue(), mtime=0)

    return inside_tar


def in_zip(*mutators: m.Mutator) -> m.Mutator:
    """A member of a zip archive is damaged; its checksum fits."""

    def inside_zip(data: bytes, rng: np.random.Generator) -> bytes:
        packed = io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(data)) as old,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            names = old.namelist()
            chosen = names[int(rng.integers(len(names)))]
            for name in names:
                content = old.read(name)
                if name == chosen:
                    content = _pick(mutators, rng)(content, rng)
                new.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return packed.getvalue()

    return inside_zip


def in_png(data: bytes, rng: np.random.Generator) -> bytes:
    """A chunk of a PNG is damaged (pixels before their compression); checksums fit."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which = int(rng.integers(len(chunks)))
    kind, content = chunks[which]
    if kind == b"IDAT":
        content = zlib.compress(_pick(m.BYTES, rng)(zlib.decompress(content), rng))
    else:
        content = _pick(m.BYTES, rng)(content, rng)
    chunks[which] = kind, content
    packed = data[:8]
    for kind, content in chunks:
        check = zlib.crc32(kind + content)
        packed += struct.pack(">I", len(content)) + kind + content
        packed += struct.pack(">I", check)
    return packed


def in_safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """The JSON header says something else, or numbers do; the length before it fits."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.3:
        words = np.frombuffer(body[: len(body) // 4 * 4], "<f4").copy()
        if words.size:
            values = [np.nan, np.inf, 3e38]
            words[int(rng.integers(words.size))] = values[int(rng.integers(3))]
        return data[: 8 + size] + words.tobytes() + body[words.nbytes :]
    header = _pick(m.JSON, rng)(header, rng)
    return struct.pack("<Q", len(header)) + header + body


def in_hdf5(data: bytes, rng: np.random.Generator) -> bytes:
    """Valid HDF5 that holds something else: types, ranks, links, chunks, numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.h5"
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            _restructure(file, names[int(rng.integers(len(names)))], rng)
        return path.read_bytes()


def _restructure(file: Any, name: str, rng: np.random.Generator) -> None:
    node = file[name]
    attributes = dict(node.attrs)
    if not isinstance(node, h5py.Dataset) or rng.random() < 0.15:
        del file[name]
        kinds = (
            lambda: None,
            lambda: file.__setitem__(name, h5py.SoftLink("/nowhere")),
            lambda: file.__setitem__(name, h5py.ExternalLink("absent.h5", "/x")),
            lambda: file.create_group(name),
            lambda: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
        )
        kinds[int(rng.integers(len(kinds)))]()
        return
    value = node[()]
    if rng.random() < 0.1:
        key = ("max", "MATLAB_class", "MATLAB_int_decode")[int(rng.integers(3))]
        values = (np.nan, "text", b"cell", b"\xff", np.arange(3.0), h5py.Empty("f4"))
        node.attrs[key] = values[int(rng.integers(len(values)))]
        return
    del file[name]
    new = _other_content(file, name, np.asarray(value), rng)
    for key, kept in attributes.items():
        new.attrs[key] = kept


def _other_content(
    file: Any, name: str, value: np.ndarray, rng: np.random.Generator
) -> Any:
    create = file.create_dataset
    plain = value.dtype.names is None and value.dtype.kind in "biufc"
    match int(rng.integers(13)):
        case 0:
            return create(name, shape=(2**40, 7), dtype=value.dtype, chunks=(1, 7))
        case 1:
            return create(name, shape=(0, *value.shape[1:]), dtype=value.dtype)
        case 2:
            return create(name, data=value[None])
        case 3:
            return create(name, data=value.reshape(-1)[: max(1, value.size // 2)])
        case 4:
            return create(name, data=h5py.Empty("f4"))
        case 5:
            return create(name, data="text")
        case 6:
            return create(name, data=np.arange(6.0).reshape(2, 3))
        case 7:
            return create(name, data=[b"\xff\xfe", b"a"], dtype=h5py.string_dtype())
        case 8 if value.ndim and value.size and value.dtype.kind != "O":
            new = create(name, data=value, chunks=value.shape, compression=4)
            new.id.write_direct_chunk((0,) * value.ndim, rng.bytes(40))
            return new
        case 9 if plain:
            return create(name, data=value.astype(rng.choice(["i1", "f2", "f8", "?"])))
        case 10:
            odd = np.zeros(value.shape, [("real", "i2"), ("imag", "f8")])
            return create(name, data=odd)
        case 11:
            return create(name, shape=(1, *value.shape), dtype=h5py.ref_dtype)
        case _:
            return create(name, data=_with_nan(value, rng))


def _with_nan(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One number is not one, in whatever field there is a floating point number."""
    changed = np.array(value)
    if changed.dtype.names:
        for field in changed.dtype.names:
            if changed.dtype[field].kind == "f" or changed.dtype[field].names:
                changed[field] = _with_nan(changed[field], rng)
            elif changed.dtype[field].kind == "O" and changed.size:
                row = int(rng.integers(changed.size))
                inner = np.array(changed[field].flat[row])
                if inner.size and inner.dtype.kind == "f":
                    inner[int(rng.integers(inner.size))] = np.nan
                changed[field].flat[row] = inner
            elif changed.dtype[field].kind in "iu" and rng.random() < 0.2:
                changed[field] = np.iinfo(changed.dtype[field]).max
    elif changed.dtype.kind in "fc" and changed.size:
        changed.flat[int(rng.integers(changed.size))] = rng.choice([np.nan, np.inf])
    return changed


def in_shard(data: bytes, rng: np.random.Generator) -> bytes:
    """A row of an ArrayRecord shard is damaged; the shard's own checksums fit."""
    from array_record.python import array_record_module as shards

    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "old.array_record", Path(folder) / "new.array_record"
        old.write_bytes(data)
        reader = shards.ArrayRecordReader(str(old))
        rows = list(reader.read_all())
        reader.close()
        which = int(rng.integers(len(rows)))
        if rng.random() < 0.1:
            del rows[which]
        else:
            rows[which] = _pick(m.BYTES, rng)(rows[which], rng)
        writer = shards.ArrayRecordWriter(str(new), "group_size:1")
        for row in rows:
            writer.write(row)
        writer.close()
        return new.read_bytes()


def in_json_string(*mutators: m.Mutator) -> m.Mutator:
    """For checkpoints' metadata: JSON documents kept as strings inside JSON."""

    def inside_json(data: bytes, rng: np.random.Generator) -> bytes:
        tree = json.loads(data)
        keys = [k for k, v in tree.items() if isinstance(v, str) and v[:1] in "{["]
        if not keys:
            return m.retyped(data, rng)
        key = keys[int(rng.integers(len(keys)))]
        inner = _pick(mutators, rng)(tree[key].encode(), rng)
        tree[key] = inner.decode("utf-8", "replace")
        return json.dumps(tree).encode()

    return inside_json
