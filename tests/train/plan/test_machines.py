"""Machines by name, what their chips can do, and how long they exchange."""

import pytest

from medjax.train.plan.chips import CHIPS
from medjax.train.plan.topologies import devices, topology
from medjax.train.plan.traffic import Network, Traffic, transfer
from medjax_kernels.aot import MissingCompilerError


@pytest.mark.parametrize(
    "kind, seconds",
    [
        # Three rounds of 1 ms for each of two; 7/8 of 800 bytes at 1000 bytes/s.
        ("all-gather", 2 * 3e-3 + 0.7),
        ("reduce-scatter", 2 * 3e-3 + 0.7),
        ("all-reduce", 2 * (2 * 3e-3 + 0.7)),
        ("collective-permute", 2 * 1e-3 + 0.8),
    ],
)
def test_time_of_a_collective(kind, seconds):
    found = transfer(kind, 800, 2, 8, rate=1000.0, latency=1e-3)
    assert found == pytest.approx(seconds)
    assert transfer(kind, 800, 2, 1, rate=1000.0, latency=1e-3) == 0


def test_a_ring_has_one_link_of_the_four_that_a_gather_has():
    chip = topology("v6e-256").chip

    def seconds(kind, network: Network = "fast"):
        return Traffic(kind, ("data",), network, "batch", 1, 10**9, 0, 256).seconds(
            chip
        )

    link = 0.8 * 800e9 / 2
    assert seconds("all-gather") == pytest.approx(8e-6 + 255 / 256 * 1e9 / link)
    assert seconds("collective-permute") == pytest.approx(1e-6 + 1e9 / (link / 4))
    # Between slices there is one network.
    far = pytest.approx(25e-6 + 1e9 / (0.8 * 12.5e9))
    assert seconds("collective-permute", "slow") == far


def test_a_figure_that_is_not_assumed_names_a_source():
    sources = ("docs.cloud.google.com/", "openxla/xla", "NVIDIA", "none")
    for chip in CHIPS.values():
        for name, figure in chip.figures.items():
            assert figure.assumed or figure.source.startswith(sources), (chip, name)


@pytest.mark.parametrize(
    "name, count, hosts, islands",
    [
        ("v5e-16", 16, 4, 1),
        ("v5e-256", 256, 64, 1),
        ("v5p-512", 256, 64, 1),
        ("tpu7x-8", 8, 1, 1),
        ("tpu7x-128x2", 256, 32, 2),
        ("v4-128", 128, 16, 1),
        ("v6e-256x4", 1024, 256, 4),
        ("h200-8x8", 64, 8, 8),
        ("h100-4x8", 32, 4, 4),
        ("cpu-8", 8, 1, 1),
    ],
)
def test_every_machine_is_described(name, count, hosts, islands):
    machine = topology(name)
    assert (machine.devices, machine.hosts, machine.islands) == (count, hosts, islands)
    halves = 2 if name.startswith(("v4", "tpu7x")) else 1
    assert machine.chips * halves == count
    try:
        found = devices(machine)
    except MissingCompilerError as error:
        pytest.skip(str(error))
    assert len(found) == count
    assert len({device.process_index for device in found}) == hosts
    kind = machine.chip.kind.removesuffix("e").removesuffix("p")
    assert machine.platform == "cpu" or found[0].device_kind.startswith(kind)


@pytest.mark.parametrize(
    "name", ["v5p", "v7-8", "v5e-17", "v5p-3", "tpu7x-4", "cpu-2x4", "h200"]
)
def test_machines_that_there_are_not_are_refused(name):
    with pytest.raises(ValueError, match="topology: .*expected"):
        topology(name)
