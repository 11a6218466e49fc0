"""Commands as they are, with no flag: what they cost, and what they have learnt.

``python -m experiments.compare.doors`` starts ``experiments.gloria``, ``.mgca`` and
``.generator`` one after the other, each in a process of its own with nothing compiled
before, and takes its time on the clock and of the processor. The linear probe of a
system is then asked of the same system as it is initialised, over several seeds: what
was trained for minutes is to be better by two of their standard deviations. A generator
ends with scores of its own.

Every run is kept in ``--workdir``, and the same command goes on; ``--publish`` writes
the numbers and the tables of their page.
"""

import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import gloria, mgca
from experiments.bench.measure import facts
from experiments.bench.tables import markdown
from experiments.compare.pretraining_runs import headline, initial
from experiments.compare.publishing import (
    at_least_one,
    cell,
    command,
    finished,
    keep,
    spread,
)
from medjax.data.documents import read_json
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.mesh import make_mesh
from medjax.train.sharding import replicated
from medjax.vlp.corpus import Rows
from medjax.vlp.diffusion.scores import NOISE, OTHERS
from medjax.vlp.evaluate import Encoder
from medjax.vlp.pretraining import Build, Pretraining
from medjax.vlp.probes import LinearProbeConfig, linear_probe

Door = Literal["gloria", "mgca", "generator"]
DOORS: Mapping[Door, tuple[str, Pretraining | None, Build | None]] = {
    "gloria": ("GLoRIA", gloria.PRESETS["tiny"], gloria.gloria),
    "mgca": ("MGCA", mgca.PRESETS["tiny"], mgca.mgca),
    "generator": ("a generator of films", None, None),
}
"""What it is called, its preset without a flag, and its system."""
MINUTES, DEVIATIONS = 3.0, 2.0
"""Of two cores that a command may take, and by how much it is to beat chance."""
PROBE = "probe 100 %"


@dataclasses.dataclass(frozen=True)
class Doors:
    """Which commands, and how often random weights are drawn."""

    doors: tuple[Door, ...] = ("gloria", "mgca", "generator")
    """Commands to start."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of random weights."""
    workdir: Path = Path("runs/compare-doors")
    """One folder per command in it; the same command goes on."""
    publish: bool = False
    """Write the committed results and the tables of their page as well."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How this process starts."""


def compare(config: Doors) -> dict[str, Any]:
    """Starts what has not been started yet, and asks random weights.

    Args:
      config: which commands.

    Returns:
      The ``facts`` of the machine, and of each command what it took (``seconds``,
      ``cpu_seconds``) and found.
    """
    at_least_one(config, "doors", "seeds")
    found: dict[str, Any] = {}
    for name in config.doors:
        folder = config.workdir / name
        found[name] = {**opened(name, folder), **learnt(name, folder, config)}
    return {"facts": facts(), "seeds": list(config.seeds), "doors": found}


def opened(name: Door, folder: Path) -> dict[str, Any]:
    """What a command took: from its folder, else it is run.

    Args:
      name: of the module.
      folder: of the run.

    Returns:
      ``seconds`` on the clock, ``cpu_seconds`` of all its threads, and how busy the
      machine was before it (``load``).

    Raises:
      RuntimeError: it ended with an error.
    """
    if known := finished(folder / "door", [name], "(door)"):
        return known["took"]
    load = os.getloadavg()[0]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as compiled:
        status = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", "--workdir", str(folder)],
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": compiled},
        ).returncode
    seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"python -m experiments.{name} ended with status {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    took = {"seconds": seconds, "cpu_seconds": cpu, "load": load}
    keep(folder / "door" / "result.json", {"budget": [name], "took": took})
    return took


def learnt(name: Door, folder: Path, config: Doors) -> dict[str, Any]:
    """What a finished run says of itself, and random weights beside it.

    Args:
      name: of the command.
      folder: of its run.
      config: the seeds.
    """
    said = read_json(folder / "evaluation.json", "evaluation of a run")
    if DOORS[name][1] is None:
        return {"scores": said}
    return {
        "trained": headline(said)[PROBE],
        "random": [chance(name, folder, seed) for seed in config.seeds],
    }


