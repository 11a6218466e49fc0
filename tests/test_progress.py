"""One line at a time, in place on a terminal, seldom and whole in a file."""

import io
import logging
import os
import subprocess
import sys
import threading
import types

import pytest
from jax._src import distributed

from medjax import progress
from medjax.progress import Lines, Progress, Waiting, say, track
from medjax.train.log import in_figures


class Terminal(io.StringIO):
    """A stream that people look at."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def screen(self):
        """What stands there at the end, line by line."""
        lines = self.getvalue().split("\n")
        return [line.rpartition("\r")[2].replace("\x1b[K", "") for line in lines]


@pytest.fixture
def clock(monkeypatch):
    """A time that tests set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    both = types.SimpleNamespace(stdout=stream, stderr=stream)
    monkeypatch.setattr(progress, "sys", both)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return stream


def test_the_line_has_phase_rate_and_time_left(clock):
    with Progress("train", 150, "steps", done=50) as bar:
        assert bar.line() == "train: 50 of 150 steps"
        clock[0] += 4
        bar.advance(10, remark="loss 2.3")
        expected = "train: 60 of 150 steps, 2.50 steps/s, 0:36 left, loss 2.3"
        assert bar.line() == expected


def test_a_file_gets_whole_lines_and_seldom(clock, capsys):
    for _ in track(range(100), "encode", 100, "films"):
        clock[0] += 1
    lines = capsys.readouterr().err.split("\n")
    assert lines[:2] == [
        "encode: 30 of 100 films, 1.00 films/s, 1:10 left",
        "encode: 60 of 100 films, 1.00 films/s, 0:40 left",
    ]
    assert lines[3:] == ["encode: 100 films in 1:40, 1.00 films/s", ""]
    assert "\r" not in "".join(lines) and "\x1b" not in "".join(lines)


def test_a_phase_within_another_takes_its_place_and_none_of_its_time(clock, terminal):
    with Progress("train", 100, "steps") as outer:
        clock[0] += 10
        outer.advance(10)
        assert "train: 10 of 100 steps" in terminal.getvalue()
        with Progress("evaluate", 4, "series") as inner:
            since = len(terminal.getvalue())
            clock[0] += 50
            inner.advance(2)
            say("in between")
            assert "train" not in terminal.getvalue()[since:]
            assert terminal.screen()[-1].endswith("0.04 series/s, 0:50 left")
        assert terminal.screen()[-1].endswith("1.00 steps/s, 1:30 left")
    # Neither of the two is left; what was said stands there alone.
    told = [line for line in terminal.screen() if line]
    assert told == [
        "in between",
        "evaluate: 2 series in 0:50, 0.04 series/s",
        "train: 10 steps in 0:10, 1.00 steps/s",
    ]


def test_what_is_one_piece_tells_its_time_beside_the_work(monkeypatch, clock, terminal):
    """The work holds the thread: the line is redrawn by another."""
    with Progress("train", 100, "steps"), Waiting("compile") as phase:
        assert terminal.screen()[-1] == "compile: 0:00"
        clock[0] += 70
        drawn = threading.Event()
        monkeypatch.setattr(phase, "draw", drawn.set)
        assert drawn.wait(20)
        assert phase.picture() == "compile: 1:10"
    assert [line for line in terminal.screen() if line] == ["compile: 1:10"]


def test_what_is_one_piece_is_silent_in_a_file_unless_it_lasts(clock, capsys):
    for seconds in (1, 130):
        with Waiting("compile"):
            clock[0] += seconds
    assert capsys.readouterr().err == "compile: 2:10\n"


def test_what_is_logged_meanwhile_has_a_line_of_its_own(terminal):
    logger = logging.Logger("some")
    logger.addHandler(Lines())
    with Progress("train", 10, "steps"):
        logger.warning("node7 is %s", "late")
        assert terminal.screen()[-2] == "node7 is late"
        assert "train: 0 of 10 steps" in terminal.screen()[-1]


def test_a_phase_that_fails_takes_its_line_away(terminal):
    with pytest.raises(ValueError), Progress("train", 10, "steps"):
        raise ValueError
    assert not "".join(terminal.screen())


def test_other_processes_are_silent(monkeypatch, terminal):
    monkeypatch.setattr(distributed.global_state, "process_id", 1)
    for _ in track(range(3), "encode", 3, "films"):
        pass
    assert not terminal.getvalue()


def test_a_logged_step_is_a_few_figures_with_units():
    row = {
        "loss": 2.30512345,
        "lr": 1.3e-3,
        "grad_norm": 1.2411,
        "param_norm": 77.1,
        "steps_per_s": 3.4112,
        "examples_per_s": 218.31,
        "input_wait": 0.25,
        "eta_s": 38.2,
        "peak_memory_bytes": 10,
    }
    assert in_figures(20, row) == (
        "step 20  loss 2.305  gradient 1.24  rate 0.0013  3.41 steps/s  "
        "218 examples/s  0:38 left  25% waiting for data"
    )
    scores = {f"eval/auc_{i}": 0.5 for i in range(8)}
    assert in_figures(20, scores).endswith("auc_5 0.5  and 2 more")


def test_a_door_says_at_once_that_it_opens():
    def started(*options, **variables):
        return subprocess.run(
            [sys.executable, *options],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        ).stderr

    name = "experiments.no_such_door"
    for options in (("-m", name), (f"-m{name}",), ("-um", name)):
        assert started(*options).startswith(f"{name}: loading\n")
    assert "loading" not in started("-m", name, SLURM_PROCID="1")
