"""Prepared sets on an object store: fetched once per machine, uploaded when whole.

Readers of ArrayRecord want files with random access, and a shuffled epoch asks for rows
in any order, a process of a pod for any row: over a network that is a request per row,
at tens of milliseconds each. So the whole set is brought to a folder of the machine
before a run begins, and read from there at the speed of its disk. That costs its size
in room on every machine and the time of one download (14 GB at 200 MB/s: 70 s), once:
the folder is kept, and is found again by the address and the mark that the store's
``COMMIT`` has (:mod:`medjax.train.copies`); a set that is written anew has another.

Whole files are kept when a download is cut, and the next start fetches the others; when
all are there, their contents are held to the hash that the mark is. The processes of a
machine share the folder: one fetches, the others wait for its lock.

Only prepared sets are fetched. Raw data sets, of which each file is read once, are
prepared where they lie; ``experiments.prepare --out s3://bucket/set`` writes the set on
this machine, uploads it, and writes ``COMMIT`` last: an upload that was cut has none,
and nobody reads it.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax

from medjax.data.boundary import DataError, in_short
from medjax.data.records import METADATA
from medjax.progress import Progress, say
from medjax.train.agree import divided
from medjax.train.copies import COMMIT, Commit, Copy
from medjax.train.storage import split_address

CACHE = Path("~/.cache/medjax/data")
"""Where sets of object stores are on this machine."""
TOGETHER = 8
"""Files that travel at once: shards have some hundred megabytes."""
LOCK, CHECKED = ".lock", ".checked"
"""Files beside a set: one is locked while it is fetched, one says that it was whole."""

Files = Mapping[str, tuple[int, int]]


def address_of(path: str | os.PathLike[str] | None) -> str | None:
    """The address that a flag names; None: it names a place on a disk, or nothing.

    Args:
      path: A path, or an address, which may have lost a slash in `pathlib`.
    """
    found = None if path is None else split_address(os.fspath(path))
    return None if found is None else f"{found[0]}://{found[1].rstrip('/')}"


def on_disk(path: str | os.PathLike[str] | None, flag: str) -> None:
    """Refuses an address where only a place on a disk will do.

    Args:
      path: What the flag names.
      flag: Its name.

    Raises:
      DataError: It is an address.
    """
    if (address := address_of(path)) is not None:
        raise DataError(
            f"{flag}: {address}: expected a place on a disk: only prepared sets are "
            "read from an object store; python -m experiments.prepare writes one "
            f"(--out {address.partition('://')[0]}://...)"
        )


def here(root: Path, cache: Path = CACHE) -> Path:
    """The folder of this machine with what a flag names; all processes call this.

    Args:
      root: A folder, or the address of what `written` uploaded: a prepared set, or a
        folder of some.
      cache: Folder of this machine that sets are fetched to.

    Returns:
      ``root`` itself where it is on a disk; else a folder of the same name in the
      cache, whole.

    Raises:
      DataError: There is no whole set at the address, or it changed meanwhile.
      MirrorError: The store does not answer, or the disk takes no more.
      OSError: There is not enough room.
    """
    address = address_of(root)
    if address is None:
        return root
    # Each on its own machine; an error of one ends all.
    count = jax.process_count()
    folders = divided(
        lambda _: str(_fetched(address, cache.expanduser())), count, what="remote data"
    )
    return Path(folders[jax.process_index()])


def _fetched(address: str, cache: Path) -> Path:
    """Brings what a machine lacks of a set."""
    copy = Copy(address, what="data")
    commit = copy.commit()
    if commit is None:
        found = copy.found()
        raise DataError(
            f"data: {address} is no prepared set, or its upload was cut: expected a "
            f"{COMMIT}, which python -m experiments.prepare --out {address} writes "
            f"last, found {in_short(found, 3) if found else 'nothing'}"
        )
    _check_prepared(address, commit.files)
    folder = _place(cache, address, commit.mark)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder.parent):
        missing = _missing(folder, commit.files)
        if (checked := folder.with_name(CHECKED)).exists() and not missing:
            return folder
        checked.unlink(missing_ok=True)
        _check_room(folder, address, sum(commit.files[name][0] for name in missing))
        for some in _in_turn(f"from {address}", commit.files, missing):
            copy.bring(some, folder)
        standing = copy.commit()
        if standing is None or standing.mark != commit.mark:
            raise DataError(
                f"data: {address} was written anew while it was fetched: start again"
            )
        if missing := _missing(folder, commit.files):
            raise DataError(
                f"data: {address}: {in_short(missing, 3)} came with other sizes than "
                f"{COMMIT} says: upload the set again"
            )
        if _mark(folder, commit.files) != commit.mark:
            shutil.rmtree(folder)
            raise DataError(
                f"data: {address}: what came is not what {COMMIT} has the hash of: "
                "start again, and if that does not help, upload the set again"
            )
        checked.touch()
    return folder


@contextlib.contextmanager
def written(
    out: Path, cache: Path = CACHE, *, overwrite: bool = False
) -> Iterator[Path]:
    """Gives a folder to prepare sets in; they are uploaded when they are whole.

    Args:
      out: A folder, which is given as it is, or an address.
      cache: Where the folder for an address is made. It stays, so that the same command
        goes on, or only uploads again.
      overwrite: Replace sets that are at the address.

    Yields:
      The folder.

    Raises:
      FileExistsError: Something else is at the address.
      MirrorError: The store does not answer.
    """
    address = address_of(out)
    if address is None:
        yield out
        return
    folder = _place(cache.expanduser(), address, "out")
    # Known before a preparation that may take hours.
    standing = Copy(address, what="out").commit()
    if standing is not None and not overwrite and not folder.exists():
        raise FileExistsError(
            f"out: {address} holds prepared sets already; overwrite replaces them"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    yield folder
    try:
        upload(folder, address, overwrite=overwrite)
    except OSError:
        say(
            f"prepared, but not uploaded: python -m experiments.prepare upload --root "
            f"{folder} --out {address} tries again"
        )
        raise
    say(f"uploaded from {folder}, which may go")


def upload(folder: Path, address: str, *, overwrite: bool = False) -> None:
    """Copies prepared sets to an address, and says last what belongs together.

    Args:
      folder: Of a prepared set, or a folder of some.
      address: Where they go.
      overwrite: Replace sets that are there.

    Raises:
      DataError: The folder holds no prepared set.
      FileExistsError: Other files are at the address.
      MirrorError: The store does not answer.
      ValueError: The address is of no store.
      ImportError: What speaks to it is not installed.
    """
    copy, files = Copy(address, what="out"), _listed(folder)
    _check_prepared(str(folder), files)
    mark, standing = _mark(folder, files), copy.commit()
    if standing is not None and standing.mark == mark:
        say(f"{address}: already uploaded")
        return
    old = set(copy.found()) - {COMMIT}
    strange = sorted(old if standing is not None else old - files.keys())
    if strange and not overwrite:
        raise FileExistsError(
            f"out: {address} holds other files ({in_short(strange, 3)}): "
            "overwrite replaces a prepared set; else name an address where nothing is"
        )
    if standing is not None:
        # From here on nobody takes the one half for a set.
        copy.remove([COMMIT])
    for some in _in_turn(f"to {address}", files, sorted(files)):
        copy.put(folder, some)
    copy.say(Commit(mark, files))
    if standing is not None:
        copy.remove(sorted(standing.files.keys() - files.keys()))


def _check_prepared(where: str, files: Files) -> None:
    """Refuses files that hold no prepared set.

    Raises:
      DataError: None is the description of one.
    """
    if not any(Path(name).name == METADATA for name in files):
        raise DataError(
            f"data: {where} is not a prepared set: expected {METADATA} in it or in its "
            f"folders, found {in_short(sorted(files), 3) if files else 'nothing'}"
        )


def _check_room(folder: Path, address: str, size: int) -> None:
    """Refuses to begin what the disk cannot hold.

    Raises:
      OSError: It has too little room.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"data.cache: {folder}: {size / 1e9:,.2f} GB of {address} are still to "
            f"come, and {free / 1e9:,.2f} GB are free: name a folder on another disk"
        )


