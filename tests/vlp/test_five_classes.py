"""CheXpert 5x200: which films may be of it, drawn alike anywhere, and its measure."""

import csv

import numpy as np
import pytest

from experiments import retrieve
from experiments.prepare import five_classes as door
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.vlp.datasets.five_classes import CLASSES, FiveClasses, only, write_list
from medjax.vlp.datasets.study import CHEXPERT_FINDINGS
from medjax.vlp.prompts import prompts

BLANK = dict.fromkeys(CHEXPERT_FINDINGS, "")


def test_a_film_shows_one_finding_alone():
    absent = dict.fromkeys(CHEXPERT_FINDINGS, "0.0")
    for row, others, expected in [
        (BLANK | {"Edema": "1.0"}, "blank", "Edema"),
        (BLANK | {"Edema": "1.0"}, "zero", None),
        (absent | {"Edema": "1.0"}, "zero", "Edema"),
        (BLANK | {"Edema": "1.0", "No Finding": "1.0"}, "blank", "Edema"),
        (BLANK | {"Edema": "1.0", "Cardiomegaly": "1"}, "blank", None),
        (BLANK | {"Edema": "1.0", "Fracture": "1.0"}, "blank", None),
        (BLANK | {"Edema": "1.0", "Consolidation": "-1.0"}, "blank", None),
        (BLANK | {"Fracture": "1.0"}, "blank", None),
    ]:
        assert only(row, others) == expected, (row, others)


@pytest.fixture
def tree(tmp_path):
    """A table of eight films for each finding, one lateral film, one with two."""
    rows = []
    for k, name in enumerate(CLASSES):
        for i in range(8):
            path = f"CheXpert-v1.0-small/train/patient{k}{i}/study1/view1_frontal.jpg"
            row = BLANK | {name: "1.0", "Path": path, "Frontal/Lateral": "Frontal"}
            rows.append(row)
    rows.append(rows[0] | {"Path": "a/train/p/s/l.jpg", "Frontal/Lateral": "Lateral"})
    rows.append(rows[0] | {"Path": "a/train/p/s/f.jpg", CLASSES[1]: "1.0"})
    root = tmp_path / "CheXpert-v1.0-small"
    root.mkdir()
    with (root / "train.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return tmp_path


def quiet():
    return Ledger("raise", log=lambda line: None)


def test_the_list_is_the_same_wherever_it_is_drawn(tree, tmp_path, capsys):
    films = FiveClasses(tree, each=5).draw(quiet())
    names = [name for _, name in films]
    assert names == [name for name in CLASSES for _ in range(5)]
    assert len({film for film, _ in films}) == 25
    digest = write_list(tmp_path / "one.csv", films)
    out = tmp_path / "five.csv"
    door.main(["--root", str(tree), "--each", "5", "--out", str(out)])
    assert out.read_text() == (tmp_path / "one.csv").read_text()
    assert f"(25 films); sha256 {digest[:16]}" in capsys.readouterr().out
    other = FiveClasses(tree, each=5, seed=1).draw(quiet())
    assert write_list(tmp_path / "two.csv", other) != digest
    with pytest.raises(DataError, match="8 films show Atelectasis alone, expected 9"):
        FiveClasses(tree, each=9).draw(quiet())


def test_precision_is_of_classes_that_both_sides_name():
    """Queries in the corner of their class; ten of each in the corpus, with noise."""
    rng = np.random.default_rng(0)
    corner = np.eye(3)
    classes = [name for name in "abc" for _ in range(10)]
    rows = np.repeat(corner, 10, axis=0) + rng.normal(0, 0.01, (30, 3))
    corpus = retrieve.Side(classes, {}, rows, classes)
    queries = retrieve.Side(list("ac"), {}, corner[[0, 2]], ["a", "b"])
    found = retrieve.precision(queries, corpus)
    assert found["P@5"] == {"a": 1.0, "b": 0.0, "macro": 0.5}
    assert found["chance"]["a"] == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="the same, got"):
        retrieve.precision(queries._replace(classes=["a", "d"]), corpus)


def test_published_wordings_say_what_was_published():
    assert prompts("Pleural Effusion", "chexzero") == (
        ("Pleural Effusion",),
        ("no Pleural Effusion",),
    )
    assert prompts("Pneumonia", "biovil") == (
        ("Findings suggesting pneumonia.",),
        ("No evidence of pneumonia.",),
    )
    assert len(prompts("Pneumonia")[0]) > 1
