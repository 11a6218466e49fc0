"""What a run on spot machines needs beside being started again.

A plan of it (`experiments.plan`, which compiles nothing for this) says how often to
save, by Young's formula, and what is left of the time. All hosts share a cache of
compiled programs, which the first process writes, so that a machine that comes anew
compiles nothing.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import plan
from experiments.launch.job import Job
from medjax.data.boundary import reading
from medjax.train.experiment import command
from medjax.train.plan.spot import BETWEEN_FAILURES
from medjax.train.plan.table import as_json

HOURS = BETWEEN_FAILURES / 3600


def planned(job: Job, written: Path | None = None) -> Mapping[str, Any] | None:
    """A plan of the run as JSON; None of an experiment that no plan knows.

    Args:
      job: The run.
      written: A plan that `experiments.plan` wrote, in place of a new one.

    Raises:
      DataError: That is no plan.
      ValueError: It is of another machine, or the flags are wrong.
    """
    if written is not None:
        with reading(written, "plan of experiments.plan"):
            found = json.loads(written.read_text())
            name = found["topology"]["name"]
            _ = found["checkpoint"]["every"], found["checkpoint"]["goodput"]
        if name != job.machine.name:
            raise ValueError(
                f"plan: {written} is of {name}, expected one of {job.machine.name}"
            )
        return found
    known, (experiment, *flags) = plan.planned(), job.words
    if experiment not in known:
        return None
    module = known[experiment]
    config = command(module.PRESETS, module.__doc__, flags)
    return as_json(plan.plan(config, job.machine, quick=True))


def prepared(job: Job, found: Mapping[str, Any] | None) -> Job:
    """A run that is ready to lose its machines.

    Flags of its own stay as they are.

    Args:
      job: The run.
      found: Its plan.
    """
    notes = []
    if found is None:
        notes.append(
            "No plan knows this experiment: how often to save is yours to say."
        )
    else:
        saved = found["checkpoint"]
        own = job.given("--train.checkpoint-every")
        job = job.told("--train.checkpoint-every", saved["every"])
        notes.append(
            f"Expected goodput with a failure every {HOURS:g} h: "
            f"{saved['goodput']:.0%}, where each {saved['every']} steps"
        )
        notes.append(
            f"a checkpoint of {saved['bytes'] / 1e9:.2g} GB is written in "
            f"{saved['seconds']:.2g} s (Young's formula)"
            + (f"; here each {own} steps." if own else ".")
        )
        notes.append("That is a prediction, from figures that experiments.plan lists.")
    kept = job.given("--mirror") or ""
    folder = kept if kept.startswith("gs://") else job.given("--workdir")
    if folder is None:
        notes.append("Name a --workdir or --mirror that outlives the machines.")
    else:
        job = job.told("--launch.compile-cache", f"{folder.rstrip('/')}-compiled")
    return dataclasses.replace(job, notes=(*job.notes, *notes), spot=True)
