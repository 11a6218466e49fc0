"""What travels between devices in a compiled program, read from its text.

``compiled.as_text()`` of XLA is the only account of it that every backend gives. Four
things make reading more than a search for names:

* An operation in a loop runs as often as the loop. CPU and GPU compilers print
  ``known_trip_count``; where it is absent (TPU) the loop's condition is looked at,
  which compares a counter from zero with a constant. A loop of unknown length around
  a collective is an error, not a guess.
* An asynchronous operation is counted where it starts, and its type there holds inputs,
  outputs and contexts: only the outputs count.
* A TPU's compiler hides an operation behind others by writing it several times, where
  it starts, in every fusion that it runs beside, and where it is done: links of one
  chain, of which only the first counts.
* The devices that take part are spelt in three ways: lists, an iota tile
  (``[8,2]<=[16]``), and the axes of a mesh (``mesh['a'=8,'b'=2] {'a'}``).

This module reads text and knows neither devices nor systems.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
    "collective-permute",
    "reduce-scatter",
)
"""Operations of HLO that exchange data between devices."""

BITS = {"pred": 8, "token": 0, "opaque": 0}

Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation of a program, and how often a call of the program runs it."""

    kind: str
    """One of `KINDS`."""
    name: str
    """Of the instruction in the text."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """Type and size of what comes out on each device."""
    bytes: int
    """Bytes of one run on each device: what comes out, of a reduce-scatter what goes
    in."""
    count: int
    """Runs in one call of the program; of a branch, if it is taken."""
    groups: Groups
    """Devices that exchange with each other; of a permutation its (source, target)
    pairs; empty: all of them."""
    asynchronous: bool
    """Whether the program goes on while it runs."""

    @property
    def total_bytes(self) -> int:
        """Bytes on each device of all runs in one call."""
        return self.bytes * self.count

    def axes(self, mesh: Mapping[str, int]) -> tuple[str, ...]:
        """The axes of a mesh along which devices exchange.

        Args:
          mesh: Names and sizes of the axes, outermost first; devices are numbered in
            this order.
        """
        if not self.groups:
            return tuple(name for name, size in mesh.items() if size > 1)
        members = np.unravel_index(np.array(self.groups).T, tuple(mesh.values()))
        return tuple(
            name
            for name, index in zip(mesh, members, strict=True)
            if (index != index[0]).any()
        )


def read_collectives(text: str) -> list[Collective]:
    """All collectives of a program in HLO text.

    Args:
      text: Of a whole module, as ``compiled.as_text()`` gives it.

    Returns:
      One entry per instruction, in the order of the text.

    Raises:
      ValueError: There is no entry computation, a spelling is unknown, or a loop around
        a collective has no known number of turns.
    """
    computations, entry = _computations(text)
    runs = _Runs(computations)
    counts: dict[str, int] = {}
    runs.count(entry, 1, counts)
    started = _started(computations)
    chains = {chain for chain in started.values() if chain is not None}
    return [
        _collective(line, counts[name], hidden=line.name in started)
        for name, lines in computations.items()
        if counts.get(name)
        for line in lines
        if line.kind is not None
        if line.name in started or line.chain not in chains
    ]


@dataclasses.dataclass(frozen=True)
class _Line:
    """One instruction: ``name = type opcode(operands), attributes``."""

    name: str
    type: str
    opcode: str
    rest: str
    root: bool

    @property
    def kind(self) -> str | None:
        """The collective that it is or starts."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in KINDS else None

    @property
    def chain(self) -> str | None:
        """The chain of which it is a link, where a TPU's compiler made one."""
        found = re.search(r'\bchain_id="(\w+)"', self.rest)
        return found and found[1]


