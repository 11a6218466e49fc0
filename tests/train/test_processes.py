"""The loop in real processes: killed, asked to leave, and two that train as one."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from medjax import train
from medjax.train import goodput, speed
from medjax.train.preemption import AHEAD
from tests import processes
from tests.train.tiny import RULES, Stream, init, quiet_loss

PROGRAM = Path(__file__).with_name("tiny.py")


def start(workdir, *, log, **options):
    """Starts the tiny program."""
    settings = json.dumps({"workdir": str(workdir), **options})
    return processes.start([str(PROGRAM), settings], workdir / log)


def rows(workdir):
    """What a run computed, without how long it took."""
    timing = {*speed.TIMED, *goodput.ROW}
    return [
        {name: value for name, value in row.items() if name not in timing}
        for row in train.read_metrics(workdir)
    ]


def test_killed_and_asked_to_leave_a_run_still_ends_bit_equal(tmp_path):
    loop = dict(steps=22, log_every=1, checkpoint_every=5, eval_every=1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reference = start(whole, train=loop, log="0.log")
    # Killed right after a save was begun, which may or may not be complete by then;
    # later asked to leave between two saves. Always the same command.
    options = dict(train=loop, signals={"0:11": "SIGKILL", "0:17": "SIGTERM"})
    for attempt, status in enumerate((-9, 143, 0)):
        processes.finish(cut, [start(cut, log=f"{attempt}.log", **options)], [status])
        assert (cut / "done_0").exists() == (status == 0)
    processes.finish(whole, [reference], [0])
    assert rows(whole) == rows(cut)
    assert [row["step"] for row in rows(whole)] == list(range(1, 23))
    a, b = (jax.device_get(train.load_variables(run)) for run in (whole, cut))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def start_pair(workdir, loop, attempt, *, count=2, **options):
    address = processes.free_address()
    return [
        start(
            workdir,
            log=f"{attempt}_{process}.log",
            train=loop,
            coordinator=address,
            processes=count,
            process=process,
            **options,
        )
        for process in range(count)
    ]


def test_a_process_whose_batches_come_late_is_named(tmp_path):
    """Once, by the first process, which waits for it in every step."""
    options = dict(
        train=dict(steps=60, log_every=60, checkpoint_every=60),
        **dict(coordinator=processes.free_address(), processes=2, interval=0.2),
    )
    running = [
        start(tmp_path, log=f"{process}.log", process=process, delay=delay, **options)
        for process, delay in enumerate((0.0, 0.1))
    ]
    processes.finish(tmp_path, running, [0, 0])
    told = re.findall("process . of 2 .* holds up", (tmp_path / "0.log").read_text())
    (line,) = told
    assert re.match(r"process 1 of 2 \(pid \d+ on .*, step \d+\)", line)
    assert "holds up" not in (tmp_path / "1.log").read_text()


def test_two_processes_train_the_curve_of_one(tmp_path):
    loop = dict(steps=20, log_every=1, checkpoint_every=7, eval_every=1)
    pair = tmp_path / "pair"
    # One of the two is asked to leave, at step 8: both save three steps after it has
    # noticed, whichever of the two was ahead, and both resume.
    signals = {"1:8": "SIGTERM"}
    processes.finish(pair, start_pair(pair, loop, 0, signals=signals), [143, 143])
    saved = max(int(p.name) for p in (pair / "checkpoints").iterdir())
    assert saved == 9 + AHEAD
    processes.finish(pair, start_pair(pair, loop, 1, signals=signals), [0, 0])

    one = tmp_path / "one"
    train.fit(
        init,
        quiet_loss,
        Stream(),
        workdir=one,
        train=train.TrainConfig(**loop),
        optimizer=train.OptimizerConfig(lr=1e-2, schedule="restarts", restart_period=7),
        mesh=train.make_mesh(devices=jax.devices()[:2]),
    )
    for a, b in zip(rows(pair), rows(one), strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    # Two places in the data were saved; as they agree, one process may go on alone.
    state = train.fit(
        init,
        quiet_loss,
        Stream(),
        workdir=pair,
        train=train.TrainConfig(**{**loop, "steps": 22}),
        optimizer=train.OptimizerConfig(lr=1e-2, schedule="restarts", restart_period=7),
    )
    assert int(state.step) == 22


MESHES = {"8x1": {}, "4x2": {"fsdp": 2}, "1x8": {"fsdp": 8}}


def test_four_processes_of_two_devices_are_one_of_eight(tmp_path):
    loop = dict(steps=4, log_every=1, checkpoint_every=4)
    four = tmp_path / "four"
    started = start_pair(four, loop, 0, count=4, devices=2, meshes=MESHES)
    one = {}
    for name, mesh in MESHES.items():
        train.fit(
            init,
            quiet_loss,
            Stream(),
            workdir=tmp_path / name,
            train=train.TrainConfig(**loop),
            optimizer=train.OptimizerConfig(
                lr=1e-2, schedule="restarts", restart_period=7
            ),
            mesh=train.MeshConfig(**mesh),
            rules=RULES,
        )
        one[name] = rows(tmp_path / name)
    processes.finish(four, started, [0] * 4)
    for name in MESHES:
        for a, b in zip(rows(four / name), one[name], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
