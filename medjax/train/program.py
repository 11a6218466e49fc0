"""The program of a training run: its state, its step and what both take, from shapes.

`medjax.train.fit` runs what `describe` returns; a plan (`medjax.train.plan`) compiles
the same for devices that are not here. So what is planned is what runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medjax.train.compiling import once
from medjax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule
from medjax.train.settings import TrainConfig
from medjax.train.sharding import DEFAULT_RULES, Rules, batch_sharding, replicated
from medjax.train.state import Init, TrainState, make_state_init, state_shardings
from medjax.train.step import Loss, make_train_step
from medjax.typing import Key


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step over a mesh, with the shapes and places of all it takes.

    Attributes:
      mesh: The mesh; trace and run the step under `jax.set_mesh` of it.
      step: Jitted ``step(state, batch, key, proceed) -> state, metrics``; the state is
        donated.
      state: Shapes of the state, each with its sharding.
      batch: Shapes of the global batch, likewise.
      key: Of the run's step key, likewise.
      proceed: Of the ``finite`` metric of the step before, likewise.
    """

    mesh: Mesh
    step: Any
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    key: jax.ShapeDtypeStruct
    proceed: jax.ShapeDtypeStruct
    _make_state: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the step takes, as it lowers and traces it."""
        return self.state, self.batch, self.key, self.proceed

    def initialise(self, key: Key, batch: Mapping[str, jax.Array]) -> TrainState:
        """A fresh state, made where it lies: no device holds a whole large model."""
        shardings = jax.tree.map(lambda x: x.sharding, self.state)
        make = jax.jit(
            self._make_state, out_shardings=shardings, compiler_options=self._once
        )
        return make(key, batch)

    def collections(
        self, names: Sequence[str], key: Key, batch: Mapping[str, jax.Array]
    ) -> dict[str, Any]:
        """Some collections of a fresh state, beside the parameters; no more is made."""
        if not names:
            return {}
        some = {name: self.state.extra[name] for name in names}
        make = jax.jit(
            lambda *given: {
                name: self._make_state(*given).extra[name] for name in names
            },
            out_shardings=jax.tree.map(lambda x: x.sharding, some),
            compiler_options=self._once,
        )
        return make(key, batch)

    @property
    def _once(self) -> dict[str, int] | None:
        """Options of the compiler for what runs once."""
        return once(self.mesh.devices.flat[0].platform)


def describe(
    init: Init,
    loss: Loss,
    batch: Mapping[str, Any],
    *,
    optimizer: OptimizerConfig,
    train: TrainConfig,
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
) -> Program:
    """What a run computes, without computing it. No device of the mesh need be here.

    Args:
      init: ``init(key, batch) -> variables``.
      loss: ``loss(variables, batch, key) -> scalar, (metrics, updated collections)``.
      batch: The global batch: names to arrays, or to anything else that has a shape and
        a dtype.
      optimizer: Update rule, schedule, frozen parameters.
      train: Length, accumulation, averages, guard.
      mesh: The mesh.
      rules: Sharding rules over parameter names.

    Returns:
      The program.
    """
    everywhere = replicated(mesh)
    frozen, averages = optimizer.frozen, train.ema is not None
    tx = make_optimizer(optimizer, train.steps)
    split = batch_sharding(mesh)
    specs = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split)
        for name, x in batch.items()
    }
    make_state = make_state_init(init, tx, frozen, ema=averages)
    # An abstract mesh: optax asks shapes of moments by computing, which devices that
    # only compile cannot do.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        key = jax.eval_shape(lambda: jax.random.key(0))
        shapes = jax.eval_shape(make_state, key, specs)
        shardings = state_shardings(shapes, tx, frozen, mesh, rules)
    step = make_train_step(
        loss,
        tx,
        make_schedule(optimizer, train.steps),
        shardings,
        mesh,
        frozen=frozen,
        accumulate=train.accumulate,
        ema=train.ema,
        on_nonfinite=train.on_nonfinite,
    )
    return Program(
        mesh=mesh,
        step=step,
        state=jax.tree.map(_placed, shapes, shardings),
        batch=specs,
        key=_placed(key, everywhere),
        proceed=jax.ShapeDtypeStruct((), jnp.bool, sharding=everywhere),
        _make_state=make_state,
    )


def _placed(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
