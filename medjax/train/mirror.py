"""A run's folder, kept on an object store as well: the disk may go with its machine.

``--mirror s3://bucket/run`` names a copy: what is new in the run's folder is copied
there by a thread, and a folder that has nothing yet is brought back from there before
the run begins. Stores are those that fsspec knows: ``s3://``, ``gs://``, ``az://``.

``COMMIT`` is written last, and names all files that belong together
(:mod:`medjax.train.copies`). It also has a mark of its own, which the folder keeps: by
that two runs that copy to one address, or a folder that has fallen behind, are found
out.

A file that changed in place is copied before the ``COMMIT`` that counts it. After a
crash in between the copy has it newer than the rest, as the folder itself would.
"""

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medjax.data.documents import fits
from medjax.data.whole import whole
from medjax.progress import Progress
from medjax.train import lock
from medjax.train.agree import on_first
from medjax.train.copies import COMMIT, Commit, Copy, MirrorError
from medjax.train.storage import is_remote, run_folder

logger = logging.getLogger(__name__)

KEPT = "mirror.json"
"""File of the run's folder with the mark that it goes on from."""
EVERY = 60.0
"""Seconds between two looks at what is new."""
PAUSE = 2.0
"""Seconds until a copy that failed is tried again, doubled each time."""
TRIES = 6
"""Failures in a row after which the run ends, rather than go on without a copy."""
TOGETHER = 64
"""Files that travel at once."""


@contextlib.contextmanager
def mirrored(workdir: str | os.PathLike[str], address: str | None) -> Iterator[None]:
    """Keeps a copy of a run's folder while it is entered; all processes have to enter.

    Leaving it copies what is new, whatever ended the run.

    Args:
      workdir: Folder of the run, on a disk that its processes share.
      address: Of the copy, as ``s3://bucket/run``; None: there is none.

    Raises:
      MirrorError: The copy cannot be read or written, is another run's, or has been
        gone on with from elsewhere.
      ValueError: The address is none of a store, or the workdir is on one.
      ImportError: What speaks to this kind of store is not installed.
    """
    if address is None:
        yield
        return
    folder = run_folder(workdir)
    if is_remote(folder):
        raise ValueError(
            f"mirror: {address}: expected a workdir on a disk, not {folder}"
        )
    with lock.hold(folder) as held:
        copies: list[Mirror] = []

        def bring() -> None:
            mirror = Mirror(Path(folder), address)
            mirror.bring()
            mirror.start()
            copies.append(mirror)

        on_first(bring, what=f"copy at {address}")
        with held.also(*(copy.check for copy in copies)):
            try:
                yield
            except BaseException:
                for copy in copies:
                    copy.close(fails=False)
                raise
            for copy in copies:
                copy.close()


