"""One process dies, stops, fails or hangs: the others end, and say whom they miss."""

import itertools
import json
import re
import signal
import threading
import time
from pathlib import Path

import jax
import pytest

from medjax.train.straggling import DEVICE, INPUT, Meter, Pace, behind
from medjax.train.watch import LIMITS, STATUS, Watch
from tests import processes

PROGRAM = Path(__file__).with_name("joined.py")


def start_pair(folder, **options):
    """Two processes that meet until something befalls the victim."""
    address = processes.free_address()
    limits = {"heartbeat_timeout": 3, "coordinator": address, "num_processes": 2}
    return [
        processes.start(
            [str(PROGRAM), json.dumps({**options, "launch": {**limits, **own}})],
            folder / f"{own['process_id']}.log",
        )
        for own in ({"process_id": 0}, {"process_id": 1})
    ]


def test_who_is_missing_is_named_and_the_others_end(tmp_path):
    told = {
        "killed": dict(victim=0, what="SIGKILL"),
        "stopped": dict(victim=1, what="SIGSTOP"),
        "refused": dict(victim=1, what="b.csv: no column 'image'"),
    }
    pairs = {name: start_pair(tmp_path / name, **o) for name, o in told.items()}
    words = {
        "killed": r"process 0 of 2 \(pid {pid} on .*\), which .* is gone",
        "stopped": r"process 1 of 2 \(pid {pid} on .*\) has not been heard of for 3 s",
        "refused": r"process 1 of 2 \(pid {pid} .* ended: DataError: b.csv: no column",
    }
    try:
        for name, (victim, survivor) in {
            name: (pair[told[name]["victim"]], pair[1 - told[name]["victim"]])
            for name, pair in pairs.items()
        }.items():
            status = survivor.wait(timeout=120)
            log = tmp_path / name / f"{1 - told[name]['victim']}.log"
            text = log.read_text()
            assert status == STATUS, text
            assert re.search(words[name].format(pid=victim.pid), text), text
            # No stack, of C++ or of Python, buries the line.
            assert "stack trace" not in text and "Traceback" not in text, text
            # Before: one process decides for both, and an error is everyone's.
            agreed = json.loads(re.search("agreed (.*)", text)[1])
            refused = "the first process found no file"
            assert agreed[:3] == [0, [10, 11], f"{refused}, {refused}"]
            mixed = "process 1 asks 'branch 1' where another is at 'branch 0'"
            assert told[name]["victim"] == 1 or mixed in agreed[3]
            # Pieces go around from the one that is asked for; everyone has all.
            me = 1 - told[name]["victim"]
            assert agreed[4:6] == [[0, 1, 4, 9, 16], [[1, 3], [0, 2, 4]][me]]
            whose = ["process 1: JSONDecodeError: ", ""][me]
            assert agreed[6].startswith(f"{whose}Expecting property name")
        assert pairs["killed"][0].wait(timeout=60) == -signal.SIGKILL
        assert pairs["refused"][1].wait(timeout=60) == 1
        said = (tmp_path / "refused" / "1.log").read_text()
        assert "error: b.csv: no column 'image'\n" in said and "Traceback" not in said
    finally:
        for process in (p for pair in pairs.values() for p in pair):
            process.kill()
            process.wait()


class Store:
    """What three processes have written; a store may fall silent."""

    def __init__(self):
        self.notes = {}

    def key_value_set(self, key, value, allow_overwrite):
        del allow_overwrite
        if self.notes is None:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: socket closed")
        self.notes[key] = value

    def key_value_dir_get(self, folder):
        return [(k, v) for k, v in self.notes.items() if k.startswith(folder)]


