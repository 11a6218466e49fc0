"""What a run would need and cost, from a laptop: memory, time, traffic, chip-hours.

No data, no accelerator and no network are used::

    python -m experiments.plan imitate paper --topology v6e-256 --rows 213384
    python -m experiments.plan varnet repo --topology h200-8x8 --mesh.fsdp 8 --suggest
    python -m experiments.plan imitate --topology cpu-8 --quick
    python -m experiments.plan imitate paper --topology v6e-256x2 --weak 16 64 256 1024

The first two words are an experiment and its preset, the rest its own flags, beside
those of the plan. The step that would run is compiled for the machine
(:mod:`medjax.train.plan.topologies` has the names), which takes minutes once and is
kept; ``--quick`` compiles nothing. ``--calibrate RUN`` takes the rate that a run
reached on such devices in place of the efficiencies that are taken for granted. Figures
that no source was read for are shown as assumed, and nothing here is a measurement of
the machine.
"""

import argparse
import contextlib
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.cmrxmotion import UnderMotion
from medjax.data.whole import whole
from medjax.heart import workload as heart
from medjax.heart.generation import Generation
from medjax.heart.tracking import Tracking
from medjax.mri.reconstruction import Reconstruction
from medjax.mri.workload import workload as reconstruction
from medjax.segmentation.training import SegmentationTraining
from medjax.segmentation.workload import grading
from medjax.segmentation.workload import workload as segmentation
from medjax.train.ending import ends_in_words
from medjax.train.experiment import Experiment, command
from medjax.train.log import read_metrics
from medjax.train.plan.chips import Chip, assumed
from medjax.train.plan.planner import Plan, make_plan
from medjax.train.plan.suggest import Suggestion, suggest
from medjax.train.plan.table import as_json, told
from medjax.train.plan.topologies import Topology, topology
from medjax.train.workload import Workload
from medjax.vlp.diffusion.run import Generation as FilmGeneration
from medjax.vlp.diffusion.workload import generation as films
from medjax.vlp.finetuning import Finetuning
from medjax.vlp.finetuning_workload import finetuning
from medjax.vlp.pretraining import Pretraining
from medjax.vlp.workload import workload as pretraining
from medjax_kernels.aot import MissingCompilerError

CACHE = Path("~/.cache/medjax/plans")
CALIBRATE = "folder of a run on such a device: as fast as its steps were"
WORKLOADS: dict[type, Callable[[Any], Workload]] = {
    Pretraining: pretraining,
    Reconstruction: reconstruction,
    FilmGeneration: films,
    Finetuning: finetuning,
    Generation: heart.generation,
    Tracking: heart.tracking,
    SegmentationTraining: segmentation,
    UnderMotion: lambda config: grading(config, config.grading),
}
"""What the flags of each class of experiments train."""


def planned() -> dict[str, Any]:
    """Modules of the experiments that a plan knows, by name."""
    here = Path(__file__).parent
    found = {}
    for path in sorted(here.glob("*.py")):
        if "\nPRESETS = {" in path.read_text() or "\nPRESETS: " in path.read_text():
            module = importlib.import_module(f"experiments.{path.stem}")
            if isinstance(next(iter(module.PRESETS.values())), tuple(WORKLOADS)):
                found[path.stem] = module
    return found


def workload_of(config: Experiment) -> Workload:
    """What a run of these flags trains.

    Raises:
      ValueError: A plan does not know experiments of this class.
    """
    for kind, found in WORKLOADS.items():
        if isinstance(config, kind):
            return found(config)
    raise ValueError(f"experiment: a plan knows none of {type(config).__name__}")


def parser() -> argparse.ArgumentParser:
    """The plan's own flags."""
    flags = argparse.ArgumentParser(
        prog="python -m experiments.plan EXPERIMENT [PRESET]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Further flags are the experiment's own.",
    )
    add = flags.add_argument
    add("--topology", required=True, help="the machine: v5p-512, v6e-256x2, h200-8x8")
    add("--quick", action="store_true", help="compile nothing")
    add("--suggest", action="store_true", help="find flags with which it fits")
    add("--weak", type=int, nargs="+", default=[], help="device counts to scale to")
    add("--calibrate", type=Path, metavar="RUN", help=CALIBRATE)
    add("--rows", type=int, help="of the training data, where they are not here")
    add("--memory", type=float, help="of a device, GB, in place of the machine's")
    add("--json", type=Path, default=Path("runs/plan.json"), help="where the plan goes")
    add("--no-cache", action="store_true", help="compile though it was done before")
    return flags


