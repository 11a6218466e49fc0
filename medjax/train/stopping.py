"""Stopping where validation says so: the best state is kept, and waiting has an end.

What was seen so far is read from the run's own ``metrics.jsonl``, so that a resumed run
waits as long as one that was never stopped, and whoever opens the run finds the best
checkpoint without being told.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from medjax.train.agree import on_first
from medjax.train.checkpoint import saved_steps
from medjax.train.log import read_metrics
from medjax.train.storage import Folder, run_folder


@dataclasses.dataclass(frozen=True)
class StoppingConfig:
    """Which score decides, and how long it may not improve."""

    metric: str
    """Name of a scalar that an evaluation hook returns."""
    patience: int = 10
    """Evaluations without a better score until the run ends."""
    higher_is_better: bool = True
    """Whether the score is a quality (AUC) or an error (loss)."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience: expected at least 1, got {self.patience}")

    def best(self, scores: Mapping[int, float]) -> int:
        """The step of the best score; of equal ones the first."""
        sign = 1 if self.higher_is_better else -1
        return max(scores, key=lambda step: (sign * scores[step], -step))


class Stopping:
    """What evaluations have said so far.

    Args:
      config: The rule.
      scores: Step to score, of a run that goes on.
    """

    def __init__(self, config: StoppingConfig, scores: Mapping[int, float]) -> None:
        self.config, self._scores = config, dict(scores)

    @property
    def best(self) -> int | None:
        """Step of the best score; None before the first."""
        return self.config.best(self._scores) if self._scores else None

    @property
    def exhausted(self) -> bool:
        """Whether patience has come to its end."""
        waited = sum(step > (self.best or 0) for step in self._scores)
        return waited >= self.config.patience

    def owes(self, step: int) -> bool:
        """Whether an evaluation after this step is still to come."""
        return step > 0 and step not in self._scores

    def see(self, step: int, scalars: Mapping[str, Any]) -> bool:
        """Takes note of an evaluation; says whether it is the best so far.

        Raises:
          ValueError: The hooks returned no such scalar, or one that is no number.
        """
        name = self.config.metric
        value = float(scalars.get(name, float("nan")))
        if value != value:
            raise ValueError(
                f"stopping: expected a number as {name!r} of the evaluation after step "
                f"{step}, got {scalars.get(name, 'none')} among {sorted(scalars)}"
            )
        self._scores[step] = value
        return self.best == step


def past_scores(
    workdir: str | os.PathLike[str] | Folder, metric: str, *, until: int | None = None
) -> dict[int, float]:
    """Step to score, from a run's log.

    Args:
      workdir: Folder of the run.
      metric: As its hooks name it.
      until: Last step to look at; None: all.

    Raises:
      DataError: If the log is damaged.
    """
    folder = run_folder(workdir)
    if not (folder / "metrics.jsonl").exists():
        return {}
    return {
        row["step"]: row[f"eval/{metric}"]
        for row in read_metrics(folder)
        if row.get(f"eval/{metric}") is not None
        and (until is None or row["step"] <= until)
    }


def resumed(workdir: Folder, config: StoppingConfig, *, start: int | None) -> Stopping:
    """The rule of a run that begins, or goes on after step `start`, on all processes.

    Args:
      workdir: Folder of the run.
      config: The rule.
      start: Step of the checkpoint that it goes on from; None: it begins.
    """
    found = on_first(
        lambda: list(past_scores(workdir, config.metric, until=start or 0).items()),
        what="scores so far",
    )
    return Stopping(config, {step: score for step, score in found})


def best_step(
    workdir: str | os.PathLike[str], stopping: StoppingConfig | None = None
) -> int:
    """The checkpoint that validation chose; the newest where none was scored.

    Args:
      workdir: Folder of the run.
      stopping: What chose; None: nobody did.

    Raises:
      ValueError: Where there is no checkpoint.
    """
    steps = saved_steps(workdir)
    if not steps:
        raise ValueError(f"{workdir} has no checkpoint yet: train it first")
    scores = past_scores(workdir, stopping.metric) if stopping else {}
    kept = {step: score for step, score in scores.items() if step in steps}
    return stopping.best(kept) if stopping and kept else steps[-1]
