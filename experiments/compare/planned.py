"""What a planner says beside what compilers and host devices say, part by part.

`experiments.compare.pods` runs the parts and writes their tables. All but times are the
same on every machine.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import serialize_executable
from jax.sharding import PartitionSpec as P

from experiments import (
    convirt,
    imitate,
    latent_transformer,
    mflag,
    plan,
    promptmr,
    varnet,
)
from experiments.bench.stepping import alone, arguments, contrast_of
from medjax.progress import say
from medjax.train.collectives import Collective, read_collectives
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.plan.chips import assumed
from medjax.train.plan.compiling import compiled_step, facts_of, traced_step
from medjax.train.plan.flops import count_flops
from medjax.train.plan.memory import USABLE, memory_of, whole_bytes
from medjax.train.plan.planner import make_plan, program_on
from medjax.train.plan.roofline import calibrated
from medjax.train.plan.suggest import TRIES
from medjax.train.plan.topologies import devices, topology
from medjax.train.sharding import flatten
from medjax.train.state import partition
from medjax_kernels.contrastive import softmax_loss

SIX = {
    "convirt": convirt,
    "varnet": varnet,
    "latent_transformer": latent_transformer,
    "mflag": mflag,
    "imitate": imitate,
    "promptmr": promptmr,
}
"""Doors of the systems whose memory is planned."""
ROOM = 1.25
"""Of what is needed, that a plan may ask for."""
STEP = 0.25
"""Relative error of a predicted step that is aimed at."""
ROWS = 32
"""Of a device, in the steps that are timed first."""
PAIRS, WIDTH = 8192, 512
"""Of the contrast around a ring."""


def summed(counts: Sequence[int] = (2, 4, 8)) -> list[dict[str, Any]]:
    """What travels in ConVIRT's data-parallel step, beside what has to."""
    found = []
    config = convirt.PRESETS["tiny"]
    workload = plan.workload_of(config)
    for count in counts:
        machine = topology(f"cpu-{count}")
        program = program_on(workload, machine)
        every = read_collectives(compiled_step(program, machine).as_text())
        sizes = dict(program.mesh.shape)
        trained, _ = partition(program.state.params, workload.system.frozen)
        has_to = travelling(
            trained,
            program.state.extra,
            rows=workload.batch_size,
            words=config.text.max_length,
            width=config.system.features,
        )
        found.append(
            {
                "devices": count,
                "axes": sorted({axis for one in every for axis in one.axes(sizes)}),
                "read": arrays(every),
                "by_hand": has_to,
            }
        )
    return found


def arrays(every: Sequence[Collective]) -> dict[str, list[int]]:
    """Arrays and bytes that travel, by kind: compilers join arrays as they like."""
    found: dict[str, list[int]] = {}
    for one in every:
        total = found.setdefault(one.kind, [0, 0])
        total[0] += one.count * len(one.shapes)
        total[1] += one.total_bytes
    return found


def travelling(
    trained: Any, statistics: Any, *, rows: int, words: int, width: int
) -> dict[str, list[int]]:
    """What one contrast of two networks has to exchange, by hand.

    Args:
      trained: Parameters with a gradient, each of which is summed once; of positions
        of words, those that a report has.
      statistics: Of BatchNorm, a mean and a variance each; the forward pass sums the
        mean, the variance and what the mean's rounding left, the backward pass two
        gradients.
      rows: Of the batch. Its reports are gathered, with two numbers each; gradients of
        both are scattered, the largest logit of each is shared.
      words: Of a report.
      width: Of what is compared.
    """
    leaves, norms = jax.tree.leaves(trained), len(jax.tree.leaves(statistics)) // 2
    positions = [v for k, v in flatten(trained).items() if "position_embeddings" in k]
    idle = sum(4 * (each.shape[0] - words) * each.shape[1] for each in positions)
    sums = whole_bytes(trained) - idle + 5 * whole_bytes(statistics) // 2
    # The loss and two that are logged.
    return {
        "all-reduce": [len(leaves) + 5 * norms + 2, sums + 4 * rows + 4 * 3],
        "all-gather": [2, 4 * rows * (width + 2)],
        "reduce-scatter": [2, 4 * rows * (width + 1)],
    }


