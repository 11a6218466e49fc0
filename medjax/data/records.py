"""Prepared sets: ArrayRecord files written and described through TFDS, read by row.

A data set is turned once into rows that need no decoding work any more: a pre-resized
``uint8`` image, token ids, labels, texts. The files are ordinary TFDS files
(``tfds.builder_from_directory(folder)`` opens them), and nothing here needs TensorFlow.

Three things are done differently from a stock TFDS builder, each for a reason:

* **Writing** goes through ``tfds.core.SequentialWriter``. The shuffling writer of
  ``GeneratorBasedBuilder`` spills to disk through TensorFlow once a split passes one
  gigabyte, so a real data set could not be written without it; sequential writing also
  keeps the source order, so a row number means something.
* **Tensors are stored as raw bytes**, ragged ones without padding.
* **Reading** decodes the ``tf.train.Example`` message itself, and only the fields asked
  for: TFDS has no partial decoding without TensorFlow.

A set is built in a hidden folder beside its place and moved there when complete: a
folder that exists is whole.
"""

import io
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
from PIL import Image

from medjax.data.boundary import DataError, in_short, reading
from medjax.data.documents import fits, read_json

METADATA = "metadata.json"
FORMAT = 1
SHARD = 4096  # rows of one file: 270 MB of 256 px images
CHUNK = 64  # rows handed to TFDS at once; it rewrites its JSON after every call


@dataclass(frozen=True)
class Field:
    """What one column of a row holds.

    Attributes:
        kind: ``array`` (raw bytes), ``png`` (a grey image, losslessly compressed: about
            60 % of the disk for about a quarter of the reading rate) or ``text``.
        shape: Of an array; the first axis may be ``None`` (ragged).
        dtype: Of an array, by NumPy's name.
    """

    kind: Literal["array", "png", "text"] = "array"
    shape: tuple[int | None, ...] = ()
    dtype: str = "float32"

    def feature(self) -> Any:
        """The TFDS feature that describes this column."""
        import tensorflow_datasets as tfds

        if self.kind == "text":
            return tfds.features.Text()
        if self.kind == "png":
            return tfds.features.Image(shape=(*self.shape, 1), encoding_format="png")
        return tfds.features.Tensor(
            shape=self.shape,
            dtype=np.dtype(self.dtype),
            encoding=tfds.features.Encoding.BYTES,
        )

    def encode(self, value: Any) -> Any:
        """One value as TFDS wants it; dtype and shape are checked by TFDS."""
        if self.kind == "text":
            return value
        if self.kind == "array":
            return np.asarray(value, order="C")
        packed = io.BytesIO()
        Image.fromarray(value).save(packed, "PNG")
        return packed.getvalue()

    def decode(self, value: bytes) -> np.ndarray | str:
        """One value from the bytes of a row; arrays come back read-only."""
        if self.kind == "text":
            return value.decode()
        if self.kind == "png":
            with Image.open(io.BytesIO(value), formats=["PNG"]) as image:
                h, w = self.shape
                if (image.size, image.mode) != ((w, h), "L"):
                    raise ValueError(f"expected grey {w} x {h}, got {image}")
                return np.asarray(image)
        shape = tuple(-1 if n is None else n for n in self.shape)
        array = np.frombuffer(value, self.dtype)
        if array.size == 0 and -1 in shape:  # -1 cannot be inferred from nothing
            shape = tuple(0 if n == -1 else n for n in shape)
        return array.reshape(shape)

    @classmethod
    def of(cls, described: Sequence[Any]) -> "Field":
        """The column that ``metadata.json`` describes: kind, shape and dtype.

        Raises:
            ValueError: If it describes none.
        """
        hint = tuple[Literal["array", "png", "text"], list[int | None], str]
        if not fits(described, hint):
            raise ValueError(f"expected kind, shape and dtype, got {described!r:.80}")
        kind, shape, dtype = described
        ragged = None in shape[1:] or (None in shape and kind != "array")
        negative = any(n is not None and n < 0 for n in shape)
        if ragged or negative or (kind == "png" and len(shape) != 2):
            raise ValueError(f"no {kind} has shape {shape!r:.80}")
        if np.dtype(dtype).hasobject:
            raise ValueError(f"dtype {dtype!r:.80} is none of numbers")
        return cls(kind, tuple(shape), dtype)