class Mirror:
    """The copy of one folder, for one process.

    Args:
      folder: Of the run.
      address: Of the copy.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self._folder, self._copy = folder, Copy(address)
        self._address = self._copy.address
        self._last = self._meant = Commit("", {})
        self._failures = 0
        self._lost: MirrorError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="mirror", daemon=True)

    def bring(self) -> None:
        """Makes sure that folder and copy are of one run; fills an empty folder.

        Raises:
          MirrorError: They are not, or the store does not answer.
        """
        found = self._copy.commit()
        kept, here = self._kept(), self._here()
        if found is None:
            self._claim()
            return
        if kept is None and here:
            raise MirrorError(
                f"mirror: {self._address} holds a run, and so does {self._folder}, "
                "which was never copied there: name an empty folder to go on from the "
                "copy, or another address"
            )
        if kept is not None and kept["address"] != self._address:
            raise MirrorError(
                f"mirror: {self._folder} is copied to {kept['address']}, and "
                f"{self._address} holds a run already: name the first, or an address "
                "where nothing is"
            )
        if kept is not None and found.mark not in kept["marks"]:
            raise MirrorError(
                f"mirror: {self._folder} was not the last to be copied to "
                f"{self._address}: name an empty folder to go on from the copy, or "
                "another address"
            )
        if kept is None or kept["bringing"]:
            self._fetch(found)
        self._last = self._meant = found
        self._clear_unfinished()

    def start(self) -> None:
        """Begins to copy what is new."""
        self._thread.start()

    def check(self) -> None:
        """Refuses to go on where nothing is copied any more.

        Raises:
          MirrorError: What kept failing, or that another run writes there.
        """
        if self._lost is not None:
            raise self._lost

    def close(self, *, fails: bool = True) -> None:
        """Copies what is new, and ends.

        Args:
          fails: Whether a copy that is not whole is an error; else it is told.

        Raises:
          MirrorError: It could not be copied.
        """
        self._stop.set()
        self._thread.join()
        while self._lost is None and not self._tried():
            time.sleep(PAUSE * 2**self._failures)
        if self._lost is None:
            return
        if fails:
            raise self._lost
        logger.error("%s", self._lost)

    def _keep(self) -> None:
        wait = EVERY
        while self._lost is None and not self._stop.wait(wait):
            wait = EVERY if self._tried() else min(EVERY, PAUSE * 2**self._failures)

    def _tried(self) -> bool:
        """Whether all that is new is copied; failures are counted."""
        try:
            self._renew()
        except _Foreign as error:
            self._lost = MirrorError(str(error))
        except OSError as error:
            self._failures += 1
            logger.warning("%s (try %d of %d)", error, self._failures, TRIES)
            if self._failures >= TRIES:
                self._lost = MirrorError(str(error))
        else:
            self._failures = 0
            return True
        return False

    def _renew(self) -> None:
        """Copies what is new, then says so.

        Raises:
          MirrorError: The store does not answer.
          _Foreign: Another run writes there, or nothing is there any more.
        """
        standing = self._copy.commit()
        if standing is not None and standing.mark == self._meant.mark:
            # Written after all, where the answer to it was lost.
            self._last = self._meant
        while True:
            files = self._here()
            if files == self._last.files:
                return
            whole_still = self._sent(files)
            # An old checkpoint may have gone: what is left of it is not one.
            if whole_still and files.keys() <= self._here().keys():
                break
        standing = self._copy.commit()
        if standing is None:
            raise _Foreign(f"mirror: what was at {self._address} has vanished")
        if standing.mark != self._last.mark:
            raise _Foreign(
                f"mirror: another run copies to {self._address} by now; this one ends"
            )
        self._say(Commit(uuid.uuid4().hex, files))

    def _sent(self, files: dict[str, tuple[int, int]]) -> bool:
        """Whether all that is new of some files could be copied: some may be gone.

        Raises:
          MirrorError: The store does not answer.
        """
        new = [n for n, was in files.items() if self._last.files.get(n) != was]
        for some in _in_turn(new):
            try:
                self._copy.put(self._folder, some)
            except MirrorError:
                if all((self._folder / name).exists() for name in some):
                    raise
                return False
        return True

    def _say(self, commit: Commit) -> None:
        """Writes a COMMIT, and takes away what it does not name any more."""
        gone = sorted(self._last.files.keys() - commit.files.keys())
        # The folder knows both marks: a crash in between leaves either in the copy.
        self._note([self._last.mark, commit.mark])
        self._meant = commit
        self._copy.say(commit)
        self._last = commit
        self._copy.remove(gone)

    def _claim(self) -> None:
        """Takes an address where nothing is.

        Raises:
          MirrorError: Something is.
        """
        there = self._copy.found()
        if there:
            raise MirrorError(
                f"mirror: {self._address} holds {len(there)} objects ({there[0]}), and "
                f"no {COMMIT} of a run: name an address where nothing is"
            )
        self._say(Commit(uuid.uuid4().hex, {}))

    def _fetch(self, commit: Commit) -> None:
        """Brings all files of a copy.

        Raises:
          MirrorError: One is not there.
        """
        self._note([commit.mark], bringing=True)
        names = sorted(commit.files)
        with Progress(f"from {self._address}", len(names), "files") as progress:
            for some in _in_turn(names):
                changed = [commit.files[name][1] for name in some]
                self._copy.bring(some, self._folder, changed=changed)
                progress.advance(len(some))
        self._note([commit.mark])
        logger.info(
            "%d files of %s brought from %s", len(names), self._folder, self._address
        )

    def _clear_unfinished(self) -> None:
        """Takes away what a crash left of a checkpoint that no COMMIT names."""
        there = self._copy.found("checkpoints")
        self._copy.remove([name for name in there if name not in self._last.files])

    def _here(self) -> dict[str, tuple[int, int]]:
        """Files of the folder that are whole: size and time of change."""
        files = {}
        for folder, folders, names in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not _passing(name))
            for name in names:
                path = Path(folder, name)
                if _passing(name) or name in (lock.NAME, KEPT):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    told = path.stat()
                    relative = path.relative_to(self._folder).as_posix()
                    files[relative] = (told.st_size, told.st_mtime_ns)
        return files

    def _kept(self) -> dict[str, Any] | None:
        """What the folder knows of its copy."""
        try:
            kept = json.loads((self._folder / KEPT).read_text())
        except (OSError, ValueError):
            return None
        shape = {"address": str, "marks": list[str], "bringing": bool}
        ok = isinstance(kept, dict) and all(
            fits(kept.get(name), kind) for name, kind in shape.items()
        )
        return kept if ok else None

    def _note(self, marks: list[str], *, bringing: bool = False) -> None:
        kept = {"address": self._address, "marks": marks, "bringing": bringing}
        with whole(self._folder / KEPT) as draft:
            draft.write_text(json.dumps(kept) + "\n")


class _Foreign(Exception):
    """Another run writes to the copy."""


def _passing(name: str) -> bool:
    """Whether a file or folder is a draft, which will have another name."""
    return name.startswith(".") or ".orbax-checkpoint-tmp" in name


def _in_turn(names: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(names), TOGETHER):
        yield names[first : first + TOGETHER]
