"""What a run says of itself, ``system.json``: with it, weights open without flags.

The file names a family of systems, and holds all settings that its networks and the
preparation of their input need. Every domain has a dataclass of its own for that (a
*record*), whose field ``system`` holds the family's configuration.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jax.typing import DTypeLike

from medjax.data.boundary import DataError, reading
from medjax.data.documents import read_json, revive
from medjax.data.whole import whole

RECORD = "system.json"
WHAT = "record of a trained system of this version"

R = TypeVar("R")


def save_record(workdir: Path, family: str, record: Any) -> None:
    """Writes ``system.json`` into a folder, made where it is missing.

    Args:
      workdir: Folder of the run.
      family: Name of the system, as its domain knows it.
      record: Dataclass of JSON-able fields, dtypes and further such dataclasses.
    """
    content = {"family": family, **dataclasses.asdict(record)}
    text = json.dumps(content, indent=2, default=_plain)
    with whole(workdir / RECORD) as draft:
        draft.write_text(text + "\n")


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, Path) else np.dtype(value).name


def read_family(workdir: Path) -> str:
    """The family that a run's ``system.json`` names.

    Raises:
      FileNotFoundError: Where there is none.
      DataError: Where it is damaged.
    """
    path = workdir / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: no {RECORD} in it (the run's own "
            "command on its folder writes one)"
        )
    family = read_json(path, WHAT).get("family")
    if not isinstance(family, str):
        raise DataError(f"{path}: 'family' is {family!r}, expected a name")
    return family


def load_record(workdir: Path, kind: type[R], families: Mapping[str, type]) -> R:
    """Reads ``system.json``.

    Args:
      workdir: Folder of the run.
      kind: Class of the record.
      families: Class of the configuration of each family that the domain has.

    Returns:
      The record; fields that an older version did not write have their defaults.

    Raises:
      FileNotFoundError: Where there is none.
      DataError: Where it is damaged, of another version, or of another domain.
    """
    family = read_family(workdir)
    path = workdir / RECORD
    if family not in families:
        raise DataError(
            f"{path}: a run of {family!r}, expected one of {', '.join(families)}"
        )
    with reading(path, WHAT):
        content = read_json(path, WHAT)
        del content["family"]
        parsers = {DTypeLike: np.dtype}
        system = revive(families[family], content.pop("system"), parsers)
        return revive(kind, {**content, "system": system})
