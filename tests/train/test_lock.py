"""One run in a workdir, and a workdir that stays where it is."""

import dataclasses
import json
import os
import signal
import socket
import threading
import time

import pytest

from medjax.train import lock
from medjax.train.lock import WorkdirError, hold
from medjax.train.log import truncate
from tests import processes
from tests.train.test_processes import PROGRAM


def wait_for(path, seconds=300):
    """Until something is there, and not empty."""
    until = time.monotonic() + seconds
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.1)


def test_a_second_run_is_refused_and_a_vanished_folder_is_an_error(tmp_path):
    loop = dict(steps=4000, log_every=1, checkpoint_every=4000)
    workdir, logs = tmp_path / "run", tmp_path / "logs"

    def run(name, **options):
        settings = json.dumps({"train": loop, "workdir": str(workdir), **options})
        return processes.start([str(PROGRAM), settings], logs / f"{name}.log")

    third, first = None, run("first", delay=0.05)
    try:
        wait_for(workdir / "metrics.jsonl")
        holder = json.loads((workdir / lock.NAME).read_text())
        assert holder["pid"] == first.pid
        second = run("second")
        assert second.wait(timeout=300) == 1
        told = (logs / "second.log").read_text()
        assert f"in use by process {first.pid} on {holder['host']}, since 2" in told
        # Killed: its lock is void, since the process is gone.
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert (workdir / lock.NAME).exists()
        third = run("third", delay=0.05)
        until = time.monotonic() + 300
        while json.loads((workdir / lock.NAME).read_text() or "{}") == holder:
            assert time.monotonic() < until and third.poll() is None
            time.sleep(0.1)
        taken = time.time()
        while (workdir / "metrics.jsonl").stat().st_mtime < taken:
            assert time.monotonic() < until and third.poll() is None
            time.sleep(0.1)
        workdir.rename(tmp_path / "elsewhere")
        processes.finish(logs, [third], [1])
        assert "has vanished while the run went on" in (logs / "third.log").read_text()
        assert not (workdir / "checkpoints").exists()
    finally:
        for process in filter(None, (first, third)):
            process.kill()
            process.wait()


def test_processes_that_mean_two_folders_are_refused_by_name(tmp_path):
    """Told apart by name, or, under one name, by what lies there."""
    disks = [tmp_path / "disk_0", tmp_path / "disk_1"]
    cases = {
        "names": [{"workdir": str(disk)} for disk in disks],
        "disks": [{"workdir": "run", "cwd": str(disk)} for disk in disks],
    }
    pairs = {}
    for case, options in cases.items():
        launch = {"coordinator": processes.free_address(), "num_processes": 2}
        pairs[case] = []
        for process, own in enumerate(options):
            disks[process].mkdir(exist_ok=True)
            settings = json.dumps({"launch": {**launch, "process_id": process}, **own})
            command = [str(PROGRAM.with_name("joined.py")), settings]
            log = tmp_path / case / f"{process}.log"
            pairs[case].append(processes.start(command, log))
    expected = {
        "names": f"were given process 0 {disks[0]}, process 1 {disks[1]}; run",
        "disks": "run is not the same folder for all processes: process 1 on "
        f"{socket.gethostname()} cannot see",
    }
    for case, pair in pairs.items():
        processes.finish(tmp_path / case, pair, [1, 1])
        for process in (0, 1):
            told = (tmp_path / case / f"{process}.log").read_text()
            assert "error: workdir: " in told and expected[case] in told
            assert "held" not in told and "Traceback" not in told


@pytest.fixture
def quick(monkeypatch):
    """Beats that need no patience."""
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "STALE", 2.0)


def stranger(folder, **changes):
    """A lock of another host."""
    owner = lock.Owner("node7", 77, "", "2026-11-28 05:20:00", "theirs", 1)
    owner = dataclasses.replace(owner, **changes)
    folder.mkdir(exist_ok=True)
    (folder / lock.NAME).write_text(json.dumps(dataclasses.asdict(owner)))


def test_a_lock_of_another_host_is_void_without_a_beat(tmp_path, quick):
    stranger(tmp_path)
    with hold(tmp_path) as held, hold(tmp_path) as again:
        assert held is again
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / lock.NAME).exists()
    beats = threading.Thread(
        target=lambda: (time.sleep(0.2), stranger(tmp_path, beat=2))
    )
    stranger(tmp_path)
    beats.start()
    with (
        pytest.raises(WorkdirError, match="by process 77 on node7, since 2026-11-28"),
        hold(tmp_path),
    ):
        pass
    beats.join()


def test_a_process_number_counts_on_its_own_host_and_container_only(
    tmp_path, quick, monkeypatch
):
    gone = dict(pid=2**22 + 1, host=socket.gethostname())
    # What is told apart is waiting or not, on a disk however busy.
    monkeypatch.setattr(lock, "STALE", 300.0)
    stranger(tmp_path, **gone, space=lock._space())
    began = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - began < 200.0
    monkeypatch.setattr(lock, "STALE", 3.0)
    stranger(tmp_path, **gone, space="pid:[1]")
    began = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - began > 2.9


def test_a_lock_that_another_run_has_taken_ends_this_one(tmp_path, quick):
    with pytest.raises(WorkdirError, match="in use by process 77"), hold(tmp_path) as h:
        stranger(tmp_path)
        for _ in range(100):  # some beats later, however busy the machine is
            time.sleep(0.1)
            h.check()
    # It is theirs, and stays.
    assert (tmp_path / lock.NAME).exists()


def test_truncation_keeps_the_file_that_is_open(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    with path.open("a") as rows:
        truncate(path, 2)
        rows.write('{"step": 3}\n')
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    path.write_text('{"step": 1}\n{"step": 3}\n{"step": 2}\n')
    truncate(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
