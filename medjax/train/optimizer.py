"""Optimisers and learning-rate schedules, chosen by flags.

The update rules are optax's; where optax and PyTorch differ in what a name means,
PyTorch's meaning is taken, since the reference systems were trained with it:
``adam`` and ``sgd`` add weight decay to the gradient (L2), ``adamw`` decays the
parameters themselves.

Schedules are functions of the number of updates already done, ``t = 0, 1, ...``:

==========  ===================================================================
constant    ``lr``
cosine      from ``lr`` to ``min_lr`` along half a cosine, at the last step
restarts    cosine with warm restarts (Loshchilov and Hutter, 2017), per step
step        ``lr * step_factor ** (t // step_every)``
poly        ``lr * (1 - t / T) ** poly_power``, T the updates after warm-up
            (nnU-Net's, which moves once an epoch; here every update)
==========  ===================================================================

All start after ``warmup_steps`` updates during which the rate grows linearly,
``lr * (t + 1) / warmup_steps``: the first update is not wasted on a rate of zero.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

Schedule = Callable[[Any], jax.Array]
"""Number of updates done (int32 scalar) to learning rate (float32 scalar)."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser, schedule, and which parameters take part."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule."""
    lr: float = 1e-4
    """Peak learning rate."""
    b1: float = 0.9
    """Decay of Adam's first moment."""
    b2: float = 0.999
    """Decay of Adam's second moment."""
    eps: float = 1e-8
    """Added to the root of Adam's second moment."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's momentum for SGD, as PyTorch has it."""
    weight_decay: float = 0.0
    """Decoupled for adamw, L2 in the gradient for adam and sgd."""
    no_decay: tuple[str, ...] = ()
    """Regexes of parameter names without weight decay (PyTorch's default: none)."""
    clip_norm: float | None = None
    """Clip the gradient to this global L2 norm."""
    clip_per_member: bool = False
    """Parameters carry a leading axis of ensemble members: each has its own norm."""
    schedule: Literal["constant", "cosine", "restarts", "step", "poly"] = "constant"
    """Shape of the learning rate after warm-up."""
    warmup_steps: int = 0
    """Updates of linear warm-up."""
    min_lr: float = 0.0
    """Lowest rate of cosine and restarts (PyTorch: eta_min)."""
    restart_period: int = 1000
    """Updates until the first restart (PyTorch: T_0)."""
    restart_factor: int = 1
    """Each period is this many times the one before (PyTorch: T_mult)."""
    step_every: int = 1000
    """Updates between two decays of `step`."""
    step_factor: float = 0.1
    """Factor of each decay of `step`."""
    poly_power: float = 0.9
    """Exponent of `poly`."""
    rates: tuple[tuple[str, float], ...] = ()
    """Regex and factor: parameters that learn at so many times the rate; of several
    that match the first counts. A trained tower learns slower than a new head."""
    frozen: tuple[str, ...] = ()
    """Regexes of parameter names that are not trained: no gradient, no state."""


