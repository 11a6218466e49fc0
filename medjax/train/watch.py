"""A watch over the other processes of a run: who is missing is named, and the rest end.

A collective waits for all processes, so that one which dies, is stopped or hangs holds
up all others for ever; what JAX does about the dead is to abort, under a stack of C++
frames that names nobody. Here every process writes where it is (phase, step, host) into
the store of the coordination service, and reads what the others wrote. It ends with
status 75, by which a scheduler knows to start the run again, and with a line that says
why:

* another process has been silent for the heartbeat time: dead, or stopped;
* process 0, which keeps the store, does not answer, or its connection is closed;
* another process has ended by an error, which is repeated here;
* no step has been taken for the stall time: then with the stacks of all threads, and
  the processes that are behind.

Process 0 logs as well who holds up the others (:mod:`medjax.train.straggling`).

Threads do this: the main thread may be inside a collective that never returns.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import faulthandler
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed

from medjax.train.straggling import Meter, Pace, Stragglers

STATUS = 75
"""How a process ends that another one left: EX_TEMPFAIL, "try again"."""
OUTSIDE = "outside training"
LIMITS = {
    OUTSIDE: 86_400,
    "restore": 3600,
    "compile": 7200,
    "save": 3600,
    "evaluate": 14_400,
}
"""Seconds that a phase other than stepping may take without progress."""
USUAL_STEPS = 10
"""A stall is at least so many usual steps."""
FOLDER = "medjax/watch"
GOODBYE = 10.0
"""Seconds in which a thread ends that has said its last word."""

_COLLECTIVE = re.compile(
    "gloo|nccl|coordination|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|connection|socket",
    re.IGNORECASE,
)
"""What errors say that another process's death causes."""


@dataclasses.dataclass
class Note:
    """What a process says of itself, and when that was last heard to change."""

    beat: int = 0
    host: str = "unknown host"
    pid: int = 0
    phase: str = OUTSIDE
    step: int = 0
    ended: str | None = None
    """Why it ended, if not as it should."""
    done: bool = False
    pace: Pace = Pace()
    """Of its steps."""
    heard: float = 0.0
    """Clock of this process; not sent."""

    def named(self, process: int, processes: int) -> str:
        """As in "process 1 of 2 (pid 77 on node3, step 12)"."""
        where = self.phase if self.phase != "step" else f"step {self.step}"
        who = f"pid {self.pid} on {self.host}"
        return f"process {process} of {processes} ({who}, {where})"


