"""A training step, ours against theirs: proof of equality, clock, memory, table."""

import shutil
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax

from experiments.bench import measure
from experiments.bench.compiled import CompiledStep
from experiments.bench.measure import Timing, take_turns
from medjax.train.speed import peak_flops

TARGET = 1.3
"""Times ``torch.compile``, at equal batch and precision, on an H200."""


def compare(
    ours: Mapping[str, CompiledStep],
    theirs: Mapping[str, Any],
    *,
    view: Any = None,
    comparable: bool = True,
    examples: int,
    steps: int,
    turns: int,
) -> dict[str, Any]:
    """Takes the first step of all, compares, and then lets them take turns.

    Args:
      ours: By name, compiled, no step taken yet; the first is measured against theirs.
      theirs: `torch_training.Training` by name, with our weights in them.
      view: What ours draws in its first step, for theirs to take.
      comparable: Whether first losses are equal by construction.
      examples: Of a step.
      steps: Of a turn.
      turns: Timed turns of each.

    Returns:
      Plain data: ``first``, ``agreement``, ``contestants``, ``ours_times_faster``.
    """
    first = {
        n: {k: float(v) for k, v in step.step().items()} for n, step in ours.items()
    }
    first |= {name: step.first(view) for name, step in theirs.items()}
    first = {n: {k: v[k] for k in ("loss", "grad_norm")} for n, v in first.items()}
    reference, *others = first
    contestants = {**ours, **theirs}
    timings = take_turns(
        {name: _turn(step, steps) for name, step in contestants.items()},
        turns=turns,
        warmup=1,
    )
    # The same work is done by all; XLA counts it for one device.
    flops = ours[reference].flops
    flops = flops * ours[reference].mesh.size if flops else None
    return {
        "first": first,
        "agreement": {
            name: differences(first[reference], first[name])
            for name in others
            if comparable
        },
        "contestants": {
            name: _describe(step, timings[name], examples, steps, flops)
            for name, step in contestants.items()
        },
        "ours_times_faster": {
            name: timings[reference].faster_than(timings[name]) for name in theirs
        },
    }


def torch_kinds(compile: bool) -> dict[str, bool]:
    """Names of their contestants, and whether each is compiled.

    Raises:
      RuntimeError: Compiled ones are wanted and there is no C++ compiler.
    """
    compilers = ("g++", "c++", "clang++")
    if compile and not any(shutil.which(c) for c in compilers):
        raise RuntimeError(
            f"torch.compile needs a C++ compiler, none of {', '.join(compilers)} is on "
            "the path; --no-compile measures PyTorch's eager mode alone"
        )
    return {"torch eager": False} | ({"torch.compile": True} if compile else {})


def differences(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict:
    """Relative differences of every value."""
    return {k: abs(v - theirs[k]) / max(abs(theirs[k]), 1e-30) for k, v in ours.items()}


def _turn(step: Any, count: int) -> Callable[[], None]:
    def turn() -> None:
        for _ in range(count):
            step.step()
        step.wait()

    return turn


def _describe(
    step: Any, timing: Timing, examples: int, steps: int, flops: float | None
) -> dict[str, Any]:
    """Rates, arithmetic and memory of one contestant."""
    seconds = timing.median / steps
    peak = peak_flops(jax.devices()[0])
    return {
        "seconds_per_step": seconds,
        "cpu_seconds_per_step": statistics.median(timing.cpu_seconds) / steps,
        "examples_per_s": timing.rate(examples * steps),
        "flop_per_s": flops / seconds if flops else None,
        "mfu": flops / seconds / peak if flops and peak else None,
        "peak_memory_bytes": step.peak_memory(),
        "compile_s": step.compile_s,
    }


def lines(result: Mapping[str, Any]) -> str:
    """The comparison as a table, and what it says of the target."""
    rows = []
    for name, c in result["contestants"].items():
        ratio = result["ours_times_faster"].get(name)
        same = result["agreement"].get(name)
        rows.append(
            [
                name,
                measure.span(c["examples_per_s"], ".2f"),
                f"{c['cpu_seconds_per_step']:.2f}",
                f"{c['flop_per_s'] / 1e9:,.0f}" if c["flop_per_s"] else "unknown",
                f"{100 * c['mfu']:.1f} %" if c["mfu"] else "unknown",
                measure.mebibytes(c["peak_memory_bytes"]),
                measure.span(ratio, ".2f") if ratio else "",
                f"{same['loss']:.1e}, {same['grad_norm']:.1e}" if same else "",
            ]
        )
    head = ["", "examples/s", "CPU s/step", "GFLOP/s", "MFU", "peak memory"]
    head += ["ours is times faster", "loss, grad norm differ by"]
    return f"{measure.table(head, rows)}\n\n{verdict(result)}"


def verdict(result: Mapping[str, Any]) -> str:
    """The target, and whether it is met where it applies."""
    target = f"target on an H200: {TARGET}x torch.compile"
    device = result["facts"]["device"]
    ratio = result["ours_times_faster"].get("torch.compile")
    if "H200" not in device or ratio is None:
        why = "torch.compile was not measured" if ratio is None else f"this is {device}"
        return f"{target}; not judged here ({why})"
    met = "met" if ratio["median"] >= TARGET else "NOT met"
    return f"{target}; {met}: {ratio['median']:.2f}x"
