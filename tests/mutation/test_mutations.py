"""Damaged files of every format are read, or refused by a documented error.

Nothing else is allowed: no other exception, no message without the file's name, no NaN
where numbers are promised, no more than 10 seconds and 2 GB a file. A few hundred files
by default; ``pytest tests/mutation --mutations 10000 --mutation-seed 1`` for more.
"""

import json
import signal
import subprocess
import sys

import pytest

from tests.mutation import formats
from tests.processes import ROOT, start

FEW = 160
"""Damaged files of a room by default."""


def run(folder, *arguments):
    """The worker's outcomes, and all that it printed."""
    out, log = folder / "outcomes.jsonl", folder / "worker.log"
    process = start(["-m", "tests.mutation.worker", *arguments, "--out", str(out)], log)
    try:
        status = process.wait()
    finally:
        process.kill()
    told = log.read_text()
    assert status in (0, 3), told
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return rows, status, told


@pytest.mark.parametrize("room", formats.ROOMS)
def test_damaged_files_are_read_or_refused(room, tmp_path, pytestconfig):
    names, every = formats.ROOMS[room], pytestconfig.getoption("--mutations")
    files = round(every * len(names) / len(formats.NAMES)) or FEW
    seed = pytestconfig.getoption("--mutation-seed")
    arguments = [f"--files={files}", f"--seed={seed}"]
    rows, _, told = run(tmp_path, *arguments, *(f"--format={name}" for name in names))
    print(told)
    faults = [row for row in rows if row["fault"]]
    again = "python -m tests.mutation.worker --seed {} --format {} --number {}"
    assert not faults, "\n".join(
        f"{row['reader']}: {row['fault']} ({row['told']})\n  "
        + again.format(seed, row["format"], row["number"])
        for row in faults[:20]
    )
    for name in names:
        mine = [row for row in rows if row["format"] == name]
        assert any(row["told"] for row in mine), f"{name}: nothing was refused"
        assert any(not row["told"] for row in mine), f"{name}: nothing was read"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Outcomes of readers that are at fault on purpose, where signals are blocked."""
    names = [f"--format={name}" for name in formats.PLANTED]
    few = ["--files=16", "--work=0.15", "--wait=4"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
    try:
        rows, status, _ = run(tmp_path_factory.mktemp("planted"), *names, *few)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert status == 3
    return rows


@pytest.mark.parametrize(
    "name, fault",
    [
        ("sound", ""),
        ("quoting", "the message repeats what the file says"),
        ("forgetful", "the message does not name the file"),
        ("mistyped", "KeyError is not documented"),
        ("silent", "not finite: value.values.0"),
        ("hungry", "MemoryError is not documented"),
        ("spinning", "too slow: SIGPROF"),
        ("sleeping", "hangs: SIGALRM"),
    ],
)
def test_the_harness_finds_planted_faults(planted, name, fault):
    found = [row for row in planted if row["format"] == name]
    assert [row["number"] for row in found] == [0, 1]
    assert {row["fault"] for row in found} == {fault}


def test_counts_of_a_run_are_a_page(tmp_path):
    asked = ["--format=sound", "--format=mistyped", "--files=4", "--seed=0"]
    assert run(tmp_path, *asked, f"--page={tmp_path / 'page.md'}")[1] == 3
    written = (tmp_path / "page.md").read_text().splitlines()
    assert "--files 4 --seed 0" in written[2]
    assert written[-1] == "| all | 4 | 0 | 2 | 2 |"
    assert "| mistyped | 2 | 0 | 0 | 2 |" in written


def test_a_damaged_file_can_be_made_again(tmp_path):
    made = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        subprocess.run(
            [sys.executable, "-m", "tests.mutation.worker", "--format=sound"]
            + ["--seed=3", "--number=5", f"--keep={folder}"],
            check=True,
            cwd=ROOT,
            capture_output=True,
        )
        made.append((folder / "5/a.txt").read_bytes())
    assert made[0] == made[1] != b"intact"
