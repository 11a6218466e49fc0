"""What travels in a compiled training step, from shapes alone: no data, no run.

A step is built as `medjax.train.fit` builds it and compiled for eight host devices. The
compiler's effort goes into the partitioning, which is what is looked at, and not into
machine code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from medjax.train.collectives import Collective, read_collectives
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.optimizer import OptimizerConfig
from medjax.train.program import describe
from medjax.train.settings import TrainConfig
from medjax.train.sharding import DEFAULT_RULES, Rules
from medjax.train.state import TrainState

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""The SPMD partitioner runs long before the backend that these options spare."""
CLIPPED = OptimizerConfig(clip_norm=1.0)

Specs = Mapping[str, tuple[tuple[int, ...], Any]]


def collectives_of(
    system: Any,
    specs: Specs,
    sizes: tuple[int, ...],
    *,
    optimizer: OptimizerConfig = CLIPPED,
    rules: Rules = DEFAULT_RULES,
    **options: Any,
) -> tuple[list[Collective], TrainState]:
    """Collectives of a system's step over a mesh, and its state.

    Args:
      system: with ``init``, ``loss`` and ``frozen``.
      specs: of the global batch: names to shapes and dtypes.
      sizes: devices along ``data``, ``fsdp`` and, if not 1, ``model``; the first ones
        of all that there are.
      optimizer: the update rule.
      rules: sharding rules over parameter names.
      **options: of `TrainConfig`.

    Returns:
      The collectives, and the shapes of the state.
    """
    devices = jax.devices()[: int(np.prod(sizes))]
    program = describe(
        system.init,
        system.loss,
        {name: jax.ShapeDtypeStruct(*spec) for name, spec in specs.items()},
        optimizer=dataclasses.replace(optimizer, frozen=tuple(system.frozen)),
        train=TrainConfig(steps=10, **options),
        mesh=make_mesh(MeshConfig(*sizes), devices=devices),
        rules=rules,
    )
    with jax.set_mesh(program.mesh):
        lowered = program.step.lower(*program.arguments)
        compiled = lowered.compile(compiler_options=QUICK)
    return read_collectives(compiled.as_text()), program.state


def whole_batch(found: Collective, batch: int) -> bool:
    """Whether an axis of what comes out is the global batch, or a multiple of it."""
    return any(n and n % batch == 0 for _, shape in found.shapes for n in shape)


def size(tree: Any) -> int:
    """Bytes of a tree of shapes."""
    return sum(
        int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(tree)
    )
