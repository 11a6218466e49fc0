"""Our side of every comparison of training steps: the step that experiments run.

It is `medjax.train`'s own, with its guard against NaN and its logged norms.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.bench.measure import compiled_memory, growth
from medjax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule
from medjax.train.plan.flops import count_flops
from medjax.train.sharding import replicated, shard_batch
from medjax.train.state import Init, make_state_init, run_keys, state_shardings
from medjax.train.step import Loss, make_train_step


class CompiledStep:
    """A training state and, after `compile`, its step; call `step` to take one.

    Args:
      init: Of the system.
      optimizer: Update rule.
      host: The batch, the same in every step.
      mesh: Devices; every call must be under ``jax.set_mesh`` of it.
      seed: Of weights and draws.
      frozen: Expressions of parameters that are not trained.
      like: Another of the same system; its state is copied, none initialised.
    """

    def __init__(
        self,
        init: Init,
        optimizer: OptimizerConfig,
        host: dict[str, np.ndarray],
        mesh: Mesh,
        seed: int,
        frozen: Sequence[str] = (),
        like: "CompiledStep | None" = None,
    ) -> None:
        self.mesh, self.host, self.frozen = mesh, host, tuple(frozen)
        self.optimizer, self.tx = optimizer, make_optimizer(optimizer, 1)
        init_key, self.key = run_keys(seed)
        self.batch = shard_batch(host, mesh)
        make_state = make_state_init(init, self.tx, self.frozen, ema=False)
        shapes = jax.eval_shape(make_state, init_key, self.batch)
        self.shardings = state_shardings(shapes, self.tx, self.frozen, mesh)
        if like is None:
            make_state = jax.jit(make_state, out_shardings=self.shardings)
            self.state = make_state(init_key, self.batch)
        else:
            self.state = jax.tree.map(jnp.copy, like.state)
        self.proceed = jax.device_put(jnp.ones((), bool), replicated(mesh))
        self.compiled: Any = None
        self.compile_s, self.flops = 0.0, None

    def compile(self, loss: Loss) -> None:
        """Compiles the step of a loss, for the batch that is there now."""
        began = time.perf_counter()
        step: Any = make_train_step(
            loss,
            self.tx,
            make_schedule(self.optimizer, 1),
            self.shardings,
            self.mesh,
            frozen=self.frozen,
        )
        arguments = (self.state, self.batch, self.key, self.proceed)
        traced = step.trace(*arguments)
        self.compiled = traced.lower().compile()
        self.compile_s = time.perf_counter() - began
        self.flops = count_flops(traced.jaxpr).useful / self.mesh.size

    def step(self) -> dict[str, jax.Array]:
        """Starts a step; does not wait for it."""
        self.state, metrics = self.compiled(
            self.state, self.batch, self.key, self.proceed
        )
        self.proceed = metrics["finite"]
        return metrics

    def wait(self) -> None:
        """Returns when all steps are done."""
        jax.block_until_ready((self.state, self.proceed))

    def variables(self) -> dict[str, Any]:
        """All variables, on this host."""
        return jax.tree.map(np.asarray, self.state.variables)

    def peak_memory(self) -> int | None:
        """Most bytes in use during a step: as compiled, or on a CPU as seen."""
        if jax.default_backend() != "cpu":
            return compiled_memory(self.compiled)

        def work() -> None:
            self.step()
            self.wait()

        grown = growth(work)
        return None if grown is None else self._at_rest() + grown

    def _at_rest(self) -> int:
        """Bytes of weights, moments, statistics and batch, over all devices."""
        leaves = jax.tree.leaves((self.state, self.batch))
        return sum(s.data.nbytes for x in leaves for s in x.addressable_shards)