def make_schedule(config: OptimizerConfig, steps: int) -> Schedule:
    """The learning rate as a function of the number of updates done.

    Args:
      config: Shape and rates.
      steps: Updates of the whole run, where cosine ends.

    Returns:
      A traceable function of an int32 scalar.

    Raises:
      ValueError: If a period is not positive.
    """
    warmup = config.warmup_steps
    if config.restart_period < 1 or config.restart_factor < 1 or config.step_every < 1:
        raise ValueError(
            "optimizer: restart_period, restart_factor and step_every are at least 1, "
            f"got {config.restart_period}, {config.restart_factor}, {config.step_every}"
        )

    def anneal(fraction: jax.Array) -> jax.Array:
        """Half a cosine from lr (fraction 0) to min_lr (fraction 1)."""
        wave = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(fraction, 0.0, 1.0)))
        return config.min_lr + (config.lr - config.min_lr) * wave

    def after_warmup(t: jax.Array) -> jax.Array:
        if config.schedule == "cosine":
            return anneal(t.astype(jnp.float32) / max(steps - warmup, 1))
        if config.schedule == "restarts":
            starts = _restart_steps(config.restart_period, config.restart_factor)
            if config.restart_factor == 1:
                since, period = t % config.restart_period, config.restart_period
                return anneal(since.astype(jnp.float32) / period)
            cycle = jnp.searchsorted(jnp.asarray(starts), t, side="right") - 1
            since = t - jnp.asarray(starts)[cycle]
            period = jnp.asarray(
                config.restart_period
                * np.power(float(config.restart_factor), np.arange(len(starts))),
                jnp.float32,
            )[cycle]
            return anneal(since.astype(jnp.float32) / period)
        if config.schedule == "step":
            decays = (t // config.step_every).astype(jnp.float32)
            return config.lr * jnp.float32(config.step_factor) ** decays
        if config.schedule == "poly":
            left = 1.0 - t.astype(jnp.float32) / max(steps - warmup, 1)
            return config.lr * jnp.maximum(left, 0.0) ** config.poly_power
        return jnp.full((), config.lr, jnp.float32)

    def schedule(t: jax.Array) -> jax.Array:
        t = jnp.asarray(t, jnp.int32)
        rate = after_warmup(jnp.maximum(t - warmup, 0))
        if not warmup:
            return rate
        rising = config.lr * ((t + 1).astype(jnp.float32) / warmup)
        return jnp.where(t < warmup, rising, rate)

    return schedule


def _restart_steps(period: int, factor: int) -> np.ndarray:
    """First step of every cycle that an int32 step counter can reach.

    A table, since solving ``period * (factor**n - 1) / (factor - 1) <= t`` for n by
    logarithms in float32 lands one step off at the boundaries.
    """
    starts = [0]
    while factor > 1 and starts[-1] + period < 2**31:
        starts.append(starts[-1] + period)
        period *= factor
    return np.array(starts, np.int32)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The update rule: clip, moments, decay, learning rate.

    Args:
      config: What to build.
      steps: Updates of the whole run.

    Returns:
      A gradient transformation over the trainable parameters.

    Raises:
      ValueError: If a flag would do nothing.
    """
    if config.clip_per_member and config.clip_norm is None:
        raise ValueError("optimizer: clip_per_member needs a clip_norm")
    if config.nesterov and not (config.name == "sgd" and config.momentum > 0):
        raise ValueError(
            "optimizer: nesterov is a momentum of sgd, got "
            f"name={config.name!r}, momentum={config.momentum}"
        )
    parts: list[optax.GradientTransformation] = []
    if config.clip_norm is not None:
        clip = _clip_members if config.clip_per_member else optax.clip_by_global_norm
        parts.append(clip(config.clip_norm))
    decay = _weight_decay(config.weight_decay, config.no_decay)
    if config.name != "adamw":
        parts.append(decay)
    if config.name == "sgd":
        parts.append(optax.trace(config.momentum, nesterov=config.nesterov))
    else:
        parts.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
    if config.name == "adamw":
        parts.append(decay)
    parts.append(optax.scale_by_learning_rate(make_schedule(config, steps)))
    if config.rates:
        parts.append(_rates(config.rates))
    inner = optax.chain(*parts)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # Adam's bias correction in optax raises a float to an integer, which strict
        # promotion refuses; what a caller sets for its own code stays as it is.
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def _clip_members(norm: float) -> optax.GradientTransformation:
    """Clips every member of an ensemble by its own norm.

    A norm over all of them would tie the members: one large gradient would shrink the
    steps of the others, and an ensemble would no longer be its members trained alone.
    """

    def clip(updates: Any, params: Any) -> Any:
        del params
        sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(updates)}
        if len(sizes) != 1 or () in sizes:
            raise ValueError(
                "optimizer: clip_per_member expects one leading axis of members in "
                f"every parameter, got leading sizes {sorted(sizes)}"
            )
        return jax.vmap(one)(updates)

    def one(updates: Any) -> Any:
        clipped, _ = optax.clip_by_global_norm(norm).update(updates, optax.EmptyState())
        return clipped

    return optax.stateless(clip)


def _rates(rates: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
    """Multiplies updates, decay included, by the factor of their parameter's name."""

    def factor(path: Any, update: jax.Array) -> jax.Array:
        name = _name(path)
        return update * next((f for p, f in rates if re.search(p, name)), 1.0)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(factor, updates)
    )


def _name(path: Any) -> str:
    return "/".join(str(getattr(key, "key", key)) for key in path)


def _weight_decay(rate: float, exempt: tuple[str, ...]) -> optax.GradientTransformation:
    """Adds ``rate * parameter`` to the update of every parameter not exempt."""

    def add(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
        name = _name(path)
        if any(re.search(pattern, name) for pattern in exempt):
            return update
        return update + rate * param

    def decay(updates: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(add, updates, params)

    return optax.stateless(decay) if rate else optax.identity()
