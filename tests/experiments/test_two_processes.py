"""An experiment in two processes, from flags to report, is the experiment in one."""

import json

import numpy as np
import pytest

from medjax.train.log import read_metrics
from tests.processes import finish, free_address, slurm_step, start

FLAGS = """
    tiny --data.patients 60 --data.image-size 32 --data.batch-size 16
    --text.max-length 32 --image.architecture vit_tiny --language.batch-size 16
    --language.steps 2 --train.steps 3 --train.log-every 1 --evaluation.fractions 1.0
    --evaluation.batch-size 8
""".split()


def start_mflag(workdir, name, devices, **variables):
    """M-FLAG, whose report tower is read once."""
    command = ["-m", "experiments.mflag", *FLAGS, "--workdir", str(workdir)]
    command += ["--launch.cpu-devices", str(devices)]
    log = workdir.parent / f"{name}.log"
    return start(command, log, variables=variables)


def test_two_processes_prepare_train_evaluate_and_report_as_one(tmp_path):
    # As Slurm starts it: what the README says, and found without a flag.
    port = free_address().rpartition(":")[2]
    pair, one = tmp_path / "pair", tmp_path / "one"
    both = [
        start_mflag(pair, f"pair_{i}", 1, **slurm_step(i, 2, port)) for i in range(2)
    ]
    finish(tmp_path, both, [0, 0])
    finish(tmp_path, [start_mflag(one, "one", 2)], [0])
    for stage in ("language", "."):
        ours, theirs = (
            [row["loss"] for row in read_metrics(run / stage) if "loss" in row]
            for run in (pair, one)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert len(ours) > 1
    ours, theirs = (
        json.loads((run / "evaluation.json").read_text()) for run in (pair, one)
    )
    for scores in ("zero_shot", "auc"), ("retrieval", "image_to_text"):
        found, expected = (
            {k: v for k, v in e[scores[0]][scores[1]].items() if k != "chance"}
            for e in (ours, theirs)
        )
        assert found == pytest.approx(expected, abs=1e-3)
    assert (pair / "report.html").stat().st_size > 10_000
    assert (pair / "towers").is_dir()
    # One process of the two says how the run is used, and what it has left.
    assert f"experiments.zero_shot {pair}" in (pair / "README.txt").read_text()
    logs = [(tmp_path / f"pair_{i}.log").read_text() for i in range(2)]
    assert f"{pair}/report.html" in logs[0] and "written:" not in logs[1]
    assert not any("\r" in log for log in logs)
