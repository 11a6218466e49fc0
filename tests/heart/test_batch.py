"""A batch's fields fit each other, or one sentence says which does not."""

import numpy as np
import pytest

from medjax.heart.batch import AXES, check

SIZES = {"b": 2, "d": 4, "v": 2, "h": 8, "w": 6, "p": 6, "n": 10, "m": 5, "q": 7}


def batch(**changes):
    """A batch of zeros with some fields put differently."""
    whole = {
        name: np.zeros([SIZES.get(a) or int(a) for a in axes.split()], np.float32)
        for name, axes in AXES.items()
    }
    for name in ("labels", "contour_surface"):
        whole[name] = whole[name].astype(np.int32)
    return {**whole, **changes}


def test_the_sizes_of_a_batch():
    assert check(batch(), list(AXES)) == SIZES
    without = {name: a for name, a in batch().items() if name != "lax"}
    assert "v" not in check(without, ["sax"])


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("planes", np.zeros((2, 5, 3, 3), "f4"), r"planes has shape \(2, 5, 3, 3\), "),
        ("planes", np.zeros((2, 5, 3, 3), "f4"), r"expected \(2 6 3 3\), axes b p 3 3"),
        ("lax", np.zeros((2, 2, 2, 8, 8), "f4"), r"lax .*expected \(2 2 v 8 6\)"),
        ("time", np.zeros(2), "time is float64, expected float32"),
        (
            "labels",
            np.zeros((2, 2, 6, 8, 6), "f4"),
            "labels is float32, expected int32",
        ),
    ],
)
def test_what_does_not_fit_is_named(field, value, told):
    with pytest.raises(ValueError, match=told):
        check(batch(**{field: value}), [field])


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"no \['sax'\], expected \['sax', 'planes'\]"):
        check({"planes": np.zeros((2, 6, 3, 3), np.float32)}, ["sax", "planes"])
