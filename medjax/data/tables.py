"""Tables as people keep them: CSV, TSV and JSONL, gzipped, in any usual encoding.

A row or a header that does not fit is a fault: it is raised or listed with the file's
name and the line, never bent into shape. What a cell holds may be anything about a
patient and is in no message; names of columns are, once it is sure that they are names.
"""

import csv
import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medjax.data.boundary import DataError, reading
from medjax.data.ledger import Ledger
from medjax.progress import say

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
NAME = re.compile(r"([^\W\d][\w \-/:#()\[\]]*|[\w /]*\])?")
"""What names of columns look like, odd ones of public tables included; no sentence."""
BROKEN = re.compile(r"[\udc80-\udcff]")
"""What bytes that are no UTF-8 become in ``surrogateescape``."""
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
Row = dict[str, str]
Numbered = list[tuple[int, Row]]
"""Rows with the line of the file that each begins in."""


def read_text(path: Path) -> str:
    """A text file in UTF-8, UTF-16 or UTF-32, or else in Windows-1252, which is said.

    Args:
        path: Ends in ``.gz`` if gzipped.

    Returns:
        The text, its lines ended by ``\\n`` alone.

    Raises:
        FileNotFoundError: No such file.
        DataError: It cannot be read, is no intact gzip, is UTF-8 with broken bytes, or
            holds bytes that no text has.
    """
    with reading(path, "text file", quote=False):
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        marks = [
            name
            for mark, name in BYTE_ORDER_MARKS.items()
            if raw[:4][: len(mark)] == mark
        ]
        if marks:
            text = raw.decode(marks[0])
        else:
            if b"\0" in raw:
                raise DataError(f"{path}: holds zero bytes, so it is no text file")
            text = _unmarked(path, raw)
    return _lines(text)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _unmarked(path: Path, raw: bytes) -> str:
    """Text without a byte order mark: UTF-8, or what spreadsheets on Windows write.

    In a text of Windows-1252 most letters beyond ASCII are no UTF-8. Where most are,
    it is UTF-8 that was damaged, and every such letter would be read wrong.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = _lines(raw.decode(errors="surrogateescape"))
    broken = BROKEN.findall(text)
    if len(broken) <= len(BEYOND_ASCII.findall(text)) - len(broken):
        line = text[: text.index(broken[0])].count("\n") + 1
        raise DataError(
            f"{path}:{line}: UTF-8 with broken bytes ({len(broken)} in all, the first "
            "in this line)"
        )
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError as error:
        line = _lines(raw[: error.start].decode("cp1252")).count("\n") + 1
        raise DataError(f"{path}:{line}: neither UTF-8 nor Windows-1252") from None
    say(f"{path}: no UTF-8, read as Windows-1252")
    return text


def read_table(
    path: Path, required: Sequence[str], *, ledger: Ledger, delimiter: str = ","
) -> Numbered:
    """Rows of a CSV file, with cells stripped.

    Args:
        path: Ends in ``.gz`` if gzipped.
        required: Columns that must be there.
        ledger: Receives rows that do not fit the header.
        delimiter: Between cells.

    Returns:
        Every row that fits, by column.

    Raises:
        FileNotFoundError: No such file.
        DataError: The file cannot be read, lacks a column or has one twice; or on the
            first row that does not fit, unless faults are skipped.
    """
    records = read_records(path, ledger=ledger, delimiter=delimiter)
    _, first = next(records, (0, []))
    header = [column.strip() for column in first]
    check_columns(path, header, required)
    rows = []
    for line, cells in records:
        if len(cells) > len(header) and not any(
            c.strip() for c in cells[len(header) :]
        ):
            cells = cells[: len(header)]  # commas at the end of a line
        if len(cells) != len(header):
            fault = f"{len(cells)} cells, the header has {len(header)}"
            ledger.fault(f"{path.name}:{line}", fault)
            continue
        rows.append((line, {k: v.strip() for k, v in zip(header, cells, strict=True)}))
    return rows


def read_records(
    path: Path, *, ledger: Ledger, delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Records of a CSV file by position, each with the line it begins in.

    Empty lines are passed over. A record that is not well formed (a quote that does not
    close, a cell of more than 131,072 characters) is a fault of the line it begins in,
    and reading goes on with the next line.

    Raises:
        FileNotFoundError: No such file.
        DataError: As for `read_table`.
    """
    lines = [f"{line}\n" for line in read_text(path).split("\n")]
    begin = 0
    while begin < len(lines):
        rest = (lines[i] for i in range(begin, len(lines)))
        reader = csv.reader(rest, delimiter=delimiter, strict=True)
        done = 0
        try:
            for record in reader:
                if any(cell.strip() for cell in record):
                    yield begin + done + 1, record
                done = reader.line_num
            return
        except csv.Error as error:
            # Its text tells of quotes and lengths, not of what a cell holds.
            ledger.fault(f"{path.name}:{begin + done + 1}", f"no CSV record ({error})")
            begin += done + 1


