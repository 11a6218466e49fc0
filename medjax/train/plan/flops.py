"""Floating-point work of a program, counted on its jaxpr: no compiler, no platform.

Compilers count a loop's body once, and some count nothing. A jaxpr has every product
with its shapes, the length of every ``scan``, and the name of the module that asked.
Counted are matrix products, convolutions and Fourier transforms; elementwise work is
bound by memory, not by arithmetic, and is left out.

A convolution is counted as often as a tap of its kernel meets a number: neither on
padding nor on the zeros that a transposed one puts between its inputs.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jax._src.interpreters.partial_eval import dce_jaxpr  # not exported

Kind = Literal["matmul", "convolution", "fft"]


class Work(NamedTuple):
    """A class of work: all of it runs at about the same rate.

    Attributes:
      kind: What is computed.
      dtype: Of what is multiplied.
      part: The first module of the system that asked for it; "contrast" for what sees
        the batch of all devices, "-" for the rest.
      recomputed: Whether it is done a second time, to save memory.
    """

    kind: Kind
    dtype: str
    part: str
    recomputed: bool


@dataclasses.dataclass(frozen=True)
class Count:
    """What a program computes in all its devices together.

    Attributes:
      flops: Floating-point operations by class.
      unknown_loops: Loops with such work whose length is decided while they run; each
        is counted as one turn.
    """

    flops: dict[Work, float]
    unknown_loops: int

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.flops.values())

    @property
    def useful(self) -> float:
        """Without what is computed a second time."""
        return sum(n for work, n in self.flops.items() if not work.recomputed)


def count_flops(jaxpr: Any) -> Count:
    """Counts the work of a traced program.

    Args:
      jaxpr: A `jax.extend.core.ClosedJaxpr` or its ``jaxpr``, of global shapes.
    """
    counter = _Counter()
    bare = getattr(jaxpr, "jaxpr", jaxpr)
    # What no result needs is not computed: the value whose gradient alone is asked for.
    needed, _ = dce_jaxpr(bare, [True] * len(bare.outvars), instantiate=True)
    counter.walk(needed, 1.0, "")
    return Count(dict(counter.flops), counter.unknown)


class _Counter:
    def __init__(self) -> None:
        self.flops: dict[Work, float] = defaultdict(float)
        self.unknown = 0

    def walk(self, jaxpr: Any, times: float, names: str) -> None:
        """Adds the work of a jaxpr that runs so many times."""
        for eqn in jaxpr.eqns:
            here = f"{names}/{eqn.source_info.name_stack}"
            name = eqn.primitive.name
            if name in _COUNTED:
                kind, count = _COUNTED[name]
                dtype = str(eqn.invars[0].aval.dtype)
                again = "rematted_computation" in here or "/checkpoint" in here
                work = Work(kind, dtype, part_of(here), again)
                self.flops[work] += times * count(eqn)
            elif name == "cond" and eqn.params.get("branches_platforms"):
                # By kind of device: the last is for those not named, accelerators.
                self.walk(eqn.params["branches"][-1].jaxpr, times, here)
            elif name == "cond":
                self._largest(eqn.params["branches"], times, here)
            elif name == "while":
                self._loop(eqn, times, here)
            else:
                exchanges = name == "shard_map" and exchanges_batch(eqn.params["jaxpr"])
                inside = f"{here}/{_CONTRAST}" if exchanges else here
                for inner, turns in inner_programs(eqn):
                    self.walk(inner, times * turns, inside)

    def _largest(self, branches: Sequence[Any], times: float, names: str) -> None:
        """The branch with the most work: which one is taken is not known."""
        found = [_Counter() for _ in branches]
        for one, branch in zip(found, branches, strict=True):
            one.walk(branch.jaxpr, times, names)
        most = max(found, key=lambda one: sum(one.flops.values()))
        for work, flops in most.flops.items():
            self.flops[work] += flops
        self.unknown += most.unknown

    def _loop(self, eqn: Any, times: float, names: str) -> None:
        body = _Counter()
        body.walk(eqn.params["body_jaxpr"].jaxpr, 1.0, names)
        turns = _turns(eqn)
        self.unknown += body.unknown + (turns is None and bool(body.flops))
        for work, flops in body.flops.items():
            self.flops[work] += times * flops * (turns or 1)


def _turns(eqn: Any) -> int | None:
    """Turns of a loop that counts from zero to a constant; None for another one."""
    condition = eqn.params["cond_jaxpr"].jaxpr
    if len(condition.eqns) != 1 or condition.eqns[0].primitive.name != "lt":
        return None
    limit = condition.eqns[0].invars[1]
    value = getattr(limit, "val", None)
    return None if value is None else int(value)


def inner_programs(eqn: Any) -> Iterator[tuple[Any, float]]:
    """Programs inside an equation, and how often each runs."""
    params, name = eqn.params, eqn.primitive.name
    if name == "scan":
        yield params["jaxpr"].jaxpr, float(params["length"])
    elif name == "shard_map":
        # Inside, shapes are those of one device.
        yield params["jaxpr"], float(mapped_devices(params))
    elif name == "pallas_call":
        grid = [n for n in params["grid_mapping"].grid if isinstance(n, int)]
        yield params["jaxpr"], float(math.prod(grid))
    elif name == "custom_linear_solve":
        yield params["jaxprs"].solve.jaxpr, 1.0
    else:
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
            if (inner := params.get(key)) is not None:
                yield getattr(inner, "jaxpr", inner), 1.0
                return


def mapped_devices(params: Any) -> int:
    """Devices that a ``shard_map`` with these parameters runs on, each its own part."""
    mesh = params["mesh"]
    axes = params.get("manual_axes", mesh.axis_names)
    return math.prod(mesh.shape[axis] for axis in axes)


def exchanges_batch(jaxpr: Any) -> bool:
    """Whether devices show each other their rows in a program of one of them."""
    return any(
        eqn.primitive.name in EXCHANGES
        or any(exchanges_batch(inner) for inner, _ in inner_programs(eqn))
        for eqn in jaxpr.eqns
    )


EXCHANGES = {
    "all_gather": "all-gather",
    "all_gather_invariant": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "ppermute": "collective-permute",
    "all_to_all": "all-to-all",
}
"""Primitives by which rows of a batch travel, and the operations that they become."""
_CONTRAST = "<contrast>"
_WRAPPED = re.compile(r"(?:jvp|transpose|vmap|remat|checkpoint)\(([^()]*)\)")


def part_of(names: str) -> str:
    """The module of a system that an equation belongs to, from its stack of names.

    Args:
      names: As ``transpose(jvp(Imitate.compare))/image/resnet/conv1``: ``image``.

    Returns:
      The first name below the system's own; "-" where there is none.
    """
    if _CONTRAST in names:
        return "contrast"
    while (bare := _WRAPPED.sub(r"\1", names)) != names:
        names = bare
    steps = [step for step in names.split("/") if step]
    # The system's own class comes first, with or without the method that was called.
    own = next((i for i, step in enumerate(steps) if step[:1].isupper()), None)
    inside = steps[own + 1 :] if own is not None else []
    found = (s for s in inside if re.fullmatch(r"[a-z_]\w*", s) and s not in _PLUMBING)
    return next(found, "-")


_PLUMBING = {"while", "body", "cond", "closed_call", "rematted_computation"}


def _matmul(eqn: Any) -> float:
    (contract, _), _ = eqn.params["dimension_numbers"]
    left, out = eqn.invars[0].aval, eqn.outvars[0].aval
    length = math.prod(left.shape[i] for i in contract)
    return _operations(left.dtype) * math.prod(out.shape) * length


def _convolution(eqn: Any) -> float:
    params = eqn.params
    numbers = params["dimension_numbers"]
    left, right, out = (
        v.aval.shape for v in (eqn.invars[0], eqn.invars[1], eqn.outvars[0])
    )
    taps = math.prod(
        _meetings(left[i], right[j], out[k], *window)
        for i, j, k, *window in zip(
            numbers.lhs_spec[2:],
            numbers.rhs_spec[2:],
            numbers.out_spec[2:],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    )
    # Features of the kernel's input side are those of one group already.
    outputs = out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
    inputs = right[numbers.rhs_spec[1]]
    return _operations(eqn.invars[0].aval.dtype) * taps * outputs * inputs


def _meetings(
    size: int,
    kernel: int,
    out: int,
    stride: int,
    padding: tuple[int, int],
    dilated: int,
    kernel_dilated: int,
) -> int:
    """How many pairs of an output and a tap meet an input along one axis."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * kernel_dilated
    at = at - padding[0]
    return int(((at >= 0) & (at <= (size - 1) * dilated) & (at % dilated == 0)).sum())


def _fft(eqn: Any) -> float:
    """5 n log2 n, as the authors of FFTW count."""
    lengths = eqn.params["fft_lengths"]
    points = math.prod(eqn.invars[0].aval.shape)
    return 5.0 * points * math.log2(max(math.prod(lengths), 1))


def _operations(dtype: Any) -> float:
    """Of one multiplication and one addition."""
    return 8.0 if np.issubdtype(np.dtype(dtype), np.complexfloating) else 2.0


_COUNTED: dict[str, tuple[Kind, Any]] = {
    "dot_general": ("matmul", _matmul),
    "conv_general_dilated": ("convolution", _convolution),
    "fft": ("fft", _fft),
}
