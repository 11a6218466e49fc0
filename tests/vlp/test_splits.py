"""Lists of ids: matched by any usual spelling, disjoint or refused, known by a hash."""

import pytest

from medjax.data.boundary import DataError
from medjax.vlp.splits import Studies, assign, read_ids

STUDIES = Studies(
    ids=["a/1.png", "a/2.png", "b/3.png", "b/4", "c/5.png", "c/6.png"],
    patients=[1, 1, 2, 3, 4, 5],
    splits=["train", "train", "train", "valid", "test", "test"],
)
NONE = {"train": None, "valid": None, "test": None}


def lists(folder, **contents):
    files = {}
    for split, content in contents.items():
        files[split] = folder / f"{split}.{'csv' if ',' in content else 'txt'}"
        files[split].write_text(content)
    return {**NONE, **files}


def test_without_lists_the_splits_are_the_sets_own():
    found = assign(STUDIES, NONE)
    assert found.rows == {"train": [0, 1, 2], "valid": [3], "test": [4, 5]}
    assert found.shared == 0 and not any(found.unknown.values())


def test_lists_name_studies_with_or_without_suffix_and_in_any_order(tmp_path):
    given = lists(
        tmp_path,
        train="age,id\n3,a/2\n4,a/1.png\n",
        valid="b/4.jpg\nb/3\n\nnobody\nb/3\n",
        test="c/5.png\n",
    )
    found = assign(STUDIES, given)
    assert found.rows == {"train": [1, 0], "valid": [3, 2], "test": [4]}
    assert found.unknown == {"train": 0, "valid": 1, "test": 0}
    assert any("1 ids of the valid list" in line for line in found.lines())
    # The digest is of who is where: not of order, spelling or unknown ids.
    again = lists(tmp_path, train="a/1\na/2\n", valid="b/3\nb/4\n", test="c/5\n")
    assert assign(STUDIES, again).digest == found.digest
    moved = lists(tmp_path, train="a/1\na/2\n", valid="b/3\n", test="c/5\nb/4\n")
    assert assign(STUDIES, moved).digest != found.digest


def test_a_study_in_two_lists_is_refused_a_patient_in_two_is_counted(tmp_path):
    twice = lists(tmp_path, train="a/1\n", valid="a/1.png\n", test="c/5\n")
    with pytest.raises(DataError, match="1 studies are in more than one list"):
        assign(STUDIES, twice, overlaps="count")
    patient = lists(tmp_path, train="a/1\n", valid="a/2\n", test="c/5\n")
    with pytest.raises(DataError, match="1 patients are in more than one split"):
        assign(STUDIES, patient)
    found = assign(STUDIES, patient, overlaps="count")
    assert found.shared == 1 and "WARNING" in found.lines()[-1]


def test_lists_that_say_nothing_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none for \['test'\]"):
        assign(STUDIES, lists(tmp_path, train="a/1\n", valid="b/3\n"))
    other = lists(tmp_path, train="x\n", valid="b/3\n", test="c/5\n")
    with pytest.raises(DataError, match=r"train.txt: none of its 1 ids.*'a/1.png'"):
        assign(STUDIES, other)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="empty.txt: expected one id a line"):
        read_ids(tmp_path / "empty.txt")


def test_a_name_that_two_studies_share_but_for_the_suffix_is_nobodys(tmp_path):
    studies = Studies(["1.png", "1.jpg", "2"], [1, 2, 3], ["train"] * 3)
    (tmp_path / "l.txt").write_text("1\n1.png\n")
    given = dict.fromkeys(("train", "valid", "test"), tmp_path / "l.txt")
    with pytest.raises(DataError, match="in more than one list"):
        assign(studies, given)
    (tmp_path / "l.txt").write_text("1\n")
    with pytest.raises(DataError, match="none of its 1 ids"):
        assign(studies, given)