@dataclass
class RecordWriter:
    """Takes rows, split by split, in any interleaving; see ``write_records``."""

    folder: Path
    writer: Any
    fields: Mapping[str, Field]
    metadata: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Append one row.

        Args:
            split: Name of the split; created at its first row.
            row: One value for every field.

        Raises:
            ValueError: If the row lacks a field or has one too many.
        """
        if row.keys() != self.fields.keys():
            raise ValueError(
                f"row has fields {sorted(row)}, expected {sorted(self.fields)}"
            )
        if split not in self.counts:
            self.writer.initialize_splits([split])
            self.counts[split], self.waiting[split] = 0, []
        encoded = {k: self.fields[k].encode(v) for k, v in row.items()}
        self.waiting[split].append(encoded)
        self.counts[split] += 1
        if len(self.waiting[split]) >= CHUNK:
            self.flush(split)

    def flush(self, split: str) -> None:
        """Hand the waiting rows of a split to TFDS."""
        if self.waiting[split]:
            self.writer.add_examples({split: self.waiting[split]})
            self.waiting[split] = []


@contextmanager
def write_records(
    folder: str | Path,
    *,
    name: str,
    fields: Mapping[str, Field],
    overwrite: bool = False,
) -> Iterator[RecordWriter]:
    """Write a set; it appears under ``folder`` only if the block ends without error.

    Args:
        folder: Where the finished set will lie.
        name: Name of the data set (lower case and underscores: TFDS puts it in the
            file names).
        fields: The columns.
        overwrite: Replace a finished set that is already there.

    Yields:
        A writer; call ``add`` for rows and put what should be remembered (counts,
        tokenizer, source) into its ``metadata``, which must be plain JSON. Further
        files go into its ``folder`` and move with the set.

    Raises:
        FileExistsError: If ``folder`` exists and ``overwrite`` is false, or if it is
            not a set that this function wrote.
        ValueError: If no row was added.
    """
    import tensorflow_datasets as tfds

    folder = Path(folder).absolute()
    if is_occupied(folder):
        if not overwrite:
            raise FileExistsError(
                f"{folder} already exists; overwrite=True replaces it"
            )
        check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = _fresh_build_folder(folder)
    try:
        info = tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(
                name=name,
                version=tfds.core.Version("1.0.0"),
                data_dir=str(building),
                module_name="medjax",
            ),
            features=tfds.features.FeaturesDict(
                {k: f.feature() for k, f in fields.items()}
            ),
        )
        writer = RecordWriter(
            building,
            tfds.core.SequentialWriter(
                info, max_examples_per_shard=SHARD, file_format="array_record"
            ),
            fields,
        )
        yield writer
        if not writer.counts:
            raise ValueError(f"{name}: no row was added, nothing to write")
        for split in writer.counts:
            writer.flush(split)
        writer.writer.close_all()
        description = {
            "format": FORMAT,
            "name": name,
            "fields": {k: [f.kind, list(f.shape), f.dtype] for k, f in fields.items()},
            "splits": writer.counts,
            "files": sorted(path.name for path in building.iterdir()),
            **writer.metadata,
        }
        (building / METADATA).write_text(json.dumps(description, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def is_occupied(folder: Path) -> bool:
    """Whether something lies at a place for a set; an empty folder is free."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def check_replaceable(folder: Path) -> None:
    """Refuses to replace what `write_records` did not write.

    Raises:
        FileExistsError: It is no prepared set, or holds more than one.
    """
    if not (folder / METADATA).is_file():
        raise FileExistsError(
            f"{folder} is not a prepared set: it is not replaced, choose another folder"
        )
    # Sets of earlier versions do not say which files are theirs.
    ours = read_metadata(folder).get("files")
    found = sorted(path.name for path in folder.iterdir())
    strange = [name for name in found if ours and name not in (METADATA, *ours)]
    if strange:
        raise FileExistsError(
            f"{folder} holds what is not of the prepared set in it ({strange[:3]}): it "
            "is not replaced, choose another folder"
        )