@pytest.fixture
def trio(monkeypatch):
    """Watches of three processes on one store, and a clock that jumps."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    store = Store()
    watches = [Watch(i, 3, "node0:1", heartbeat=20, stall=60) for i in range(3)]
    for watch in watches:
        watch.begin(store)

    def pass_time(seconds, *speaking):
        for _ in range(int(seconds)):
            now[0] += 1.0
            for index in (*speaking, *speaking):
                watches[index].exchange()

    return watches, store, pass_time


def test_whoever_speaks_is_not_missed(trio):
    watches, _, pass_time = trio
    pass_time(50, 0, 1, 2)
    assert [watch.find() for watch in watches] == [None] * 3
    pass_time(25, 0, 1)
    assert "process 2 of 3" in watches[0].find()
    assert re.search("not been heard of for 2. s", watches[1].find())


def test_a_silent_store_is_process_0(trio):
    watches, store, pass_time = trio
    pass_time(2, 0, 1, 2)
    store.notes = None
    pass_time(25, 1)
    assert re.search("process 0 of 3.*node0:1, has not answered", watches[1].find())


def test_no_step_for_long_is_a_stall_and_the_one_behind_is_named(trio, capfd):
    watches, _, pass_time = trio
    for step in range(1, 11):
        for watch in watches[: 3 if step < 8 else 2]:
            watch.moved("step", step)
        pass_time(1, 0, 1, 2)
    pass_time(55, 0, 1, 2)
    assert watches[0].find() is None
    pass_time(10, 0, 1, 2)
    reason = watches[0].find()
    assert reason.startswith("no progress for 66 s at step 10; elsewhere: process 2")
    assert "step 7" in reason
    assert "most recent call first" in capfd.readouterr().err
    # Steps that take half a minute are no stall, and neither is a compilation.
    watches[1].moved("compile")
    for step in range(11, 32):
        watches[0].moved("step", step)
        pass_time(30, 0, 1, 2)
    pass_time(100, 0, 1, 2)
    assert watches[0].find() is None and watches[1].find() is None
    pass_time(LIMITS["compile"], 0, 1, 2)
    assert "at compile" in watches[1].find()


def test_one_that_is_done_may_leave_and_one_that_failed_is_followed(trio):
    watches, _, pass_time = trio
    watches[1].own.done = True
    pass_time(2, 0, 1, 2)
    pass_time(40, 0, 2)
    assert watches[0].find() is None
    watches[2].own.ended = "DataError: a.csv: empty"
    pass_time(2, 0, 2)
    # The same may be about to end this process in its own words.
    assert watches[0].find() is None
    pass_time(5, 0, 2)
    assert watches[0].find().endswith("has ended: DataError: a.csv: empty")


def test_the_watch_is_over_when_all_are_done_and_before_the_interpreter(trio):
    """A thread of it inside the client would fall with the interpreter."""
    watches, _, pass_time = trio
    pass_time(2, 0, 1, 2)
    heard, asked = threading.Event(), watches[0].exchange

    def exchange():
        asked()
        heard.set()

    watches[0].exchange = exchange
    speaks = threading.Thread(target=watches[0]._over.wait, daemon=True)
    speaks.start()
    watches[0]._threads = [speaks]
    leaves = threading.Thread(target=watches[0]._leave, daemon=True)
    leaves.start()
    assert heard.wait(60), "the others are told"
    assert speaks.is_alive() and leaves.is_alive()
    for watch in watches[1:]:
        watch.own.done = True
        watch.exchange()
    watches[0].exchange()
    leaves.join(60)
    assert not leaves.is_alive() and not speaks.is_alive()


def test_whoever_holds_up_the_others_is_named(trio, caplog):
    """Of three whose steps are as long one reads for most of it; by process 0, once."""
    watches, _, pass_time = trio
    step = itertools.count(1)

    def train(*own):
        """Three looks at steps of a second, of which so much is one's own."""
        for _ in range(3):
            at = next(step)
            for watch, seconds in zip(watches, own, strict=True):
                watch.own.phase, watch.own.step = "step", at
                watch.meter = Meter()
                watch.meter._spent[DEVICE] = 1 - seconds
                watch.meter._spent[INPUT] = seconds / 2
                watch.meter.ended(1.0)
            pass_time(1, 1, 2, 0)

    train(0.2, 0.2, 0.29)
    train(0.01, 0.01, 0.1)  # many times the others, and felt by nobody
    assert not caplog.records
    train(0.2, 0.2, 0.31)
    (told,) = caplog.records
    words = "process 2 of 3 .* holds up the others: of a step of 1 s its own part takes"
    assert re.match(f"{words} 0.31 s .0.155 s of it.*0.2 s is usual", told.getMessage())
    train(0.2, 0.2, 0.4)
    assert len(caplog.records) == 1, "it is known"
    train(0.2, 0.2, 0.2)
    train(0.2, 0.9, 0.4)  # the one in the middle is what is usual
    train(0.2, 0.2, 0.4)
    named = [each.args[0][:9] for each in caplog.records[1:]]
    assert named == ["process 1", "process 2"]
    # While somebody saves, or nobody gets on, there is nothing to be seen.
    train(0.2, 0.2, 0.2)
    caplog.clear()
    watches[1].moved("save")
    pass_time(9, 0, 1, 2)
    assert not caplog.records
    assert behind({0: Pace(1.0, 0.5), 1: Pace(1.0, 0.7)}) == {1}
    assert behind({0: Pace(), 1: Pace()}) == set()
