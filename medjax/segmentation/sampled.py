"""Segmentations that give several answers, all behind one signature.

``sample(variables, patches, key, count)`` gives class probabilities of ``count`` draws,
or, for a count of 0, of one answer in which nothing is drawn (latents at their means).
What is drawn is the system's affair: latents, masks of dropped units, mirror images, or
which member of an ensemble is asked. Everything else follows from it here: what is
averaged over tiles and draws, maps of uncertainty, whole label maps of one draw each.
Whoever scores a system sees this signature alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from medjax.segmentation.inference import Tile
from medjax.segmentation.labels import Labels
from medjax.segmentation.system import (
    Maps,
    Sample,
    SegmentationConfig,
    SegmentationSystem,
)
from medjax.segmentation.uncertainty import entropy, mutual_information
from medjax.train.sharding import DEFAULT_RULES, Rules
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.typing import Key, Variables


@dataclasses.dataclass(frozen=True)
class SampledConfig(SegmentationConfig):
    """A network and how often it is asked."""

    samples: int = 16
    """Draws that maps are averages of; 0: one answer, nothing drawn."""
    at_once: int = 4
    """Draws that are computed together."""
    steps: int = 1
    """Updates of the whole run, of which warm-ups are shares."""

    def __post_init__(self) -> None:
        if self.samples < 0 or self.at_once < 1 or self.steps < 1:
            raise ValueError(
                f"samples {self.samples}, at_once {self.at_once} and steps "
                f"{self.steps}: expected none that is negative, and 1 at least of the "
                "last two"
            )


def draws(
    one: Callable[[Key | None], Array], key: Key, count: int, at_once: int
) -> Float[Array, "m ..."]:
    """Several draws; the first ones are the same however many there are.

    Args:
        one: A draw; for None, the answer in which nothing is drawn.
        key: Of them all.
        count: How many; 0: that answer alone.
        at_once: Computed together; the rest waits, which bounds the memory.
    """
    if not count:
        return one(None)[None]
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count))
    return jax.lax.map(one, keys, batch_size=min(at_once, count))


def normal(key: Key | None, shape: Sequence[int]) -> Float[Array, "..."]:
    """Standard normal numbers, or zeros where nothing is drawn."""
    return jnp.zeros(shape) if key is None else jax.random.normal(key, shape)


def sampled_system(
    config: SampledConfig,
    *,
    init: Init,
    loss: Loss,
    sample: Sample,
    shared_key: bool,
    parts: Mapping[str, Variables] | None = None,
    rules: Rules = DEFAULT_RULES,
) -> SegmentationSystem:
    """A system of what trains it and what draws from it.

    Args:
        config: How many draws maps are averages of, and what the labels are.
        init: Key and batch to variables.
        loss: Of a batch.
        sample: Probabilities of draws.
        shared_key: Whether one draw is of a whole volume, not of a tile.
        parts: Collections with which one part of what can be drawn is drawn alone.
        rules: Where parameters lie.
    """
    labels, count = config.labels, config.samples

    def finish(averages: Maps) -> Maps:
        p = averages["probability"]
        squares = jnp.sum(p**2, axis=-1, keepdims=True)
        return {
            "probability": p,
            "entropy": entropy(p, labels),
            "mi": mutual_information(p, averages["expected_entropy"], labels),
            "variance": jnp.maximum(averages["second_moment"] - squares, 0.0),
        }

    return SegmentationSystem(
        init,
        loss,
        averaged(sample, labels, count),
        finish,
        shared_key=shared_key,
        sample=sample,
        parts=parts or {},
        rules=rules,
    )


def averaged(sample: Sample, labels: Labels, count: int) -> Tile:
    """What may be averaged over tiles, of the mean over draws."""

    def tile(variables: Variables, patches: Array, key: Key) -> dict[str, Array]:
        p = sample(variables, patches, key, count)
        each = jax.vmap(lambda one: entropy(one, labels))(p)
        return {
            "probability": jnp.mean(p, axis=0),
            "expected_entropy": jnp.mean(each, axis=0),
            "second_moment": jnp.mean(jnp.sum(p**2, axis=-1, keepdims=True), axis=0),
        }

    return tile


@functools.cache
def every_draw(sample: Sample, count: int) -> Tile:
    """Probabilities of every draw: ``draw`` has ``m k`` numbers, draws before classes.

    The same function every time it is asked for, so that it is compiled once.
    """

    def tile(variables: Variables, patches: Array, key: Key) -> dict[str, Array]:
        p = jnp.moveaxis(sample(variables, patches, key, count), 0, -2)
        return {"draw": p.reshape(*p.shape[:-2], -1)}

    return tile


def counting(init: Init) -> Init:
    """The same with a counter of updates among the variables."""

    def counted(key: Key, batch: Mapping[str, Array]) -> Variables:
        zero = jnp.zeros((), jnp.int32)
        return {**init(key, batch), "counters": {"step": zero}}

    return counted


def counted(variables: Variables) -> tuple[Integer[Array, ""], Variables]:
    """Updates so far, and the collections that a loss hands on."""
    step = variables["counters"]["step"]
    return step, {"counters": {"step": step + 1}}


def rise(step: Integer[Array, ""], share: float, steps: int) -> Float[Array, ""]:
    """A weight that grows from 0 to 1 along a line.

    Args:
        step: Updates so far.
        share: Of the run, until it is 1; 0: from the start.
        steps: Of the run.
    """
    # In whole updates: what has not begun has no weight, what is over is exactly 1.
    return (
        jnp.minimum(step / max(round(share * steps), 1), 1.0) if share else jnp.ones(())
    )
