"""The roll of a run's processes: called before they join, so that no loss is nameless.

The service by which processes find each other waits until all have come. If one does
not, it aborts the others, under a stack of C++ frames that names nobody. So process 0
first calls the roll, at the address where that service will listen: every other process
says who it is, and is told to go on as soon as all have. The connections stay open
until all have joined: where one closes, its process is lost.

One that was there and is lost may come again, since some schedulers start it anew; it
has a moment for that. Who then is missing is named by everyone.
"""

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Iterator

GO, HERE, MISSING = "go", "here", "missing "
"""What process 0 says: all have come; you are heard; who is missing."""
LONGEST = 4096
"""Bytes in which a process says who it is."""
PAUSE = 0.2
"""Seconds between two looks, and between two attempts to reach process 0."""


class MissingError(RuntimeError):
    """A process of the run is not there; the text names it."""


class Line:
    """What this process knows of the others while all of them join."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.open: dict[int, socket.socket] = {}
        self.names: dict[int, str] = {}

    def named(self, process: int) -> str:
        """As in "process 1 of 2 (pid 77 on node3)"; without what it has not said."""
        return f"process {process} of {self.processes}{self.names.get(process, '')}"

    def gone(self) -> list[str]:
        """Names of the processes whose connections are closed."""
        return [self.named(p) for p, one in self.open.items() if _closed(one)]


@contextlib.contextmanager
def called(
    coordinator: str, processes: int, process: int, *, patience: float, grace: float
) -> Iterator[Line]:
    """Waits until all processes are there; holds the connections while it lasts.

    Args:
      coordinator: host:port of process 0.
      processes: How many there are.
      process: Which this is.
      patience: Seconds in which all have to come.
      grace: Seconds in which one that was lost has to come again.

    Raises:
      MissingError: One did not come, or was lost.
      OSError: Something else listens where process 0 should.
    """
    line = Line(processes)
    host, port = coordinator.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        if process == 0:
            _call(line, int(port), patience, grace)
        else:
            _answer(line, (host.strip("[]"), int(port)), process, patience, grace)
        for one in line.open.values():
            stack.enter_context(one)
        yield line


def _call(line: Line, port: int, patience: float, grace: float) -> None:
    """Process 0: hears the others until all are there."""
    began, lost = time.monotonic(), {}
    heard: dict[socket.socket, bytes] = {}
    try:
        with _listener(port, grace) as server, selectors.DefaultSelector() as ready:
            ready.register(server, selectors.EVENT_READ)
            while len(line.open) < line.processes - 1:
                for key, _ in ready.select(PAUSE):
                    if key.fileobj is server:
                        one, _ = server.accept()
                        one.setblocking(False)
                        ready.register(one, selectors.EVENT_READ)
                        heard[one] = b""
                        continue
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    if not _listens(line, one, heard):
                        ready.unregister(one)
                        one.close()
                        del heard[one]
                        for process in [p for p, o in line.open.items() if o is one]:
                            del line.open[process]
                            lost[process] = time.monotonic()
                if reason := _overdue(line, lost, began, patience, grace):
                    for one in line.open.values():
                        _say(one, MISSING + reason)
                    line.open.clear()
                    raise MissingError(reason)
    finally:
        for one in heard.keys() - set(line.open.values()):
            one.close()
    for one in line.open.values():
        _say(one, GO)


def _listens(line: Line, one: socket.socket, heard: dict[socket.socket, bytes]) -> bool:
    """Hears what a connection has to say; False if it is closed, or is to be."""
    data = _received(one)
    known = b"\n" in heard[one]
    heard[one] += data
    if not data or len(heard[one]) > LONGEST:
        return False
    return known or b"\n" not in data or _note(line, one, heard[one])


def _note(line: Line, one: socket.socket, heard: bytes) -> bool:
    """Notes who is at the other end of a connection; False if nobody who is waited for.

    One that is there already keeps its place.
    """
    try:
        told = json.loads(heard)
        process, processes = int(told["process"]), int(told["processes"])
        name = f" (pid {told['pid']} on {told['host']})"
    except (ValueError, KeyError, TypeError):
        return False
    wrong = None
    if processes != line.processes:
        wrong = (
            f"process 0 was told of {line.processes} processes, this one of {processes}"
        )
    elif not 0 < process < processes:
        wrong = f"there is no process {process} of {processes}"
    elif process in line.open:
        wrong = f"{line.named(process)} is here already; this is another{name}"
    if wrong is not None:
        _say(one, f"{MISSING}{wrong}")
        return False
    line.open[process], line.names[process] = one, name
    _say(one, HERE)
    return True


def _overdue(
    line: Line, lost: dict[int, float], began: float, patience: float, grace: float
) -> str | None:
    """Who is missed for too long, and how long, or None."""
    now = time.monotonic()
    absent = [p for p in range(1, line.processes) if p not in line.open]
    gone = [p for p in absent if now - lost.get(p, now) > grace]
    if gone:
        names = ", ".join(map(line.named, gone))
        return f"lost before all had joined: {names}"
    if absent and now - began > patience:
        names = ", ".join(map(line.named, absent))
        return f"did not come in {patience:.0f} s: {names}"
    return None


def _answer(
    line: Line, address: tuple[str, int], process: int, patience: float, grace: float
) -> None:
    """Another process: says who it is until it is told to go on."""
    until, lost = time.monotonic() + patience, None
    told = {"process": process, "processes": line.processes}
    told |= {"host": socket.gethostname(), "pid": os.getpid()}
    first = f"process 0 of {line.processes} at {address[0]}:{address[1]}"
    while True:
        word = ""
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            one = socket.create_connection(address, timeout=5.0)
            stack.enter_context(one)
            one.sendall(json.dumps(told).encode() + b"\n")
            for word in _words(one, until + grace):
                if word == GO:
                    line.open[0], line.names[0] = one, f" (at {address[0]})"
                    stack.pop_all()
                    return
                if word.startswith(MISSING):
                    raise MissingError(word.removeprefix(MISSING))
        now = time.monotonic()
        # What is no roll, such as the service of a run that is still ending, says
        # nothing that is understood.
        if word == HERE:
            lost = now
        if lost is not None and now - lost > grace:
            raise MissingError(f"lost before all had joined: {first}")
        if now > until + (grace if word == HERE else 0):
            raise MissingError(f"did not call all in {patience:.0f} s: {first}")
        time.sleep(PAUSE)


def _words(one: socket.socket, until: float) -> Iterator[str]:
    """Lines that come over a connection, until it is closed or it is too late."""
    heard = b""
    while (left := until - time.monotonic()) > 0:
        one.settimeout(left)
        if not (data := one.recv(4096)):
            return
        heard += data
        while b"\n" in heard:
            word, _, heard = heard.partition(b"\n")
            yield word.decode(errors="replace")


def _listener(port: int, grace: float) -> socket.socket:
    """Listens on all addresses; what a run before has left has a moment to go.

    Raises:
      OSError: Something else listens there.
    """
    until = time.monotonic() + grace
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    while True:
        try:
            return socket.create_server(
                ("", port), family=family, dualstack_ipv6=both, backlog=1024
            )
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(PAUSE)


def _received(one: socket.socket) -> bytes:
    """What has come; nothing if the connection is closed."""
    try:
        return one.recv(4096)
    except OSError:
        return b""


def _closed(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return not one.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _say(one: socket.socket, word: str) -> None:
    with contextlib.suppress(OSError):
        one.sendall(word.encode() + b"\n")
