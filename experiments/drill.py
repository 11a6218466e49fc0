"""Kills processes of a run at random, again and again, and looks how it ends.

    python -m experiments.drill --kills 10 --minutes 15
    python -m experiments.drill --elastic --kills 5

Four processes train a perceptron together (gloo, one device each). A process, drawn by
the seed, is killed after a time drawn by the seed: while it starts, compiles, steps,
evaluates or saves. The others have to end by themselves, and the same command has to go
on. At the end the curve and the weights are held against those of a run that nobody
disturbed: bit for bit, or with ``--elastic``, where each start has four, two or one
processes, to rounding. The result is a table in ``drill.json`` and ``drill.md``.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from medjax import train
from medjax.data.pipeline import ArraySource, PipelineConfig, build_pipeline
from medjax.data.whole import whole
from medjax.train.checkpoint import load_variables
from medjax.train.ending import ends_in_words
from medjax.train.goodput import LOST
from medjax.train.goodput import NAME as ACCOUNT

WORKER = "a process of the drill"
PATIENCE = 120.0
"""Seconds in which the others have to be gone."""
JOINING = 60
"""Seconds in which all have to have joined."""
CLOSE = 1e-5
"""Relative difference of losses that other sums of the same numbers may make."""


@dataclasses.dataclass(frozen=True)
class Drill:
    """What is done to a run."""

    kills: int = 10
    """Processes to kill, one a start."""
    processes: int = 4
    """Of every start."""
    elastic: bool = False
    """Start with four, two or one processes instead, as the seed draws."""
    steps: int = 300
    """Updates of the run."""
    seed: int = 0
    """Of who is killed, and when."""
    minutes: float = 15.0
    """No process is killed after so long."""
    heartbeat: float = 10.0
    """Seconds of silence after which a process is missing."""
    workdir: Path = Path("runs/drill")
    """Folder of both runs and of the result; emptied by nobody."""


def init(key: Any, batch: Any) -> dict[str, Any]:
    """A perceptron of two layers."""
    first, second = jax.random.split(key)
    width = batch["x"].shape[-1]
    kernel = 0.3 * jax.random.normal(first, (width, 64))
    head = 0.3 * jax.random.normal(second, (64, 4))
    return {"params": {"kernel": kernel, "head": head}}


def loss(variables: Any, batch: Any, key: Any) -> Any:
    """Squared error, with noise of its own for every row of the global batch."""
    x = batch["x"] + 0.01 * jax.random.normal(key, batch["x"].shape)
    hidden = jnp.tanh(x @ variables["params"]["kernel"])
    return jnp.mean((hidden @ variables["params"]["head"] - batch["y"]) ** 2), ({}, {})


def work(workdir: Path, coordinator: str, process: int, settings: Drill) -> None:
    """Trains, as one process of several."""
    count = settings.processes
    address = coordinator if count > 1 else None
    train.launch(
        train.LaunchConfig(
            coordinator=address,
            num_processes=count if address else None,
            process_id=process if address else None,
            # Not the usual half hour for one that was killed before it joined.
            initialization_timeout=JOINING,
            heartbeat_timeout=settings.heartbeat,
            compile_cache=str(settings.workdir / "compiled"),
        )
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(256, 8)).astype(np.float32)
    y = np.tanh(x @ random.normal(size=(8, 4))).astype(np.float32)
    data = build_pipeline(
        ArraySource({"x": x, "y": y}),
        PipelineConfig(batch_size=32, seed=0),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    def evaluate(state: Any, step: int) -> Mapping[str, float]:
        time.sleep(0.2)
        return {"step": float(step)}

    train.fit(
        init,
        loss,
        data,
        workdir=workdir,
        optimizer=train.OptimizerConfig(lr=3e-3),
        train=train.TrainConfig(
            steps=settings.steps,
            log_every=1,
            eval_every=50,
            checkpoint_every=20,
        ),
        evals=[evaluate],
    )


def start(workdir: Path, settings: Drill, log: Path) -> list[subprocess.Popen[bytes]]:
    """Starts all processes of a run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    told = json.dumps(dataclasses.asdict(settings), default=str)
    running = []
    for process in range(settings.processes):
        words = [WORKER, str(workdir), address, str(process), told]
        with log.with_suffix(f".{process}.log").open("w") as output:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "experiments.drill", *words],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "JAX_PLATFORMS": "cpu"},
                )
            )
    return running


def ended(running: list[subprocess.Popen[bytes]], seconds: float) -> list[int | None]:
    """Statuses of all processes; None of one that had to be killed."""
    until, found = time.monotonic() + seconds, []
    for one in running:
        try:
            found.append(one.wait(timeout=max(0.1, until - time.monotonic())))
        except subprocess.TimeoutExpired:
            found.append(None)
            one.kill()
            one.wait()
    return found


def latest(workdir: Path) -> int:
    """The last step that a run's log has."""
    path = workdir / "metrics.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    for row in reversed(rows):
        try:
            return int(json.loads(row)["step"])
        except (ValueError, KeyError):
            continue
    return 0


