"""A plan of a perceptron for eight host devices, held to closed forms and to a run."""

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import serialize_executable

from medjax.train import MeshConfig, OptimizerConfig, TrainConfig, fit
from medjax.train.collectives import Collective
from medjax.train.experiment import Experiment
from medjax.train.mesh import make_mesh
from medjax.train.plan.compiling import compiled_step, facts_of
from medjax.train.plan.memory import memory_of, whole_bytes
from medjax.train.plan.planner import make_plan, program_on
from medjax.train.plan.roofline import calibrated, predict, rescaled
from medjax.train.plan.suggest import candidates, flags, suggest
from medjax.train.plan.table import as_json, told
from medjax.train.plan.topologies import devices, topology
from medjax.train.plan.traffic import Traffic, grouped
from medjax.train.sharding import fsdp
from medjax.train.state import run_keys
from medjax.train.workload import Workload, spec
from medjax_kernels.aot import MissingCompilerError
from tests.train import tiny

CPU = topology("cpu-8")
PARAMETERS = 4 * (8 * 32 + 32 + 32 * 4)
"""Bytes of the perceptron."""


@dataclasses.dataclass(frozen=True)
class Inner:
    chunk: int | None = None
    remat: bool = False
    batch_size: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perceptron(Experiment):
    data: Inner = Inner()


@dataclasses.dataclass(frozen=True)
class System:
    init = staticmethod(tiny.init)
    loss = staticmethod(tiny.quiet_loss)
    frozen = ()
    apply = {}


def workload(rows=64, **changes):
    config = Perceptron(
        about="",
        workdir=Path("none"),
        optimizer=OptimizerConfig(lr=1e-2),
        train=TrainConfig(steps=100),
        **changes,
    )
    size = config.data.batch_size
    batch = {
        "x": spec((size, 8), np.float32),
        "y": spec((size, 4), np.float32),
    }
    return Workload(System(), batch, rows, config)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    cache = tmp_path_factory.mktemp("plans")
    made = make_plan(workload(), CPU, cache=cache, weak=[8, 16])
    (kept,) = cache.glob("*.json")
    return made, kept, cache


