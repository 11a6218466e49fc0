"""Checkpoints: state, place in the data and the run's settings, through orbax v1.

One folder per step, with these parts::

    checkpoints/<step>/variables    params and the other variable collections
    checkpoints/<step>/average      average of the trainable params, if the run has one
    checkpoints/<step>/training     step and optimiser state
    checkpoints/<step>/data         place in the data, one JSON file per process

so that variables load alone (`load_variables`) without knowing the optimiser. Saving
is asynchronous: arrays are copied to the host before `save` returns, files are written
while training goes on, and a folder gets its final name only when it is complete, so a
process killed while writing resumes from the checkpoint before.

Arrays are stored whole, not per device: a run saved on 8 devices resumes on 4 or 1,
because restoring always passes the shapes together with the shardings wanted now.
"""

import asyncio
import base64
import dataclasses
import json
import logging
import os
from collections.abc import Collection, Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from medjax.data.boundary import DataError, reading
from medjax.data.documents import parse_json
from medjax.train.sharding import flatten
from medjax.train.state import TrainState, merge
from medjax.train.storage import Folder, is_remote, run_folder

logger = logging.getLogger(__name__)


class DataState:
    """The place of every process's iterator, as orbax saves and loads it.

    Args:
      state: What `get_state` gave: JSON-able, or bytes.
    """

    def __init__(self, state: Any = None) -> None:
        if isinstance(state, bytes):
            state = {"base64": base64.b64encode(state).decode()}
        self._text = json.dumps(state)

    @property
    def state(self) -> Any:
        """What `set_state` takes."""
        state = parse_json(self._text)
        if isinstance(state, dict) and set(state) == {"base64"}:
            return base64.b64decode(state["base64"])
        return state

    async def save(self, directory: Any) -> Any:
        """Writes this process's file (orbax calls this)."""
        name = f"process_{jax.process_index()}-of-{jax.process_count()}.json"

        async def write() -> None:
            folder = await directory.await_creation()
            await asyncio.to_thread((folder / name).write_text, self._text)

        return write()

    async def load(self, directory: Any) -> Any:
        """Reads this process's file (orbax calls this)."""

        async def read() -> None:
            self._text = await asyncio.to_thread(self._read, epath.Path(directory))

        return read()

    @staticmethod
    def _read(folder: epath.Path) -> str:
        name = f"process_{jax.process_index()}-of-{jax.process_count()}.json"
        if (folder / name).exists():
            return (folder / name).read_text()
        # Another number of processes. Where all stood at the same place (each reads
        # every n-th example of one shuffled order) that place means the same now.
        places = {path.read_text() for path in folder.glob("process_*.json")}
        if len(places) == 1:
            return places.pop()
        raise ValueError(
            f"data: {folder} holds {len(places)} different places, and this "
            f"run has {jax.process_count()}; resume with as many processes"
        )


@dataclasses.dataclass
class _Latest:
    """Which checkpoints orbax keeps: the latest, and those that are protected."""

    keep: int
    protected: frozenset[int] = frozenset()

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        latest = len(checkpoints) - self.keep
        return [
            i >= latest or checkpoint.step in self.protected
            for i, checkpoint in enumerate(checkpoints)
        ]


SHARED_WRITING_FROM = 2**20
"""Bytes a device must get to write for an array's copies to share the writing."""