def chance(name: Door, folder: Path, seed: int) -> float:
    """The probe of random weights: from its folder, else they are asked.

    Args:
      name: of the command.
      folder: of its run.
      seed: of the weights.
    """
    _, preset, build = DOORS[name]
    assert preset is not None and build is not None
    kept = folder / f"random-{seed}"
    if known := finished(kept, [name, seed], "(door, seed)"):
        return known["probe"]
    found = probed(preset, build, folder, seed)
    keep(kept / "result.json", {"budget": [name, seed], "probe": found})
    return found


def probed(preset: Pretraining, build: Build, folder: Path, seed: int) -> float:
    """The probe of a system as it is initialised, on the data of its run.

    Args:
      preset: of the run.
      build: makes the system.
      folder: of the run, which has ended.
      seed: of the weights.
    """
    data = folder / "data"
    # Films alone are asked, so a report tower that knows nothing does.
    text = dataclasses.replace(preset.text, tokenizer=str(data / "tokenizer"))
    bare = dataclasses.replace(
        preset,
        text=text,
        data=dataclasses.replace(preset.data, root=data, format="prepared"),
        train=dataclasses.replace(preset.train, seed=seed),
        workdir=folder,
    )
    system, variables, corpus = initial(bare, build)
    mesh = make_mesh(preset.mesh)
    run = Encoder(
        {"features": lambda v, b: system.image_features(v, b["image"])},
        mesh=mesh,
        batch_size=preset.evaluation.batch_size,
    )
    here = jax.device_put(variables, replicated(mesh))
    splits = ("train", "valid", "test")
    probe = linear_probe(
        {
            split: run(here, Rows(corpus.source(split, ("image",))))["features"]
            for split in splits
        },
        {split: corpus.labels(split) for split in splits},
        names=corpus.findings,
        fraction=1.0,
        seed=preset.evaluation.seed,
        config=LinearProbeConfig(resamples=0),
    )
    return float(probe["macro_auc"])


def table(results: Mapping[str, Any]) -> str:
    """Times, probes beside random weights, and what a generator says of itself."""
    head = ["no flag", "processor, s", "clock, s", f"{PROBE}", "random weights"]
    rows, below = [], []
    for name, row in results["doors"].items():
        line = [
            f"`python -m experiments.{name}`",
            f"{row['cpu_seconds']:.0f}",
            f"{row['seconds']:.0f} (load {row['load']:.0f})",
        ]
        if "trained" in row:
            drawn = spread(row["random"])
            line += [f"{row['trained']:.3f}", cell(drawn), better(row, drawn)]
        else:
            below.append(scored(row["scores"]))
            line += ["", "", ""]
        rows.append(line)
    return "\n\n".join([markdown([*head, "above them"], rows), *below])


def better(row: Mapping[str, Any], drawn: Mapping[str, float | None]) -> str:
    """By how many deviations of random weights a trained one is above their mean."""
    mean, sd = drawn["mean"], drawn["sd"]
    assert mean is not None
    if not sd:
        return "one seed: not judged"
    above = (row["trained"] - mean) / sd
    verdict = "met" if above >= DEVIATIONS else "NOT met"
    return f"{above:.1f} sd of {DEVIATIONS:g}: {verdict}"


def scored(said: Mapping[str, Any]) -> str:
    """A generator's scores, each beside what has learnt nothing, in Markdown."""
    near, errors = said["frechet_distance"], said["denoising_error"]
    away = {"its films": "generated", "other real films": "other real films"}
    away["noise, decoded"] = NOISE
    told = {"their own reports": "own report", "others' reports": OTHERS}
    told["no report"] = "no report"
    return "\n\n".join(
        [
            markdown(
                ["Fréchet distance to held-out films, of", f"n = {said['films']}"],
                [[about, f"{near[name]:,.0f}"] for about, name in away.items()],
            ),
            markdown(
                ["error of denoising them, with", ""],
                [[about, f"{errors[name]:.4f}"] for about, name in told.items()],
            ),
        ]
    )


def main() -> int:
    """Opens the doors, prints the tables, keeps the numbers."""
    return command("compare_doors", Doors, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
