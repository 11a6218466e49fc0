"""What a run says: a short line on stdout, all of it as JSON, in TensorBoard, in wandb.

``metrics.jsonl`` is the record: one row per logged step, ``{"step": 10, "loss": ...}``.
A resumed run drops the rows after the step it restored, since it will write them anew,
so that the curve in the file is the curve of one uninterrupted run.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from medjax.data.boundary import DataError, reading
from medjax.data.documents import fits, parse_json
from medjax.data.whole import whole
from medjax.progress import duration, say, speed
from medjax.train.storage import Folder, Growing, run_folder

Scalars = Mapping[str, float | int | None]
"""Names to numbers; None where a number is not known here."""


class Writer:
    """Writes scalars by step; on processes other than 0 it does nothing.

    Args:
      workdir: Folder of the run.
      step: Step the run starts from; later rows are dropped.
      config: Settings shown by wandb.
      wandb: Project name, or None for no wandb.

    Raises:
      ImportError: If wandb is asked for and not installed.
    """

    def __init__(
        self,
        workdir: Folder,
        *,
        step: int = 0,
        config: Mapping[str, Any] | None = None,
        wandb: str | None = None,
    ) -> None:
        self.active = jax.process_index() == 0
        self._wandb: Any = None
        if not self.active:
            return
        if wandb is not None:
            self._wandb = _start_wandb(wandb, workdir, config or {})
        self._growing = Growing(workdir, ("metrics.jsonl",))
        path = self._growing.local / "metrics.jsonl"
        truncate(path, step)
        self._rows = path.open("a", buffering=1)
        from tensorboardX import SummaryWriter

        events = str(self._growing.local)
        self._events = SummaryWriter(events, purge_step=step + 1)

    def write(self, step: int, scalars: Scalars, *, line: bool = True) -> None:
        """Records scalars of a step.

        Args:
          step: Number of updates done.
          scalars: Names to numbers; None is left out of the events.
          line: Whether to print what matters of them as well.
        """
        if not self.active:
            return
        # JSON has no NaN; null keeps every line readable by every parser.
        row = {name: _json_number(value) for name, value in scalars.items()}
        self._rows.write(json.dumps({"step": step, **row}) + "\n")
        known = {k: v for k, v in scalars.items() if v is not None}
        for name, value in known.items():
            self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(known), step=step)
        if line:
            say(in_figures(step, known))

    def close(self) -> None:
        """Flushes and closes everything."""
        if self.active:
            self._rows.close()
            self._events.close()
            self._growing.close()
            if self._wandb is not None:
                self._wandb.finish()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def truncate(path: Path, step: int) -> None:
    """Drops the rows of a metrics file after `step`, and a row cut off by a kill.

    Args:
      path: The file; it need not exist.
      step: Last step to keep.

    Raises:
      DataError: If another row than the last is damaged.
    """
    if not path.exists():
        return
    rows = _rows(path)
    lines = path.read_text("utf-8").splitlines(keepends=True)
    kept = "".join(
        line for line, row in zip(lines, rows, strict=False) if row["step"] <= step
    )
    kept += "\n" if kept and not kept.endswith("\n") else ""
    if "".join(lines).startswith(kept):
        # In place, in one system call: whoever has the file open goes on with the same
        # one, and a kill costs nothing.
        os.truncate(path, len(kept.encode()))
        return
    # Rows were lost in the middle. Replaced in one move, or a kill in between could
    # cost the whole curve.
    with whole(path) as draft:
        draft.write_text(kept)


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``, oldest first.

    Args:
      workdir: Folder of the run.

    Returns:
      One dict per row, with its ``step``; without a last row that a kill cut off.

    Raises:
      FileNotFoundError: If the run has not written any.
      DataError: If a row is damaged; names the file and the line.
    """
    return _rows(run_folder(workdir) / "metrics.jsonl")


def _rows(path: Folder) -> list[dict[str, Any]]:
    with reading(path, "record of a run's metrics"):
        lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            row = None
        known = fits(row, dict[str, float | None])
        if row is None or not known or not fits(row.get("step"), int):
            raise DataError(
                f"{path}: line {number} is no row of metrics; expected a JSON object "
                'with a "step" and numbers'
            )
        rows.append(row)
    return rows


def _json_number(value: float | int | None) -> float | int | None:
    return value if value is not None and math.isfinite(value) else None


FIGURES = 6
"""Numbers in a line on the screen; the files have them all."""
FULL_WAIT = 0.05
"""Share of the time spent waiting for data from which a line says so."""


def in_figures(step: int, scalars: Mapping[str, float | int]) -> str:
    """A logged step for a person: a few figures with their units.

    Args:
      step: Number of updates done.
      scalars: All that is known, of training (with ``loss``) or of an evaluation.

    Returns:
      As ``step 20  loss 2.305  gradient 1.24  rate 0.0013  3.41 steps/s
      218 examples/s  0:38 left``.
    """
    if "loss" not in scalars:
        names = list(scalars)
        parts = [f"{n.removeprefix('eval/')} {scalars[n]:.4g}" for n in names[:FIGURES]]
        if (more := len(names) - FIGURES) > 0:
            parts.append(f"and {more} more")
        return "  ".join([f"step {step}", *parts])
    shown = {
        "loss": lambda value: f"loss {value:.4g}",
        "grad_norm": lambda value: f"gradient {value:.3g}",
        "lr": lambda value: f"rate {value:.3g}",
        "steps_per_s": lambda value: speed(value, "steps"),
        "examples_per_s": lambda value: speed(value, "examples"),
        "eta_s": lambda value: f"{duration(value)} left",
    }
    parts = [tell(scalars[name]) for name, tell in shown.items() if name in scalars]
    if (waits := scalars.get("input_wait", 0.0)) > FULL_WAIT:
        parts.append(f"{waits:.0%} waiting for data")
    return "  ".join([f"step {step}", *parts])


def import_wandb() -> Any:
    """The wandb module, for a run that asks for it; call it before the work starts.

    Raises:
      ImportError: If it is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "train.wandb: wandb is not installed; pip install 'medjax[track]'"
        ) from error
    return wandb


def _start_wandb(project: str, workdir: Folder, config: Mapping[str, Any]) -> Any:
    wandb = import_wandb()
    # The id lives in the workdir, so that a resumed run goes on in the same chart.
    path = workdir / "wandb_id"
    if not path.exists():
        path.write_text(wandb.util.generate_id())
    return wandb.init(
        project=project,
        dir=str(workdir),
        id=path.read_text(),
        resume="allow",
        config=dict(config),
    )
