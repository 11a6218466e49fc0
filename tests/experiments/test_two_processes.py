"""An experiment in two processes, from flags to report, is the experiment in one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from medjax.train.log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
FLAGS = """
    tiny --data.patients 60 --data.image-size 32 --data.batch-size 16
    --text.max-length 32 --image.architecture vit_tiny --language.batch-size 16
    --language.steps 2 --train.steps 3 --train.log-every 1 --evaluation.fractions 1.0
""".split()


def start(workdir, devices, *flags):
    """Starts M-FLAG, whose report tower is read once; its output goes to a file."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # it would count more devices than the flags
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-m", "experiments.mflag", *FLAGS, *flags]
    command += ["--launch.cpu-devices", str(devices), "--workdir", str(workdir)]
    with open(workdir.with_name(f"{workdir.name}{len(flags)}.log"), "a") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        )


def finish(folder, running):
    try:
        statuses = [process.wait(timeout=400) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    told = "\n".join(p.read_text()[-3000:] for p in sorted(folder.glob("*.log")))
    assert not any(statuses), told


def test_two_processes_prepare_train_evaluate_and_report_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    joined = ["--launch.coordinator", address, "--launch.num-processes", "2"]
    pair, one = tmp_path / "pair", tmp_path / "one"
    finish(
        tmp_path,
        [start(pair, 1, *joined, "--launch.process-id", i) for i in ("0", "1")],
    )
    finish(tmp_path, [start(one, 2)])
    for stage in ("language", "."):
        ours, theirs = (
            [row["loss"] for row in read_metrics(run / stage)] for run in (pair, one)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert len(ours) > 1
    ours, theirs = (
        json.loads((run / "evaluation.json").read_text()) for run in (pair, one)
    )
    assert ours.keys() == theirs.keys()
    assert (pair / "report.html").stat().st_size > 10_000
    assert (pair / "towers").is_dir()
