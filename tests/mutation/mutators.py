"""Ways to damage a file: bytes in, bytes out, everything drawn from one generator.

Three families: of bytes, for any file; of text; and of structure (JSON), where the file
still parses and says something else than was expected. What lies inside a compression
or a container is damaged by :mod:`tests.mutation.inside`.
"""

import json
import re
import struct
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Mutator(Protocol):
    """Damages the content of a file."""

    __name__: str

    def __call__(self, data: bytes, rng: np.random.Generator, /) -> bytes:
        """The damaged content."""
        ...


NUMBERS = (
    *(b"0", b"-1", b"1.5", b"nan", b"NaN", b"inf", b"-Infinity", b"1e999", b"-0"),
    *(b"2147483648", b"-9223372036854775809", b"18446744073709551616", b"1" * 5000),
    *(b"1e-320", b"0x10", b"1_000", b"1,5", b"", b"null", b'"7"', b"[3]", b"\xd9\xa3"),
)
"""What a number in a text becomes."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, 10**30, 1e308),
    *(float("nan"), float("inf"), "", "x", "7", "\ud800", "../..", "a" * 5000),
    *([], [None], [[]], [1, "a"], {}, {"a": None}, [0] * 3000, {"base64": 3}),
)
"""What a node of a JSON document becomes."""
EXTREMES = (
    *(("<h", n) for n in (0, -1, 1, 32767, -32768)),
    *(("<i", n) for n in (0, -1, 1, 2**31 - 1, -(2**31), 2**24)),
    *(("<q", n) for n in (0, -1, 2**63 - 1, -(2**63), 2**40)),
    *(("<f", n) for n in (float("nan"), float("inf"), -1.0, 3e38, 1e-45)),
    *(("<d", n) for n in (float("nan"), float("-inf"), 1e300)),
)
"""What a field of a header becomes, in either byte order."""


def place(length: int, rng: np.random.Generator) -> int:
    """A place in a file; headers are hit as often as all the rest."""
    if length < 2:
        return 0
    if rng.random() < 0.5:
        return int(rng.integers(length))
    return min(length - 1, int(length ** rng.random()) - 1)


def span(length: int, rng: np.random.Generator) -> tuple[int, int]:
    """A block of a file: a place, and an end some way after it."""
    first = place(length, rng)
    size = 1 + int(min(4096, max(1, length)) ** rng.random())
    return first, min(length, first + size)


def truncated(data: bytes, rng: np.random.Generator) -> bytes:
    """The end is missing, or all of it."""
    return data[: place(len(data), rng)]


def headless(data: bytes, rng: np.random.Generator) -> bytes:
    """The beginning is missing."""
    return data[place(len(data), rng) :]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bits are turned."""
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(1 + int(rng.integers(8))):
        changed[place(len(data), rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def blanked(data: bytes, rng: np.random.Generator) -> bytes:
    """A block is all zeros, all ones, or noise."""
    first, last = span(len(data), rng)
    size = last - first
    block = (bytes(size), b"\xff" * size, rng.bytes(size))[int(rng.integers(3))]
    return data[:first] + block + data[last:]


def deleted(data: bytes, rng: np.random.Generator) -> bytes:
    """A block is missing."""
    first, last = span(len(data), rng)
    return data[:first] + data[last:]


def repeated(data: bytes, rng: np.random.Generator) -> bytes:
    """A block, or the whole file, comes twice."""
    first, last = span(len(data), rng)
    return data + data if rng.random() < 0.2 else data[:last] + data[first:]


def inserted(data: bytes, rng: np.random.Generator) -> bytes:
    """Foreign bytes in the middle or at an end."""
    at = (0, place(len(data), rng), len(data))[int(rng.integers(3))]
    return data[:at] + rng.bytes(1 + int(rng.integers(64))) + data[at:]


def swapped(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a word are in the other order, or two blocks changed places."""
    first, last = span(len(data), rng)
    if rng.random() < 0.5:
        middle = (first + last) // 2
        return data[:first] + data[middle:last] + data[first:middle] + data[last:]
    last = first + int(rng.choice([2, 4, 8]))
    return data[:first] + data[first:last][::-1] + data[last:]


def extreme(data: bytes, rng: np.random.Generator) -> bytes:
    """One or two words say something huge, negative, or that is no number."""
    for _ in range(1 + int(rng.integers(2))):
        form, value = EXTREMES[int(rng.integers(len(EXTREMES)))]
        word = struct.pack(form, value)
        word = word[::-1] if rng.random() < 0.25 else word
        at = place(len(data), rng)
        at -= at % 2 if rng.random() < 0.8 else 0
        data = data[:at] + word + data[at + len(word) :]
    return data


def foreign(data: bytes, rng: np.random.Generator) -> bytes:
    """Another kind of file under this name."""
    kinds = (
        b"<html>Not found</html>",
        b"version https://git-lfs",
        b"\x1f\x8b\x08",
        b"",
    )
    return kinds[int(rng.integers(len(kinds)))] or bytes(len(data))


BYTES: tuple[Mutator, ...] = (
    *(truncated, headless, flipped, flipped, blanked, blanked, deleted, repeated),
    *(inserted, swapped, extreme, extreme, extreme, foreign),
)
"""For any file."""


def renumbered(data: bytes, rng: np.random.Generator) -> bytes:
    """A number says something else."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?([eE][+-]?\d+)?", data))
    if not found:
        return flipped(data, rng)
    one = found[int(rng.integers(len(found)))]
    value = NUMBERS[int(rng.integers(len(NUMBERS)))]
    return data[: one.start()] + value + data[one.end() :]


def miscoded(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes that are no UTF-8, or another coding of the whole."""
    text = data.decode("utf-8", "replace")
    match int(rng.integers(5)):
        case 0:
            return text.encode("utf-16")
        case 1:
            return b"\xef\xbb\xbf" + data
        case 2:
            return text.replace("e", "é").encode("latin-1", "replace")
        case choice:
            at = place(len(data), rng)
            marks = b"\x00" if choice == 3 else b"\xc3\x28\xff"
            return data[:at] + marks + data[at:]


def mispunctuated(data: bytes, rng: np.random.Generator) -> bytes:
    """A quote, comma, bracket or line end too many or too few."""
    marks = b"\"',:;{}[]<>/&\t\r\n\\"
    mark = marks[int(rng.integers(len(marks)))]
    if rng.random() < 0.5:
        found = [i for i, byte in enumerate(data) if byte == mark]
        if found:
            at = found[int(rng.integers(len(found)))]
            return data[:at] + data[at + 1 :]
    at = place(len(data), rng)
    return data[:at] + bytes([mark]) + data[at:]


def relined(data: bytes, rng: np.random.Generator) -> bytes:
    """A line is missing, comes twice, is empty, or has moved."""
    lines = data.splitlines(keepends=True) or [b""]
    at, to = (int(rng.integers(len(lines))) for _ in range(2))
    match int(rng.integers(4)):
        case 0:
            del lines[at]
        case 1:
            lines.insert(to, lines[at])
        case 2:
            lines.insert(to, b"\n")
        case _:
            lines.insert(to, lines.pop(at))
    return b"".join(lines)


def lengthened(data: bytes, rng: np.random.Generator) -> bytes:
    """A field of 200 kB, or brackets a hundred thousand deep."""
    at = place(len(data), rng)
    more = (b"x" * 200_000, b"[" * 100_000, b'{"a":' * 100_000, b"<a>" * 100_000)
    return data[:at] + more[int(rng.integers(len(more)))] + data[at:]


TEXT: tuple[Mutator, ...] = (
    *(renumbered, renumbered, renumbered, miscoded, mispunctuated, mispunctuated),
    *(relined, lengthened, truncated, flipped, blanked, deleted, repeated, foreign),
)
"""For tables, headers and markup."""


def retyped(data: bytes, rng: np.random.Generator) -> bytes:
    """A node of a JSON document is of another type, missing, or there twice."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return mispunctuated(data, rng)
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = node if isinstance(node, dict) else range(len(node))
        for key in list(keys):
            nodes.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    value = VALUES[int(rng.integers(len(VALUES)))]
    if isinstance(tree, dict | list):
        walk(tree)
    if not nodes or rng.random() < 0.03:
        return json.dumps(value).encode()
    node, key = nodes[int(rng.integers(len(nodes)))]
    if rng.random() < 0.2:
        del node[key]
    elif isinstance(node, dict) and rng.random() < 0.15:
        node[f"{key}_"] = node.pop(key)
    else:
        node[key] = value
    return json.dumps(tree).encode()


JSON: tuple[Mutator, ...] = (retyped,) * 12 + TEXT
"""For JSON, and line by line for JSONL."""


def one_line(mutator: Mutator) -> Mutator:
    """Damages one line of many."""

    def in_one_line(data: bytes, rng: np.random.Generator) -> bytes:
        lines = data.splitlines() or [b""]
        at = int(rng.integers(len(lines)))
        lines[at] = mutator(lines[at], rng)
        return b"\n".join(lines) + b"\n"

    return in_one_line


def entities(data: bytes, rng: np.random.Generator) -> bytes:
    """XML whose entities stand for each other a billion times, or for a local file."""
    bomb = b'<!DOCTYPE a [<!ENTITY e0 "ha">' + b"".join(
        b'<!ENTITY e%d "%s">' % (i, b"&e%d;" % (i - 1) * 10) for i in range(1, 10)
    )
    local = b'<!DOCTYPE a [<!ENTITY e9 SYSTEM "file:///etc/hostname">'
    found = [m.end() for m in re.finditer(rb">", data)] or [0]
    at = found[int(rng.integers(len(found)))]
    kind = (bomb, local)[int(rng.integers(2))]
    body = re.sub(rb"<\?xml.*?\?>", b"", data[:at]) + b"&e9;" + data[at:]
    return kind + b"]>" + body


XML: tuple[Mutator, ...] = (*TEXT, entities)
"""For markup."""
JSONL: tuple[Mutator, ...] = (one_line(retyped),) * 6 + TEXT
"""For one JSON document a line."""


def mutate(
    data: bytes, mutators: Sequence[Mutator], rng: np.random.Generator
) -> tuple[bytes, str]:
    """A damaged copy, and what was done: one kind of damage, now and then two."""
    one = mutators[int(rng.integers(len(mutators)))]
    data, names = one(data, rng), [one.__name__]
    if rng.random() < 0.1:  # the second is of bytes: what is damaged may not unpack
        one = BYTES[int(rng.integers(len(BYTES)))]
        data, names = one(data, rng), [*names, one.__name__]
    return data, " + ".join(names)