def _missing(folder: Path, files: Files) -> list[str]:
    """What is not there in its size."""

    def held(path: Path) -> int | None:
        return path.stat().st_size if path.is_file() else None

    return sorted(n for n, (size, _) in files.items() if held(folder / n) != size)


def _listed(folder: Path) -> dict[str, tuple[int, int]]:
    """Files of a folder, but for hidden ones, which are drafts."""
    told = {
        path.relative_to(folder): path.stat()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {
        name.as_posix(): (found.st_size, found.st_mtime_ns)
        for name, found in told.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def _mark(folder: Path, files: Files) -> str:
    """A hash of names and contents: the same sets have the same."""
    every = hashlib.sha256()
    for name in sorted(files):
        with (folder / name).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        every.update(f"{name}\n{content}\n".encode())
    return every.hexdigest()


def _place(cache: Path, address: str, mark: str) -> Path:
    """The folder for a state of an address; readers look at its last name."""
    key = hashlib.sha256(f"{address}\n{mark}".encode()).hexdigest()[:16]
    return cache / key / address.rpartition("/")[2]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine out, which wait; a dead one holds none."""
    import fcntl  # which Windows has not

    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _in_turn(phase: str, files: Files, names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Some of the names at a time, counted in megabytes as they are done with."""
    sizes = [files[name][0] for name in names]
    with Progress(phase, sum(sizes) // 10**6, "MB") as progress:
        for first in range(0, len(names), TOGETHER):
            yield names[first : first + TOGETHER]
            gone = sum(sizes[: first + TOGETHER]) // 10**6
            progress.advance(gone - progress.done)