def disturb(settings: Drill, workdir: Path, usual: float) -> list[dict[str, Any]]:
    """Kills processes of a run until that was done often enough, or it ends.

    Args:
      settings: What is done.
      workdir: Of the run.
      usual: Seconds that an undisturbed run takes: a kill comes within them.
    """
    random = np.random.default_rng(settings.seed)
    until, found = time.monotonic() + 60 * settings.minutes, []
    while len(found) < settings.kills and time.monotonic() < until:
        count = int(random.choice([4, 2, 1])) if settings.elastic else 0
        count = count or settings.processes
        now = dataclasses.replace(settings, processes=count)
        victim, delay = int(random.integers(count)), float(random.uniform(0, usual))
        running = start(workdir, now, workdir / f"start{len(found)}")
        time.sleep(delay)
        if running[victim].poll() is not None:
            statuses = ended(running, PATIENCE)
            if not any(statuses):
                break
        running[victim].send_signal(signal.SIGKILL)
        began = time.monotonic()
        statuses = ended(running, PATIENCE)
        found.append(
            {
                "processes": count,
                "killed": victim,
                "after_s": round(delay, 2),
                "step": latest(workdir),
                "statuses": statuses,
                "gone_after_s": round(time.monotonic() - began, 1),
            }
        )
        print(found[-1], flush=True)
    return found


def curve(workdir: Path) -> dict[int, float]:
    """Loss by step."""
    rows = train.read_metrics(workdir)
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def undisturbed(settings: Drill, workdir: Path) -> float:
    """Seconds of a whole run; it is made once.

    Raises:
      ValueError: It failed.
    """
    kept = workdir / "seconds.json"
    if not kept.exists():
        began = time.monotonic()
        statuses = ended(start(workdir, settings, workdir / "start"), 600)
        if any(statuses):
            raise ValueError(f"the undisturbed run ended with {statuses}: {workdir}")
        kept.write_text(json.dumps(time.monotonic() - began))
    return json.loads(kept.read_text())


def run(settings: Drill) -> dict[str, Any]:
    """The undisturbed run, the disturbed one, and how they differ."""
    name = "elastic" if settings.elastic else "same"
    whole_run, cut = settings.workdir / "whole", settings.workdir / f"cut-{name}"
    for folder in (whole_run, cut):
        folder.mkdir(parents=True, exist_ok=True)
    usual = undisturbed(settings, whole_run)
    kills = disturb(settings, cut, usual)
    last = ended(start(cut, settings, cut / "last"), 600)
    losses, theirs = curve(whole_run), curve(cut)
    missing = sorted(set(losses) ^ set(theirs))
    worst = max(
        (abs(theirs[n] - value) / abs(value) for n, value in losses.items())
        if not missing
        else (float("inf"),)
    )
    a, b = (load_variables(folder)["params"] for folder in (whole_run, cut))
    equal = all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    account = json.loads((cut / ACCOUNT).read_text())
    survived = not any(last) and worst <= (CLOSE if settings.elastic else 0.0)
    return {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings), default=str)),
        "undisturbed_s": round(usual, 1),
        "kills": kills,
        "last": last,
        "steps_missing": missing,
        "largest_relative_difference": worst,
        "weights_bit_equal": equal,
        "survived": survived and (equal or settings.elastic),
        "starts": account["starts"],
        "seconds": {k: round(v, 1) for k, v in account["seconds"].items()},
    }


def page(found: Mapping[str, Any]) -> str:
    """The result, for a reader."""
    settings, seconds = found["settings"], found["seconds"]
    hung = sum(None in kill["statuses"] for kill in found["kills"])
    every = sum(seconds.values())
    rows = "\n".join(
        f"| {k['processes']} | {k['killed']} | {k['after_s']} | {k['step']} | "
        f"{', '.join(map(str, k['statuses']))} | {k['gone_after_s']} |"
        for k in found["kills"]
    )
    lost = ", ".join(f"{name} {seconds[name]:.0f} s" for name in LOST)
    return f"""{len(found["kills"])} kills, seed {settings["seed"]}, {found["starts"]} \
starts that logged a step, {settings["steps"]} steps of {found["undisturbed_s"]} s \
undisturbed; {hung} starts had to be ended from outside.

Ended as the undisturbed run: **{"yes" if found["survived"] else "no"}**. Largest \
relative difference of a loss {found["largest_relative_difference"]:.1e}, weights \
{"bit-equal" if found["weights_bit_equal"] else "not bit-equal"}, steps missing in one \
of the two: {len(found["steps_missing"])}.

Goodput {seconds["steps"] / every:.1%} of {every:.0f} s; lost to {lost}.

| processes | killed | after, s | last step logged | statuses | all gone after, s |
|---|---|---|---|---|---|
{rows}
"""


@ends_in_words
def main() -> int:
    """Runs the drill, or one of its processes."""
    if sys.argv[1:2] == [WORKER]:
        folder, address, process, told = sys.argv[2:]
        options = json.loads(told)
        options["workdir"] = Path(options["workdir"])
        work(Path(folder), address, int(process), Drill(**options))
        return 0
    settings = tyro.cli(Drill, description=__doc__, prog="python -m experiments.drill")
    found = run(settings)
    for name, text in {
        "drill.json": json.dumps(found, indent=1) + "\n",
        "drill.md": page(found),
    }.items():
        with whole(settings.workdir / name) as draft:
            draft.write_text(text)
    print(page(found))
    return 0 if found["survived"] else 1


if __name__ == "__main__":
    sys.exit(main())
