"""What a benchmark is made of: an operation, its inputs, and who computes it."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

Outputs = Mapping[str, Any]
"""Name to array; of a contestant, or of the exact result."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One way to compute the operation.

    Attributes:
        name: in the table.
        make: imports what it needs and returns a function of the inputs to
            :data:`Outputs`; may raise ``NotImplementedError`` with a reason.
        flops: that its algorithm computes.
        unit: the matrix-product rate its FLOPs are held against: a dtype.
        peer: name for ``--vs``; empty for this package's own.
        modules: that have to be installed; a torch module makes it torch's.
    """

    name: str
    make: Callable[[], Callable[..., Outputs]]
    flops: int
    unit: str = "float32"
    peer: str = ""
    modules: tuple[str, ...] = ()

    @property
    def torch(self) -> bool:
        """Whether it takes and gives tensors of PyTorch."""
        return "torch" in self.modules


@dataclasses.dataclass(frozen=True)
class Case:
    """An operation at one shape.

    Attributes:
        name: in the table.
        inputs: seed to arrays, random, never zeros.
        exact: the arrays, in float64, to what should come out.
        bytes: that the operation must move if nothing is moved twice.
        contestants: the first is what the others are compared with.
        variants: further input sets on which errors are measured, by name; empty: the
            error is that of the first input set.
    """

    name: str
    inputs: Callable[[int], tuple[np.ndarray, ...]]
    exact: Callable[..., Outputs]
    bytes: int
    contestants: tuple[Contestant, ...]
    variants: Mapping[str, Callable[[], tuple[np.ndarray, ...]]] = dataclasses.field(
        default_factory=dict
    )


@contextlib.contextmanager
def double() -> Iterator[None]:
    """float64 on the host, whatever the chip can do."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


def wide(x: Any) -> np.ndarray:
    """The same numbers in double precision; integers stay what they are."""
    x = np.asarray(x)
    if np.iscomplexobj(x):
        return x.astype(np.complex128)
    return x if np.issubdtype(x.dtype, np.integer) else x.astype(np.float64)


def exact_outputs(case: Case, arrays: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """What should come out, in double precision."""
    with double():
        outputs = jax.jit(case.exact)(*(wide(a) for a in arrays))
        return {name: np.asarray(value) for name, value in outputs.items()}


def relative_error(actual: Any, exact: np.ndarray) -> float:
    """In the Euclidean norm; NaN where anything is NaN.

    Raises:
        ValueError: if the shapes differ.
    """
    actual = wide(actual)
    if actual.shape != exact.shape:
        raise ValueError(f"a result has shape {actual.shape}, expected {exact.shape}")
    return float(np.linalg.norm(actual - exact) / np.linalg.norm(exact))
