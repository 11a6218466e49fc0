"""Every format that is read, as small intact files, how they are damaged, who reads."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.mutation.mutators import Mutator


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of file, or a folder of files that are read together.

    Attributes:
        build: writes the intact files into an empty folder.
        reads: the readers by name; each gets the folder, and what it returns must
            hold finite numbers alone.
        damage: pattern of file names to the ways in which such a file is damaged.
        also: names that a message may hold in place of the damaged file's: of a file
            or folder that is read together with it.
        errors: documented errors of these readers.
        secret: what the files say and no message may repeat.
        share: how many of the damaged files are of this format, in proportion.
    """

    build: Callable[[Path], object]
    reads: Mapping[str, Callable[[Path], Any]]
    damage: Mapping[str, Sequence[Mutator]]
    also: tuple[str, ...] = ()
    errors: tuple[type[Exception], ...] = (ValueError, FileNotFoundError)
    secret: str = ""
    share: float = 1.0


ROOMS = {
    "mri": (
        *("nifti", "matlab", "matlab5", "fastmri", "ismrmrd", "arrays", "series"),
        "cmrxrecon",
    ),
    "vlp": (
        *("images", "dicom", "tables", "openi", "trees"),
        *("words", "vocabulary", "config"),
    ),
    "heart": ("meshes",),
    "segmentation": ("volumes",),
    "runs": ("weights", "records", "run", "checkpoint", "caches"),
}
"""The formats, by the module that describes them."""
PLANTED = (
    *("sound", "quoting", "forgetful", "mistyped", "silent"),
    *("hungry", "spinning", "sleeping"),
)
"""Readers that are at fault on purpose."""
NAMES = tuple(name for names in ROOMS.values() for name in names)


def load(name: str) -> Format:
    """The description of a format; imports no more than it needs."""
    rooms = {**ROOMS, "planted": PLANTED}
    room = next(room for room, names in rooms.items() if name in names)
    return importlib.import_module(f"tests.mutation.formats.{room}").FORMATS[name]
