"""Before processes join: who does not come, or is lost on the way, is named by all."""

import contextlib
import json
import re
import socket
import threading
from pathlib import Path

import pytest

from medjax.train import roll
from medjax.train.watch import STATUS
from tests import processes

PROGRAM = Path(__file__).with_name("joined.py")
LONG = 60.0


class Caller(threading.Thread):
    """A process of the roll; it holds its connections until it is released."""

    def __init__(self, address, count, process, patience=LONG, grace=LONG):
        super().__init__(daemon=True)
        self.told = (address, count, process)
        self.limits = dict(patience=patience, grace=grace)
        self.error, self.line = None, None
        self.through, self.release = threading.Event(), threading.Event()
        self.start()

    def run(self):
        try:
            with roll.called(*self.told, **self.limits) as self.line:
                self.through.set()
                self.release.wait(LONG)
        except roll.MissingError as error:
            self.error = str(error)

    def ended(self):
        self.join(LONG)
        assert not self.is_alive()
        return self.error


class Heard:
    """A process by hand, which can be lost."""

    def __init__(self, address, process, count):
        host, port = address.split(":")
        while True:
            try:
                self.socket = socket.create_connection((host, int(port)), timeout=LONG)
                break
            except ConnectionRefusedError:
                continue
        told = dict(process=process, processes=count, host="node3", pid=77)
        self.socket.sendall(json.dumps(told).encode() + b"\n")
        self.lines = self.socket.makefile()

    def line(self):
        return self.lines.readline().strip()

    def lose(self):
        self.lines.close()
        self.socket.close()


@pytest.fixture
def heard():
    """Makes processes by hand; they leave with the test."""
    found = []

    def make(address, process, count):
        found.append(Heard(address, process, count))
        return found[-1]

    yield make
    for one in found:
        one.lose()


@pytest.fixture
def address():
    return processes.free_address()


def test_all_go_on_together_and_one_that_is_lost_then_is_named(address, heard):
    first, third = Caller(address, 3, 0), Caller(address, 3, 2)
    second = heard(address, 1, 3)
    assert [second.line(), second.line()] == [roll.HERE, roll.GO]
    assert first.through.wait(LONG) and third.through.wait(LONG)
    assert first.line.gone() == third.line.gone() == []
    # The port is free for the service, while the connections are held.
    with socket.create_server(("", int(address.split(":")[1]))):
        second.lose()
    assert first.line.gone() == ["process 1 of 3 (pid 77 on node3)"]
    first.release.set()
    assert first.ended() is None
    assert third.line.gone() == ["process 0 of 3 (at localhost)"]
    third.release.set()
    assert third.ended() is None


def test_one_that_is_lost_may_come_again_and_a_double_may_not(address, heard):
    first = Caller(address, 3, 0)
    second = heard(address, 1, 3)
    assert second.line() == roll.HERE
    # Twice the same process, or one that was told of other numbers, is sent away.
    double = heard(address, 1, 3).line()
    assert "process 1 of 3 (pid 77 on node3) is here already" in double
    assert "told of 3 processes, this one of 4" in heard(address, 2, 4).line()
    second.lose()
    again = heard(address, 1, 3)
    assert again.line() == roll.HERE
    third = heard(address, 2, 3)
    assert third.line() == roll.HERE and third.line() == roll.GO == again.line()
    first.release.set()
    assert first.ended() is None


def test_the_others_are_told_who_was_lost(address, heard):
    first = Caller(address, 4, 0, grace=0.5)
    third, second = heard(address, 2, 4), heard(address, 1, 4)
    assert third.line() == second.line() == roll.HERE
    second.lose()
    want = "lost before all had joined: process 1 of 4 (pid 77 on node3)"
    assert first.ended() == want
    assert third.line() == roll.MISSING + want


def test_the_first_is_missed_when_it_leaves_the_roll(address):
    host, port = address.split(":")
    with socket.create_server((host, int(port))) as server:
        second = Caller(address, 2, 1, grace=0.5)
        one, _ = server.accept()
        with one:
            one.recv(4096)
            one.sendall(f"{roll.HERE}\n".encode())
    want = f"lost before all had joined: process 0 of 2 at {address}"
    assert second.ended() == want


def test_strangers_at_the_door_are_no_process(address, heard):
    first = Caller(address, 2, 0)
    for words in (b"GET / HTTP/1.1\n\n", b"[1, 2]\n", b"\xff\n", b"x" * 9999):
        stranger = heard(address, 7, 2)
        assert stranger.line() == f"{roll.MISSING}there is no process 7 of 2"
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=LONG) as one:
            one.sendall(words)
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(10) == b""
    assert heard(address, 1, 2).line() == roll.HERE
    assert first.through.wait(LONG)


def test_processes_that_wait_in_vain_end_with_75_and_name_the_missing(tmp_path):
    """Each is alone: of one pair the second never starts, of the other the first."""
    alone = []
    for process in (0, 1):
        limits = dict(
            coordinator=processes.free_address(),
            num_processes=2,
            process_id=process,
            initialization_timeout=2,
            heartbeat_timeout=1,
        )
        log = tmp_path / f"{process}.log"
        words = [str(PROGRAM), json.dumps({"launch": limits})]
        alone.append(processes.start(words, log))
    try:
        statuses = [one.wait(timeout=120) for one in alone]
    finally:
        for one in alone:
            one.kill()
            one.wait()
    said = [(tmp_path / f"{process}.log").read_text() for process in (0, 1)]
    assert statuses == [STATUS, STATUS], said
    assert re.search("did not come in 2 s: process 1 of 2 .told by flags", said[0])
    assert re.search("did not call all in 2 s: process 0 of 2 at localhost:", said[1])
    assert not any("Traceback" in text or "stack trace" in text for text in said), said
