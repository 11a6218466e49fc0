"""The pieces of our training step, each jitted alone: where does the time go?

The pieces together take longer than the step (the compiler fuses across them, and every
piece is waited for), so they say what is large, not what the step takes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.bench.pair import OurStep, compare_features, weigh
from medjax.train.sharding import shard_batch
from medjax.train.state import partition
from medjax.vlp.augment import augment
from medjax.vlp.convirt import Convirt

Parts = dict[str, Callable[[], Any]]
"""By name; a call does one and waits for it."""


def our_parts(step: OurStep) -> Parts:
    """The pieces of one step, with the step's own weights and batch.

    An encoder is its forward pass in training and the gradient of its parameters; a
    frozen report encoder only a forward pass, a cached one nothing.

    Args:
      step: Ours; what is timed here works on copies and leaves it as it is.
    """
    module, batch = step.module, step.batch
    params, stats = step.state.params, step.state.extra["batch_stats"]
    films, recipe, key = batch["image"], step.sizes.recipe, step.key
    view = augment(films, recipe, key=key)

    def see(p: Any, view: Any) -> Any:
        return module.apply(
            {"params": {"image": p}, "batch_stats": stats},
            view,
            method=lambda m, x: m.image(x, train=True).pooled,
            mutable=["batch_stats"],
        )

    def see_sum(p: Any, view: Any) -> Any:
        seen, updated = see(p, view)
        return jnp.sum(seen), updated

    def read(p: Any, ids: Any) -> Any:
        def method(m: Convirt, x: Any) -> Any:
            return m.text(x, train=True)

        rngs = {"dropout": step.key}
        return module.apply({"params": {"text": p}}, ids, method=method, rngs=rngs)

    def compare(p: Any, seen: Any, told: Any) -> Any:
        embedded: Any = module.apply({"params": p}, seen, told, method=compare_features)
        return weigh(module.config, *embedded)

    wait = jax.block_until_ready
    see_back = jax.jit(jax.grad(see_sum, has_aux=True))
    parts: Parts = {
        "transfer to device": lambda: wait(shard_batch(step.host, step.mesh)),
        "augmentation": lambda: wait(augment(films, recipe, key=key)),
        "image encoder": lambda: wait(see_back(params["image"], view)),
    }
    if step.text == "cached":
        told = batch["report_features"]
    else:
        ids, text = batch["report"], params["text"]
        told = jax.jit(read)(text, ids)
        work = jax.jit(read)
        if step.text == "trainable":
            work = jax.jit(jax.grad(lambda p, ids: jnp.sum(read(p, ids))))
        parts["text encoder"] = lambda: wait(work(text, ids))
    seen = jax.jit(see)(params["image"], view)[0]
    heads = {k: params[k] for k in ("image_head", "text_head")}
    compare_back = jax.jit(jax.grad(compare, argnums=(0, 1, 2)))
    parts["heads and loss"] = lambda: wait(compare_back(heads, seen, told))
    parts["clipping and AdamW"] = _optimise(step)
    return parts


def _optimise(step: OurStep) -> Callable[[], Any]:
    """Updates a copy of what is trained, in place as the step does."""

    def update(trainable: Any, opt_state: Any, grads: Any) -> Any:
        updates, opt_state = step.tx.update(grads, opt_state, trainable)
        return optax.apply_updates(trainable, updates), opt_state

    apply = jax.jit(update, donate_argnums=(0, 1))
    trainable, _ = partition(step.state.params, step.frozen)
    held = jax.tree.map(jnp.copy, [trainable, step.state.opt_state])
    grads = jax.tree.map(jnp.zeros_like, trainable)

    def optimise() -> None:
        held[:] = jax.block_until_ready(apply(*held, grads))

    return optimise
