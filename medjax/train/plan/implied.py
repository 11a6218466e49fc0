"""What travels in a step as far as its jaxpr says: for a plan that compiles nothing.

Gradients are summed over all devices that split the batch, parameters that ``fsdp``
splits are gathered on the way there and back, and what a ``shard_map`` exchanges or
sums is written in it. Statistics of BatchNorm are the partitioner's doing: missing.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medjax.train.mesh import BATCH_AXES
from medjax.train.plan.flops import EXCHANGES, inner_programs
from medjax.train.plan.memory import device_bytes, whole_bytes
from medjax.train.plan.traffic import Network, Traffic, island
from medjax.train.program import Program
from medjax.train.sharding import flatten
from medjax.train.state import partition

SUMS = ("psum", "psum_invariant", "pmax", "pmin")
"""Primitives by which devices in a ``shard_map`` make one number of theirs."""


def implied(
    program: Program,
    jaxpr: Any,
    *,
    frozen: Sequence[str] = (),
    accumulate: int = 1,
) -> list[Traffic]:
    """Collectives that a step cannot do without.

    Args:
      program: With its shapes.
      jaxpr: Of the step.
      frozen: Expressions of parameters that have no gradient.
      accumulate: Microbatches, each of which gathers split parameters anew.
    """
    mesh = program.mesh
    shape = dict(mesh.shape)
    axes = tuple(axis for axis in BATCH_AXES if shape[axis] > 1)
    if not axes:
        return []
    network = _network(program, axes)
    size = math.prod(shape[axis] for axis in axes)
    gathered = _split(program.state.params)
    trained, _ = partition(program.state.params, frozen)
    split = _split(trained)
    rest = whole_bytes(trained) - whole_bytes(split)
    found = [
        Traffic("all-reduce", axes, network, "parameters", 1, rest, 0, size),
    ]
    if gathered:
        fast, wide = _network(program, ("fsdp",)), shape["fsdp"]
        both = 2 * accumulate
        count = both * len(gathered)
        whole = whole_bytes(split)
        found += [
            Traffic(
                "all-gather",
                ("fsdp",),
                fast,
                "parameters",
                count,
                both * whole_bytes(gathered),
                0,
                wide,
            ),
            Traffic(
                "reduce-scatter",
                ("fsdp",),
                fast,
                "parameters",
                len(split),
                whole,
                0,
                wide,
            ),
        ]
        if shape["data"] > 1:
            found.append(
                Traffic(
                    "all-reduce",
                    ("data",),
                    _network(program, ("data",)),
                    "parameters",
                    len(split),
                    device_bytes(split),
                    0,
                    shape["data"],
                )
            )
    sums: dict[str, list[int]] = {}
    for kind, count, moved in _written(getattr(jaxpr, "jaxpr", jaxpr), 1):
        total = sums.setdefault(kind, [0, 0])
        total[0] += count
        total[1] += count * moved
    return found + [
        Traffic(kind, axes, network, "batch", count, moved, 0, size)
        for kind, (count, moved) in sums.items()
    ]


def _split(params: Any) -> list[Any]:
    """Parameters that ``fsdp`` splits."""
    return [x for x in flatten(params).values() if "fsdp" in str(x.sharding.spec)]


def _written(jaxpr: Any, times: int) -> Iterator[tuple[str, int, int]]:
    """What is written in a ``shard_map``: kind, runs and bytes of each."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in EXCHANGES or name in SUMS:
            ends = eqn.invars if name == "reduce_scatter" else eqn.outvars
            moved = sum(
                math.prod(v.aval.shape) * np.dtype(v.aval.dtype).itemsize for v in ends
            )
            yield EXCHANGES.get(name, "all-reduce"), times, moved
            continue
        for inner, turns in inner_programs(eqn):
            # A shard_map's devices do it together: once.
            once = name == "shard_map"
            yield from _written(inner, times * (1 if once else int(turns)))


def _network(program: Program, axes: tuple[str, ...]) -> Network:
    """Whether devices along axes of the mesh are in more than one island."""
    mesh = program.mesh
    order = [mesh.axis_names.index(axis) for axis in axes]
    moved = np.moveaxis(mesh.devices, order, range(len(order)))
    along = moved.reshape(math.prod(moved.shape[: len(order)]), -1)[:, 0]
    return "slow" if len({island(device) for device in along}) > 1 else "fast"