def _fresh_build_folder(folder: Path) -> Path:
    """A hidden folder of this process beside ``folder``; sweeps those of dead ones."""
    stem = f".{folder.name}.incomplete.{socket.gethostname()}."
    for left in folder.parent.glob(f"{stem}*"):
        pid = left.name.removeprefix(stem)
        if pid.isdigit() and (int(pid) == os.getpid() or not _is_running(int(pid))):
            shutil.rmtree(left)
    building = folder.parent / f"{stem}{os.getpid()}"
    building.mkdir()
    return building


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """What a prepared set says of itself: fields, split sizes, and how it was made.

    Args:
        folder: A folder that ``write_records`` finished.

    Raises:
        DataError: If this is not a prepared set, or one of another format version.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        found = sorted(p.name for p in Path(folder).glob("*"))[:5]
        raise DataError(
            f"folder: {folder} is not a prepared set: expected {METADATA} in it, found "
            f"{found or 'nothing'}"
        )
    metadata = read_json(path, "description of a prepared set")
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"folder: {path} has format {metadata.get('format')!r:.80}, this version "
            f"reads format {FORMAT}: prepare it again"
        )
    described(metadata, "name", str, folder)
    counts = described(metadata, "splits", dict[str, int], folder)
    if min(counts.values(), default=0) < 0:
        raise DataError(f"{path}: 'splits' has a negative number of rows")
    columns = described(metadata, "fields", dict[str, list], folder)
    for name, column in columns.items():
        with reading(path, "description of a column", key=name):
            Field.of(column)
    return metadata


def described(
    metadata: Mapping[str, Any], key: str, kind: Any, folder: str | Path
) -> Any:
    """One thing that a prepared set says of itself, of the type that it must have.

    Args:
        metadata: From ``read_metadata``.
        key: Its name.
        kind: Its type, as :func:`medjax.data.documents.fits` understands them.
        folder: The set, for messages.

    Raises:
        DataError: If it is absent or of another type.
    """
    if not fits(metadata.get(key), kind):
        wanted = kind.__name__ if type(kind) is type else kind
        raise DataError(f"{Path(folder) / METADATA}: expected {wanted} as {key!r}")
    return metadata[key]


class RecordSource:
    """Random access to one split of a prepared set: a grain data source.

    ``source[i]`` is a dictionary of the chosen fields. The object may be sent to
    another process (it reopens its files there).
    """

    def __init__(
        self, folder: str | Path, split: str, *, fields: Sequence[str] | None = None
    ) -> None:
        """Open a split.

        Args:
            folder: A folder that ``write_records`` finished.
            split: Its name.
            fields: Which columns to decode; ``None`` is all. Fewer is faster.

        Raises:
            DataError: If the folder is no prepared set, is damaged, or has no such
                split or field.
        """
        self.metadata = read_metadata(folder)
        if split not in self.metadata["splits"]:
            raise DataError(
                f"split: {folder} has no {split!r}, "
                f"only {in_short(self.metadata['splits'])}"
            )
        known = {k: Field.of(v) for k, v in self.metadata["fields"].items()}
        missing = [f for f in fields or () if f not in known]
        if missing:
            raise DataError(
                f"fields: {folder} has no {missing}, only {in_short(known)}"
            )
        self.fields = {k: known[k] for k in (known if fields is None else fields)}
        self.folder, self.split = Path(folder), split
        self._open()

    def _open(self) -> None:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        with reading(self.folder, "prepared set", key=self.split):
            try:
                builder = tfds.builder_from_directory(self.folder)
            except ImportError as error:  # features that only TensorFlow reads
                raise DataError(
                    f"{self.folder}: features.json is not what was written here"
                ) from error
            self._raw = builder.as_data_source(
                self.split,  # pyright: ignore[reportCallIssue]
                deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
            )
            # Said here, and not as an IndexError in the midst of a run.
            if (held := len(self._raw)) != len(self):
                raise ValueError(f"{held} rows, {METADATA} says {len(self)}")
            split = builder.info.splits[self.split]
            files = [path.name for path in split.filepaths]
            self._shards = files, np.cumsum(split.shard_lengths)
        self._parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]

    def __getstate__(self) -> dict[str, Any]:
        return {
            k: v
            for k, v in self.__dict__.items()
            if k not in ("_raw", "_parse", "_shards")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        return f"RecordSource({self.metadata['name']}, {self.split}, {len(self)} rows)"

    def __len__(self) -> int:
        return self.metadata["splits"][self.split]

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        try:
            found = self._parse(self._raw[row]).features.feature
            return {
                k: f.decode(found[k].bytes_list.value[0])
                for k, f in self.fields.items()
            }
        except Exception as error:
            if not -len(self) <= row.__index__() < len(self):
                raise IndexError(f"{self.folder}: no row {row} in {self!r}") from None
            names, ends = self._shards
            shard = names[np.searchsorted(ends, row.__index__() % len(self), "right")]
            with reading(self.folder / shard, f"shard: row {row}"):
                raise error
