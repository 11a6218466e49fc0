"""The drill itself: who is killed, what is written down, and who is left to nobody.

Its processes are shells here; the real ones are what the command is for.
"""

import dataclasses
import functools
import itertools
import json
import subprocess
import threading

import numpy as np
import pytest

from experiments import blows, drill
from medjax.train import TrainConfig, fit, watch
from tests.train import tiny


def shells(command, victim="kill -9 $$"):
    """Processes that do what they are told, in place of those of a run."""

    def start(workdir, settings, log, blow=None):
        del workdir, log
        told = [command] * settings.processes
        if blow is not None:
            told[blow.process] = victim
        return [subprocess.Popen(["bash", "-c", each]) for each in told]

    return start


@pytest.fixture
def settings(tmp_path):
    return drill.Drill(kills=3, processes=4, steps=5, workdir=tmp_path, minutes=1)


def test_one_process_is_killed_and_the_rest_are_waited_for(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(drill, "start", shells("exit 75"))
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1.0}\n{"step"')
    found = drill.disturb(settings, tmp_path)
    assert len(found) == 3 and all(map(drill.clean, found))
    for kill in found:
        statuses = kill["statuses"]
        assert statuses.pop(kill["killed"]) == -9
        assert statuses == [75, 75, 75] and kill["step"] == 3
    again = drill.disturb(settings, tmp_path)
    where = [[(k["killed"], k["phase"]) for k in each] for each in (found, again)]
    assert where[0] == where[1], "by the seed"
    elastic = dataclasses.replace(settings, elastic=True, kills=12)
    found = drill.disturb(elastic, tmp_path)
    assert {k["processes"] for k in found} == {4, 2, 1}
    assert {k["devices"] for k in found} == {1, 2}
    assert all(k["killed"] < k["processes"] for k in found)


def test_processes_that_hang_or_abort_are_told_of(settings, tmp_path, monkeypatch):
    settings = dataclasses.replace(settings, kills=1)
    monkeypatch.setattr(drill, "PATIENCE", 0.3)
    monkeypatch.setattr(drill, "start", shells("exec sleep 60"))
    (kill,) = drill.disturb(settings, tmp_path)
    assert kill["statuses"].count(None) == 3 and not drill.clean(kill)
    monkeypatch.setattr(drill, "PATIENCE", 60.0)
    for status in (134, 1):
        monkeypatch.setattr(drill, "start", shells(f"exit {status}"))
        (kill,) = drill.disturb(settings, tmp_path)
        assert not drill.clean(kill)
    monkeypatch.setattr(drill, "start", shells("exit 75", victim="exit 1"))
    (kill,) = drill.disturb(settings, tmp_path)
    assert not drill.clean(kill), "nobody was killed"


def test_a_run_that_ends_first_is_not_killed(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(drill, "start", shells("exit 0", victim="exit 0"))
    assert drill.disturb(settings, tmp_path) == []


def test_a_blow_comes_when_its_phase_comes_for_the_nth_time(monkeypatch):
    killed = threading.Event()
    monkeypatch.setattr(drill.os, "kill", lambda pid, number: killed.set())
    begins = blows.Blow(0, "step", 2, 0.0).arm()
    for phase in ("start", "join", "step", "save"):
        begins(phase)
    assert not killed.wait(0.05)
    begins("step")
    assert killed.wait(60)


def test_every_phase_and_process_is_drawn():
    random = np.random.default_rng(0)
    drawn = [blows.draw(random, 4) for _ in range(200)]
    assert {(b.process, b.phase) for b in drawn} == set(
        itertools.product(range(4), blows.PHASES)
    )


def test_in_turn_every_phase_has_its_share(settings, tmp_path, monkeypatch):
    """And nothing is restored before the run has a checkpoint."""
    monkeypatch.setattr(drill, "start", shells("exit 75"))
    count = len(blows.PHASES)
    settings = dataclasses.replace(settings, processes=1, kills=2 * count)
    turns = dataclasses.replace(settings, in_turn=True)
    for each in (settings, turns):
        phases = [kill["phase"] for kill in drill.disturb(each, tmp_path)]
        assert "restore" not in phases[: phases.index("evaluate")]
    assert set(phases[:count]) == set(phases[count:]) == set(blows.PHASES)
    for seed in range(100):
        random, known = np.random.default_rng(seed), []
        for _ in range(count):
            known.append(blows.draw(random, 4, blows.due(known)).phase)
        assert known.index("evaluate") < known.index("restore")
        assert set(known) == set(blows.PHASES)


def test_a_drill_hears_of_what_is_restored(tmp_path, monkeypatch):
    """As of every phase that a blow may wait for: else nobody would be killed there."""
    heard = []
    monkeypatch.setattr(watch, "moved", lambda phase, step=None: heard.append(phase))
    one = functools.partial(
        fit,
        tiny.init,
        tiny.quiet_loss,
        workdir=tmp_path,
        evals=[lambda state, step: {}],
    )
    one(tiny.Stream(), train=TrainConfig(steps=1, eval_every=1))
    assert "restore" not in heard
    one(tiny.Stream(), train=TrainConfig(steps=2, eval_every=1))
    # A process comes to the first two by itself.
    assert set(heard) >= set(blows.PHASES) - {"start", "join"}


def test_what_cannot_be_drilled_is_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="processes: 3, expected a power of two"):
        drill.run(dataclasses.replace(settings, processes=3))
    (tmp_path / "whole").mkdir()
    with pytest.raises(ValueError, match="whole is of an earlier drill"):
        drill.run(settings)


@pytest.mark.parametrize(
    "theirs, weights, survived",
    [(1.0, 1.0, True), (1.0, 2.0, False), (1.0001, 1.0, False)],
)
def test_curve_and_weights_decide(theirs, weights, survived, settings, monkeypatch):
    seconds = dict.fromkeys((*drill.LOST, "steps"), 1.0)
    begin = shells("exit 0", victim="exit 0")

    def start(workdir, *others):
        row = {"step": 1, "loss": 1.0 if workdir.name == "whole" else theirs}
        (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        account = {"starts": 1, "seconds": seconds}
        (workdir / drill.ACCOUNT).write_text(json.dumps(account))
        return begin(workdir, *others)

    monkeypatch.setattr(drill, "start", start)
    monkeypatch.setattr(
        drill,
        "load_variables",
        lambda folder: {"params": [1.0 if folder.name == "whole" else weights]},
    )
    found = drill.run(settings)
    assert found["survived"] is survived
    assert f"**{'yes' if survived else 'no'}**" in drill.page(found)


def test_many_kills_are_told_by_phase():
    """None is lost, and one that ended as it should not is not counted as well."""
    kill = {"processes": 2, "devices": 1, "step": 1, "gone_after_s": 2.0}
    well = {**kill, "killed": 0, "phase": "step", "statuses": [-9, 75]}
    badly = {**kill, "killed": 1, "phase": "save", "statuses": [1, -9]}
    told = drill.by_phase([well, {**well, "gone_after_s": 9.5}, badly])
    assert told.splitlines()[2:] == [
        "| step | 2 | 2 | 2 | 2.0 to 9.5 |",
        "| save | 1 | 0 | 0 | 2.0 to 2.0 |",
    ]
    assert drill.one_by_one([badly]).splitlines()[2].startswith("| 2 x 1 | 1 | save |")
