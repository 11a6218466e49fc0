"""Tables in any encoding; what does not fit is a fault with file and line, unquoted."""

import gzip
import json

import pytest

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger, OnError
from medjax.data.tables import read_jsonl, read_table

SECRET = "DOE_JANE"
ROWS = [("1", f"{SECRET}, clear."), ("2", "39°C, no fever."), ("3", "Fine.")]


def quiet(on_error: OnError = "skip") -> Ledger:
    return Ledger(on_error, log=lambda line: None)


def csv_text(rows=ROWS, header="id,text"):
    return "\n".join([header, *(f'{i},"{text}"' for i, text in rows)]) + "\n"


def faults(ledger):
    """Where the faults are; that none of them quotes a cell is checked here."""
    assert SECRET not in "".join(s.id + s.reason for s in ledger.skipped)
    return [skip.id for skip in ledger.skipped]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_usual_encoding_is_read(tmp_path, encoding, packed):
    pack = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    table = tmp_path / f"a.csv{end}"
    table.write_bytes(pack(csv_text().encode(encoding)))
    found = [
        tuple(row.values()) for _, row in read_table(table, ["id"], ledger=quiet())
    ]
    assert found == ROWS
    lines = [json.dumps({"id": i, "text": t}, ensure_ascii=False) for i, t in ROWS]
    lines = tmp_path / f"a.jsonl{end}", "\r\n".join(lines)
    lines[0].write_bytes(pack(lines[1].encode(encoding)))
    found = [tuple(r.values()) for _, r in read_jsonl(lines[0], ["id"], ledger=quiet())]
    assert found == ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_broken_byte_does_not_make_utf8_another_encoding(tmp_path, end):
    path = tmp_path / "a.csv"
    text = csv_text([*ROWS, ("4", f"{SECRET}, über 38°C.")]).replace("\n", end).encode()
    path.write_bytes(text.replace("ü".encode(), b"\xc3"))
    with pytest.raises(DataError, match="a.csv:5: UTF-8 with broken bytes") as caught:
        read_table(path, ["id"], ledger=quiet())
    assert SECRET not in str(caught.value)


def test_another_encoding_is_said_or_refused(tmp_path, capsys):
    path = tmp_path / "a.csv"
    # Two letters that are one of UTF-8, among others that are none.
    rows = [("1", "Spaß“ für alle."), ("2", "39°C")]
    path.write_bytes(csv_text(rows).encode("cp1252"))
    found = read_table(path, ["id"], ledger=quiet())
    assert [row["text"] for _, row in found] == [text for _, text in rows]
    assert capsys.readouterr().out == f"{path}: no UTF-8, read as Windows-1252\n"
    path.write_bytes(csv_text(rows).encode("cp1252").replace(b"\xb0", b"\x81"))
    with pytest.raises(DataError, match="a.csv:3: neither UTF-8 nor Windows-1252"):
        read_table(path, ["id"], ledger=quiet())


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\u2028two"}\n{"text": "three"}\n')
    assert [n for n, _ in read_jsonl(path, ["text"], ledger=quiet("raise"))] == [1, 2]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cells_of_several_lines_and_blank_lines(tmp_path, end):
    path = tmp_path / "a.csv"
    text = 'id,text,\n\n1,"two\nlines",\n,,\n2, plain ,\n\n'
    path.write_bytes(text.replace("\n", end).encode())
    found = read_table(path, ["id", "text"], ledger=quiet("raise"))
    rows = [(n, row["id"], row["text"]) for n, row in found]
    assert rows == [(3, "1", "two\nlines"), (6, "2", "plain")]


def test_a_quote_that_does_not_close_costs_one_row(tmp_path):
    path, ledger = tmp_path / "a.csv", quiet()
    text = csv_text([(str(i), "Clear.") for i in range(2000)]).splitlines()
    text[5] = f'4,"{SECRET} is clear.'
    path.write_text("\n".join(text))
    found = read_table(path, ["id"], ledger=ledger)
    assert len(found) == 1999 and faults(ledger) == ["a.csv:6"]
    with pytest.raises(DataError, match="a.csv:6: no CSV record"):
        read_table(path, ["id"], ledger=quiet("raise"))


