"""JSON is read strictly, and a dataclass comes back only with the types it declares."""

import dataclasses
import json
from typing import Any, Literal

import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.data.documents import fits, read_json, revive


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 3


@dataclasses.dataclass(frozen=True)
class Outer:
    rate: float
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    inner: Inner = Inner()
    dtype: np.dtype = np.dtype("f4")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', "[" * 10**5],
    ids=lambda text: text[:15],
)
def test_what_is_no_object_or_no_number_is_refused_by_name(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(DataError, match="config.json.*settings"):
        read_json(path, "settings")
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="config.json.*settings"):
        read_json(path, "settings")


def test_a_dataclass_comes_back_whole():
    made = Outer(1.0, "b", (1, 2), Inner(7), np.dtype("f8"))
    kept = {**dataclasses.asdict(made), "sizes": [1, 2], "dtype": "float64"}
    assert revive(Outer, kept, {np.dtype: np.dtype}) == made
    assert revive(Outer, {"rate": 2}) == Outer(2)


def test_tuples_and_what_is_in_them_come_back_to_any_depth():
    @dataclasses.dataclass(frozen=True)
    class Deep:
        kernels: tuple[tuple[int, ...], ...]
        parts: tuple[Inner, ...] = ()
        chosen: tuple[int, ...] | None = None

    made = Deep(((3, 3), (1, 3)), (Inner(1), Inner(2)), (4,))
    again = revive(Deep, json.loads(json.dumps(dataclasses.asdict(made))))
    assert again == made and hash(again) == hash(made)
    assert revive(Outer, {"rate": 1, "inner": Inner(5)}).inner == Inner(5)
    assert fits(Inner(5), Inner | Deep) and not fits(Inner(5), Deep)
    with pytest.raises(ValueError, match="Inner.width: expected int"):
        revive(Deep, {"kernels": [[3]], "parts": [{"width": "x"}]})


@pytest.mark.parametrize(
    "change, told",
    [
        ({"rate": "fast"}, "Outer.rate: expected float, got 'fast'"),
        ({"rate": True}, "Outer.rate"),
        ({"kind": "c"}, "Outer.kind"),
        ({"sizes": [1, None]}, "Outer.sizes"),
        ({"inner": 3}, "expected the fields of Inner, got 3"),
        ({"inner": {"width": 1.5}}, "Inner.width: expected int, got 1.5"),
        ({"depth": 3}, "Outer has no field 'depth'"),
    ],
)
def test_a_field_of_another_type_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        revive(Outer, {"rate": 1.0, **change})


@pytest.mark.parametrize(
    "value, hint, expected",
    [
        (3, float, True),
        (3.5, int, False),
        (None, int | None, True),
        ([1, "x"], tuple[int, str], True),
        ([1], tuple[int, str], False),
        ({"a": [1]}, dict[str, list[int]], True),
        ({"a": ["1"]}, dict[str, list[int]], False),
        (1, Literal[True], False),
        ([[]], Any, True),
    ],
)
def test_what_json_holds_stands_for_a_type_or_not(value, hint, expected):
    assert fits(value, hint) is expected
