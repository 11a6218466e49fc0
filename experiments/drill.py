"""Kills processes of a run at random, again and again, and looks how it ends.

    python -m experiments.drill --kills 10 --minutes 15
    python -m experiments.drill --elastic --kills 8 --in-turn

Four processes train a perceptron together (gloo, one device each). At every start the
seed draws one of them, one phase of the run (before it joins, joining, restoring,
compiling, stepping, evaluating, saving) and a moment in it, at which the process kills
itself: so that no phase is spared because it is short, and with ``--in-turn`` none
because the seed leaves it out. The others have to end with status 75, and the same
command has to go on. At the end the curve and the weights are held against those of a
run that nobody disturbed: bit for bit, or with ``--elastic``, where each start has
four, two or one processes of one or two devices each, to rounding.
The result is a table in ``drill.json`` and ``drill.md``.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.blows import PHASES, Blow, draw, due
from medjax import train
from medjax.data.pipeline import ArraySource, PipelineConfig, build_pipeline
from medjax.data.whole import whole
from medjax.train import watch
from medjax.train.checkpoint import load_variables
from medjax.train.ending import ends_in_words
from medjax.train.goodput import LOST
from medjax.train.goodput import NAME as ACCOUNT
from medjax.train.watch import STATUS

WORKER = "a process of the drill"
PATIENCE = 120.0
"""Seconds in which the others have to be gone."""
JOINING = 60
"""Seconds in which all have to have joined."""
BATCH = 32
"""Rows of the global batch."""
MANY = 20
"""Kills from which a page tells them by phase."""
CLOSE = 1e-5
"""Relative difference of losses that other sums of the same numbers may make."""


@dataclasses.dataclass(frozen=True)
class Drill:
    """What is done to a run."""

    kills: int = 10
    """Processes to kill, one a start."""
    processes: int = 4
    """Of every start."""
    devices: int = 1
    """Of every process."""
    elastic: bool = False
    """Start with as many processes, half of them, ... or one instead, of one or two
    devices each, as the seed draws."""
    in_turn: bool = False
    """Kill in every phase before one has its next turn; the seed draws the order."""
    steps: int = 300
    """Updates of the run."""
    seed: int = 0
    """Of who is killed, and where."""
    minutes: float = 15.0
    """No process is killed after so long."""
    heartbeat: float = 10.0
    """Seconds of silence after which a process is missing."""
    workdir: Path = Path("runs/drill")
    """Folder of both runs and of the result; one of an earlier drill is refused."""


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


def work(
    workdir: Path, coordinator: str, process: int, settings: Drill, blow: Blow | None
) -> None:
    """Trains, as one process of several."""
    mine = blow if blow is not None and blow.process == process else None
    begins, moved = mine.arm() if mine else lambda phase: None, watch.moved

    def told(phase: str, step: int | None = None) -> None:
        begins(phase)
        moved(phase, step)

    # Every part of the loop says there where it is.
    watch.moved = told
    begins("start")
    count = settings.processes
    address = coordinator if count > 1 else None
    begins("join")
    train.launch(
        train.LaunchConfig(
            coordinator=address,
            num_processes=count if address else None,
            process_id=process if address else None,
            # Not the usual half hour for one that was killed before it joined.
            initialization_timeout=JOINING,
            heartbeat_timeout=settings.heartbeat,
            compile_cache=str(settings.workdir / "compiled"),
            cpu_devices=settings.devices,
        )
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(256, 8)).astype(np.float32)
    y = np.tanh(x @ random.normal(size=(8, 4))).astype(np.float32)
    data = build_pipeline(
        ArraySource({"x": x, "y": y}),
        PipelineConfig(batch_size=BATCH, seed=0),
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


def start(
    workdir: Path, settings: Drill, log: Path, blow: Blow | None = None
) -> list[subprocess.Popen[bytes]]:
    """Starts all processes of a run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    told = json.dumps(dataclasses.asdict(settings), default=str)
    hit = json.dumps(blow and dataclasses.asdict(blow))
    running = []
    for process in range(settings.processes):
        words = [WORKER, str(workdir), address, str(process), told, hit]
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


def disturb(settings: Drill, workdir: Path) -> list[dict[str, Any]]:
    """Kills processes of a run until that was done often enough, or it ends.

    Args:
      settings: What is done.
      workdir: Of the run.
    """
    random = np.random.default_rng(settings.seed)
    sizes = [settings.processes >> n for n in range(settings.processes.bit_length())]
    until, found = time.monotonic() + 60 * settings.minutes, []
    while len(found) < settings.kills and time.monotonic() < until:
        now = settings
        if settings.elastic:
            count, devices = int(random.choice(sizes)), int(random.integers(1, 3))
            now = dataclasses.replace(settings, processes=count, devices=devices)
        known = [kill["phase"] for kill in found]
        phases = due(known) if settings.in_turn else PHASES
        blow = draw(random, now.processes, phases)
        while blow.phase == "restore" and "evaluate" not in known:
            blow = draw(random, now.processes, phases)
        running = start(workdir, now, workdir / f"start{len(found)}", blow)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running[blow.process].wait(timeout=PATIENCE + JOINING)
        began = time.monotonic()
        statuses = ended(running, PATIENCE)
        if not any(statuses):
            break
        found.append(
            {
                "processes": now.processes,
                "devices": now.devices,
                "killed": blow.process,
                "phase": blow.phase,
                "step": max(curve(workdir), default=0),
                "statuses": statuses,
                "gone_after_s": round(time.monotonic() - began, 1),
            }
        )
        print(found[-1], flush=True)
    return found


