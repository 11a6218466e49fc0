"""Writing prepared sets: see :mod:`medjax.data.records` for what they are.

A set is built in a hidden folder beside its place and moved there when complete: a
folder that exists is whole. What `write_records` did not write is never replaced.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medjax.data.records import FORMAT, METADATA, Field, read_metadata

SHARD = 4096  # rows of one file: 270 MB of 256 px images
CHUNK = 64  # rows handed to TFDS at once; it rewrites its JSON after every call


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
            with _onto_disk(self.folder):
                self.writer.add_examples({split: self.waiting[split]})
            self.waiting[split] = []


@contextmanager
def _onto_disk(folder: Path) -> Iterator[None]:
    """Says as Python does what the format's writer says of a disk that takes no more.

    Raises:
        OSError: It is full, or cannot be written to.
    """
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{folder}: cannot be written: {error}") from error


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
        OSError: If the disk is full, or cannot be written to.
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
        with _onto_disk(building):
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
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        # A write that fails does not say where.
        raise OSError(error.errno, error.strerror, str(folder)) from error
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
