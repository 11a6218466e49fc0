"""What travels in a compiled training step, from shapes alone: no data, no run.

A step is built as `medjax.train.fit` builds it and compiled for eight host devices. The
compiler's effort goes into the partitioning, which is what is looked at, and not into
machine code.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.train.collectives import Collective, read_collectives
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule
from medjax.train.sharding import (
    DEFAULT_RULES,
    Rules,
    batch_sharding,
    replicated,
)
from medjax.train.state import TrainState, make_state_init, state_shardings
from medjax.train.step import make_train_step

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
      **options: of `make_train_step`.

    Returns:
      The collectives, and the shapes of the state.
    """
    devices = jax.devices()[: int(np.prod(sizes))]
    mesh = make_mesh(MeshConfig(*sizes), devices=devices)
    frozen = tuple(system.frozen)
    tx, schedule = make_optimizer(optimizer, 10), make_schedule(optimizer, 10)
    averages = options.get("ema") is not None
    make_state = make_state_init(system.init, tx, frozen, ema=averages)

    def placed(shapes: Any, shardings: Any) -> Any:
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            shardings,
        )

    split, everywhere = batch_sharding(mesh), replicated(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=split)
        for name, (shape, dtype) in specs.items()
    }
    with jax.set_mesh(mesh):
        key = placed(jax.eval_shape(lambda: jax.random.key(0)), everywhere)
        proceed = jax.ShapeDtypeStruct((), jnp.bool, sharding=everywhere)
        shapes = jax.eval_shape(make_state, key, batch)
        shardings = state_shardings(shapes, tx, frozen, mesh, rules)
        step = make_train_step(
            system.loss, tx, schedule, shardings, mesh, frozen=frozen, **options
        )
        lowered = step.lower(placed(shapes, shardings), batch, key, proceed)
        compiled = lowered.compile(compiler_options=QUICK)
    return read_collectives(compiled.as_text()), shapes


def whole_batch(found: Collective, batch: int) -> bool:
    """Whether an axis of what comes out is the global batch, or a multiple of it."""
    return any(n and n % batch == 0 for _, shape in found.shapes for n in shape)


def size(tree: Any) -> int:
    """Bytes of a tree of shapes."""
    return sum(
        int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(tree)
    )