class Watch:
    """Watches the other processes from this one.

    Args:
      process: Which this is.
      processes: How many there are.
      coordinator: host:port of process 0.
      heartbeat: Seconds of silence after which a process is missing.
      stall: Seconds without a step after which the run is stuck.
    """

    def __init__(
        self,
        process: int,
        processes: int,
        coordinator: str,
        *,
        heartbeat: float,
        stall: float,
    ) -> None:
        self.process, self.processes = process, processes
        self.coordinator, self.heartbeat, self.stall = coordinator, heartbeat, stall
        self.interval = min(max(heartbeat / 10, 0.1), 5.0)
        self.own = Note(host=socket.gethostname(), pid=os.getpid())
        self._notes: dict[int, Note] = {}
        self._answered = self._moved = time.monotonic()
        self.meter = Meter()
        self._stragglers = Stragglers()
        self._client: Any = None
        self._failed = False
        self._ending = threading.Lock()
        self._hook: Any = None
        self._before: int | None = None
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    @contextlib.contextmanager
    def told_of_errors(self) -> Iterator[None]:
        """While it lasts, a client of the coordination service that is made tells this.

        JAX does not pass a callback on, and jaxlib cannot call one: an error has no
        form in Python, and what is thrown for that ends the process through C++'s
        terminate handler. So the handler is what tells.
        """
        module: Any = getattr(distributed, "_jax")  # noqa: B009
        make = module.get_distributed_runtime_client

        def with_callback(*arguments: Any, **options: Any) -> Any:
            return make(
                *arguments, missed_heartbeat_callback=self._disconnected, **options
            )

        try:
            module.get_distributed_runtime_client = with_callback
            yield
        finally:
            module.get_distributed_runtime_client = make

    def start(self) -> None:
        """Begins to watch, and to be watched; all processes have joined."""
        global _watch
        self.begin(distributed.global_state.client)
        self._set_terminate_handler()
        for work in (self._speak, self._look):
            thread = threading.Thread(target=work, name="watch", daemon=True)
            thread.start()
            self._threads.append(thread)
        previous = sys.excepthook

        def uncaught(kind: Any, error: BaseException, trace: Any) -> None:
            self._hold(error)
            previous(kind, error, trace)
            self.failed(error)

        sys.excepthook = uncaught
        # After JAX's own, hence before it: it would wait for processes that are gone.
        atexit.register(self._leave)
        _watch = self

    def begin(self, client: Any) -> None:
        """Counts from now on; `client` is the store."""
        self._client = client
        now = self._answered = self._moved = time.monotonic()
        others = set(range(self.processes)) - {self.process}
        self._notes = {process: Note(heard=now) for process in others}

    def moved(self, phase: str, step: int | None = None) -> None:
        """Notes that the main thread has got somewhere."""
        now = time.monotonic()
        stepped = phase == self.own.phase == "step" and step != self.own.step
        self.meter.ended(now - self._moved if stepped else None)
        self.own.phase, self._moved = phase, now
        if step is not None:
            self.own.step = step

    def failed(self, error: BaseException) -> None:
        """Tells the others that this process ends by an error of its own.

        If the error is the consequence of another process's end, waits for the watch to
        end this process in words.
        """
        self._hold(error)
        self._failed = True
        self.own.ended = f"{type(error).__name__}: {error}"
        self._tell()

    def find(self) -> str | None:
        """Why this process cannot go on, or None."""
        now = time.monotonic()
        if now - self._answered > self.heartbeat:
            return self._lost_store(
                f"has not answered for {now - self._answered:.0f} s"
            )
        for process, note in sorted(self._notes.items()):
            named = note.named(process, self.processes)
            if note.ended is not None and now - note.heard > 2 * self.interval:
                return f"{named} has ended: {note.ended}"
            if not note.done and now - note.heard > self.heartbeat:
                return f"{named} has not been heard of for {now - note.heard:.0f} s"
        still, limit = now - self._moved, self._limit()
        if still > limit:
            faulthandler.dump_traceback()
            at = (self.own.phase, self.own.step)
            behind = [
                note.named(process, self.processes)
                for process, note in self._notes.items()
                if (note.phase, note.step) != at
            ]
            where = "; elsewhere: " + ", ".join(behind) if behind else ""
            here = f"step {at[1]}" if at[0] == "step" else at[0]
            return f"no progress for {still:.0f} s at {here}{where}"
        return None

    def end(self, reason: str) -> None:
        """Ends this process with a line that says why, once the others were told."""
        with self._ending:
            if not self._failed:
                line = f"{reason}; this process ends with it"
                mine = self.own.named(self.process, self.processes)
                os.write(2, f"\nwatch of {mine}: {line}\n".encode())
            self.own.ended = self.own.ended or reason
            self._tell()
            if self.process == 0:
                # With this process goes the store: the others are to read it first.
                self._wait_for_others(6 * self.interval)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(1 if self._failed else STATUS)

    def _limit(self) -> float:
        if self.own.phase != "step":
            return max(LIMITS.get(self.own.phase, LIMITS[OUTSIDE]), self.stall)
        return max(USUAL_STEPS * self.meter.pace.took, self.stall)

    def _speak(self) -> None:
        """Keeps in touch until the end."""
        while not self._over.is_set():
            self.exchange()
            self._over.wait(self.interval)

    def exchange(self) -> None:
        """Writes this process's note and reads the others'."""
        self.own.beat, self.own.pace = self.own.beat + 1, self.meter.pace
        note = dataclasses.asdict(self.own)
        key = f"{FOLDER}/{self.process}"
        try:
            self._client.key_value_set(key, json.dumps(note), allow_overwrite=True)
            found = self._client.key_value_dir_get(FOLDER)
        except jax.errors.JaxRuntimeError:
            return
        self._answered = now = time.monotonic()
        for key, text in found:
            process, told = int(key.rsplit("/", 1)[1]), json.loads(text)
            note = Note(**{**told, "pace": Pace(*told["pace"])})
            last = self._notes.get(process)
            changed = last is None or note.beat != last.beat
            # Of one that has ended, when it did.
            if last is not None and note.ended == last.ended is not None:
                changed = False
            note.heard = now if changed or last is None else last.heard
            if process != self.process:
                self._notes[process] = note
        if self.process == 0:
            self._stragglers.look({**self._notes, 0: self.own})

    def _look(self) -> None:
        """Looks for a reason to end, until the end."""
        last = time.monotonic()
        while not self._over.wait(self.interval / 2):
            late = time.monotonic() - last - self.interval
            last = time.monotonic()
            if late > self.interval:
                # This process itself stood still, and the others could not be heard.
                self._answered += late
                self._moved += late
                for note in list(self._notes.values()):
                    note.heard += late
            if (reason := self.find()) is not None:
                self.end(reason)

    def _tell(self) -> None:
        """Writes the note at once, unless the store is stuck, or not there yet."""
        if self._client is None:
            return
        teller = threading.Thread(target=self.exchange, daemon=True)
        teller.start()
        teller.join(timeout=2.0)

    def _wait_for_others(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            now, notes = time.monotonic(), list(self._notes.values())
            here = [n for n in notes if now - n.heard < self.heartbeat]
            if all(note.ended is not None for note in here):
                return
            time.sleep(self.interval / 2)

    def _hold(self, error: BaseException) -> None:
        """Waits for the watch, if another process's end is why there is an error."""
        runtime = isinstance(error, (jax.errors.JaxRuntimeError, ValueError))
        if runtime and _COLLECTIVE.search(str(error)):
            time.sleep(self.heartbeat + 4 * self.interval)

    def _leave(self) -> None:
        """At the end of the interpreter.

        It takes no thread that is inside the client, and no call from C++ any more, so
        that the watch is over before; but not before all others are here too.
        """
        if self._failed:
            self._wait_for_others(self.heartbeat)
            self.end("")
        self.own.phase, self.own.done = "end", True
        self._moved = time.monotonic()
        self._tell()
        while not all(note.done for note in list(self._notes.values())):
            time.sleep(self.interval / 2)
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=GOODBYE)
        if distributed.global_state.client is not None:
            jax.distributed.shutdown()
        if self._before is not None:
            self._set_terminate(self._before)

    def _lost_store(self, what: str) -> str:
        first = self._notes.get(0, Note())
        if first.ended is not None:
            return f"{first.named(0, self.processes)} has ended: {first.ended}"
        return (
            f"{first.named(0, self.processes)}, which keeps the run together at "
            f"{self.coordinator}, {what}"
        )

    def _disconnected(self, *_: Any) -> None:
        """The connection to process 0 is closed, or the service reports an error."""
        self.end(self.find() or self._lost_store("is gone"))

    def _set_terminate_handler(self) -> None:
        # Kept: C++ has its address.
        self._hook = ctypes.CFUNCTYPE(None)(self._disconnected)
        self._before = self._set_terminate(self._hook)

    def _set_terminate(self, handler: Any) -> int | None:
        """Gives C++ a handler of what nobody catches; returns the one before."""
        with contextlib.suppress(OSError, AttributeError):
            set_terminate: Any = ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE
            set_terminate.restype = ctypes.c_void_p
            set_terminate.argtypes = [ctypes.c_void_p]
            return set_terminate(ctypes.cast(handler, ctypes.c_void_p))
        return None


_watch: Watch | None = None
"""Of this process, if it has joined others."""


def moved(phase: str, step: int | None = None) -> None:
    """Notes where the main thread is; nothing in a run of one process.

    Args:
      phase: "step", or one of `LIMITS`.
      step: Updates begun.
    """
    if _watch is not None:
        _watch.moved(phase, step)


def spent(name: str) -> contextlib.AbstractContextManager[None]:
    """Charges what runs inside to a part of the step, `DEVICE` or `INPUT`."""
    return contextlib.nullcontext() if _watch is None else _watch.meter.spent(name)


def failed(error: BaseException) -> None:
    """Tells the other processes that this one ends by an error."""
    if _watch is not None:
        _watch.failed(error)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """A part of a run with a time limit of its own; then the phase before goes on.

    Args:
      name: One of `LIMITS`.
    """
    before = None if _watch is None else _watch.own.phase
    moved(name)
    yield
    if before is not None:
        moved(before)
