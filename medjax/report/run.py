"""What the pages and files of all runs have alike: training curves, evaluation."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medjax.data.whole import whole
from medjax.progress import duration
from medjax.report.page import Report
from medjax.train.goodput import LOST, ROW

MEASURED = {
    "step",
    "loss",
    "lr",
    "grad_norm",
    "param_norm",
    "update_norm",
    "steps_per_s",
    "examples_per_s",
    "input_wait",
    "eta_s",
    "mfu",
    "hfu",
    *ROW,
    "peak_memory_bytes",
    "compiled_shapes",
}
"""What the loop logs of every system; the rest are terms of the system's loss."""


def training_section(
    page: Report, rows: Sequence[Mapping[str, Any]], *, log: bool = False
) -> None:
    """Adds the curves of a training: loss, its terms, learning rate, gradient norm.

    Args:
        page: Of the run.
        rows: Of its ``metrics.jsonl``, one at least.
        log: Show losses on a logarithmic axis.
    """
    page.section("Training")
    page.curves("loss", rows, ["loss"], log=log)
    if terms := [name for name in rows[0] if name not in MEASURED]:
        page.curves("logged with the loss", rows, terms, log=log)
    page.curves("learning rate", rows, ["lr"])
    page.curves("gradient norm", rows, ["grad_norm"], log=True)
    if (share := rows[-1].get("goodput")) is not None:
        lost = {name: rows[-1].get(f"lost/{name}") or 0.0 for name in LOST}
        told = ", ".join(f"{name} {duration(s)}" for name, s in lost.items() if s >= 1)
        page.text(
            f"Goodput {share:.1%}: the share of all time, across starts, in steps that "
            f"count. Lost to: {told or 'next to nothing'}."
        )


def save_evaluation(workdir: Path, results: Mapping[str, Any]) -> Path:
    """Writes ``evaluation.json`` into a run's folder, made where it is missing."""
    path = workdir / "evaluation.json"
    with whole(path) as draft:
        draft.write_text(json.dumps(without_nan(results), indent=1) + "\n")
    return path


def without_nan(results: Any) -> Any:
    """The same with None for every NaN (an AUC of one class): JSON has no NaN."""
    if isinstance(results, Mapping):
        return {name: without_nan(value) for name, value in results.items()}
    if isinstance(results, (list, tuple)):
        return [without_nan(value) for value in results]
    return None if isinstance(results, float) and math.isnan(results) else results