def read_jsonl(
    path: Path,
    required: Sequence[str],
    *,
    ledger: Ledger,
    nested: Sequence[str] = (),
) -> Numbered:
    """Rows of a file with one JSON object a line.

    Args:
        path: Ends in ``.gz`` if gzipped.
        required: Keys that some line must have; where a line lacks one, its cell is
            empty.
        ledger: Receives lines that are no object, or hold a list or an object under a
            required key.
        nested: Keys that may hold a list or an object, which stays JSON.

    Returns:
        Numbers as text, true and false as 1 and 0, null as nothing.

    Raises:
        FileNotFoundError: No such file.
        DataError: As for `read_table`.
    """
    rows: Numbered = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            found = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            ledger.fault(where, f"no JSON object ({error})")
            continue
        except (ValueError, RecursionError) as error:
            ledger.fault(where, f"no JSON object ({type(error).__name__})")
            continue
        if not isinstance(found, dict):
            ledger.fault(where, "no JSON object")
            continue
        nests = [k for k, v in found.items() if isinstance(v, dict | list)]
        if wrong := [k for k in required if k in nests and k not in nested]:
            ledger.fault(where, f"{wrong}: expected text or a number, got a nest")
            continue
        kept = {k: json.dumps(found[k]) for k in nests if k in nested}
        rows.append((number, {k: _cell(v) for k, v in found.items()} | kept))
    # A key may be absent from a line; one that no line has is a mistake.
    columns = list(dict.fromkeys(k for _, row in rows for k in row))
    missing = [column for column in required if column not in columns]
    if missing:
        shown = [key[:40] for key in columns[:40]]
        raise DataError(f"{path}: no key {missing}, the keys are {shown}")
    return [(n, dict.fromkeys(columns, "") | row) for n, row in rows]


def check_columns(path: Path, header: Sequence[str], required: Iterable[str]) -> None:
    """Refuse a table that lacks a column, or has one twice.

    Raises:
        DataError: Naming the columns at fault. Those that came are named only if one of
            them was asked for and all read like names: the first line of a table
            without header is data, and so is what a lost line break joins to it.
    """
    required = list(required)
    missing = [column for column in required if column not in header]
    if len(missing) < len(required) and all(map(NAME.fullmatch, header)):
        shown = [name if len(name) < 40 else f"{name[:40]}..." for name in header[:40]]
        known = f"the columns are {shown}"
    else:
        none = "and none of those asked for: " if len(missing) == len(required) else ""
        known = (
            f"{none}the first line, of {len(header)} cells, must hold the names of the "
            "columns"
        )
    if missing:
        raise DataError(f"{path}: no column {missing}, {known}")
    twice = [column for column in dict.fromkeys(required) if header.count(column) > 1]
    if twice:
        raise DataError(f"{path}: several columns are called {twice}, {known}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None or isinstance(value, dict | list) else str(value).strip()
