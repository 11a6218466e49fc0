"""Readers with faults that the harness has to find: it is tested on them alone."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.mutation import mutators as m
from tests.mutation.formats import Format


def _format(read: Callable[[Path], object]) -> Format:
    """One file ``a.txt``; the reader goes wrong where it is not intact."""

    def only_damaged(path: Path) -> object:
        return None if path.read_bytes() == b"intact" else read(path)

    return Format(
        build=lambda folder: (folder / "a.txt").write_bytes(b"intact"),
        reads={"read": lambda folder: only_damaged(folder / "a.txt")},
        damage={"*.txt": (m.headless, m.repeated)},
        secret="Doe",
    )


def _refuses(path: Path) -> None:
    raise ValueError(f"{path}: not intact")


def _quotes(path: Path) -> None:
    raise ValueError(f"{path}: Doe, Jane")


def _forgets(path: Path) -> None:
    raise ValueError("not intact")


def _mistypes(path: Path) -> None:
    raise KeyError(f"{path}")


def _eats(path: Path) -> object:
    return np.ones(3 << 30, np.uint8)[0]


def _spins(path: Path) -> None:
    while True:
        pass


def _sleeps(path: Path) -> None:
    time.sleep(1000)


FORMATS = {
    "sound": _format(_refuses),
    "quoting": _format(_quotes),
    "forgetful": _format(_forgets),
    "mistyped": _format(_mistypes),
    "silent": _format(lambda path: {"values": [np.float32("nan")]}),
    "hungry": _format(_eats),
    "spinning": _format(_spins),
    "sleeping": _format(_sleeps),
}
