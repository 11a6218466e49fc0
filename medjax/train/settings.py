"""What a run was started with, and whether it may go on with something else."""

import dataclasses
import json
import logging
import platform
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from medjax.data.boundary import DataError
from medjax.data.documents import read_json
from medjax.data.whole import whole
from medjax.train.optimizer import OptimizerConfig
from medjax.train.storage import Folder, is_remote

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length of the run, and what happens how often."""

    steps: int = 1000
    """Updates in all."""
    log_every: int = 10
    """Log the metrics of every n-th step (and of the first and last)."""
    eval_every: int = 0
    """Evaluate every n steps and after the last; 0: after the last only."""
    checkpoint_every: int = 1000
    """Save every n steps and after the last."""
    keep: int = 2
    """Checkpoints to keep."""
    stop_every: int = 1
    """With several processes: ask every n steps whether another one was told to leave.
    More than 1 is for steps of a few milliseconds: leaving takes up to n + 3 steps."""
    seed: int = 0
    """Seed of initialisation and of all randomness in the steps."""
    accumulate: int = 1
    """Microbatches per update, for want of memory. A system that compares the examples
    of a batch with each other encodes it in so many chunks and compares all of it."""
    shapes: int = 8
    """Shapes of batches that the step may be compiled for: sizes of matrices, lengths
    of texts. Each takes a compilation."""
    ema: float | None = None
    """Decay of an exponential moving average of the parameters; None: no average."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Loss or gradient not finite: save and stop, or pass over the batch."""
    profile: str | None = None
    """Trace these steps ("10:15", both included) into the profile folder."""
    wandb: str | None = None
    """Log to this wandb project as well."""
    allow_config_change: bool = False
    """Resume although settings that change the result differ."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "log_every",
            "checkpoint_every",
            "keep",
            "stop_every",
            "accumulate",
            "shapes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"train.{name}: expected at least 1, got {getattr(self, name)}"
                )
        first, last = self.profiled or (1, 1)
        if not 1 <= first <= last:
            raise ValueError(
                "train.profile: expected the first and the last step to trace, as in "
                f'"10:15", got {self.profile!r}'
            )

    @property
    def profiled(self) -> tuple[int, int] | None:
        """First and last step to trace; zeros for what does not read as a window."""
        if self.profile is None:
            return None
        window = re.fullmatch(r"(\d+):(\d+)", self.profile)
        return (int(window[1]), int(window[2])) if window else (0, 0)


def resume_settings(optimizer: OptimizerConfig, train: TrainConfig) -> dict[str, Any]:
    """The settings that change what a run computes, as JSON gives them back."""
    settings = {
        "optimizer": dataclasses.asdict(optimizer),
        "seed": train.seed,
        "accumulate": train.accumulate,
        "ema": train.ema,
    }
    if optimizer.schedule == "cosine":  # the only one that knows where the run ends
        settings["steps"] = train.steps
    return json.loads(json.dumps(settings))


def compare(saved: dict[str, Any], settings: dict[str, Any], *, allowed: bool) -> None:
    """Refuses to go on with other settings than the checkpoint's.

    Raises:
      ValueError: If they differ and that is not `allowed`.
    """
    changed = _changes(saved, settings)
    if changed and not allowed:
        raise ValueError(
            "train: the checkpoint in this workdir was made with other settings; use "
            "another workdir, or --train.allow_config_change to go on with the new "
            f"ones. {changed}"
        )
    if changed:
        logger.warning("resuming with changed settings: %s", changed)


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two trees of settings, in words."""
    old, new = flatten(then), flatten(now)
    return "; ".join(
        f"{name}: was {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings by names with dots, as in "optimizer.lr"."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def started_with(
    config: Any, optimizer: OptimizerConfig, train: TrainConfig, mesh: Mesh
) -> dict[str, Any]:
    """What a run is started with, and on what: what config.json holds.

    Args:
      config: Settings of the experiment: a dataclass, or what JSON can nearly hold.
      optimizer: Update rule.
      train: Length and intervals.
      mesh: The devices.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    device = mesh.devices.flat[0]
    return {
        "experiment": config,
        "optimizer": dataclasses.asdict(optimizer),
        "train": dataclasses.asdict(train),
        "mesh": dict(mesh.shape),
        "devices": f"{mesh.size} x {device.device_kind}",
        "processes": jax.process_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def write_config(
    workdir: Folder,
    config: Any,
    optimizer: OptimizerConfig,
    train: TrainConfig,
    mesh: Mesh,
) -> None:
    """Writes config.json once: what the run was started with, and on what.

    A later start with another experiment is warned of: whether a changed setting of a
    model or a data set matters, the loop cannot know.

    Raises:
      DataError: If the workdir holds a config.json that is damaged.
    """
    path = workdir / "config.json"
    if jax.process_index():
        return
    content = started_with(config, optimizer, train, mesh)
    text = json.dumps(content, indent=2, default=str) + "\n"
    if not path.exists():
        if is_remote(workdir):  # what an object store shows is whole
            path.write_text(text)
            return
        # In one move: a kill in between must not leave half a file to stumble over.
        with whole(path) as draft:
            draft.write_text(text)
        return
    then = read_json(path, "record of a run's settings").get("experiment", {})
    if not isinstance(then, dict | None):
        raise DataError(f"{path}: expected settings by name as 'experiment'")
    now = json.loads(text)["experiment"]
    if changed := _changes(then or {}, now or {}):
        logger.warning("config.json of this workdir differs: %s", changed)
