"""Processes that mean different runs are told apart by name before the first step."""

import dataclasses
import json
import socket
import sys
from pathlib import Path

import grain
import jax
import numpy as np

from medjax import train
from medjax.data.pipeline import ArraySource, PipelineConfig, build_pipeline
from medjax.train import TrainConfig, unison
from medjax.train.feed import identity
from medjax.train.launch import LaunchConfig
from medjax.train.unison import code, differences, refusal, shared
from tests import processes
from tests.train.tiny import Stream

PROGRAM = Path(__file__).with_name("unlike.py")


def test_two_processes_that_mean_two_runs_end_with_the_difference_by_name(tmp_path):
    launch = {"coordinator": processes.free_address(), "num_processes": 2}
    options = {"workdir": str(tmp_path / "run"), "launch": launch}
    pair = []
    for process in (0, 1):
        own = {**options, "launch": {**launch, "process_id": process}}
        log = tmp_path / f"{process}.log"
        pair.append(processes.start([str(PROGRAM), json.dumps(own)], log))
    processes.finish(tmp_path, pair, [1, 1])
    expected = [
        "optimizer.lr 0.02 where process 0 has 0.01, train.seed 1 where ",
        "experiment.sizes [8, 9] where process 0 has [8, 8]",
        "data.rows 65 where process 0 has 64",
        "data.seed 1 where process 0 has 0",
        "pretrained.params.encoder.bias 'float32 (32,) ",
        "code.medjax '1.1' where process 0 has '1.0'",
    ]
    for process in (0, 1):
        told = (tmp_path / f"{process}.log").read_text()
        refused = [x for x in told.splitlines() if x.startswith("refused")]
        begin = f"but process 1 on {socket.gethostname()} has "
        for line, difference in zip(refused, expected, strict=True):
            assert begin + difference in line and line.endswith("data everywhere")
        # Folders, threads and what a process joins by are its own.
        assert "trained" in told and "Traceback" not in told
        # An experiment looks at its flags at once.
        assert f"{begin}sizes [8, 9] where process 0 has [8, 8]; run" in told
        assert "error: processes: those of one run" in told
        assert "not refused" not in told
    assert json.loads((tmp_path / "run/config.json").read_text())["train"]["seed"] == 0


def test_what_a_process_has_for_itself_is_left_out_and_nothing_else(tmp_path):
    def settings(process, **changes):
        launch = LaunchConfig(coordinator="a:1", num_processes=2, process_id=process)
        data = {
            "root": tmp_path / str(process),
            "render": f"run:/scratch/{process}",
            "workers": process,
            "seed": 3,
            "start": "gs://bucket/a",
            "draw": object(),
            **changes,
        }
        train = TrainConfig(wandb="hearts" if process == 0 else None)
        # Of the same names as what is a process's own elsewhere.
        system = {"profile": 7, "rank": 10, "rate": float("nan")}
        run = {"launch": launch, "data": data, "train": train, "system": system}
        return shared({"experiment": run, "python": f"3.11.{process}"})

    assert not differences(settings(0), settings(1))
    for name, before, after in [
        ("root", "a path", None),
        ("render", "a path", "drawn"),
        ("seed", 3, 4),
        ("start", "gs://bucket/a", "gs://bucket/b"),
        ("sites", "nothing", ["a"]),
    ]:
        (found,) = differences(settings(0), settings(1, **{name: after}))
        assert found == (f"experiment.data.{name}", before, after)
    assert {"experiment.system.profile", "experiment.system.rank"} < settings(0).keys()


def test_weights_are_told_apart_by_every_bit():
    a = np.zeros((3, 2), np.float32)
    b = a.copy()
    b[2, 1] = 1e-9

    def told(array):
        return shared({"pretrained": {"params": {"kernel": array}}})

    assert told(a) == told(np.asfortranarray(a)) == told(jax.numpy.asarray(a))
    assert len({str(told(x)) for x in (a, b, a[:2], a.astype(np.float16))}) == 4


def test_a_file_of_the_code_is_named(tmp_path, monkeypatch):
    package = tmp_path / "medjax_elsewhere"
    (package / "train").mkdir(parents=True)
    (package / "__init__.py").touch()
    file = package / "train" / "loop.py"
    file.write_text("a = 1\n")
    program = tmp_path / "program.py"
    program.touch()
    monkeypatch.setattr(sys.modules["__main__"], "__file__", program, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("medjax.train.unison.PACKAGES", (package.name,))
    before = code()
    file.write_text("a = 2\n")
    (name, _, _), *rest = differences(before, code())
    assert name == "medjax_elsewhere/train/loop.py" and not rest
    assert {"medjax", "jaxlib", "program"} < before.keys()


def test_flags_are_passed_over_where_what_became_of_them_differs():
    theirs = {"train.seed": 0, "experiment.train.seed": 0, "experiment.size": 1}
    mine = {"train.seed": 1, "experiment.train.seed": 1, "experiment.size": 2}
    assert differences(theirs, mine) == [
        ("train.seed", 0, 1),
        ("experiment.size", 1, 2),
    ]


def test_a_message_names_a_few_of_many():
    many = [[f"s{n}", 0, n] for n in range(1, 6)]
    told = refusal(1, list("abcdef"), [many, [], many[:1], many[:1], many[:1], []])
    assert "process 0 on a has s1 1 where process 1 has 0, s2 2 where " in told
    assert "and 2 more settings; process 2 on c has s1 1 where process 1 has 0;" in told
    assert "process 3 on d" in told and "process 4" not in told
    assert "and 1 more processes; run the same command" in told
    long = refusal(0, ["a", "b"], [[], [["s", "x" * 500, None]]])
    assert len(long) < 300


class Told(Stream):
    """A stream that says what it is."""

    def identity(self):
        return {"seed": self.position}


def test_data_say_what_they_are_through_what_is_made_of_them():
    assert identity(Stream()) == {} == identity(grain.MapDataset.range(3))
    assert identity(Told()) == {"seed": 0}
    rows = ArraySource({"x": np.arange(8)})
    config = PipelineConfig(batch_size=4)
    shares = [
        build_pipeline(rows, dataclasses.replace(config, seed=seed), process_count=2)
        for seed in (5, 6)
    ]
    mixed = grain.IterDataset.mix(shares).map(lambda batch: batch)
    assert [identity(mixed)[n]["seed"] for n in "01"] == [5, 6]
    assert next(iter(mixed))["x"].shape == (2,)
    # Who reads all of it says nothing: the rows may be its own.
    assert identity(build_pipeline(rows, config)) == {}


def test_one_process_is_asked_nothing(monkeypatch):
    for name in ("everyone", "identity", "code", "started_with"):
        monkeypatch.setattr(unison, name, None)
    unison.check(
        None, train.OptimizerConfig(), TrainConfig(), train.make_mesh(), data=None
    )
    unison.check_flags(None)