def test_memory_work_and_traffic_are_those_of_closed_forms(plan):
    made, _, _ = plan
    # Two moments, a count each of Adam and of the schedule, the step, and the mean.
    assert made.memory.state == 3 * PARAMETERS + 4 + 4 + 4 + 4 * 8
    assert made.memory.batch == (64 // 8) * 4 * (8 + 4 + 1), "with the row number"
    forward = 2 * 64 * (8 * 32 + 32 * 4)
    # Backward: both gradients of weights, and what goes through the second layer.
    assert made.work.total == 2 * forward + 2 * 64 * 32 * 4


@pytest.mark.parametrize("split", [1, 4])
def test_planned_memory_is_what_the_compiler_allocates(split):
    """The state to the byte, where parameters are split too; of the rest a quarter more
    at the most, for fields of a batch that a step does not read."""
    mesh = MeshConfig(data=8 // split, fsdp=split)
    large = workload(mesh=mesh, data=Inner(batch_size=4096))
    program = program_on(dataclasses.replace(large, rules=((".*", fsdp(1)),)), CPU)
    compiled = compiled_step(program, CPU)
    said = compiled.memory_analysis()
    planned = memory_of(program, CPU.chip, facts_of(compiled))
    assert planned.state == said.alias_size_in_bytes
    # The mean of the inputs and three counts are on every device.
    assert planned.state == 3 * PARAMETERS // split + 3 * 4 + 4 * 8
    results = said.output_size_in_bytes - said.alias_size_in_bytes
    taken = said.argument_size_in_bytes + results + said.temp_size_in_bytes
    assert taken <= planned.need <= 1.25 * taken


@pytest.mark.parametrize("count", [2, 4, 8])
def test_gradients_and_the_loss_travel_once_and_nothing_else(count):
    made = make_plan(workload(), topology(f"cpu-{count}"))
    (one,) = made.traffic
    assert (one.kind, one.axes, one.devices) == ("all-reduce", ("data",), count)
    assert (one.count, one.bytes) == (1, PARAMETERS + 4)
    (read,) = made.compiled.collectives
    # Transposed or not, as the compiler likes.
    sizes = sorted(math.prod(shape) for _, shape in read.shapes)
    assert sizes == [1, 32, 32 * 4, 32 * 8]


def test_what_a_compiler_said_is_kept_and_believed(plan):
    made, kept, cache = plan
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps({**content, "temporaries": 12_345_678}))
    again = make_plan(workload(), CPU, cache=cache)
    assert again.memory.temporaries == 12_345_678
    assert again.traffic == made.traffic
    kept.write_text("{")
    assert make_plan(workload(), CPU, cache=cache).memory == made.memory


def test_more_devices_with_as_many_rows_take_longer_only_for_the_network(plan):
    made, _, _ = plan
    (_, same), (_, twice) = made.weak
    assert same == made.step
    assert twice.compute == pytest.approx(same.compute)
    assert twice.exchange > same.exchange


@pytest.mark.parametrize("of, to", [("cpu-8", "cpu-2"), ("cpu-2", "cpu-8")])
def test_fewer_or_more_devices_are_as_if_planned_themselves(of, to):
    def planned(name, **how):
        machine = topology(name)
        work = workload(data=Inner(batch_size=32 * machine.devices))
        return make_plan(work, machine, quick=True, **how)

    itself = planned(to)
    ((count, step),) = planned(of, weak=[itself.machine.devices]).weak
    assert count == itself.machine.devices
    assert dataclasses.astuple(step) == pytest.approx(
        dataclasses.astuple(itself.step), nan_ok=True
    )


def test_split_parameters_travel_as_far_as_before_on_more_devices():
    split = workload(mesh=MeshConfig(data=2, fsdp=4))
    split = dataclasses.replace(split, rules=((".*", fsdp(1)),))
    for wrong in (0, 6):
        with pytest.raises(ValueError, match=rf"weak: \[{wrong}\], .* the 4 devices"):
            make_plan(split, CPU, quick=True, weak=[wrong])
    made = make_plan(split, CPU, quick=True)
    wider = rescaled(made.traffic, Fraction(2), along="data", network="fast")
    grown = {("fsdp",): 1, ("data",): 2, ("data", "fsdp"): 2}
    assert {one.axes for one in made.traffic} >= {("fsdp",), ("data",)}
    for one, other in zip(made.traffic, wider, strict=True):
        assert other.devices == one.devices * grown[one.axes]


@pytest.mark.parametrize(
    "of, to, network",
    [
        ("h200-1x8", "h200-8x8", "slow"),
        ("h200-8x8", "h200-1x8", "fast"),
        ("v6e-16", "v6e-256", "fast"),
        ("v6e-256x2", "v6e-64", "fast"),
        ("v6e-256", "v6e-256x2", "slow"),
    ],
)
def test_beyond_what_fast_links_join_the_slow_network_does(of, to, network):
    """Arithmetic of the names alone: nothing is compiled for these."""
    here, there = topology(of), topology(to)
    assert (there.devices <= here.joined) is (network == "fast")
    one = Traffic("all-reduce", ("data",), "fast", "batch", 3, 800, 0, here.devices)
    other = dataclasses.replace(one, axes=("model",))
    factor = Fraction(there.devices, here.devices)
    found, same = rescaled([one, other], factor, along="data", network=network)
    assert same == other
    assert (found.network, found.devices) == (network, there.devices)
    assert found.bytes == 800 * factor and found.count == 3


def test_a_run_needs_as_many_rows_as_a_batch_has():
    made = make_plan(workload(rows=63), CPU, quick=True)
    assert (made.steps, made.chip_hours) == (None, None)
    page = told(made)
    assert "a batch of 64 of 63 rows: no run begins with so few" in page
    assert "the run:" not in page


def test_steps_are_as_fast_as_a_run_was():
    made = make_plan(workload(), CPU, quick=True, reached=1e6)
    assert made.step.compute == pytest.approx(made.work.total / 8 / 1e6)


def test_page_and_file_have_all_that_is_asked_of_a_plan(plan):
    made, _, _ = plan
    found = json.loads(json.dumps(as_json(made)))
    assert found["run"] == {
        "rows": 64,
        "steps_per_epoch": 1,
        "steps": 100,
        "chip_hours": pytest.approx(100 * made.step.seconds * 8 / 3600),
    }
    assert found["memory"]["fits"] is True
    page = told(made)
    assert "assumed" in page and "remembered" in page
    for sentence in ("80% of their links", "of statistics 100% is waited for"):
        assert sentence in page and any(sentence in one for one in found["assumed"])
    assert "a batch of 64 is 100% of the 64 rows" in page


def test_without_a_compilation_gradients_and_state_are_the_same(plan):
    made, _, _ = plan
    quick = make_plan(workload(), CPU, quick=True)
    assert quick.memory.temporaries is None and quick.memory.fits is None
    assert quick.memory.state == made.memory.state
    (one,) = quick.traffic
    assert (one.kind, one.bytes, one.axes) == ("all-reduce", PARAMETERS, ("data",))


def test_what_is_planned_is_what_runs(tmp_path):
    """The planned step, compiled from shapes, kept as bytes, and loaded again."""
    stream = tiny.Stream(batch=64)
    # Another rate: a program that no cache of compiled ones has, which would have lost
    # the parts that are serialised.
    slower = OptimizerConfig(lr=3e-3)
    work = workload()
    work = dataclasses.replace(
        work, config=dataclasses.replace(work.config, optimizer=slower)
    )
    first = next(stream)
    program = program_on(work, CPU)
    kept = serialize_executable.serialize(compiled_step(program, CPU))
    step = serialize_executable.deserialize_and_load(
        *kept, execution_devices=devices(CPU)
    )

    def placed(x, like):
        return jax.device_put(x, like.sharding)

    init_key, key = run_keys(work.config.train.seed)
    batch = {name: placed(first[name], program.batch[name]) for name in program.batch}
    state = program.initialise(init_key, batch)
    _, metrics = step(
        state,
        batch,
        placed(key, program.key),
        placed(np.ones((), bool), program.proceed),
    )
    trained = fit(
        tiny.init,
        tiny.quiet_loss,
        tiny.Stream(batch=64),
        workdir=tmp_path,
        optimizer=work.config.optimizer,
        train=TrainConfig(steps=1),
        mesh=MeshConfig(),
    )
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert row["loss"] == float(metrics["loss"])
    assert whole_bytes(program.state) == sum(x.nbytes for x in jax.tree.leaves(trained))


def test_a_calibration_gives_back_what_it_was_made_of(plan):
    made, _, _ = plan
    chip = calibrated(made.chip, made.work.flops, 0.25)
    step = predict(made.work.flops, (), chip, devices=1)
    assert step.seconds == pytest.approx(0.25)
    assert not chip.efficiency["matmul"].assumed
    # Of a machine that waits for programs as well, too: it was measured with the rest.
    pod = topology("v6e-256").chip
    chip = calibrated(pod, made.work.flops, 0.25)
    assert predict(made.work.flops, (), chip, devices=1).seconds == pytest.approx(0.25)


def test_a_step_waits_for_its_program_as_well(plan):
    """However little there is to do."""
    made, _, _ = plan
    chip = topology("v6e-256").chip
    step = predict(made.work.flops, (), chip, devices=256)
    assert step.launch == chip.launch.value > 0
    assert step.seconds == pytest.approx(step.compute + step.launch)
    assert step.binds == "launch"
    assert "  launch   0 ms" in told(made), "nothing of a CPU, which is calibrated"


def test_flags_that_fit_are_found_in_eight_tries_at_most():
    config = workload().config
    asked = []

    def limited(limit):
        def fits(changed):
            asked.append(changed)
            need = changed.data.batch_size
            need /= 2 if changed.data.remat else 1
            need /= 2 if changed.data.chunk else 1
            return need / changed.mesh.fsdp**0.5 <= limit

        asked.clear()
        return suggest(config, fits, batch=64, islands=4, shards=8)

    assert limited(64).flags == ()
    assert limited(32).flags == ("--data.chunk 1024",)
    both = limited(8)
    assert both.flags == ("--data.chunk 1024", "--data.remat", "--mesh.fsdp 4")
    small = limited(4)
    assert small.config.data.batch_size == 32 and small.tried <= 8
    assert small.flags[-1] == "--data.batch-size 32"
    # Fine-tuning has its films' flags without a name before them.
    assert flags({("films", "batch_size"): 8}) == ("--batch-size 8",)
    assert limited(0.1) is None
    assert len(asked) <= 8
    assert len(list(candidates(both.config, 4))) == 1, "there is nothing left to change"


def test_flags_are_found_that_meet_a_limit_when_compiled():
    """Half of what the run needs: parameters are split, then the batch is smaller."""
    own = Inner(chunk=1, remat=True, batch_size=4096)
    config = workload(data=own).config
    needs = {}

    def need(changed):
        if changed not in needs:
            work = workload(data=changed.data, mesh=changed.mesh)
            needs[changed] = make_plan(work, CPU).memory.need
        return needs[changed]

    limit = need(config) / 2
    found = suggest(
        config, lambda c: need(c) <= limit, batch=4096, islands=8, shards=1024
    )
    assert found.flags == ("--mesh.fsdp 8", "--data.batch-size 1024")
    assert needs[found.config] <= limit
    assert len(needs) == found.tried == 4


def test_what_spans_hosts_is_on_the_slow_network():
    machine = topology("h200-2x4")
    try:
        devices(machine)
    except MissingCompilerError as error:
        pytest.skip(str(error))
    program = program_on(workload(mesh=MeshConfig(data=2, fsdp=4)), machine)

    def one(groups):
        shapes = (("f32", (100,)),)
        return Collective("all-reduce", "r", shapes, 40_000, 3, groups, True)

    inside = one(((0, 1, 2, 3), (4, 5, 6, 7)))
    across = one(((0, 4), (1, 5), (2, 6), (3, 7)))
    fast, slow = grouped([inside, across], program.mesh, batch=64)
    assert (fast.network, fast.axes, fast.devices) == ("fast", ("fsdp",), 4)
    assert (slow.network, slow.axes, slow.devices) == ("slow", ("data",), 2)
    assert (fast.count, fast.bytes, fast.asynchronous) == (3, 120_000, 3)
    quick = make_plan(workload(mesh=MeshConfig(data=2, fsdp=4)), machine, quick=True)
    assert {one.network for one in quick.traffic} == {"slow"}


def test_gradients_are_no_batch_though_channels_are_as_many():
    """Kernels of 64 channels in a step of 64 examples, and vectors of as many."""
    shapes = {"kernel": (3, 3, 16, 64), "dense": (64, 32), "bias": (64,)}
    params = {k: jax.ShapeDtypeStruct(v, np.float32) for k, v in shapes.items()}
    mesh = make_mesh(MeshConfig(data=8))

    def why(kind, *shapes, known=params):
        size = sum(4 * math.prod(shape) for shape in shapes)
        arrays = tuple(("f32", shape) for shape in shapes)
        one = Collective(kind, "r", arrays, size, 1, (tuple(range(8)),), False)
        return grouped([one], mesh, batch=64, parameters=known)[0].purpose

    gradients = [(3, 3, 16, 64), (64, 32)]
    assert why("all-reduce", *gradients) == "parameters"
    assert why("all-reduce", *gradients, known=()) == "batch"
    assert why("all-gather", (3, 3, 16, 64)) == "parameters"
    assert why("all-gather", (64, 32)) == why("all-gather", (64, 48)) == "batch"
    assert why("all-reduce", *gradients, (64, 48)) == "batch"
    assert why("all-reduce", (16,), (16,)) == "statistics"
