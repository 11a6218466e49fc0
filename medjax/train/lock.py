"""One run in a workdir at a time, and a workdir that all its processes share.

Two runs in one folder cut each other's metrics and clean each other's unfinished
checkpoints away, and one of them may end with status 0. So a run holds ``lock.json`` in
its folder: who (host and process), since when, and a beat that is written anew every
few seconds. No lock of the operating system is used: network disks do not keep those,
and a crash must not need a person to clean up. A lock is void if its process is gone
from this host, or if its beat does not change while one looks; clocks of two hosts are
never compared.

The file also tells whether the folder is still there, and the same folder on every
process: if it vanishes in mid-run, the run ends with an error.
"""

import contextlib
import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import jax

from medjax.train.agree import everyone, on_first
from medjax.train.storage import Folder, run_folder

logger = logging.getLogger(__name__)

NAME = "lock.json"
BEAT = 5.0
"""Seconds between two beats."""
STALE = 30.0
"""Seconds without a beat after which a lock is void."""
VISIBLE = 10.0
"""Seconds that a network disk may take to show a new file to another host."""


class WorkdirError(OSError):
    """A workdir is another run's, has vanished, or is not the same everywhere."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a folder; what the file holds."""

    host: str
    pid: int
    space: str
    """Where that process number means something: containers count on their own."""
    since: str
    token: str
    beat: int = 0

    def named(self) -> str:
        """As in "process 77 on node3, since 2026-11-28 05:20:00"."""
        return f"process {self.pid} on {self.host}, since {self.since}"

    def is_gone(self) -> bool:
        """Whether this host knows that the process has ended."""
        if (self.host, self.space) != (socket.gethostname(), _space()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False


class Lock:
    """A folder that is held; on processes other than 0 it does nothing.

    Args:
      folder: Which.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder, self.path = folder, folder / NAME
        self.token = uuid.uuid4().hex
        self._beat, self._since = 0, time.strftime("%Y-%m-%d %H:%M:%S")
        self._active = jax.process_index() == 0
        self._lost: str | None = None
        self._also: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)

    def take(self) -> str:
        """Takes the folder, on process 0; returns what the file is known by.

        Raises:
          WorkdirError: If another run holds it, or it cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wait_for_other()
        self._write()
        # Of two that saw the same void lock the later writer has it.
        time.sleep(0.2)
        holder = _read(self.path)
        if holder is None or holder.token != self.token:
            raise WorkdirError(_taken(self.folder, holder))
        self._thread.start()
        return self.token

    def check(self, *, now: bool = False) -> None:
        """Refuses to go on in a folder that is lost.

        Args:
          now: Look at the disk, rather than rely on the last beat.

        Raises:
          WorkdirError: It has vanished, or another run has taken it.
          Exception: What one of `also` found.
        """
        for look in self._also if now else ():
            look()
        if now and self._active:
            # A disk that cannot be asked has not lost the folder.
            with contextlib.suppress(OSError):
                self._look()
        if self._lost is not None:
            raise WorkdirError(self._lost)

    @contextlib.contextmanager
    def also(self, *looks: Callable[[], None]) -> Iterator[None]:
        """While it is entered, `check` with ``now`` looks at more.

        Args:
          looks: Each raises where the run must not go on.
        """
        self._also += looks
        try:
            yield
        finally:
            self._also = [look for look in self._also if look not in looks]

    def release(self) -> None:
        """Lets the folder go."""
        self._stop.set()
        if self._active and self._thread.is_alive():
            self._thread.join(timeout=2 * BEAT)
        if self._active and self._lost is None:
            holder = _read(self.path)
            if holder is not None and holder.token == self.token:
                self.path.unlink(missing_ok=True)

    def _wait_for_other(self) -> None:
        """Returns once nobody else holds the folder.

        Raises:
          WorkdirError: Somebody does.
        """
        first = _read(self.path)
        if first is None or first.is_gone():
            return
        logger.warning(
            "%s: held by %s; looking for up to %.0f s whether it is alive",
            self.folder,
            first.named(),
            STALE,
        )
        until = time.monotonic() + STALE
        while time.monotonic() < until:
            time.sleep(min(1.0, STALE / 10))
            other = _read(self.path)
            if other is None or other.is_gone():
                return
            if (other.token, other.beat) != (first.token, first.beat):
                raise WorkdirError(_taken(self.folder, other))

    def _write(self) -> None:
        self._beat += 1
        host, pid = socket.gethostname(), os.getpid()
        owner = Owner(host, pid, _space(), self._since, self.token, self._beat)
        self.path.write_text(json.dumps(dataclasses.asdict(owner)) + "\n")

    def _look(self) -> None:
        """Notes whether the folder is still this run's."""
        holder = _read(self.path)
        if holder is not None and holder.token == self.token:
            return
        if holder is None and not self.path.exists():
            what = "its lock" if self.folder.exists() else "it"
            self._lost = (
                f"workdir: {what} has vanished while the run went on: {self.folder}; "
                "the run cannot be resumed from there and ends"
            )
        elif holder is not None:
            self._lost = _taken(self.folder, holder)

    def _keep(self) -> None:
        while not self._stop.wait(BEAT) and self._lost is None:
            try:
                self._look()
                if self._lost is None:
                    self._write()
            except OSError as error:  # a disk that comes back is none the worse
                logger.warning("%s: %s", self.path, error)


_held: dict[str, Lock] = {}
"""Folders that this process holds: an experiment's, and that of its training."""


@contextlib.contextmanager
def hold(workdir: str | os.PathLike[str]) -> Iterator[Lock]:
    """Holds a folder while it is entered; all processes have to enter.

    Args:
      workdir: Folder of a run, made where it is missing; one that this process holds
        already is entered again.

    Yields:
      The lock, to `check` where much would be lost.

    Raises:
      WorkdirError: If another run holds it, if not every process sees it, or at the
        end, if it has vanished.
    """
    folder = run_folder(workdir)
    name = os.fspath(folder.resolve())
    if name in _held:
        yield _held[name]
        return
    _check_named_alike(folder)
    lock = Lock(folder)
    token = on_first(lock.take, what=f"lock of {folder}")
    _held[name] = lock
    try:
        _check_shared(lock, token)
        yield lock
        lock.check(now=True)
    except Exception:
        # Of a lost folder other errors follow: the loss is what is to be read.
        lock.check(now=True)
        raise
    finally:
        del _held[name]
        lock.release()


def _check_named_alike(folder: Folder) -> None:
    """Refuses processes that were given folders of different names.

    Raises:
      WorkdirError: Naming the folders.
    """
    names = everyone(os.fspath(folder), what="names of the workdir")
    if len(set(names)) > 1:
        given = ", ".join(f"process {i} {name}" for i, name in enumerate(names))
        raise WorkdirError(
            f"workdir: the processes of a run share one folder, but were given {given}"
            "; run the same command everywhere"
        )


def _check_shared(lock: Lock, token: str) -> None:
    """Refuses a folder that is another one on another host.

    Raises:
      WorkdirError: Naming the processes.
    """
    if jax.process_count() == 1:
        return
    until = time.monotonic() + VISIBLE
    while not (seen := _token(lock.path) == token) and time.monotonic() < until:
        time.sleep(0.2)
    answers = everyone([seen, socket.gethostname()], what=f"sight of {lock.folder}")
    blind = {i: host for i, (sees, host) in enumerate(answers) if not sees}
    if blind:
        raise WorkdirError(
            f"workdir: {lock.folder} is not the same folder for all processes: "
            + ", ".join(f"process {i} on {host}" for i, host in blind.items())
            + " cannot see what process 0 wrote there; name one on a shared disk"
        )


def _token(path: Folder) -> str | None:
    owner = _read(path)
    return None if owner is None else owner.token


def _read(path: Folder) -> Owner | None:
    """Who the file names; None if there is none."""
    for _ in range(5):
        try:
            return Owner(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # just being written
            time.sleep(0.1)
    return None


def _taken(folder: Folder, holder: Owner | None) -> str:
    who = "another run" if holder is None else holder.named()
    return (
        f"workdir: {folder} is in use by {who}; wait for it, stop it, or name another "
        "workdir"
    )


def _space() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
