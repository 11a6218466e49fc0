"""What an experiment trains, told by its flags alone: no data, no devices.

A domain's ``workload(config)`` says which system a run of these flags would train and
what a batch of its data would look like. With a mesh that is a `Program`, the same as
the run's own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from medjax.train.experiment import Experiment
from medjax.train.program import Program, describe
from medjax.train.sharding import DEFAULT_RULES, Rules
from medjax.train.system import System


@dataclasses.dataclass(frozen=True)
class Workload:
    """One training of an experiment; the last one, where there are several.

    Attributes:
      system: What is trained.
      batch: Names to shapes and dtypes of the global batch, ``index`` apart, which
        every pipeline adds.
      rows: Of the training data; None: the flags do not say.
      config: The experiment's own flags, with whatever a stage changes of them.
      rules: Sharding rules over parameter names.
      assumed: What was taken for granted because only the data know it, in sentences.
    """

    system: System
    batch: Mapping[str, jax.ShapeDtypeStruct]
    rows: int | None
    config: Experiment
    rules: Rules = DEFAULT_RULES
    assumed: tuple[str, ...] = ()

    @property
    def batch_size(self) -> int:
        """Examples of the global batch."""
        return next(iter(self.batch.values())).shape[0]

    def program(self, mesh: Mesh) -> Program:
        """What the run computes on the devices of a mesh."""
        optimizer, train = self.config.resolved(
            rows=max(self.rows or 0, self.batch_size),
            batch_size=self.batch_size,
            frozen=self.system.frozen,
        )
        index = jax.ShapeDtypeStruct((self.batch_size,), np.int32)
        return describe(
            self.system.init,
            self.system.loss,
            {"index": index, **self.batch},
            optimizer=optimizer,
            train=train,
            mesh=mesh,
            rules=self.rules,
        )


def spec(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a field of a batch."""
    return jax.ShapeDtypeStruct(shape, dtype)
