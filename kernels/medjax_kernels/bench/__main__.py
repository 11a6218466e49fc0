"""``python -m medjax_kernels.bench [op] [--shape ...] [--vs ...]``; see the package."""

import argparse
import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from medjax_kernels.bench import ceilings, contest, peers, record, roofline, targets
from medjax_kernels.bench.case import (
    Case,
    Contestant,
    exact_outputs,
    relative_error,
)
from medjax_kernels.bench.record import Row

OPS = ("data_consistency", "contrastive", "word_region")


def cases_of(op: str) -> ModuleType | None:
    """The module of ``op`` that lists its benchmarks; None if it lists none."""
    name = f"medjax_kernels.{op}.bench_cases"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def results_folder() -> Path:
    """``kernels/results`` of a checkout, else ``results`` where the command runs."""
    kernels = Path(__file__).resolve().parents[2]
    return (kernels if kernels.name == "kernels" else Path()) / "results"


def absence(
    contestant: Contestant, platform: str, wanted: Sequence[str] | None
) -> str | None:
    """Why a contestant does not take part, or None if it does."""
    if not contestant.peer:
        return None
    if wanted is not None and contestant.peer not in wanted:
        return "not asked for"
    return peers.missing(contestant.peer, platform)


def measure(
    op: str,
    shape: str,
    problem: dict[str, Any],
    case: Case,
    *,
    platform: str,
    chip: str,
    repeat: int,
    wanted: Sequence[str] | None,
) -> record.Run:
    """One case: errors first, then turns.

    Args:
        op: operation.
        shape: name of its shape.
        problem: the shape's sizes, for the record.
        case: what to measure.
        platform: of the chip.
        chip: its name, for targets.
        repeat: turns.
        wanted: peers; None: all.
    """
    first = case.inputs(0)
    count = contest.count_sets(sum(a.nbytes for a in first))
    sets = [first, *(case.inputs(seed) for seed in range(1, count))]
    runs: dict[str, contest.Run] = {}
    entered: dict[str, Contestant] = {}
    absent: dict[str, str] = {}
    for contestant in case.contestants:
        reason = absence(contestant, platform, wanted)
        if reason is None:
            try:
                runs[contestant.name] = contest.make_run(contestant, sets, platform)
                entered[contestant.name] = contestant
            except (NotImplementedError, RuntimeError) as error:
                if not refuses(error):
                    raise
                reason = str(error).splitlines()[0]
        if reason is not None:
            absent[contestant.name] = reason
    errors = measure_errors(case, first, runs)
    units = {c.unit for c in entered.values()}
    limits = ceilings.ceiling_runs(platform, units)
    timings = contest.take_turns(runs | limits, repeat)
    found = ceilings.read_ceilings(timings, platform)
    best = timings[next(iter(runs))]
    rows = []
    for name, contestant in entered.items():
        timing, run = timings[name], runs[name]
        moving = case.bytes / found[ceilings.COPY] / timing.median
        rate = found[ceilings.product_name(contestant.unit)]
        computing = contestant.flops / rate / timing.median
        low, high = timing.spread
        goal = None
        if chip == targets.CHIP:
            goal = targets.TARGETS.get(targets.Key(op, shape, case.name, name))
        temporary = run.temporary_bytes
        rows.append(
            Row(
                contestant=name,
                peer=contestant.peer,
                us=timing.median * 1e6,
                us_low=low * 1e6,
                us_high=high * 1e6,
                cpu_us=float(np.median(timing.cpu_seconds)) * 1e6,
                times=best.times_faster(timing),
                cpu_times=best.times_faster(timing, cpu=True),
                bytes=case.bytes,
                flops=contestant.flops,
                unit=contestant.unit,
                bandwidth_share=moving,
                rate_share=computing,
                share=max(moving, computing),
                temporary_mb=None if temporary is None else temporary / 1e6,
                errors=errors[name],
                target_us=goal and goal.seconds * 1e6,
                floor_us=goal and goal.floor * 1e6,
            )
        )
    return record.Run(
        op=op,
        shape=shape,
        case=case.name,
        problem=problem,
        date=record.now(),
        versions=record.versions(),
        repeat=repeat,
        ceilings=found,
        rows=rows,
        absent=absent,
    )


