"""The heart's systems by name, and what a run says of itself.

A run leaves ``system.json`` beside its checkpoints (:mod:`medjax.train.record`): which
system it is, with all its settings, and what it was trained on.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, UInt8

from medjax.heart.cheart import cheart_system
from medjax.heart.cheart_network import CHeartConfig
from medjax.heart.population import CONDITIONS
from medjax.train.checkpoint import load_variables
from medjax.train.record import load_record, save_record
from medjax.train.stopping import StoppingConfig, best_step
from medjax.typing import Key, Variables

FAMILIES: Mapping[str, type] = {"cheart": CHeartConfig}
"""Classes of the systems' settings."""
CHUNK = 8
"""People decoded at once."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What ``system.json`` holds.

    Attributes:
        system: settings of the system.
        spacing: of its voxels along z, y, x, mm.
        data: what it was trained on, for titles.
        filled: people of whom a condition was not known, by its name.
        can: what the system can do, names of its ``apply``.
        stopping: which validation score chose the weights; None: they are the last.
    """

    system: CHeartConfig
    spacing: tuple[float, float, float]
    data: str
    filled: Mapping[str, int]
    can: tuple[str, ...] = ()
    stopping: StoppingConfig | None = None

    def save(self, workdir: Path) -> None:
        """Writes ``system.json`` into a folder, made where it is missing."""
        save_record(workdir, "cheart", self)

    @classmethod
    def load(cls, workdir: Path) -> "Trained":
        """Reads ``system.json``.

        Raises:
            FileNotFoundError: where there is none.
            DataError: where it is damaged, of another version, or of another domain.
        """
        return load_record(workdir, cls, FAMILIES)


class Generator:
    """A trained CHeart that completes and generates label maps.

    Args:
        trained: what the run says of itself.
        variables: its weights.
    """

    def __init__(self, trained: Trained, variables: Variables) -> None:
        self.trained, self.variables = trained, variables
        apply = cheart_system(trained.system).apply

        def labels(name: str) -> Callable[[Variables, Any], Any]:
            def run(variables: Variables, given: Any) -> jax.Array:
                logits = apply[name](variables, given)
                return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

            return jax.jit(run)

        self._complete, self._generate = labels("complete"), labels("generate")

    def complete(
        self,
        first: Integer[np.ndarray, "n d h w"],
        conditions: Float[np.ndarray, "n c"],
    ) -> UInt8[np.ndarray, "n t d h w"]:
        """All frames of people from their first one.

        Args:
            first: labels at end-diastole, :data:`medjax.heart.appearance.LABELS`.
            conditions: :data:`medjax.heart.population.CONDITIONS`.

        Raises:
            ValueError: for label maps of another size than the run's, or conditions
                that are not one row for each person.
        """
        shape = self.trained.system.shape
        if first.shape[1:] != shape:
            raise ValueError(f"first: {first.shape[1:]} voxels, the run's are {shape}")
        return self._each(
            self._complete, {"labels": first.astype(np.uint8)}, conditions
        )

    def generate(
        self, conditions: Float[np.ndarray, "n c"], *, key: Key
    ) -> UInt8[np.ndarray, "n t d h w"]:
        """A heart for each person.

        Args:
            conditions: :data:`medjax.heart.population.CONDITIONS`.
            key: of the draws from the prior.

        Raises:
            ValueError: for conditions that are not one row for each person.
        """
        size = (len(conditions), self.trained.system.latent)
        noise = np.asarray(jax.random.normal(key, size))
        return self._each(self._generate, {"noise": noise}, conditions)

    def _each(
        self,
        run: Callable[[Variables, Any], Any],
        given: Mapping[str, np.ndarray],
        conditions: Float[np.ndarray, "n c"],
    ) -> UInt8[np.ndarray, "n t d h w"]:
        """In chunks of one size, so that there is one compilation."""
        count = len(next(iter(given.values())))
        if not count or conditions.shape != (count, len(CONDITIONS)):
            raise ValueError(
                f"conditions: {conditions.shape} for {count} people, expected a row of "
                f"{CONDITIONS} for each, and one person at least"
            )
        every = {**given, "conditions": conditions.astype(np.float32)}
        found = []
        for start in range(0, len(conditions), CHUNK):
            rows = np.minimum(np.arange(start, start + CHUNK), len(conditions) - 1)
            chunk = {name: jnp.asarray(values[rows]) for name, values in every.items()}
            found.append(np.asarray(run(self.variables, chunk)))
        return np.concatenate(found)[: len(conditions)]


def open_run(folder: Path) -> Generator:
    """The generator of a run, with the weights that it kept.

    Raises:
        FileNotFoundError: for a folder that is absent, or not a run's.
        ValueError: for a run without a checkpoint.
    """
    trained = Trained.load(folder)
    step = best_step(folder, trained.stopping)
    return Generator(trained, load_variables(folder, step=step))
