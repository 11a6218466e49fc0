"""A plan in words, for a person, and as JSON, for a program."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from medjax.train.plan.memory import USABLE
from medjax.train.plan.planner import SETTLED, WRITE, Plan
from medjax.train.plan.roofline import Step
from medjax.train.plan.spot import BETWEEN_FAILURES, RESTART
from medjax.train.plan.traffic import EXPOSED, UTILISED

SCHEMA = 1
"""Of the file that a plan is written to."""
LARGE_SHARE = 0.05
"""Share of the training data from which a batch is said to be large."""
FEW = 8
"""Examples on a device below which it is mostly idle."""
SLOW_STATISTICS = 0.02
"""Share of a step from which synchronised statistics are spoken of."""


def warnings(plan: Plan) -> list[str]:
    """What a person should look at twice, in sentences."""
    return list(_warnings(plan))


def _warnings(plan: Plan) -> Iterator[str]:
    memory, size = plan.memory, plan.workload.batch_size
    mesh = plan.program.mesh
    each = size // (mesh.shape["data"] * mesh.shape["fsdp"])
    if plan.compiled is None:
        yield (
            "nothing was compiled: memory is of state and batch alone, and statistics "
            "of BatchNorm are missing among the collectives"
        )
    elif plan.compiled.refused:
        yield f"the compiler found too little memory: {plan.compiled.refused}"
    if memory.fits is False:
        over = memory.need - memory.limit
        yield f"does not fit: {_bytes(over)} too much on each device"
    rows = plan.workload.rows
    if rows is None:
        yield "nobody says how many rows there are: --rows"
    elif size > rows:
        yield f"a batch of {size} of {rows} rows: no run begins with so few (--rows)"
    elif size > LARGE_SHARE * rows:
        yield (
            f"a batch of {size} is {size / rows:.0%} of the {rows} rows: "
            f"{rows // size} steps an epoch"
        )
    if each < FEW:
        yield f"{each} examples on each device: mostly waiting"
    if plan.step.statistics > SLOW_STATISTICS * plan.step.seconds:
        share = plan.step.statistics / plan.step.seconds
        slow = any(
            one.network == "slow" and one.purpose == "statistics"
            for one in plan.traffic
        )
        hint = "; statistics of each host alone leave the slow network" if slow else ""
        yield f"statistics of all devices are {share:.0%} of the step{hint}"
    if plan.work.unknown_loops:
        yield (
            f"{plan.work.unknown_loops} loops of unknown length: their work is counted "
            "once"
        )


def assumptions(plan: Plan) -> Iterator[str]:
    """What a plan takes for granted beside the figures of its chip, in sentences."""
    yield f"collectives reach {UTILISED:.0%} of their links"
    for purpose, share in EXPOSED.items():
        yield f"of the time of collectives of {purpose} {share:.0%} is waited for"
    yield f"a program can have {USABLE:.0%} of a device's memory"
    rate = f"{_bytes(WRITE)}/s of a checkpoint"
    yield f"a host writes {rate}, which takes {_seconds(SETTLED)} beside that"
    yield f"something fails every {_seconds(BETWEEN_FAILURES)}"
    yield f"a restart takes {_seconds(RESTART)} until the next step"
    yield from plan.workload.assumed


def told(plan: Plan) -> str:
    """The plan, as it is printed."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    machine, memory, step = plan.machine, plan.memory, plan.step
    mesh = " x ".join(f"{k} {v}" for k, v in plan.program.mesh.shape.items())
    yield (
        f"{machine.name}: {machine.devices} devices ({machine.chip.kind}) of "
        f"{machine.hosts} hosts, mesh {mesh}, batch {plan.workload.batch_size}"
    )
    verdict = {True: "fits", False: "does NOT fit", None: "not known (not compiled)"}
    yield (
        f"\nmemory of a device: {verdict[memory.fits]}: {_bytes(memory.need)} of "
        f"{_bytes(memory.limit)} usable"
    )
    for field in ("state", "batch", "temporaries", "code", "hidden"):
        value = getattr(memory, field)
        yield f"  {field:<12} {'not compiled' if value is None else _bytes(value)}"
    yield f"\nwork of a step: {_flops(plan.work.total)} in all"
    sums = _by(plan, "part", "kind", "dtype")
    for name, flops in sorted(sums.items(), key=lambda item: -item[1]):
        yield f"  {name:<40} {_flops(flops)}"
    again = plan.work.total - plan.work.useful
    if again:
        yield f"  of that computed a second time: {_flops(again)}"
    yield "\nwhat travels in a step, on each device"
    for one in sorted(plan.traffic, key=lambda t: -t.bytes):
        yield (
            f"  {one.kind:<18} {'x'.join(one.axes):<10} {one.network:<5} "
            f"{one.purpose:<11} {one.count:>5} x, {_bytes(one.bytes):>9}, "
            f"{1e3 * one.seconds(plan.chip):.2f} ms, {one.asynchronous} beside "
            "computation"
        )
    if not plan.traffic:
        yield "  nothing"
    yield f"\na step: {_seconds(step.seconds)}, bound by {step.binds}"
    yield f"  compute  {_seconds(step.compute)}"
    known = "not counted" if step.memory is None else _seconds(step.memory)
    yield f"  memory   {known}"
    yield f"  network  {_seconds(step.exchange)}, exposed {_seconds(step.exposed)}"
    yield f"  launch   {_seconds(step.launch)}"
    if step.batch:
        yield (
            f"  showing each other the batch takes {_seconds(step.batch)} of that: "
            f"{step.batch / step.seconds:.1%} of the step"
        )
    yield (
        f"  {plan.examples_per_s:,.0f} examples/s, MFU {plan.mfu:.1%}, HFU "
        f"{plan.hfu:.1%}"
    )
    for count, scaled in plan.weak:
        yield (
            f"  {count:>6} devices, as many rows each: {_seconds(scaled.seconds)}, "
            f"efficiency {step.seconds / scaled.seconds:.0%}"
        )
    yield (
        f"\neach host reads {_bytes(plan.input_per_host)}/s: "
        f"{plan.cores_per_host} cores"
    )
    yield (
        f"a checkpoint: {_bytes(plan.checkpoint_bytes)}, "
        f"{_seconds(plan.save_seconds)}; every {plan.checkpoint_every} steps"
    )
    yield (
        f"on spot machines {plan.goodput:.0%} of the time goes into steps that count"
    )
    if plan.steps is not None and plan.chip_hours is not None:
        epoch = plan.steps_per_epoch
        of_epoch = "" if epoch is None else f" ({epoch} an epoch)"
        yield (
            f"the run: {plan.steps} steps{of_epoch}, "
            f"{_seconds(plan.steps * step.seconds)}, {plan.chip_hours:,.1f} chip-hours"
        )
    yield "\nassumed, not read in a source or measured"
    for name, figure in plan.chip.figures.items():
        if figure.assumed:
            yield f"  {name}: {figure.value:g} ({figure.source})"
    yield from (f"  {sentence}" for sentence in assumptions(plan))
    if found := warnings(plan):
        yield "\nwarnings"
        yield from (f"  {sentence}" for sentence in found)


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything of a plan, as JSON holds it."""
    work = [
        {**one._asdict(), "flops": flops, "per_example": flops / size}
        for size in [plan.workload.batch_size]
        for one, flops in plan.work.flops.items()
    ]
    traffic = [
        {
            **dataclasses.asdict(one),
            "seconds": one.seconds(plan.chip),
            "exposed": one.exposed(plan.chip),
        }
        for one in plan.traffic
    ]
    return {
        "schema": SCHEMA,
        "topology": dataclasses.asdict(plan.machine),
        "mesh": dict(plan.program.mesh.shape),
        "batch": plan.workload.batch_size,
        "compiled": plan.compiled is not None,
        "memory": {
            **dataclasses.asdict(plan.memory),
            "need": plan.memory.need,
            "fits": plan.memory.fits,
        },
        "work": work,
        "collectives": traffic,
        "step": _step(plan.step),
        "examples_per_s": plan.examples_per_s,
        "mfu": plan.mfu,
        "hfu": plan.hfu,
        "weak_scaling": [{"devices": n, **_step(one)} for n, one in plan.weak],
        "input": {
            "bytes_per_s_and_host": plan.input_per_host,
            "cores_per_host": plan.cores_per_host,
        },
        "checkpoint": {
            "bytes": plan.checkpoint_bytes,
            "seconds": plan.save_seconds,
            "every": plan.checkpoint_every,
            "goodput": plan.goodput,
        },
        "run": {
            "rows": plan.workload.rows,
            "steps_per_epoch": plan.steps_per_epoch,
            "steps": plan.steps,
            "chip_hours": plan.chip_hours,
        },
        "chip": {k: dataclasses.asdict(v) for k, v in plan.chip.figures.items()},
        "assumed": list(assumptions(plan)),
        "warnings": warnings(plan),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        **dataclasses.asdict(step),
        "seconds": step.seconds,
        "binds": step.binds,
    }


def _by(plan: Plan, *fields: str) -> dict[str, float]:
    """Work summed over all that these fields do not tell apart."""
    sums: dict[str, float] = {}
    for one, flops in plan.work.flops.items():
        name = ", ".join(getattr(one, field) for field in fields)
        sums[name] = sums.get(name, 0.0) + flops
    return sums


def _bytes(count: float) -> str:
    return _scaled(count, "B")


def _flops(count: float) -> str:
    return _scaled(count, "FLOP")


def _scaled(count: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.3g} {prefix}{unit}"
        count /= 1000
    return f"{count:.3g} E{unit}"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{1e3 * value:.3g} ms"
    return f"{value:.3g} s" if value < 3600 else f"{value / 3600:.3g} h"