def _context() -> Any:
    """How orbax writes: what lies whole on every device is cut for large arrays alone.

    Cutting compiles a program per shape and copies each part on its own, which for the
    few kilobytes of a bias takes longer than the array.
    """
    context: Any = ocp.Context()
    saving = context.array.saving
    saving.min_slice_bytes_for_replica_parallel = SHARED_WRITING_FROM
    return context


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: Where the step folders are.
      keep: How many of the latest to keep.
      remade: Collections of variables that every start makes anew: they are not saved,
        and a restored state lacks them.
    """

    def __init__(
        self, folder: Folder, *, keep: int = 2, remade: Collection[str] = ()
    ) -> None:
        self._folder = _absolute(folder)
        self._remade = frozenset(remade)
        self._policy: Any = _Latest(keep)
        with reading(self._folder, "folder of checkpoints"):
            self._checkpointer = ocp.training.Checkpointer(
                str(self._folder),
                context=_context(),
                preservation_policy=self._policy,
                cleanup_tmp_directories=True,
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def protect(self, steps: Collection[int]) -> None:
        """Keeps these steps, however old they get, until others are named."""
        self._policy.protected = frozenset(steps)

    def save(
        self, state: TrainState, data: Any, settings: Mapping[str, Any], *, wait: bool
    ) -> None:
        """Saves a state under its step; does nothing if that step is there already.

        Args:
          state: The state.
          data: What the iterator's `get_state` gave for the batch last consumed.
          settings: JSON-able settings to compare on resume.
          wait: Whether to return only when the files are complete.
        """
        step = int(state.step)
        if step != self.latest:
            self._checkpointer.save_checkpointables_async(
                step,
                {**self._parts(state), "data": DataState(data)},
                force=True,
                custom_metadata=dict(settings),
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when the files of what was saved are complete."""
        self._checkpointer.wait()

    def settings(self, step: int) -> dict[str, Any]:
        """The settings saved with a step.

        Raises:
          DataError: If the checkpoint is damaged.
        """
        path = self._folder / str(step)
        with reading(path, "checkpoint"):
            settings: Any = ocp.metadata(str(path), "variables").custom_metadata
            return parse_json(json.dumps(settings or {}))

    def restore_data(self, step: int) -> Any:
        """Loads this process's place in the data, for `set_state`.

        Args:
          step: Which.

        Raises:
          DataError: If the number of processes changed and their places differ, or the
            checkpoint is damaged.
        """
        with reading(self._folder / str(step), "checkpoint", key="data"):
            asked = {"data": DataState()}
            return self._checkpointer.load_checkpointables(step, asked)["data"].state

    def restore(self, step: int, shapes: TrainState) -> TrainState:
        """Loads a state onto the devices of this run, however it was saved.

        Args:
          step: Which.
          shapes: `jax.ShapeDtypeStruct`s with the shardings wanted.

        Returns:
          The state.

        Raises:
          DataError: If the checkpoint is damaged, or holds another model or optimiser.
        """
        path = self._folder / str(step)
        with reading(path, "checkpoint"):
            stored: Any = ocp.metadata(str(path), "variables").metadata
            then = {name: tuple(x.shape) for name, x in flatten(stored).items()}
        parts = self._parts(shapes)
        now = {name: tuple(x.shape) for name, x in flatten(parts["variables"]).items()}
        if differing := sorted(dict(then.items() ^ now.items())):
            name = differing[0]
            raise DataError(
                f"{path}: checkpoint {step} is of another model (use another workdir "
                f"to start afresh): {len(differing)} variables differ; {name} has "
                f"shape {then.get(name, 'none')} there and {now.get(name, 'none')} here"
            )
        try:
            loaded = self._checkpointer.load_checkpointables(step, parts)
        except Exception as error:  # orbax says neither which file nor which of the two
            told = " ".join(str(error).split())[:300]
            raise DataError(
                f"{path}: checkpoint {step} is damaged or does not fit this optimiser "
                f"(use another workdir to start afresh): {told}"
            ) from error
        variables = dict(loaded["variables"])
        return TrainState(
            step=loaded["training"]["step"],
            params=variables.pop("params"),
            extra=variables,
            opt_state=loaded["training"]["opt_state"],
            ema=loaded.get("average"),
        )

    def _parts(self, state: TrainState) -> dict[str, Any]:
        """A state (or its shapes) as the named parts of a checkpoint."""
        kept = {k: v for k, v in state.variables.items() if k not in self._remade}
        parts = {
            "variables": kept,
            "training": {"step": state.step, "opt_state": state.opt_state},
        }
        return parts if state.ema is None else {**parts, "average": state.ema}

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _absolute(folder: Folder) -> Folder:
    """As orbax wants it; an address is that already."""
    return folder if is_remote(folder) else folder.absolute()


def saved_steps(workdir: str | os.PathLike[str]) -> list[int]:
    """The steps that a run has checkpoints of, ascending; none without a folder."""
    names = [path.name for path in (run_folder(workdir) / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def load_variables(
    workdir: str | os.PathLike[str],
    *,
    step: int | None = None,
    averaged: bool = True,
    sharding: Any = None,
) -> dict[str, Any]:
    """Loads variables alone, for evaluation or export, on any number of devices.

    Processes that have joined a run read together: each of them has to call this.

    Args:
      workdir: Folder of the run.
      step: Which checkpoint; default the newest.
      averaged: Whether to take averaged parameters, where the run kept an average.
      sharding: Where to put every leaf; default the first local device.

    Returns:
      ``{"params": ..., "batch_stats": ...}``.

    Raises:
      ValueError: If there is no such checkpoint, or it is damaged.
    """
    folder = _absolute(run_folder(workdir) / "checkpoints")
    steps = saved_steps(workdir)
    step = (steps[-1] if steps else None) if step is None else step
    if step not in steps:
        raise ValueError(f"workdir: no checkpoint {step} in {folder}; there: {steps}")
    path = folder / str(step)
    sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
    names = ["variables"]
    if averaged and (path / "average").exists():
        names.append("average")
    with reading(path, "checkpoint"):
        shapes = {
            name: jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                ocp.metadata(str(path), name).metadata,
            )
            for name in names
        }
        loaded = ocp.load_checkpointables(str(path), shapes)
        variables = dict(loaded["variables"])
        if "average" in loaded:
            variables["params"] = merge(variables["params"], loaded["average"])
        return variables
