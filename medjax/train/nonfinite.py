"""What is kept of a step that gave NaN or infinity, and the error that tells of it."""

import json
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from medjax.train.feed import Fed
from medjax.train.storage import Folder


class NonFiniteError(ArithmeticError):
    """A loss or gradient was not finite; the state from before it is saved.

    Attributes:
      step: The step that failed.
      index: Rows of the data set in its batch (empty if the batch has no ``index``).
      folder: Where the batch and the metrics are.
    """

    def __init__(self, step: int, index: list[int], folder: Folder) -> None:
        rows = f"; rows of the batch: {index}" if index else ""
        super().__init__(
            f"loss or gradient is not finite at step {step}. Checkpoint {step - 1} is "
            f"the state before it; {folder} has the batch and its metrics. The same "
            f"command tries the step again, --train.on_nonfinite skip passes over it"
            f"{rows}"
        )
        self.step, self.index, self.folder = step, index, folder


def record_nonfinite(
    workdir: Folder, step: int, fed: Fed, metrics: Mapping[str, jax.Array]
) -> NonFiniteError:
    """Writes down the batch of a bad step, and makes the error that tells of it."""
    folder = workdir / "nonfinite" / f"step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"batch_process_{jax.process_index()}.npz").open("wb") as file:
        np.savez(file, **fed.host)  # pyright: ignore
    index: list[int] = []
    if "index" in fed.device:
        # All processes are here, since all see the same guard.
        rows = multihost_utils.process_allgather(fed.device["index"], tiled=True)
        index = np.asarray(rows).tolist()
    if jax.process_index() == 0:
        # As text: JSON has neither NaN nor infinity, and which of them it was matters.
        values = {name: str(float(value)) for name, value in metrics.items()}
        content = {"step": step, "index": index, "metrics": values}
        (folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")
    return NonFiniteError(step, index, folder)
