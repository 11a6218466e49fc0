"""Films with labels: which of them may be learned from, whatever set they come from."""

import dataclasses

import numpy as np
import pytest

from medjax.data.boundary import DataError
from medjax.data.record_writer import write_records
from medjax.data.records import Field
from medjax.vlp.labelled import LabelledConfig, open_labelled

TRAIN = 20
SHOWN = (3, 8, 15)
"""Training films with a pneumothorax; all the others are called normal."""


@pytest.fixture(scope="module")
def pneumothorax(tmp_path_factory):
    """A prepared set of 20 films to train on, two each to validate and to test."""
    fields = {
        "image": Field("array", (8, 8), "uint8"),
        "lesions": Field("array", (None, 8), "uint8"),
        "lesion_findings": Field("array", (None,), "int32"),
        "labels": Field("array", (2,), "float32"),
        "patient": Field("array", (), "int32"),
        "id": Field("text"),
    }
    folder = tmp_path_factory.mktemp("labelled") / "set"
    with write_records(folder, name="chests", fields=fields) as writer:
        for i in range(TRAIN + 4):
            split = "train" if i < TRAIN else ("valid", "test")[i // 2 % 2]
            shows = int(i in SHOWN or (i >= TRAIN and i % 2 == 0))
            row = {
                "image": np.full((8, 8), i, np.uint8),
                "lesions": np.full((shows, 8), 255, np.uint8),
                "lesion_findings": np.zeros(shows, np.int32),
                "labels": np.array([shows, 1 - shows], np.float32),
                "patient": np.int32(i),
                "id": str(i),
            }
            writer.add(split, row)
        writer.metadata.update(finding_names=["Pneumothorax", "Normal"], image_size=8)
    return folder


def trained_on(folder, **flags):
    config = LabelledConfig(data=folder, balance=True, **flags)
    data = open_labelled(config, folder, image_size=8, resize="mgca")
    return [int(name) for name in data.parts["train"].ids], data


@pytest.mark.parametrize("target", [("Pneumothorax",), ("mask",), ("boxes",)])
def test_films_that_show_nothing_are_as_many_as_those_that_do(pneumothorax, target):
    ids, data = trained_on(pneumothorax, target=target)
    assert set(SHOWN) < set(ids) and len(set(ids)) == 2 * len(SHOWN)
    assert data.lines()[-2] == "training on 6 of 6 films, balanced out of 20"
    assert len(data.parts["valid"]) == len(data.parts["test"]) == 2
    other, _ = trained_on(pneumothorax, target=target, seed=1)
    assert set(SHOWN) < set(other) and other != ids
    # The share is taken of what is balanced.
    half, data = trained_on(pneumothorax, target=target, fraction=0.5)
    assert len(half) == 3 and set(half) < set(ids)
    assert "training on 3 of 6 films, balanced out of 20" in data.lines()


def test_nothing_is_made_up_to_balance(pneumothorax):
    """Three quarters show it: all are kept, and none comes twice."""
    ids, data = trained_on(pneumothorax, target=("Normal",))
    assert ids == list(range(TRAIN)) and "training on 20 of 20 films" in data.lines()
    with pytest.raises(DataError, match="none of the 20 training films shows what"):
        trained_on(pneumothorax, target=("mask", "Normal"))
    with pytest.raises(DataError, match=r"no \['Mass'\] among the labels"):
        trained_on(pneumothorax, target=("boxes", "Mass"))


def test_what_is_said_of_the_target():
    films = LabelledConfig(target=("Edema", "Mass"))
    assert not films.places and films.findings == ("Edema", "Mass")
    placed = dataclasses.replace(films, target=("mask", "Mass"))
    assert placed.places and placed.findings == ("Mass",)