def gradients() -> dict[str, int]:
    """Bytes that IMITATE's ``paper`` sums over all devices, by its shapes alone."""
    workload = plan.workload_of(imitate.PRESETS["paper"])
    program = program_on(workload, topology("cpu-8"))
    trained, _ = partition(program.state.params, workload.system.frozen)
    statistics = whole_bytes(program.state.extra)
    # Of two views, as above.
    return {"gradients": whole_bytes(trained), "sums": 2 * 5 * statistics // 2}


def memory() -> list[dict[str, Any]]:
    """Bytes that are planned for steps on two devices, beside those that are taken.

    What the compiler writes results over is the state, which the step gives back. Its
    own peak leaves out temporaries on a CPU: what it allocates is added up, and what
    the process then takes while the step runs is measured.
    """
    found, machine = [], topology("cpu-2")
    for name, door in SIX.items():
        program = program_on(plan.workload_of(door.PRESETS["tiny"]), machine)
        compiled = compiled_step(program, machine)
        said = compiled.memory_analysis()
        planned = memory_of(program, machine.chip, facts_of(compiled))
        beyond = said.output_size_in_bytes - said.alias_size_in_bytes
        given = arguments(program, blank=True)
        jax.block_until_ready(given)
        before = resident(forget=True)
        jax.block_until_ready(compiled(*given))
        taken = (resident() - before) // machine.devices
        found.append(
            {
                "step": name,
                "state": planned.state,
                "written_over": int(said.alias_size_in_bytes),
                "need": planned.need,
                "compiled": int(
                    said.argument_size_in_bytes + beyond + said.temp_size_in_bytes
                ),
                "measured": int(said.argument_size_in_bytes) + taken,
            }
        )
        say(f"memory: {name} is measured")
    return found


def resident(*, forget: bool = False) -> int:
    """The most bytes of memory that this process has had, as Linux tells.

    Args:
      forget: Count anew from here, and say what it has now.
    """
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    told = Path("/proc/self/status").read_text()
    name = "VmRSS" if forget else "VmHWM"
    return 1024 * int(told.split(f"{name}:")[1].split()[0])


def loaded() -> dict[str, Any]:
    """The loss of a step that was planned, kept as bytes and loaded, and of a run's."""
    machine = topology("cpu-8")
    program = program_on(plan.workload_of(convirt.PRESETS["tiny"]), machine)
    kept = serialize_executable.serialize(compiled_step(program, machine))
    step = serialize_executable.deserialize_and_load(
        *kept, execution_devices=devices(machine)
    )
    losses = []
    with jax.set_mesh(program.mesh):
        for each in (step, program.step):
            _, metrics = each(*arguments(program))
            losses.append(float(metrics["loss"]))
    return {"bytes": len(kept[0]), "loaded": losses[0], "run": losses[1]}


def suggested(share: float = 0.5) -> dict[str, Any]:
    """Flags that `--suggest` finds where there is a share of the memory needed."""
    config, machine = convirt.PRESETS["tiny"], topology("cpu-2")
    with tempfile.TemporaryDirectory() as folder:
        how: dict[str, Any] = {"cache": Path(folder)}
        need = plan.plan(config, machine, **how).memory.need
        room = assumed(share * need / USABLE, "an artificial limit")
        how["chip"] = dataclasses.replace(machine.chip, memory=room)
        found = plan.suggested(config, machine, how)
        compiled = len(list(Path(folder).glob("*.json")))
        after = found and plan.plan(found.config, machine, **how).memory.need
    return {
        "need": need,
        "limit": int(share * need),
        "flags": found and list(found.flags),
        "then": after,
        "compilations": compiled,
    }


def ring() -> dict[str, Any]:
    """Temporaries of a contrast around a ring of eight devices, with its gradients."""
    pair = jax.ShapeDtypeStruct((PAIRS, WIDTH), jnp.float32)

    def local(x: Any, y: Any) -> Any:
        found = softmax_loss(
            x, y, logit_scale=14.0, axis_name="data", distributed="ring"
        )
        return sum(found)

    everyone = MeshConfig(data=8)
    with jax.set_mesh(make_mesh(everyone, devices=devices(topology("cpu-8")))):
        loss = jax.shard_map(local, in_specs=(P("data"), P("data")), out_specs=P())
        step = jax.jit(jax.grad(loss, (0, 1))).lower(pair, pair).compile()
    said: Any = step.memory_analysis()
    return {
        "temporaries": int(said.temp_size_in_bytes),
        "most": 3 * (PAIRS // 8) * WIDTH * (4 + 4) + 2**20,
    }


def scaled(steps: int) -> dict[str, Any]:
    """Steps on two devices of a core each, predicted from one step on one."""
    one, two = topology("cpu-1"), topology("cpu-2")
    seconds = alone(ROWS, False, 1, steps)
    work = count_flops(
        traced_step(program_on(contrast_of(ROWS, remat=False), one)).jaxpr
    )
    chip = calibrated(two.chip, work.flops, seconds)
    found = []
    for rows in (ROWS, 2 * ROWS):
        for remat in (False, True):
            made = make_plan(
                contrast_of(2 * rows, remat=remat), two, quick=True, chip=chip
            )
            found.append(
                {
                    "rows": rows,
                    "remat": remat,
                    "predicted_s": made.step.seconds,
                    "measured_s": alone(2 * rows, remat, 2, steps),
                }
            )
    return {"one_s": seconds, "steps": found}


def off(a: float, b: float) -> str:
    """By how much one is more than the other, in words."""
    return f"{100 * (a / b - 1):+.1f} %"


def summed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What travels, for a reader."""
    lines = "\n".join(
        f"| {r['devices']} | {kind} | {', '.join(r['axes'])} | "
        f"{_pair(r['read'], kind)} | {_pair(r['by_hand'], kind)} |"
        for r in rows
        for kind in sorted({*r["read"], *r["by_hand"]})
    )
    same = all(r["read"] == r["by_hand"] and r["axes"] == ["data"] for r in rows)
    verdict = "is equal to that" if same else "**differs** from that"
    return f"""What travels in ConVIRT's `tiny` step on each device, as the compiled
program says: arrays, and their bytes. By hand it is each gradient once (of positions,
those that a report has), five numbers of each channel of a BatchNorm, and of the
contrast the reports, gathered, with the gradients that go back. What was read
{verdict}:

| devices | kind | along | compiled | by hand |
|---|---|---|---|---|
{lines}
"""


def _pair(found: Mapping[str, Sequence[int]], kind: str) -> str:
    count, size = found.get(kind, (0, 0))
    return f"{count}, {size:,} B"


def gradients_table(found: Mapping[str, int]) -> str:
    """What a large step sums, for a reader."""
    both = found["gradients"] + found["sums"]
    return f"""Of IMITATE's `paper`, by the same count and not compiled here, gradients
are {found["gradients"] / 1e6:.1f} MB and sums of BatchNorm over two views
{found["sums"] / 1e6:.1f} MB: {both / 1e6:.1f} MB a step, whatever the batch.
"""


def memory_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Planned memory, for a reader."""
    lines = "\n".join(
        f"| {r['step']} | {r['state']:,} | {r['written_over']:,} | {r['need']:,} | "
        f"{r['compiled']:,} | {r['need'] / r['compiled']:.3f} | {r['measured']:,} | "
        f"{r['need'] / r['measured']:.3f} |"
        for r in rows
    )
    exact = all(r["state"] == r["written_over"] for r in rows)

    def held(key: str) -> str:
        found = sum(r[key] <= r["need"] <= ROOM * r[key] for r in rows)
        return f"{found} of {len(rows)}"

    return f"""Memory of `tiny` steps on two devices, bytes on one of them. The state
{"is" if exact else "is **not**"} what the compiler gives back in place, to the byte.
Temporaries are planned as the compiler tells them; what is planned in all is no less
and at most {ROOM} times what it allocates in {held("compiled")}, and what the process
was seen to take at its first step in {held("measured")}: that has whatever libraries
and threads take as well, which no compiler counts, and was not taken apart.

| step | state | given back | need, planned | allocated | times | taken | times |
|---|---|---|---|---|---|---|---|
{lines}
"""


def loaded_table(found: Mapping[str, Any]) -> str:
    """A planned step that ran, for a reader."""
    equal = "equal" if found["loaded"] == found["run"] else "**not equal**"
    return f"""ConVIRT's `tiny` step, planned for eight host devices, kept as
{found["bytes"]:,} bytes and loaded, gives a loss of {found["loaded"]:.6f}; the step of
a run gives {found["run"]:.6f}: {equal}.
"""


def suggested_table(found: Mapping[str, Any]) -> str:
    """What was suggested, for a reader."""
    need, limit = found["need"], found["limit"]
    asked = f"""`experiments.plan convirt --topology cpu-2 --suggest`, where a device
has {limit:,} bytes for a step that needs {need:,},"""
    if found["flags"] is None:
        return f"{asked} finds nothing in {found['compilations']} compilations.\n"
    return f"""{asked} suggests `{" ".join(found["flags"])}`, which needs
{found["then"]:,}, after {found["compilations"]} compilations ({TRIES} are allowed).
"""


def ring_table(found: Mapping[str, Any]) -> str:
    """Memory of a ring, for a reader."""
    held = "fewer" if found["temporaries"] < found["most"] else "**not fewer**"
    return f"""A contrast of {PAIRS} pairs of {WIDTH} numbers around a ring of eight
devices, and its gradients, has {found["temporaries"]:,} bytes of temporaries on each:
{held} than three blocks that travel and 1 MiB, {found["most"]:,}. A device's
rows of the matrix alone would be {4 * PAIRS * PAIRS // 8:,}.
"""


def scaled_table(found: Mapping[str, Any]) -> str:
    """Predicted steps, for a reader."""
    rows = found["steps"]
    lines = "\n".join(
        f"| {r['rows']} | {'twice' if r['remat'] else 'once'} | "
        f"{1e3 * r['predicted_s']:.0f} | {1e3 * r['measured_s']:.0f} | "
        f"{off(r['predicted_s'], r['measured_s'])} |"
        for r in rows
    )
    ranks = [
        np.argsort([r[key] for r in rows]) for key in ("predicted_s", "measured_s")
    ]
    order = "the same" if (ranks[0] == ranks[1]).all() else "**another**"
    worst = max(abs(r["predicted_s"] / r["measured_s"] - 1) for r in rows)
    within = "are" if worst <= STEP else "are not all"
    return f"""Steps of ConVIRT's `tiny` on two host devices with a core each, ms,
predicted from {1e3 * found["one_s"]:.0f} ms of one device with {ROWS} rows (`--quick`).
The predictions {within} within the {STEP:.0%} that are the goal on a quiet machine; the
order of the four is {order}:

| rows of a device | activations computed | predicted | measured | off by |
|---|---|---|---|---|
{lines}
"""