_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) .*->.*\{$")
_NAME = re.compile(r"(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|true_computation|false_computation|called_computations|"
    r"branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_LOOP = re.compile(r"\b(condition|body)=%?([\w.\-]+)")
_ARRAY = re.compile(r"(\w+)\[([\d,<=\s]*)\]")


def _computations(text: str) -> tuple[dict[str, list[_Line]], str]:
    """The instructions of each computation, and the name of the entry."""
    found: dict[str, list[_Line]] = {}
    entry, lines = None, []
    for row in re.sub(r"/\*.*?\*/", "", text).splitlines():
        row = row.strip()
        if head := _HEAD.match(row):
            lines = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif match := _NAME.match(row):
            kind, rest = _type(row[match.end() :])
            opcode, _, rest = rest.strip().partition("(")
            lines.append(_Line(match[2], kind, opcode, rest, match[1] is not None))
    if entry is None:
        raise ValueError("text: no ENTRY computation, expected a whole HLO module")
    return found, entry


def _type(text: str) -> tuple[str, str]:
    """Splits what stands behind ``=`` into the type and the rest."""
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    raise ValueError(f"text: a type without end in {text[:80]!r}")


def _started(computations: Mapping[str, list[_Line]]) -> dict[str, str | None]:
    """Names of operations that a TPU starts to hide them, and their chains."""
    lines = [line for part in computations.values() for line in part]
    first = {
        line.rest.split(")")[0].lstrip("%")
        for line in lines
        if 'custom_call_target="AsyncCollectiveStart"' in line.rest
    }
    return {line.name: line.chain for line in lines if line.name in first}


class _Runs:
    """How often each computation of a module runs."""

    def __init__(self, computations: Mapping[str, list[_Line]]) -> None:
        self.computations = computations
        self.known: dict[str, bool] = {}

    def called(self, line: _Line) -> Iterator[str]:
        """Computations that an instruction runs once, loops apart."""
        for match in _CALLED.finditer(line.rest):
            yield from re.findall(r"[\w.\-]+", match[1])

    def exchanges(self, name: str) -> bool:
        """Whether a computation, or one that it calls, holds a collective."""
        if name not in self.known:
            self.known[name] = any(
                line.kind is not None
                or any(map(self.exchanges, self.called(line)))
                or any(self.exchanges(part) for _, part in _LOOP.findall(line.rest))
                for line in self.computations.get(name, ())
            )
        return self.known[name]

    def count(self, name: str, times: int, counts: dict[str, int]) -> None:
        """Adds ``times`` runs of a computation, and of all that it calls."""
        if name not in self.computations or not self.exchanges(name):
            return
        counts[name] = counts.get(name, 0) + times
        for line in self.computations[name]:
            for part in self.called(line):
                self.count(part, times, counts)
            parts = dict(_LOOP.findall(line.rest)) if line.opcode == "while" else {}
            if parts and any(map(self.exchanges, parts.values())):
                turns = self.turns(line, parts["condition"])
                self.count(parts["body"], times * turns, counts)
                self.count(parts["condition"], times * (turns + 1), counts)

    def turns(self, line: _Line, condition: str) -> int:
        """How often a loop runs."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line.rest):
            return int(known[1])
        lines = list(self.computations.get(condition, ()))
        root = next((one for one in lines if one.root), None)
        if root is not None and root.opcode == "fusion":
            inner = self.computations[next(self.called(root))]
            lines += inner
            root = next((one for one in inner if one.root), None)
        limits = {
            int(one.rest.split(")")[0])
            for one in lines
            if one.opcode == "constant" and re.match(r"[su]\d+\[\]", one.type)
        }
        if root is not None and root.opcode == "compare" and len(limits) == 1:
            if "direction=LT" in root.rest:
                return limits.pop()
        raise ValueError(
            f"loop {line.name}: a collective in a loop of unknown length, expected "
            f"known_trip_count or a condition {condition} that compares with a constant"
        )


def _collective(line: _Line, count: int, *, hidden: bool) -> Collective:
    kind = line.kind
    assert kind is not None
    parts = _elements(line.type)
    starts = line.opcode.endswith("-start")
    # (inputs, outputs, contexts...), but of an all-reduce the outputs alone.
    if starts and kind != "all-reduce" and len(parts) > 1:
        parts = _elements(parts[1])
    shapes = tuple(_shape(array) for part in parts for array in _ARRAY.findall(part))
    size = sum(_bytes(dtype) * math.prod(dims) for dtype, dims in shapes)
    groups = read_groups(line.rest)
    if kind == "reduce-scatter" and groups:
        size *= len(groups[0])
    return Collective(
        kind,
        line.name,
        shapes,
        math.ceil(size),
        count,
        groups,
        asynchronous=starts or hidden,
    )


def _elements(kind: str) -> list[str]:
    """The elements of a tuple type; of another type, itself."""
    if not kind.startswith("("):
        return [kind]
    found, depth, current = [], 0, ""
    for letter in kind[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            found.append(current.strip())
            current = ""
        else:
            current += letter
    return [*found, current.strip()]


def _shape(array: tuple[str, str]) -> tuple[str, tuple[int, ...]]:
    dtype, dims = array
    return dtype, tuple(int(n) for n in re.findall(r"\d+", dims))


def _bytes(dtype: str) -> float:
    """Bytes of one number: the first digits of a type's name are its bits."""
    if dtype in BITS:
        return BITS[dtype] / 8
    if (bits := re.match(r"(?:bf|f|s|u|c)(\d+)", dtype)) is None:
        raise ValueError(f"text: unknown element type {dtype!r}")
    return int(bits[1]) / 8


def read_groups(attributes: str) -> Groups:
    """The devices that exchange, from the attributes of an instruction.

    Args:
      attributes: With ``replica_groups=`` in any of its spellings, or
        ``source_target_pairs=``.

    Returns:
      Groups of device numbers; none where all devices are one group.

    Raises:
      ValueError: The spelling is none of those known.
    """
    key = re.search(r"\b(?:replica_groups|source_target_pairs)=", attributes)
    if key is None:
        return ()
    text = attributes[key.end() :]
    if listed := re.match(r"\{(?:\{[\d,\s]*\}[,\s]*)*\}", text):
        groups = re.findall(r"\{([\d,\s]+)\}", listed[0])
        return tuple(tuple(int(n) for n in group.split(",")) for group in groups)
    if iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        tile, sizes, order = (_numbers(part) for part in iota.groups())
        devices = np.arange(math.prod(sizes)).reshape(sizes)
        devices = devices.transpose(order) if order else devices
        return _rows(devices.reshape(tile[0], -1))
    if named := _MESH.match(text):
        axes = re.findall(r"'([^']+)'=(\d+)", named["axes"])
        mesh = {name: int(size) for name, size in axes}
        devices = np.arange(math.prod(mesh.values()))
        if named["tile"]:
            tiled = devices.reshape(_numbers(named["tile"]))
            order = _numbers(named["order"])
            devices = (tiled.transpose(order) if order else tiled).ravel()
        elif named["listed"]:
            devices = np.array(_numbers(named["listed"]))
        return _mesh_groups(mesh, devices, named["chosen"])
    raise ValueError(f"text: unknown spelling of devices, {text[:80]!r}")


_MESH = re.compile(
    r"mesh\[(?P<axes>(?:'[^']+'=\d+,?\s*)+)\]"
    r"(?:,\s*device_ids=\((?:\[(?P<tile>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?"
    r"|(?P<listed>[\d,\s]+))\))?\s*\{(?P<chosen>[^}]*)\}"
)


def _mesh_groups(mesh: Mapping[str, int], devices: np.ndarray, names: str) -> Groups:
    """Groups along axes of a mesh, or parts of axes: ``'a'``, ``'a':(2)4``."""
    sizes: list[int] = []
    chosen: list[int] = []
    parts = {
        name: (int(before or 1), int(size or mesh[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", names)
    }
    for name, whole in mesh.items():
        before, size = parts.get(name, (1, 1))
        if name in parts:
            chosen.append(len(sizes) + 1)
        sizes += [before, size, whole // (before * size)]
    devices = devices.reshape(sizes)
    last = range(devices.ndim - len(chosen), devices.ndim)
    moved = np.moveaxis(devices, chosen, tuple(last))
    return _rows(moved.reshape(-1, math.prod(sizes[i] for i in chosen)))


def _numbers(text: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",")) if text else ()


def _rows(devices: np.ndarray) -> Groups:
    return tuple(tuple(int(n) for n in row) for row in devices)
