"""The drill itself: who is killed, what is written down, and who is left to nobody.

Its processes are shells here; the real ones are what the command is for.
"""

import json
import subprocess

import pytest

from experiments import drill


def shells(*commands):
    """Processes that do what they are told, in place of those of a run."""

    def start(workdir, settings, log):
        del workdir, log
        chosen = (commands * settings.processes)[: settings.processes]
        return [subprocess.Popen(["bash", "-c", command]) for command in chosen]

    return start


@pytest.fixture
def settings(tmp_path):
    return drill.Drill(kills=2, processes=3, steps=5, workdir=tmp_path, minutes=1)


def test_one_process_is_killed_and_the_rest_are_waited_for(
    settings, tmp_path, monkeypatch
):
    leave = "trap 'exit 75' TERM; sleep 0.6 & wait; exit 75"
    monkeypatch.setattr(drill, "start", shells(leave))
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1.0}\n{"step"')
    found = drill.disturb(settings, tmp_path, usual=0.1)
    assert len(found) == 2
    for kill in found:
        statuses = kill["statuses"]
        assert statuses.pop(kill["killed"]) == -9
        assert statuses == [75, 75] and kill["step"] == 3
    again = drill.disturb(settings, tmp_path, usual=0.1)
    assert [k["killed"] for k in again] == [k["killed"] for k in found], "by the seed"


def test_processes_that_hang_are_ended_and_told_of(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(drill, "start", shells("exec sleep 60"))
    monkeypatch.setattr(drill, "PATIENCE", 0.3)
    (kill, _) = drill.disturb(settings, tmp_path, usual=0.1)
    assert kill["statuses"].count(None) == 2


def test_a_run_that_ends_first_is_not_killed(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(drill, "start", shells("exit 0"))
    assert drill.disturb(settings, tmp_path, usual=1.0) == []


@pytest.mark.parametrize(
    "theirs, weights, survived",
    [(1.0, 1.0, True), (1.0, 2.0, False), (1.0001, 1.0, False)],
)
def test_curve_and_weights_decide(theirs, weights, survived, settings, monkeypatch):
    for name, value in (("whole", 1.0), ("cut-same", theirs)):
        folder = settings.workdir / name
        folder.mkdir()
        row = {"step": 1, "loss": value}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    account = {"starts": 1, "seconds": dict.fromkeys((*drill.LOST, "steps"), 1.0)}
    (settings.workdir / "cut-same" / drill.ACCOUNT).write_text(json.dumps(account))
    monkeypatch.setattr(drill, "start", shells("exit 0"))
    monkeypatch.setattr(
        drill,
        "load_variables",
        lambda folder: {"params": [1.0 if folder.name == "whole" else weights]},
    )
    found = drill.run(settings)
    assert found["survived"] is survived
    assert f"**{'yes' if survived else 'no'}**" in drill.page(found)