def refuses(error: Exception) -> bool:
    """Whether a contestant says that it cannot: by name, or for want of memory."""
    said = str(error).lower()
    return isinstance(error, NotImplementedError) or "out of memory" in said


def measure_errors(
    case: Case, first: tuple[np.ndarray, ...], runs: dict[str, contest.Run]
) -> dict[str, dict[str, dict[str, float]]]:
    """Contestant to output to variant to relative error."""
    variants = {name: make() for name, make in case.variants.items()} or {"": first}
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in runs}
    for variant, arrays in variants.items():
        exact = exact_outputs(case, arrays)
        for name, run in runs.items():
            for output, value in run.outputs(arrays).items():
                error = relative_error(value, exact[output])
                found[name].setdefault(output, {})[variant] = error
    return found


def ratio_lines(contents: dict[str, Any]) -> list[str]:
    """The goals that are ratios of two measurements, where both are there."""
    taken = {
        targets.Key(run["op"], run["shape"], run["case"], row["contestant"]): row["us"]
        for run in contents["runs"].values()
        for row in run["rows"]
    }
    return [
        f"{' '.join(r.fast)}: {taken[r.slow] / taken[r.fast]:.2f} times as fast as "
        f"{' '.join(r.slow)} (target {r.times:.2f})"
        for r in targets.RATIOS
        if r.fast in taken and r.slow in taken
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m medjax_kernels.bench",
        epilog="peers: " + "; ".join(f"{n}: {p.about}" for n, p in peers.PEERS.items()),
    )
    parser.add_argument("op", nargs="?", choices=OPS, help="default: all")
    parser.add_argument("--shape", nargs="+", help="default: the usual of the chip")
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument(
        "--vs", nargs="*", choices=sorted(peers.PEERS), help="peers; default: all"
    )
    parser.add_argument("--repeat", type=int, default=15, help="turns of each")
    parser.add_argument("--out", type=Path, help="folder; default: kernels/results")
    options = parser.parse_args(arguments)
    # Two frameworks share the chip's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # PyTorch's threads would go on spinning into the next contestant's turn.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    platform, chip = jax.default_backend(), record.chip()
    path = (options.out or results_folder()) / f"{record.file_name(chip)}.json"
    print(f"{chip}; {', '.join(f'{k} {v}' for k, v in record.versions().items())}")
    contents: dict[str, Any] = record.read(path)
    for op in [options.op] if options.op else OPS:
        if (module := cases_of(op)) is None:
            print(f"\n{op}: lists no benchmark")
            continue
        for shape in options.shape or module.default_shapes(platform):
            problem = dataclasses.asdict(module.SHAPES[shape])
            for case in module.cases(shape, platform):
                if options.case is not None and options.case not in case.name:
                    continue
                run = measure(
                    op,
                    shape,
                    problem,
                    case,
                    platform=platform,
                    chip=chip,
                    repeat=options.repeat,
                    wanted=options.vs,
                )
                print("\n" + record.table(run), flush=True)
                # After every case: a long benchmark that is stopped keeps what it has.
                contents = record.write(path, chip, [run])
    if contents["runs"]:
        path.with_suffix(".svg").write_text(roofline.draw(contents))
        print(f"\n{path}\n{path.with_suffix('.svg')}")
    if chip == targets.CHIP:
        print("\n".join(ratio_lines(contents)))
    return 0


if __name__ == "__main__":
    # Under "python -m" this file is __main__; tests import it by its name.
    raise SystemExit(importlib.import_module("medjax_kernels.bench.__main__").main())
