"""All processes of a run run the same, or none does.

Each process compiles its own program and brings its own share of the data. Where two of
them mean different runs (another seed or flag, a checkout that was not updated, a stale
copy of the data) nothing need fail: copies of one parameter drift apart, and the curve
shows nothing. So before the first step each says what it means to run, as a hash, and a
difference ends them all with the process and the setting by name.
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import socket
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import medjax
from medjax.train.agree import everyone
from medjax.train.feed import identity
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig, flatten, started_with

OWN = re.compile(
    r"python|(.*\.)?(launch\..*|train\.(profile|wandb)|workers|hostname"
    r"|process(_id|_index)?)"
)
"""Settings that a process has for itself: how it joins, how many interpreters read for
it, what it alone writes."""
PLACE = re.compile(r"(\w+:)?[/~](?!/)")
"""Texts that name a place on a disk, which a node may have for itself: "/scratch/a",
"run:/scratch/a"; an address such as "gs://bucket" is everyone's."""
PACKAGES = ("medjax", "medjax_kernels")
"""Whose source is compared."""
SHOWN = 3
"""Processes, and settings of each, that a message names."""

Difference = tuple[str, Any, Any]
"""Name, value there, value here; "nothing" where there is none."""


def check(
    config: Any,
    optimizer: OptimizerConfig,
    train: TrainConfig,
    mesh: Mesh,
    *,
    data: Any,
    **more: Any,
) -> None:
    """Refuses processes that mean different runs. All have to call this.

    Args:
      config: Settings of the experiment.
      optimizer: Update rule.
      train: Length and intervals.
      mesh: The devices.
      data: Batches of this process; asked for what all have in common.
      **more: Further settings and weights by name.

    Raises:
      ValueError: If they differ, naming processes and settings; on every process.
    """
    if jax.process_count() == 1:
        return
    settings = started_with(config, optimizer, train, mesh)
    experiment = {"experiment": settings.pop("experiment")}
    # What is told first of several: the settings in force before the flags they are of.
    told = {**settings, **more, "data": identity(data), **experiment, "code": code()}
    _compare(told)


def check_flags(config: Any) -> None:
    """Refuses processes of other flags or code, before any of them works for long.

    What they mean to train is known, and looked at by `check`, when data are prepared
    and towers read. All have to call this.

    Args:
      config: An experiment, a dataclass.

    Raises:
      ValueError: As `check`.
    """
    if jax.process_count() > 1:
        _compare({**_plain(config), "code": code()})


def _compare(told: Mapping[str, Any]) -> None:
    mine = shared(told)
    digest = hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()
    words = everyone([digest, socket.gethostname()], what="what is run")
    digests = [digest for digest, _ in words]
    common, count = collections.Counter(digests).most_common(1)[0]
    if count == len(digests):
        return
    first = digests.index(common)
    here = jax.process_index()
    usual = everyone(mine if here == first else {}, what="what most run")[first]
    found = everyone(differences(usual, mine), what="what differs")
    raise ValueError(refusal(first, [host for _, host in words], found))


def shared(told: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by names with dots, without what a process has for itself.

    Args:
      told: A tree of settings, and of arrays, which become checksums. Of paths and of
        objects that JSON does not know only the kind counts: a node has folders of its
        own, and the text of an object may hold an address in memory.
    """
    flat = flatten(_plain(told))
    return {name: value for name, value in flat.items() if not OWN.fullmatch(name)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return "a path"
    if isinstance(value, str):
        return "a path" if PLACE.match(value) else str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _checksum(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _checksum(array: Any) -> str:
    """Type and shape of an array, and a checksum where this process has all of it."""
    told = f"{array.dtype} {array.shape}"
    if not getattr(array, "is_fully_addressable", True):
        return told
    flat = np.ascontiguousarray(array).reshape(-1)
    return f"{told} {zlib.crc32(flat.view(np.uint8).data):08x}"


def code() -> dict[str, str]:
    """Versions and files that a run is made of: names to versions or hashes."""
    found = {
        "medjax": medjax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
    }
    program = getattr(sys.modules["__main__"], "__file__", None)
    if program is not None and Path(program).is_file():
        found["program"] = f"{Path(program).name} {_digest(Path(program))}"
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(root).rglob("*.py")):
                name = Path(package, file.relative_to(root)).as_posix()
                found[name] = _digest(file)
    return found


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[Difference]:
    """Settings that differ, in their order.

    Args:
      theirs: Settings by name with dots.
      mine: Others. A flag of the experiment is passed over where what became of it, of
        the same name, differs already.
    """
    found = [
        (name, theirs.get(name, "nothing"), mine.get(name, "nothing"))
        for name in {**theirs, **mine}
        # As text: NaN is not equal to itself.
        if json.dumps(theirs.get(name, "nothing"))
        != json.dumps(mine.get(name, "nothing"))
    ]
    names = {name for name, _, _ in found}
    return [d for d in found if d[0].removeprefix("experiment.") not in names - {d[0]}]


def refusal(
    first: int, hosts: Sequence[str], found: Sequence[Sequence[Sequence[Any]]]
) -> str:
    """The sentence that names who differs, and in what.

    Args:
      first: The process that the others were held against.
      hosts: Of every process.
      found: By process, how it differs.
    """
    strange = [process for process, different in enumerate(found) if different]
    told = "; ".join(
        f"process {process} on {hosts[process]} has "
        + ", ".join(
            f"{name} {mine!r:.80} where process {first} has {theirs!r:.80}"
            for name, theirs, mine in found[process][:SHOWN]
        )
        + _more(len(found[process]) - SHOWN, "settings")
        for process in strange[:SHOWN]
    )
    return (
        f"processes: those of one run have to mean the same run, but {told}"
        f"{_more(len(strange) - SHOWN, 'processes')}; run the same command, code and "
        "data everywhere"
    )


def _more(count: int, what: str) -> str:
    return f" and {count} more {what}" if count > 0 else ""
