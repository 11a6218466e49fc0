"""Flags with which a run fits: what costs least speed is tried first.

Of the same batch, in this order: the contrast in chunks, recomputed activations, split
parameters, all of them. Then with all of them smaller batches, by bisection.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from medjax.train.experiment import Experiment

TRIES = 8
"""Compilations at the most."""
CHUNK = 1024
"""Rows of a similarity matrix that are held at a time."""

Path = tuple[str, ...]
BATCHES: dict[Path, str] = {
    ("data", "batch_size"): "--data.batch-size",
    ("plan", "batch_size"): "--plan.batch-size",
    ("films", "batch_size"): "--batch-size",
}
"""Where experiments have their batch size, and its flag; a plan's may be None: what it
decides."""


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """What fits.

    Attributes:
      config: The run with the changes.
      flags: The changes, as the command line takes them.
      tried: How many configurations were looked at.
    """

    config: Any
    flags: tuple[str, ...]
    tried: int


def suggest(
    config: Experiment,
    fits: Callable[[Any], bool],
    *,
    batch: int,
    islands: int,
    shards: int,
) -> Suggestion | None:
    """Looks for flags with which a run fits.

    Args:
      config: The run.
      fits: Whether a configuration does; a compilation each.
      batch: Examples of its global batch.
      islands: Devices that fast links join: what parameters are split over.
      shards: Devices that a batch splits over; batches stay multiples of it.

    Returns:
      The first that fits; None where nothing does.
    """
    tried = 0
    changes: dict[Path, Any] = {}
    for changes in candidates(config, islands):
        tried += 1
        if fits(changed(config, changes)):
            return Suggestion(changed(config, changes), flags(changes), tried)
    where = batch_path(config)
    low, high = 0, batch // shards
    while tried < TRIES and high - low > 1:
        middle = (low + high) // 2
        tried += 1
        if fits(changed(config, {**changes, where: middle * shards})):
            low = middle
        else:
            high = middle
    if not low:
        return None
    changes = {**changes, where: low * shards}
    return Suggestion(changed(config, changes), flags(changes), tried)


def candidates(config: Experiment, islands: int) -> Iterator[dict[Path, Any]]:
    """Changes of a run that need less memory, without those it has already."""
    chunk: dict[Path, Any] = {
        path: CHUNK for path in paths(config, "chunk") if not _value(config, path)
    }
    remat: dict[Path, Any] = {
        path: True for path in paths(config, "remat") if not _value(config, path)
    }
    split: dict[Path, Any] = {}
    if islands > 1 and config.mesh.fsdp == 1:
        split = {("mesh", "fsdp"): islands}
    yield {}
    for change in (chunk, remat, split):
        if change:
            yield change
    if sum(map(bool, (chunk, remat, split))) > 1:
        yield {**chunk, **remat, **split}


def paths(config: Any, name: str, inside: Path = ()) -> list[Path]:
    """Where fields of a name are in a tree of settings."""
    found = []
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), (*inside, field.name)
        if field.name == name:
            found.append(path)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found += paths(value, name, path)
    return found


def batch_path(config: Experiment) -> Path:
    """Where a run's batch size is: of its data, or of its plan."""
    known = set(paths(config, "batch_size"))
    return next(path for path in BATCHES if path in known)


def changed(config: Any, changes: Mapping[Path, Any]) -> Any:
    """A tree of settings with some of them changed."""
    for path, value in changes.items():
        config = _replaced(config, path, value)
    return config


def flags(changes: Mapping[Path, Any]) -> tuple[str, ...]:
    """Changes as the command line takes them."""
    found = []
    for path, value in changes.items():
        name = BATCHES.get(path) or "--" + ".".join(path).replace("_", "-")
        found.append(name if value is True else f"{name} {value}")
    return tuple(found)


def _replaced(config: Any, path: Path, value: Any) -> Any:
    name, *rest = path
    if rest:
        value = _replaced(getattr(config, name), tuple(rest), value)
    return dataclasses.replace(config, **{name: value})


def _value(config: Any, path: Path) -> Any:
    for name in path:
        config = getattr(config, name)
    return config
