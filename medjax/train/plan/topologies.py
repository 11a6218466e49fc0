"""Machines by name: ``v5p-512``, ``v6e-256x2``, ``h200-8x8``, ``cpu-8``.

=============  =======================================================================
name           meaning
=============  =======================================================================
``v5e-16``     TPU chips (v5e, v6e)
``v5p-512``    TPU cores, two a chip, as Google counts them (v4, v5p, tpu7x)
``v6e-256x2``  slices of a TPU: two of 256 chips, joined by the slow network
``h200-8x8``   hosts x GPUs of a host (h100, h200)
``cpu-8``      host devices; the only ones that run as well
=============  =======================================================================

The devices of a TPU or GPU compile and do nothing else: ``libtpu`` and the CUDA plugin
describe machines that are not here.
"""

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax

from medjax.train.plan.chips import CHIPS, Chip
from medjax_kernels.aot import MissingCompilerError
from medjax_kernels.chips import H100, H200

TARGETS = {"h100": H100, "h200": H200}
INSTALL = "pip install 'medjax[plan]'"
IN_CORES = ("v4", "v5p", "tpu7x")
"""Generations whose names count cores, two a chip."""
IN_TWO = ("v4", "tpu7x")
"""Those of which each core is a device of its own."""
FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
"""Shapes of slices whose chips lie in a plane."""
CUBIC = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
}
"""Shapes of those whose chips lie in a box; Google's default for each size."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine.

    Attributes:
      name: As the user says it.
      generation: Key in `CHIPS`.
      shape: Of a slice, as the TPU compiler wants it; of GPUs hosts x GPUs.
      islands: Slices of a TPU, hosts of GPUs: what a slow network joins.
      devices: In all, as JAX counts them.
      hosts: Processes of a run.
    """

    name: str
    generation: str
    shape: str
    islands: int
    devices: int
    hosts: int

    @property
    def chip(self) -> Chip:
        """What a device can do."""
        return CHIPS[self.generation]

    @property
    def platform(self) -> str:
        """As `medjax_kernels.compat.target` names it."""
        return self.chip.platform

    @property
    def lowering(self) -> str:
        """As lowering names it."""
        return {"gpu": "cuda"}.get(self.platform, self.platform)

    @property
    def chips(self) -> int:
        """What is paid for."""
        return self.devices // 2 if self.generation in IN_TWO else self.devices

    @property
    def joined(self) -> int:
        """Devices that the fast network can join, were there as many as one likes.

        One slice grows to the largest of its generation, a CPU without end; several
        slices stay what they are, as hosts of GPUs do.
        """
        if self.platform == "cpu":
            return sys.maxsize
        if self.platform == "tpu" and self.islands == 1:
            return max(FLAT if self.generation in ("v5e", "v6e") else CUBIC) * (
                self.devices // self.chips
            )
        return self.devices // self.islands


def topology(name: str) -> Topology:
    """The machine of a name.

    Raises:
      ValueError: No machine has it; the message says how names look.
    """
    match = re.fullmatch(r"([a-z0-9]+)-(\d+)(?:x(\d+))?", name)
    count, second = (int(match[2]), int(match[3] or 1)) if match else (0, 0)
    if match is None or match[1] not in CHIPS or min(count, second) < 1:
        raise ValueError(
            f"topology: {name!r}, expected a name like v5e-16, v5p-512, v6e-256x2, "
            f"h200-8x8 or cpu-8, of {', '.join(CHIPS)}"
        )
    generation = match[1]
    if generation == "cpu":
        if match[3]:
            raise ValueError(f"topology: {name!r}, expected cpu-N")
        return Topology(name, generation, "", 1, count, 1)
    if generation in TARGETS:
        hosts, gpus = (count, second) if match[3] else (1, count)
        shape = f"{hosts}x{gpus}"
        return Topology(name, generation, shape, hosts, hosts * gpus, hosts)
    chips = count // 2 if generation in IN_CORES else count
    shapes = FLAT if generation in ("v5e", "v6e") else CUBIC
    if chips not in shapes or (generation in IN_CORES and count % 2):
        sizes = [n * 2 if generation in IN_CORES else n for n in shapes]
        raise ValueError(
            f"topology: {name!r}, expected a slice of {', '.join(map(str, sizes))}"
        )
    slices = second if match[3] else 1
    cores = 2 if generation in IN_TWO else 1
    hosts = max(chips // 4, 1) * slices
    devices = chips * cores * slices
    return Topology(name, generation, shapes[chips], slices, devices, hosts)


@functools.cache
def devices(machine: Topology) -> Sequence[Any]:
    """Devices to compile for; those of a CPU run as well.

    Raises:
      MissingCompilerError: The wheels that compile for it are not installed.
      ValueError: This process was started with fewer host devices.
    """
    if machine.platform == "cpu":
        found = jax.devices("cpu")
        if len(found) < machine.devices:
            raise ValueError(
                f"topology: {machine.name}, but this process counts its CPU as "
                f"{len(found)} devices"
            )
        return found[: machine.devices]
    from jax.experimental import topologies

    # Ask no metadata server, share libtpu, and be no worker of a pod.
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    }.items():
        os.environ.setdefault(variable, value)
    try:
        if machine.platform == "tpu":
            slices = {} if machine.islands == 1 else {"num_slices": machine.islands}
            return topologies.get_topology_desc(
                f"{machine.generation}:{machine.shape}", platform="tpu", **slices
            ).devices
        return topologies.get_topology_desc(
            platform="cuda",
            target_config=TARGETS[machine.generation],
            topology=f"1x{machine.shape}",
        ).devices
    except Exception as error:  # plugins raise what they like
        raise MissingCompilerError(
            f"topology: {machine.name}: its compiler is not here ({INSTALL}): "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