def plan(
    config: Experiment,
    machine: Topology,
    *,
    quick: bool = False,
    weak: Sequence[int] = (),
    rows: int | None = None,
    chip: Chip | None = None,
    reached: float | None = None,
    cache: Path | None = None,
) -> Plan:
    """The plan of a run on a machine; see `medjax.train.plan.planner.make_plan`."""
    work = workload_of(config)
    if rows is not None:
        work = dataclasses.replace(work, rows=rows)
    return make_plan(
        work, machine, quick=quick, chip=chip, weak=weak, reached=reached, cache=cache
    )


def reached(run: Path, chip: Chip) -> float:
    """FLOP/s that each device of a run computed, by its log.

    Args:
      run: Folder of a run on devices of the chip's kind.
      chip: Whose peak the log's shares are of.

    Returns:
      The median over its rows, what is computed a second time among them.

    Raises:
      ValueError: Its log has no such rows.
    """
    shares = [row["hfu"] for row in read_metrics(run) if row.get("hfu") is not None]
    if not shares:
        raise ValueError(
            f"calibrate: the log of {run} has no hfu (share of a device's peak): give "
            "the folder of a run on an accelerator"
        )
    return float(np.median(shares)) * chip.peak.value


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; status 2 if the machine's compiler is not installed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        parser().parse_args(words)
        raise ValueError("expected an experiment first, as in: plan imitate paper")
    options, rest = parser().parse_known_args(words[1:])
    if options.quick and options.suggest:
        raise ValueError("--suggest compiles what it tries, and --quick nothing")
    if options.rows is not None and options.rows < 1:
        raise ValueError(f"--rows: {options.rows}, expected 1 or more")
    machine = topology(options.topology)
    jax.config.update("jax_platforms", "cpu")
    if machine.platform == "cpu":
        # A program that has its devices already keeps them, and may have enough.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", machine.devices)
    known = planned()
    if words[0] not in known:
        raise ValueError(
            f"experiment: {words[0]!r}, expected one of {', '.join(known)}"
        )
    module = known[words[0]]
    config = command(module.PRESETS, module.__doc__, rest)
    chip = machine.chip
    if options.memory is not None:
        limit = assumed(1e9 * options.memory, "--memory")
        chip = dataclasses.replace(chip, memory=limit)
    how: dict[str, Any] = {
        "rows": options.rows,
        "chip": chip,
        "reached": options.calibrate and reached(options.calibrate, chip),
        "cache": None if options.no_cache else CACHE.expanduser(),
    }
    try:
        if options.suggest:
            found = suggested(config, machine, how)
            print(found_in_words(found))
            if found is None:
                return 1
            config = found.config
        made = plan(config, machine, quick=options.quick, weak=options.weak, **how)
    except MissingCompilerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(told(made))
    with whole(options.json) as draft:
        draft.write_text(json.dumps(as_json(made), indent=1) + "\n")
    print(f"\nwritten: {options.json}")
    return 0


def suggested(
    config: Experiment, machine: Topology, how: dict[str, Any]
) -> Suggestion | None:
    """Flags with which a run fits a machine."""

    def fits(changed: Experiment) -> bool:
        return plan(changed, machine, **how).memory.fits is True

    model = config.mesh.model
    island = max(machine.devices // machine.islands // model, 1)
    return suggest(
        config,
        fits,
        batch=workload_of(config).batch_size,
        islands=max(n for n in range(1, min(island, 8) + 1) if island % n == 0),
        shards=machine.devices // model,
    )


def found_in_words(found: Suggestion | None) -> str:
    """A suggestion, as it is printed."""
    if found is None:
        return "nothing that was tried fits: take more or larger devices"
    flags = " ".join(found.flags) or "the flags as they are"
    return f"fits, after {found.tried} tries: {flags}\n"


if __name__ == "__main__":
    sys.exit(main())
