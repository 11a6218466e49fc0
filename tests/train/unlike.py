"""A program of processes that mean different runs, one difference after the other.

``python unlike.py '{"launch": {...}, "workdir": ...}'``: each run is refused, which
prints why; then they train, different in what a process has for itself; and at the end
they are an experiment of different flags.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import medjax
from medjax import train
from medjax.data.pipeline import ArraySource, PipelineConfig, build_pipeline
from medjax.train import experiment
from medjax.train.ending import ends_in_words
from tests.train.tiny import init, quiet_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(experiment.Experiment):
    """Of an experiment."""

    about: tyro.conf.Suppress[str] = "nothing"
    workdir: Path
    root: Path = Path("data")
    sizes: tuple[int, ...] = (8, 8)


def fit(
    launch,
    workdir,
    *,
    seed=0,
    lr=1e-2,
    sizes=(8, 8),
    rows=64,
    order=0,
    bias=0.0,
    version="1",
):
    """Two steps of a run."""
    process = jax.process_index()
    medjax.__version__ = version
    x = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    train.fit(
        init,
        quiet_loss,
        build_pipeline(
            ArraySource({"x": x, "y": x[:, :4]}),
            PipelineConfig(batch_size=16, seed=order, threads=1 + process),
            process_index=process,
            process_count=2,
        ),
        workdir=workdir,
        optimizer=train.OptimizerConfig(lr=lr),
        train=train.TrainConfig(steps=2, seed=seed),
        pretrained={"params": {"encoder": {"bias": np.full(32, bias, np.float32)}}},
        config=Settings(
            workdir=workdir, root=Path(f"/disk{process}"), launch=launch, sizes=sizes
        ),
    )


@ends_in_words
def main():
    """Joins, is refused again and again, trains."""
    options = json.loads(sys.argv[1])
    launch = train.LaunchConfig(compile_cache=None, **options["launch"])
    train.launch(launch)
    process, workdir = jax.process_index(), Path(options["workdir"])
    cases: list[dict[str, Any]] = [
        dict(seed=process, lr=(1e-2, 2e-2)[process]),
        dict(sizes=(8, 8 + process)),
        dict(rows=64 + process),
        dict(order=process),
        dict(bias=float(process)),
        dict(version=f"1.{process}"),
    ]
    for differing in cases:
        try:
            fit(launch, workdir, **differing)
        except ValueError as error:
            print("refused", error, flush=True)
        assert not (workdir / "config.json").exists()
    fit(launch, workdir)
    print("trained", flush=True)
    experiment.launch = lambda config: None  # it has joined
    sys.argv[1:] = ["--sizes", "8", str(8 + process)]
    presets = {"tiny": Settings(workdir=workdir)}
    return experiment.main(presets, lambda config: print("not refused"), None)


if __name__ == "__main__":
    sys.exit(main())
