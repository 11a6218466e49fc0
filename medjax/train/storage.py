"""A run's folder: on a file system, or ``gs://`` on an object store.

An object store has no rename and no append, and what was written is whole or absent. So
what grows (rows of metrics, events) grows in a local folder and is copied at intervals
and at the end; everything else is written at once, in place. Checkpoints are orbax's
work, which knows file systems and Google's store; others are refused here, and reached
by a copy (:mod:`medjax.train.mirror`).

Of an experiment whose run is on an object store the rest (towers, pages, prepared data)
is written in a folder of this machine, and copied there when the run ends.
"""

import logging
import os
import re
import tempfile
import threading
from pathlib import Path

from etils import epath

logger = logging.getLogger(__name__)

Folder = Path | epath.Path
"""A `pathlib.Path` on a file system, an `epath.Path` on an object store."""

LOCAL = "~/.cache/medjax/runs"
"""Where the folders of such runs are on this machine."""
LOGS = ("config.json", "metrics.jsonl", "time.json")
"""What a page of a run is made of, beside its scores."""
EVERY = 60.0
"""Seconds between two copies of what grows."""


def split_address(text: str) -> tuple[str, str] | None:
    """Scheme and rest of an address; None: it is a path.

    Args:
      text: One that went through `pathlib` and lost a slash (``gs:/bucket/run``) is an
        address still.
    """
    found = re.fullmatch(r"([a-z][a-z0-9+]+):/+(.*)", text)
    return None if found is None else (found[1], found[2])


def run_folder(workdir: str | os.PathLike[str]) -> Folder:
    """The folder that a flag names.

    Args:
      workdir: A path, or an address.

    Raises:
      ValueError: If checkpoints cannot be written there.
    """
    text = os.fspath(workdir)
    address = split_address(text)
    if address is None:
        return Path(text)
    scheme, rest = address
    if scheme != "gs" or not rest:
        raise ValueError(
            f"workdir: {scheme}://{rest}: expected a folder or gs://bucket/folder: "
            "checkpoints cannot be written elsewhere; name a folder, and --mirror for "
            "a copy of it on another store"
        )
    return epath.Path(f"gs://{rest}")


def is_remote(folder: Folder) -> bool:
    """Whether a folder is on an object store."""
    return isinstance(folder, epath.Path) and "://" in os.fspath(folder)


def local_folder(address: Folder) -> Path:
    """The folder of this machine for what is no checkpoint and no log of a run."""
    below = os.fspath(address).removeprefix("gs://")
    return Path(LOCAL).expanduser() / below


def bring_logs(stored: Folder, folder: Path) -> None:
    """Copies the logs of a run from where they are stored into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LOGS:
        if (stored / name).exists():
            (folder / name).write_bytes((stored / name).read_bytes())


def keep_rest(folder: Path, stored: Folder) -> None:
    """Copies what a run left in a folder to where its checkpoints are stored.

    Logs are there already; prepared data (folders with a ``metadata.json``) can be made
    again, and a lock is of this machine.
    """
    prepared = {path.parent for path in folder.rglob("metadata.json")}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in LOGS and not prepared & {*path.parents}:
            (stored / name).write_bytes(path.read_bytes())


class Growing:
    """Files that grow: in the run's folder, or beside it where it is remote.

    Args:
      folder: Of the run.
      names: Files to go on with, where they are there.

    Attributes:
      local: The folder to write in.
    """

    def __init__(self, folder: Folder, names: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._sizes: dict[Path, int] = {}
        self._thread: threading.Thread | None = None
        if not is_remote(folder):
            self.local = Path(folder)
            return
        self._temporary = tempfile.TemporaryDirectory(prefix="medjax-run-")
        self.local = Path(self._temporary.name)
        for name in names:
            if (folder / name).exists():
                (self.local / name).write_bytes((folder / name).read_bytes())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._copy, name="copy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Copies what has grown since, where the folder is remote."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self._copy_changed()
        self._temporary.cleanup()

    def _copy(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self._copy_changed()
            except OSError as error:  # tried again, and at the end for good
                logger.warning("%s: %s", self._folder, error)

    def _copy_changed(self) -> None:
        for file in sorted(path for path in self.local.rglob("*") if path.is_file()):
            content = file.read_bytes()
            if self._sizes.get(file) != len(content):
                target = self._folder / file.relative_to(self.local).as_posix()
                target.write_bytes(content)
                self._sizes[file] = len(content)
