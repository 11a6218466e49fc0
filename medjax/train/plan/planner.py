"""A plan: one workload on one machine, put together."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from medjax.train.mesh import make_mesh
from medjax.train.plan import spot
from medjax.train.plan.chips import Chip
from medjax.train.plan.compiling import Facts, compiler_facts, traced_step
from medjax.train.plan.flops import Count, count_flops
from medjax.train.plan.implied import implied
from medjax.train.plan.memory import Memory, memory_of, whole_bytes
from medjax.train.plan.roofline import Step, calibrated, predict, rescaled
from medjax.train.plan.topologies import Topology, devices
from medjax.train.plan.traffic import Network, Traffic, grouped
from medjax.train.program import Program
from medjax.train.workload import Workload
from medjax_kernels import compat

READ_PER_CORE = 210e6
"""Bytes a second that one core reads, decodes and stacks: 3200 films of 64 KiB
(experiments/README.md: 6400 on two cores)."""
WRITE = 1e9
"""Bytes a second that a host writes of a checkpoint; assumed."""
SETTLED = 1.0
"""Seconds that a checkpoint takes at least, however small; assumed."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a plan says; the terms are those of its parts."""

    workload: Workload
    machine: Topology
    chip: Chip
    program: Program
    work: Count
    compiled: Facts | None
    memory: Memory
    traffic: list[Traffic]
    step: Step
    weak: list[tuple[int, Step]]

    @property
    def examples_per_s(self) -> float:
        """Of all devices."""
        return self.workload.batch_size / self.step.seconds

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation, of the dense bfloat16 peak."""
        share = self.work.useful / self.machine.devices / self.step.seconds
        return share / self.chip.peak.value

    @property
    def hfu(self) -> float:
        """The same with what is computed a second time."""
        return self.mfu * self.work.total / max(self.work.useful, 1.0)

    @property
    def input_per_host(self) -> float:
        """Bytes a second that each host reads."""
        each = whole_bytes(dict(self.program.batch)) / self.step.seconds
        return each / self.machine.hosts

    @property
    def cores_per_host(self) -> int:
        """Cores that reading keeps busy."""
        return math.ceil(self.input_per_host / READ_PER_CORE)

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint."""
        return whole_bytes(self.program.state)

    @property
    def save_seconds(self) -> float:
        """Until a checkpoint is written by all hosts."""
        return SETTLED + self.checkpoint_bytes / (WRITE * self.machine.hosts)

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints that lose least (Young, 1974)."""
        return max(1, round(spot.interval(self.save_seconds) / self.step.seconds))

    @property
    def goodput(self) -> float:
        """Share of the time on spot machines that goes into steps which count."""
        every = self.checkpoint_every * self.step.seconds
        return spot.goodput(every, self.save_seconds)

    @property
    def steps_per_epoch(self) -> int | None:
        """None where nobody knows how many rows there are."""
        rows = self.workload.rows
        return None if rows is None else rows // self.workload.batch_size

    @property
    def steps(self) -> int | None:
        """Of the whole run; None where it is told in epochs of unknown length, or where
        there are fewer rows than a batch has, with which no run begins."""
        rows, size = self.workload.rows, self.workload.batch_size
        unknown = rows is None and self.workload.config.epochs is not None
        if unknown or (rows is not None and rows < size):
            return None
        _, train = self.workload.config.resolved(rows=rows or size, batch_size=size)
        return train.steps

    @property
    def chip_hours(self) -> float | None:
        """Of the whole run."""
        if self.steps is None:
            return None
        return self.steps * self.step.seconds * self.machine.chips / 3600


def make_plan(
    workload: Workload,
    machine: Topology,
    *,
    quick: bool = False,
    chip: Chip | None = None,
    weak: Sequence[int] = (),
    reached: float | None = None,
    cache: Path | None = None,
) -> Plan:
    """Plans a workload on a machine.

    Args:
      workload: What is trained.
      machine: On what.
      quick: Compile nothing: memory is a lower bound, and collectives are those that
        the program's own text implies.
      chip: Figures in place of the machine's own, of a calibration or a limit.
      weak: Device counts to extrapolate to, more or fewer, each device with as many
        rows.
      reached: FLOP/s that a run was measured to compute on each such device, what it
        computes a second time among them; the chip's efficiencies are scaled to that.
      cache: Folder of what compilers said before.

    Raises:
      ValueError: The mesh or the batch does not fit the devices; a count of `weak` does
        not split over the mesh's other axes, or over what the fast network joins.
    """
    chip = machine.chip if chip is None else chip
    program = program_on(workload, machine)
    along = _growing(program.mesh)
    _check_weak(weak, machine, machine.devices // program.mesh.shape[along])
    with _target(machine):
        traced = traced_step(program)
        facts = None
        if not quick:
            facts = compiler_facts(program, machine, traced, cache=cache)
    work = count_flops(traced.jaxpr)
    if facts is None:
        config = workload.config
        traffic = implied(
            program,
            traced.jaxpr,
            frozen=(*config.optimizer.frozen, *workload.system.frozen),
            accumulate=config.train.accumulate,
        )
    else:
        traffic = grouped(
            facts.collectives,
            program.mesh,
            batch=workload.batch_size,
            parameters=program.state.params,
        )
    accessed = None if facts is None else facts.accessed
    count = machine.devices
    if reached is not None:
        chip = calibrated(chip, work.flops, work.total / reached)

    def at(there: int) -> Step:
        factor = Fraction(there, count)
        # What sees the batch of all devices grows with its square.
        flops = {
            one: float(n * factor * (factor if one.part == "contrast" else 1))
            for one, n in work.flops.items()
        }
        network: Network = "fast" if there <= machine.joined else "slow"
        wider = rescaled(traffic, factor, along=along, network=network)
        return predict(
            flops,
            traffic if there == count else wider,
            chip,
            devices=there,
            accessed=accessed,
        )

    return Plan(
        workload=workload,
        machine=machine,
        chip=chip,
        program=program,
        work=work,
        compiled=facts,
        memory=memory_of(program, chip, facts),
        traffic=traffic,
        step=at(count),
        weak=[(n, at(n)) for n in weak],
    )


def _growing(mesh: Mesh) -> str:
    """The axis along which a run of more devices is wider."""
    return "data" if mesh.shape["data"] > 1 or mesh.shape["fsdp"] == 1 else "fsdp"


def _check_weak(weak: Sequence[int], machine: Topology, unit: int) -> None:
    """Refuses counts of devices that no mesh of the run has; `unit` is of a replica."""
    island = machine.joined
    wrong = [n for n in weak if n < 1 or n % unit or (n > island and n % island)]
    if wrong:
        beyond = f"; of {island} beyond those" if max(wrong) > island else ""
        raise ValueError(
            f"weak: {wrong}, expected multiples of the {unit} devices of a replica"
            f"{beyond}"
        )


def program_on(workload: Workload, machine: Topology) -> Program:
    """The workload's program over the devices of a machine.

    Raises:
      ValueError: The mesh does not fit the devices, or the batch does not split.
    """
    mesh = make_mesh(workload.config.mesh, devices=devices(machine))
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if workload.batch_size % shards:
        raise ValueError(
            f"batch: {workload.batch_size} examples do not split over the {shards} "
            f"devices of data x fsdp on {machine.name}"
        )
    with _target(machine):
        return workload.program(mesh)


def _target(machine: Topology) -> Any:
    return compat.target(machine.platform, machine.chip.kind)
