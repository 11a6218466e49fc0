"""People set aside, whose loss says which state of a run is kept.

Published runs of this room choose the best state by validation. The loss is that of the
network as it is used: normalised by running statistics, without draws.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from medjax.train.experiment import Experiment
from medjax.train.loop import Eval
from medjax.train.sharding import replicated
from medjax.train.state import TrainState
from medjax.train.stopping import StoppingConfig
from medjax.typing import Batch, Variables

NEVER = 2**31
"""Evaluations without a better state until a run ends: published ones do not."""


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Which state a run keeps, and who says so."""

    keep: Literal["last", "best"] = "last"
    """The state after the last step, or that of the lowest loss of people set aside,
    who are asked every train.eval-every steps; 0: after every pass over the data."""
    people: int = 2
    """How many are set aside: the last of those to train on. Of CHeart's tree it is the
    part ``val``, however many they are."""

    def __post_init__(self) -> None:
        if self.people < 1:
            raise ValueError(f"validation.people is {self.people}, expected 1 at least")

    @property
    def aside(self) -> int:
        """How many are asked."""
        return self.people if self.keep == "best" else 0

    @property
    def rule(self) -> StoppingConfig | None:
        """What decides; None where nobody is asked."""
        if self.keep == "last":
            return None
        return StoppingConfig("loss", NEVER, higher_is_better=False)


def watched(
    config: Experiment,
    rule: StoppingConfig | None,
    loss: Callable[[Variables, Batch], Any],
    examples: Sequence[dict[str, np.ndarray]],
    *,
    rows: int,
    batch_size: int,
    mesh: Mesh,
) -> tuple[Experiment, dict[str, Any]]:
    """A run that asks people set aside, and what its training is told of it.

    Args:
        config: the run.
        rule: what decides; None: nobody is asked.
        loss: of a batch, by the network as it is used.
        examples: of people set aside, without the axis ``b``.
        rows: of the training data.
        batch_size: of the global batch.
        mesh: the devices.

    Returns:
        The run, evaluated every epoch unless it says how often, and options of
        :func:`medjax.train.loop.fit`.

    Raises:
        ValueError: where somebody is to be asked, and nobody is set aside.
    """
    if rule is None:
        return config, {}
    if not examples:
        raise ValueError("validation.keep is 'best', and nobody is set aside")
    if not config.train.eval_every:
        every = max(1, rows // batch_size)
        train = dataclasses.replace(config.train, eval_every=every)
        config = dataclasses.replace(config, train=train)
    evals = [asked(loss, examples, batch_size=batch_size, mesh=mesh)]
    return config, {"evals": evals, "stopping": rule}


def asked(
    loss: Callable[[Variables, Batch], Any],
    examples: Sequence[dict[str, np.ndarray]],
    *,
    batch_size: int,
    mesh: Mesh,
) -> Eval:
    """The hook that asks people set aside: their mean loss, as ``loss``.

    Args:
        loss: of a batch.
        examples: without the axis ``b``; one at least.
        batch_size: examples at once, at most.
        mesh: the devices, every one of which computes all of it.
    """
    # Batches of one size are one program, and none weighs more than another.
    most = min(batch_size, len(examples))
    size = next(n for n in range(most, 0, -1) if len(examples) % n == 0)
    run = jax.jit(loss, out_shardings=replicated(mesh))

    def validate(state: TrainState, step: int) -> dict[str, float]:
        del step
        found = []
        for start in range(0, len(examples), size):
            chosen = examples[start : start + size]
            batch = {name: np.stack([x[name] for x in chosen]) for name in chosen[0]}
            batch = jax.device_put(batch, replicated(mesh))
            found.append(float(run(state.averaged_variables, batch)))
        return {"loss": float(np.mean(found))}

    return validate
