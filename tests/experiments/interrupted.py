"""Runs that are asked to stop, and what two of them left."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from medjax.train.checkpoint import load_variables
from medjax.train.preemption import PreemptionGuard


@contextlib.contextmanager
def asked_to_stop(step: int = 1) -> Iterator[None]:
    """Every training in here hears SIGTERM while it takes that step."""
    requested = PreemptionGuard.requested

    def ask(guard: PreemptionGuard, at: int) -> int | None:
        if at == step:
            signal.raise_signal(signal.SIGTERM)
        return requested(guard, at)

    with mock.patch.object(PreemptionGuard, "requested", ask):
        yield


@contextlib.contextmanager
def stopped(step: int = 1) -> Iterator[None]:
    """What is run in here has to end with the status of SIGTERM, at that step."""
    with asked_to_stop(step), pytest.raises(SystemExit) as left:
        yield
    assert left.value.code == 128 + signal.SIGTERM


def same_files(one: Path, other: Path) -> None:
    """Two files of weights are equal to the bit."""
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def same_variables(one: Path, other: Path) -> None:
    """What two runs saved last is equal to the bit."""
    ours, theirs = load_variables(one), load_variables(other)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
