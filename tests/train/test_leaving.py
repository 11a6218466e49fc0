"""A finished run says in its folder how it is used, in commands that exist."""

import json
import shlex
from unittest.mock import Mock

import pytest
import tyro

from experiments import classify, cmrxrecon, embed, retrieve, zero_shot
from medjax.data.boundary import DataError
from medjax.mri.reconstruction import Reconstruction
from medjax.mri.series import ReconstructionSystem
from medjax.train.leaving import conclude
from medjax.vlp.classifier import ClassifierSystem
from medjax.vlp.finetuning import Finetuning
from medjax.vlp.place_system import PlaceSystem
from medjax.vlp.pretraining import Pretraining
from medjax.vlp.system import PretrainingSystem

PARSE = {
    "experiments.embed": lambda given: tyro.cli(embed.Embed, args=given),
    "experiments.zero_shot": lambda given: tyro.cli(zero_shot.ZeroShot, args=given),
    "experiments.retrieve": lambda given: tyro.cli(retrieve.Retrieve, args=given),
    "experiments.classify": lambda given: tyro.cli(classify.Classify, args=given),
    "experiments.cmrxrecon": cmrxrecon.command,
}


def leave(folder, record, uses):
    if record is not None:
        folder.mkdir(exist_ok=True)
        (folder / "system.json").write_text(record)
    conclude(
        folder,
        about="A run",
        command=["python", "-m", "experiments.imitate", "--data.root", "two words"],
        contents={"towers": "both towers", "data": "films"},
        uses=uses,
    )
    return (folder / "README.txt").read_text()


@pytest.mark.parametrize(
    ("experiment", "systems"),
    [
        (Pretraining, [PretrainingSystem]),
        (Finetuning, [ClassifierSystem, PlaceSystem]),
        (Reconstruction, [ReconstructionSystem]),
    ],
)
def test_every_command_for_every_ability_can_be_given(experiment, systems, tmp_path):
    folder = tmp_path / "a run's folder"
    can = json.dumps({"family": "x", "can": list(experiment.uses)})
    told = leave(folder, can, experiment.uses).replace("\\\n", " ").split("\n")
    commands = [line.strip() for line in told if line.startswith("    python -m")]
    for line in commands[1:]:  # the first is the run's own
        _, _, module, *arguments = shlex.split(line)
        config = PARSE[module](arguments)
        assert folder in (getattr(config, "run", None), *getattr(config, "learned", ()))
    # What has no command of its own is told in Python.
    by_command = [use for use in experiment.uses.values() if "python -m" in use]
    assert len(commands) > len(by_command) > 0
    told_in_python = set(experiment.uses.values()) - set(by_command)
    assert all("medjax.load" in use for use in told_in_python)
    able = set().union(*(system.apply.fget(Mock()) for system in systems))
    assert experiment.uses.keys() <= able


def test_what_is_there_is_told_and_what_is_not_is_not(tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "towers").mkdir(parents=True)
    record = '{"family": "x", "can": ["reconstruct", "fly"]}'
    told = leave(folder, record, {"reconstruct": "RUN {run}", "embed": "EMBED"})
    assert f"RUN {folder}" in told and "EMBED" not in told
    assert "    python -m experiments.imitate --data.root 'two words'\n" in told
    shown = capsys.readouterr().out.strip().split("\n")[1:]
    paths = [line.split()[0] for line in shown]
    assert paths == [f"{folder}/{n}" for n in ("towers/", "system.json", "README.txt")]


def test_a_run_without_a_record_has_no_uses_and_a_damaged_one_is_named(tmp_path):
    assert "EMBED" not in leave(tmp_path / "a", None, {"embed": "EMBED"})
    with pytest.raises(DataError, match=r"system\.json"):
        leave(tmp_path / "b", "[1]", {"embed": "EMBED"})
