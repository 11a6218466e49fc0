"""Which network the collectives of a step use, and how long they take there.

A ring over W devices moves of a payload S the share (W-1)/W once for an all-gather or a
reduce-scatter and twice for an all-reduce, over all links of a device; each of log2 W
rounds adds a latency. A permutation to a neighbour moves S over one link. Links reach
`UTILISED` of what they could.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from medjax.train.collectives import Collective
from medjax.train.plan.chips import Chip

Network = Literal["fast", "slow"]
Purpose = Literal["parameters", "statistics", "batch"]
UTILISED = 0.8
"""Share of a link's rate that collectives reach."""
EXPOSED: Mapping[Purpose, float] = {"parameters": 0.3, "statistics": 1.0, "batch": 1.0}
"""Share of the time that no computation hides: gradients wait for the last layer alone,
statistics of BatchNorm and features of a contrast are waited for."""
SMALL = 20_000
"""Bytes up to which an all-reduce is of statistics or of the log."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of a step that are alike.

    Attributes:
      kind: Operation of HLO.
      axes: Of the mesh, along which devices exchange.
      network: Fast, or slow where a group spans slices or hosts of GPUs.
      purpose: What it is for, as far as shapes say.
      count: How many a step.
      bytes: Of all of them, on each device.
      asynchronous: How many of them run beside computation.
      devices: In a group.
    """

    kind: str
    axes: tuple[str, ...]
    network: Network
    purpose: Purpose
    count: int
    bytes: int
    asynchronous: int
    devices: int

    def seconds(self, chip: Chip) -> float:
        """How long they take, one after another."""
        slow = self.network == "slow"
        link = chip.far_link if slow else chip.link
        latency = chip.far_latency if slow else chip.latency
        one = self.kind == "collective-permute" and not slow
        return transfer(
            self.kind,
            self.bytes,
            self.count,
            self.devices,
            rate=UTILISED * link.value / (chip.links.value if one else 1),
            latency=latency.value,
        )

    def exposed(self, chip: Chip) -> float:
        """The part of that for which nothing else goes on."""
        return EXPOSED[self.purpose] * self.seconds(chip)


def transfer(
    kind: str, size: float, count: int, devices: int, *, rate: float, latency: float
) -> float:
    """Seconds of some collectives of one kind.

    Args:
      kind: Operation of HLO.
      size: Bytes of all of them, on each device.
      count: How many.
      devices: In a group.
      rate: Of a link, bytes/s.
      latency: Of a round, s.
    """
    if devices < 2:
        return 0.0
    if kind == "collective-permute":
        return count * latency + size / rate
    times = 2.0 if kind == "all-reduce" else 1.0
    rounds = math.log2(devices)
    share = (devices - 1) / devices
    return times * (count * rounds * latency + share * size / rate)


def grouped(
    found: Iterable[Collective], mesh: Mesh, *, batch: int, parameters: Any = ()
) -> list[Traffic]:
    """Collectives of a compiled step, those that are alike together.

    Args:
      found: As the program's text says.
      mesh: That it was compiled for.
      batch: Examples of the global batch.
      parameters: Of the state; some have the batch for an axis too, as channels.
    """
    kernels = {
        shape
        for leaf in jax.tree.leaves(parameters)
        for shape in (leaf.shape, _share(leaf))
        if len(shape) > 1
    }
    islands = np.array([island(device) for device in mesh.devices.flat])
    sums: dict[tuple[Any, ...], list[int]] = {}
    for one in found:
        groups = one.groups or (tuple(range(mesh.size)),)
        apart = any(len(set(islands[list(group)])) > 1 for group in groups)
        size = mesh.size if one.kind == "collective-permute" else len(groups[0])
        axes = one.axes(mesh.shape)
        network: Network = "slow" if apart else "fast"
        key = (one.kind, axes, network, purpose(one, batch, kernels), size)
        total = sums.setdefault(key, [0, 0, 0])
        total[0] += one.count
        total[1] += one.total_bytes
        total[2] += one.count * one.asynchronous
    return [
        Traffic(kind, axes, network, why, count, size, hidden, devices)
        for (kind, axes, network, why, devices), (count, size, hidden) in sums.items()
    ]


def island(device: Any) -> int:
    """The slice of a TPU, or the host of a GPU, that a device belongs to."""
    if device.platform == "gpu":
        return device.process_index
    return getattr(device, "slice_index", None) or 0


def _share(leaf: Any) -> tuple[int, ...]:
    """The shape of what a device holds of a parameter."""
    sharding = getattr(leaf, "sharding", None)
    return leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)


def purpose(
    one: Collective, batch: int, kernels: Collection[tuple[int, ...]] = ()
) -> Purpose:
    """What a collective is for, by the shapes of what comes out.

    Args:
      one: The collective.
      batch: Examples of the global batch.
      kernels: Shapes of parameters with two axes or more. A sum of such a shape is of a
        gradient, and so is whatever has three axes; what is gathered with two may be
        vectors of the batch as well, and is taken for these.
    """
    summed = one.kind == "all-reduce"
    shapes = [
        shape
        for _, shape in one.shapes
        if shape not in kernels or not (summed or len(shape) > 2)
    ]
    if any(n and n % batch == 0 for shape in shapes for n in shape):
        return "batch"
    if one.kind == "collective-permute":
        return "batch"
    small = one.kind == "all-reduce" and one.bytes <= SMALL
    return "statistics" if small else "parameters"
