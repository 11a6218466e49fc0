"""Products of a program, read in the text of its HLO: what no counter of jaxprs saw.

Shapes, contracted axes and windows are those that XLA was given. A tap of a kernel
counts where it meets a number, which is tried out on a line of ones.
"""

import math
import re
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

_NAME = r"%?([\w.\-]+)"
_BEGINS = re.compile(rf"(ENTRY )?{_NAME} (?:\(.*\) -> .* )?{{$")
_INSTRUCTION = re.compile(
    rf"\s+(ROOT )?{_NAME} = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*?)\)(?:, (.*))?$"
)
_CALLED = re.compile(
    r"(?:to_apply|calls|condition|body|\w+_computations?)=(?:\{(.*?)\}|%?([\w.\-]+))"
)


class _Instruction(NamedTuple):
    root: bool
    kind: str
    shape: tuple[int, ...]
    complex: bool
    operands: list[str]
    attributes: str


def products(text: str) -> float:
    """Floating-point operations of dots and convolutions of a module's text.

    A multiplication and an addition are two, of complex numbers eight. What the result
    does not need is not computed, and not counted.

    Raises:
      ValueError: A loop or a choice holds some: how often they run is not said.
    """
    module: dict[str, dict[str, _Instruction]] = defaultdict(dict)
    entry = name = ""
    for line in text.splitlines():
        if begins := _BEGINS.match(line):
            name = begins[2]
            entry = name if begins[1] else entry
        elif found := _INSTRUCTION.match(line):
            root, own, kind, operation, operands, rest = found.groups()
            sizes = re.match(r"[a-z]\w*\[([\d,]*)\]", kind)
            module[name][own] = _Instruction(
                root is not None,
                operation,
                tuple(map(int, filter(None, sizes[1].split(",")))) if sizes else (),
                kind.startswith("c"),
                [word.split()[-1].lstrip("%") for word in operands.split(", ") if word],
                rest or "",
            )
    return _of(module, entry)


def _of(module: dict[str, dict[str, _Instruction]], name: str) -> float:
    computation, total = module[name], 0.0
    due, seen = [k for k, one in computation.items() if one.root], set()
    while due:
        if (own := due.pop()) in seen or own not in computation:
            continue
        seen.add(own)
        one = computation[own]
        due += one.operands
        if one.kind in ("dot", "convolution"):
            shapes = [computation[each].shape for each in one.operands]
            taps = (_dot if one.kind == "dot" else _convolution)(one, *shapes)
            total += (8 if one.complex else 2) * taps
        for several, single in _CALLED.findall(one.attributes):
            for each in re.findall(r"[\w.\-]+", several or single):
                inside = _of(module, each) if each in module else 0.0
                if inside and one.kind in ("while", "conditional"):
                    raise ValueError(f"{own}: products inside a {one.kind}")
                total += inside
    return total


def _dot(one: _Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    del right
    contracted = re.search(r"lhs_contracting_dims={([\d,]*)}", one.attributes)
    axes = [int(n) for n in contracted[1].split(",")] if contracted else []
    return math.prod(one.shape) * math.prod(left[axis] for axis in axes)


def _convolution(
    one: _Instruction, image: tuple[int, ...], kernel: tuple[int, ...]
) -> float:
    said = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert said is not None
    window = dict(re.findall(r"(\w+)=([\w\-]+)", _braces(one.attributes, "window")))
    size, tap, out = (
        dict(zip(labels, shape, strict=True))
        for labels, shape in zip(said.groups(), (image, kernel, one.shape), strict=True)
    )
    met = 1
    for axis in sorted(set(size) - {"b", "f"}):
        parts = {k: v.split("x")[int(axis)] for k, v in window.items()}
        low, high = map(int, parts.get("pad", "0_0").split("_"))
        apart = int(parts.get("lhs_dilate", 1))
        line = np.zeros(apart * (size[axis] - 1) + 1)
        line[::apart] = 1
        line = np.pad(line, (max(low, 0), max(high, 0)))
        line = line[max(-low, 0) : len(line) - max(-high, 0)]
        met *= _meetings(line, tap[axis], out[axis], parts)
    return met * out["b"] * out["f"] * tap["i"]


def _meetings(line: Any, taps: int, outputs: int, parts: dict[str, str]) -> int:
    """Ones of a line under a kernel's taps at all its places."""
    apart, stride = int(parts.get("rhs_dilate", 1)), int(parts.get("stride", 1))
    found = 0
    for place in range(outputs):
        under = line[place * stride : place * stride + apart * (taps - 1) + 1 : apart]
        assert len(under) == taps
        found += int(under.sum())
    return found


def _braces(text: str, name: str) -> str:
    found = re.search(rf"{name}={{(.*?)}}", text)
    return found[1] if found else ""
