"""One compiled step per shape of batch: matrices and texts of several sizes.

A step is compiled ahead for the shapes it meets, since a compiler that is called in
silence costs minutes. There may be a few of them, never one per batch: data are put
into buckets, and a limit says when they were not.

Texts are padded to one length, `text.max_length`, unless a run names several
(`medjax.vlp.text_lengths`): to bring equally long texts together changes which reports
a contrast sees as negatives. A run says how long its texts are, so that the length, or
the lengths, can be chosen.

Every process of a run has to see batches of the same shapes in the same step, or the
processes wait for each other in different programs. The streams of `medjax.data` do:
each process reads its part of one global order that the seed alone decides.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax

from medjax.progress import Waiting
from medjax.train import watch
from medjax.train.plan.flops import count_flops
from medjax.train.state import TrainState
from medjax.typing import Key

logger = logging.getLogger(__name__)

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A step for one shape of batch.

    Attributes:
      run: ``run(state, batch, key, proceed) -> state, metrics``.
      useful: FLOPs of products, convolutions and transforms, per device and step.
      computed: The same with what is computed a second time to save memory.
    """

    run: Any
    useful: float
    computed: float


class CompiledSteps:
    """The programs of one step, by the shapes of its batch.

    Args:
      step: Jitted ``step(state, batch, key, proceed)``.
      limit: How many shapes there may be.
      devices: That share the work.
    """

    def __init__(self, step: Any, *, limit: int, devices: int) -> None:
        self._step, self._limit, self._devices = step, limit, devices
        self._programs: dict[Shapes, CompiledStep] = {}

    def __len__(self) -> int:
        return len(self._programs)

    def of(
        self,
        state: TrainState,
        batch: Mapping[str, jax.Array],
        key: Key,
        proceed: jax.Array,
    ) -> CompiledStep:
        """The program for a batch; compiled where the shapes are new.

        Raises:
          ValueError: The batch has another number of examples than the first, or
            shapes beyond the limit.
        """
        shapes = tuple((name, value.shape) for name, value in sorted(batch.items()))
        if shapes not in self._programs:
            self._check(shapes)
            if self._programs:
                logger.info("compiling the step for batches of %s", dict(shapes))
            with watch.phase("compile"), Waiting("compile"):
                traced = self._step.trace(state, batch, key, proceed)
                program = traced.lower().compile()
            work = count_flops(traced.jaxpr)
            self._programs[shapes] = CompiledStep(
                program, work.useful / self._devices, work.total / self._devices
            )
        return self._programs[shapes]

    def _check(self, shapes: Shapes) -> None:
        known = [dict(other) for other in self._programs]
        if not known:
            return
        if {s[0] for _, s in shapes} != {s[0] for s in known[0].values()}:
            raise ValueError(
                f"data: the step is compiled for batches of {known[0]}, got "
                f"{dict(shapes)}; drop the remainder of an epoch"
            )
        if len(known) >= self._limit:
            raise ValueError(
                f"data: the step is compiled for batches of {len(known)} shapes "
                f"(train.shapes), {known}, and got another, {dict(shapes)}; put the "
                "data into fewer buckets"
            )
