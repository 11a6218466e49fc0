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

:mod:`medjax.data.record_writer` writes them; here they are read.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
from PIL import Image

from medjax.data.boundary import DataError, in_short, reading
from medjax.data.documents import fits, read_json

METADATA = "metadata.json"
FORMAT = 1


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