@pytest.mark.parametrize(
    "line", [f"2,{SECRET},x", "2", f'2,"{SECRET}" x', "2," + "x" * 200_000]
)
def test_a_row_that_does_not_fit_is_listed(tmp_path, line):
    path, ledger = tmp_path / "a.csv", quiet()
    path.write_text(f"id,text\n1,Clear.\n{line}\n3,Fine.\n")
    found = read_table(path, ["id", "text"], ledger=ledger)
    assert [row["id"] for _, row in found] == ["1", "3"] and faults(ledger) == [
        "a.csv:3"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "[1, 2]",
        '"DOE_JANE"',
        '{"text": {"findings": "DOE_JANE"}}',
        '{"text": ["DOE_JANE"]}',
        '{"text": "DOE_JANE", "text": "again"}',
        '{"text": "DOE_JANE',
        "[" * 100_000,
        '{"text": ' + "1" * 5000 + "}",
    ],
)
def test_a_line_that_is_no_flat_object_is_listed(tmp_path, line):
    path, ledger = tmp_path / "a.jsonl", quiet()
    path.write_text(f'{{"text": "Clear.", "more": {{}}, "ok": true}}\n{line}\n')
    ((_, row),) = read_jsonl(path, ["text"], ledger=ledger)
    assert row == {"text": "Clear.", "more": "", "ok": "1"}
    assert faults(ledger) == ["a.jsonl:2"]


def test_a_column_that_comes_twice_is_refused_where_it_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text,x,x,text\n1,new,,,old\n")
    with pytest.raises(
        DataError, match=r"a.csv: several columns are called \['text'\]"
    ):
        read_table(path, ["id", "text"], ledger=quiet())
    assert len(read_table(path, ["id"], ledger=quiet())) == 1


def test_a_first_line_that_may_be_data_is_not_repeated(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{SECRET}.png,Clear.\n")
    with pytest.raises(DataError, match="of 2 cells, must hold the names") as caught:
        read_table(path, ["image", "text"], ledger=quiet())
    assert SECRET not in str(caught.value) and "Clear" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gzip", "cut", "zeros", "folder"])
def test_a_file_that_is_no_text_is_named(tmp_path, kind):
    path = tmp_path / "a.csv.gz"
    packed = bytearray(gzip.compress(csv_text(ROWS * 50).encode(), mtime=0))
    match kind:
        case "gzip":
            packed[40] ^= 0xFF
        case "cut":
            packed = packed[:-20]
        case "zeros":
            packed = gzip.compress(b"id,text\n1,\0\n")
    path.mkdir() if kind == "folder" else path.write_bytes(packed)
    with pytest.raises(DataError, match="a.csv.gz"):
        read_table(path, ["id"], ledger=quiet())
    with pytest.raises(FileNotFoundError, match="no.csv"):
        read_table(tmp_path / "no.csv", ["id"], ledger=quiet())


def test_a_line_break_that_is_lost_takes_no_cell_into_the_message(tmp_path):
    """The first row then stands in the first line, behind the names."""
    path = tmp_path / "a.csv"
    path.write_text(csv_text().replace("\n", ",", 1))
    with pytest.raises(DataError, match=r"no column \['view'\], the first") as told:
        list(read_table(path, ["id", "view"], ledger=quiet("raise")))
    assert SECRET not in str(told.value)
    path.write_text(
        "id,No Finding,Follow-up #,OriginalImage[Width,Height],\n1,2,3,4,5,\n"
    )
    with pytest.raises(DataError, match=r"'Follow-up #', 'OriginalImage\[Width'"):
        list(read_table(path, ["id", "view"], ledger=quiet("raise")))