def clean(kill: Mapping[str, Any]) -> bool:
    """Whether one process was killed, and the others left by themselves."""
    statuses = list(kill["statuses"])
    victim = statuses.pop(kill["killed"])
    # One that has reached the last step has nothing to wait for.
    return victim == -signal.SIGKILL and set(statuses) <= {0, STATUS}


def curve(workdir: Path) -> dict[int, float]:
    """Loss by step; nothing before the first row is written."""
    kept = (workdir / "metrics.jsonl").exists()
    rows = train.read_metrics(workdir) if kept else []
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def undisturbed(settings: Drill, workdir: Path) -> float:
    """Seconds of a whole run.

    Raises:
      ValueError: It failed.
    """
    began = time.monotonic()
    statuses = ended(start(workdir, settings, workdir / "start"), 600)
    if any(statuses):
        raise ValueError(f"the undisturbed run ended with {statuses}: {workdir}")
    return time.monotonic() - began


def run(settings: Drill) -> dict[str, Any]:
    """The undisturbed run, the disturbed one, and how they differ.

    Raises:
      ValueError: A batch does not split over the processes, the folder holds a drill,
        or the undisturbed run failed.
    """
    if settings.processes < 1 or BATCH % (2 * settings.processes):
        raise ValueError(
            f"processes: {settings.processes}, expected a power of two up to "
            f"{BATCH // 2}: every device takes as many of {BATCH} rows"
        )
    whole_run, cut = settings.workdir / "whole", settings.workdir / "cut"
    for folder in (whole_run, cut):
        if folder.exists():
            raise ValueError(f"{folder} is of an earlier drill: name another --workdir")
        folder.mkdir(parents=True)
    usual = undisturbed(settings, whole_run)
    kills = disturb(settings, cut)
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
    survived = survived and all(map(clean, kills))
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
    wrong = sum(not clean(kill) for kill in found["kills"])
    every = sum(seconds.values())
    by = by_phase if len(found["kills"]) > MANY else one_by_one
    lost = ", ".join(f"{name} {seconds[name]:.0f} s" for name in LOST)
    return f"""{len(found["kills"])} kills of {settings["kills"]} asked for, seed \
{settings["seed"]}; {settings["steps"]} steps, {found["undisturbed_s"]} s undisturbed; \
{found["starts"]} starts that logged a step; {wrong} kills that did not end as they \
should.

Ended as the undisturbed run: **{"yes" if found["survived"] else "no"}**. Largest \
relative difference of a loss {found["largest_relative_difference"]:.1e}, weights \
{"bit-equal" if found["weights_bit_equal"] else "not bit-equal"}, steps missing in one \
of the two: {len(found["steps_missing"])}. The last start, undisturbed, ended with \
{", ".join(map(str, found["last"]))}.

Goodput {seconds["steps"] / every:.1%} of {every:.0f} s; lost to {lost}.

{by(found["kills"])}"""


def one_by_one(kills: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each kill."""
    rows = [
        f"| {k['processes']} x {k['devices']} | {k['killed']} | {k['phase']} | "
        f"{k['step']} | {', '.join(map(str, k['statuses']))} | {k['gone_after_s']} |\n"
        for k in kills
    ]
    return (
        "| processes x devices | killed | in | last step logged | statuses | "
        "all gone after, s |\n|---|---|---|---|---|---|\n" + "".join(rows)
    )


def by_phase(kills: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each phase that somebody was killed in."""
    told = "| in | kills | of process 0 | ended as they should | all gone after, s |\n"
    told += "|---|---|---|---|---|\n"
    for phase in PHASES:
        mine = [kill for kill in kills if kill["phase"] == phase]
        if not mine:
            continue
        after = [kill["gone_after_s"] for kill in mine]
        first, well = (
            sum(map(such, mine)) for such in (lambda k: k["killed"] == 0, clean)
        )
        told += f"| {phase} | {len(mine)} | {first} | {well} | "
        told += f"{min(after)} to {max(after)} |\n"
    return told


@ends_in_words
def main() -> int:
    """Runs the drill, or one of its processes."""
    if sys.argv[1:2] == [WORKER]:
        folder, address, process, told, hit = sys.argv[2:]
        options, blow = json.loads(told), json.loads(hit)
        drill = Drill(**{**options, "workdir": Path(options["workdir"])})
        work(Path(folder), address, int(process), drill, blow and Blow(**blow))
        return 0
    settings = tyro.cli(Drill, description=__doc__, prog="python -m experiments.drill")
    jax.config.update("jax_platforms", "cpu")
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
