"""The training state: one pytree that a checkpoint holds and a step maps to the next.

Frozen parameters live in `TrainState.params` like all others, but the optimiser never
sees them: gradients, moments and averages exist for the trainable part alone, which
`partition` cuts out by name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from medjax.train.sharding import (
    DEFAULT_RULES,
    Rules,
    flatten,
    load_into,
    opt_state_shardings,
    param_shardings,
    replicated,
    unflatten,
)
from medjax.typing import Batch, Key, Variables

Init = Callable[[Key, Batch], Variables]
"""``init(key, batch) -> variables``: the first half of the system contract."""


class TrainState(struct.PyTreeNode):
    """Everything a run needs to go on, except its data iterator and its seed.

    Attributes:
      step: Number of updates done, int32 scalar.
      params: All parameters, trainable and frozen.
      extra: The other variable collections (``batch_stats``), by name.
      opt_state: Optimiser state of the trainable parameters.
      ema: Exponential moving average of the trainable parameters, or None.
    """

    step: Any
    params: Any
    extra: Any
    opt_state: Any
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Variables as the model takes them."""
        return {"params": self.params, **self.extra}

    @property
    def averaged_variables(self) -> dict[str, Any]:
        """Variables with averaged parameters where the run keeps an average."""
        params = self.params if self.ema is None else merge(self.params, self.ema)
        return {"params": params, **self.extra}


def partition(params: Any, frozen: Sequence[str]) -> tuple[Any, Any]:
    """Splits parameters by name into a trainable and a frozen tree.

    Args:
      params: Nested dict of parameters.
      frozen: Regular expressions; a path that one of them matches is frozen.

    Returns:
      Two nested dicts: trainable, frozen.

    Raises:
      ValueError: If an expression matches nothing, or nothing is left to train.
    """
    flat = flatten(params)
    for pattern in frozen:
        if not any(re.search(pattern, name) for name in flat):
            raise ValueError(
                f"frozen: {pattern!r} matches no parameter; names look like "
                f"{', '.join(list(flat)[:3])}"
            )
    parts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, leaf in flat.items():
        parts[any(re.search(p, name) for p in frozen)][name] = leaf
    if not parts[0]:
        raise ValueError(f"frozen: {tuple(frozen)} leaves no parameter to train")
    trainable, rest = (unflatten(part) for part in parts)
    return trainable, rest


def merge(params: Any, part: Any) -> Any:
    """Puts the leaves of `part` back into the tree `params` they were cut from."""
    flat = flatten(params)
    flat |= flatten(part)
    return unflatten(flat)


def run_keys(seed: int) -> tuple[Key, Key]:
    """The two keys of a run: one for initialisation, one folded with each step.

    They are split because ``fold_in(key, 0)`` may equal ``split(key)[0]``: with one
    key for both, step 0 would draw the numbers that initialised the model.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def make_state_init(
    init: Init, tx: optax.GradientTransformation, frozen: Sequence[str], *, ema: bool
) -> Callable[[Key, Batch], TrainState]:
    """Wraps a system's `init` into a function that makes the whole state.

    Args:
      init: The system's ``init(key, batch) -> variables``.
      tx: The optimiser, of the trainable parameters.
      frozen: Expressions of frozen parameter names.
      ema: Whether to keep an average of the trainable parameters.

    Returns:
      ``state_init(key, batch) -> TrainState``, pure and traceable.
    """

    def state_init(key: Key, batch: Batch) -> TrainState:
        variables = dict(init(key, batch))
        trainable, rest = partition(variables.pop("params"), frozen)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=merge(rest, trainable),
            extra=variables,
            opt_state=tx.init(trainable),
            # A copy, since the step donates both trees and no buffer is given twice.
            ema=jax.tree.map(jnp.copy, trainable) if ema else None,
        )

    return state_init


def state_shardings(
    state: TrainState,
    tx: optax.GradientTransformation,
    frozen: Sequence[str],
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
) -> TrainState:
    """Where every leaf of a state lies.

    Args:
      state: The state or its shapes (`jax.eval_shape` of `make_state_init`).
      tx: The optimiser.
      frozen: Expressions of frozen parameter names.
      mesh: The mesh.
      rules: Sharding rules over parameter names.

    Returns:
      A `TrainState` of `NamedSharding`s.
    """
    params = param_shardings(state.params, mesh, rules)
    trainable, _ = partition(params, frozen)
    everywhere = replicated(mesh)
    # Statistics are small, and every device needs them in every forward pass: only a
    # rule that is written out (of the members of an ensemble) splits them.
    written = [(name, rule) for name, rule in rules if not callable(rule)]
    if written:
        extra = param_shardings(state.extra, mesh, written)
    else:
        extra = jax.tree.map(lambda _: everywhere, state.extra)
    return TrainState(
        step=everywhere,
        params=params,
        extra=extra,
        opt_state=opt_state_shardings(tx, state.opt_state, trainable, mesh),
        ema=None if state.ema is None else trainable,
    )


def overlay(state: TrainState, pretrained: Mapping[str, Any]) -> TrainState:
    """Starts from given weights: puts them into a freshly initialised state.

    Args:
      state: The initialised state.
      pretrained: Part of the variables, ``{"params": ..., "batch_stats": ...}``, as
        host arrays.

    Returns:
      The state with these leaves replaced (in the average too).

    Raises:
      ValueError: If a name is unknown or a shape differs.
    """
    variables = load_into(state.variables, pretrained)
    params = variables.pop("params")
    ema = state.ema
    if ema is not None:
        names = flatten(ema)
        flat = flatten(params)
        ema = unflatten({n: jnp.copy(flat[n]) for n in names})
    return state.replace(params=params, extra=variables, ema=ema)
