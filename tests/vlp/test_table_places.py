"""Masks and boxes of a table: read, gathered, refused, and learned from."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medjax.data.boundary import DataError
from medjax.data.images import read_image
from medjax.data.ledger import Ledger
from medjax.data.records import RecordSource
from medjax.vlp.datasets import PrepareConfig, Table, prepare
from medjax.vlp.datasets.lesions import read_mask, unpack
from medjax.vlp.datasets.prepare import _request
from medjax.vlp.datasets.table import LESION, boxes_of
from medjax.vlp.labelled import LabelledConfig, open_labelled
from medjax.vlp.placed import place_films

FOUR = ("x", "y", "width", "height")


def quiet(on_error="raise"):
    return Ledger(on_error, log=lambda line: None)


def save(path, pixels):
    Image.fromarray(pixels).save(path)


@pytest.fixture
def films(tmp_path):
    """Three films of 40 x 20 pixels for each split."""
    rng = np.random.default_rng(0)
    for i in range(9):
        save(tmp_path / f"{i}.png", rng.integers(0, 256, (20, 40), np.uint8))
    return tmp_path


def table(folder, header, rows, name="films.csv"):
    text = "\n".join([header, *rows]) + "\n"
    (folder / name).write_text(text)
    return folder / name


def boxed(films, more=()):
    """Film 0 has two boxes in two rows, 1 has none, 2 has one, and so on."""
    rows = []
    for i in range(9):
        split = ("train", "valid", "test")[i // 3]
        cells = [["2,4,10,8", "20,0,16,20"], [",,,"], ["30,10,10,10"]][i % 3]
        rows += [f"{i}.png,{split},{cell}" for cell in cells]
    return table(films, "image,split,x,y,width,height", [*rows, *more])


def test_boxes_of_a_film_are_gathered_from_its_rows(films):
    studies = Table(boxed(films), text=None, boxes=FOUR).read(quiet())
    assert [s.id for s in studies] == [f"{i}.png" for i in range(9)]
    assert studies[0].boxes == ((2, 4, 10, 8), (20, 0, 16, 20))
    assert [len(s.boxes) for s in studies] == [2, 0, 1] * 3
    assert [s.labels[LESION] for s in studies[:3]] == [1, 0, 1]
    path = boxed(films, ["0.png,test,1,1,2,2"])
    with pytest.raises(DataError, match="films.csv:14: says something else .* line 2"):
        Table(path, text=None, split="split", boxes=FOUR).read(quiet())
    # Without them a film in two rows is the mistake that it always was.
    with pytest.raises(DataError, match="duplicate id"):
        prepare(Table(path, text=None), films / "set", ledger=quiet())


def test_all_boxes_of_a_film_in_one_cell(films):
    found = [[2, 4, 12, 12], [20, 0.5, 36, 20]]
    lines = [{"image": "0.png", "boxes": found}, {"image": "1.png", "boxes": []}]
    lines += [{"image": "2.png", "boxes": None}, {"image": "3.png"}]
    path = films / "films.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    cell = f'0.png,"{json.dumps(found)}"'
    other = table(films, "image,boxes", [cell, "1.png,[]", "2.png,", "3.png,"])
    for file in (path, other):
        flags = {"text": None, "boxes": ("boxes",), "corners": True}
        studies = Table(file, **flags).read(quiet())
        assert studies[0].boxes == ((2, 4, 10, 8), (20, 0.5, 16, 19.5))
        assert [s.labels[LESION] for s in studies] == [1, 0, 0, 0]
    with pytest.raises(DataError, match=r"films.jsonl:1: .*'boxes'.*got a nest"):
        Table(path, text=None, labels=("boxes",)).read(quiet())


@pytest.mark.parametrize(
    ("cells", "corners", "message"),
    [
        (["SECRET"], False, r"expected JSON, \[\[x, y"),
        (["[1, 2, 3, 4]"], False, "expected JSON"),
        (["[[1, 2, 3]]"], False, "expected JSON"),
        (["[[1, 2, 3, 1e999]]"], False, "expected JSON"),
        ([f"[[1, 2, 3, {10**400}]]"], False, "expected JSON"),
        (["1", "2", "", "4"], False, "four numbers, or four empty cells"),
        (["1", "2", "nan", "4"], False, "four numbers"),
        (["[[1, 2, 3, 4], [1, 2, 0, 4]]"], False, "box 2: expected width and height"),
        (["5", "2", "3", "4"], True, "box 1: expected x0 < x1"),
    ],
)
def test_boxes_that_are_none_are_named_by_their_line(films, cells, corners, message):
    with pytest.raises(DataError, match=message) as caught:
        boxes_of(cells, corners=corners)
    assert "SECRET" not in str(caught.value)
    columns = ["a", "b", "c", "d"][: len(cells)]
    row = ",".join(f'"{cell}"' for cell in cells)
    path = table(films, f"image,{','.join(columns)}", [f"0.png,{row}"])
    reader = Table(path, text=None, boxes=tuple(columns), corners=corners)
    with pytest.raises(DataError, match=f"films.csv:2 .0.png.: .*{message}"):
        reader.read(quiet())


def test_flags_that_do_not_go_together_are_refused(films):
    path = boxed(films)
    with pytest.raises(DataError, match=r"one column or four, got \['x', 'y'\]"):
        Table(path, text=None, boxes=("x", "y")).read(quiet())
    with pytest.raises(DataError, match="name the column of images"):
        Table(path, image=None, text=None, boxes=FOUR).read(quiet())
    with pytest.raises(DataError, match=r"no column \['mask'\]"):
        Table(path, text=None, mask="mask").read(quiet())
    config = LabelledConfig(path, target=("mask",))
    with pytest.raises(DataError, match="says where lesions are by --mask or --boxes"):
        open_labelled(config, films / "run", image_size=40, resize="mgca")


def test_a_mask_is_zero_and_one_other_value_as_large_as_its_film(tmp_path):
    mask = np.zeros((20, 40), np.uint8)
    mask[4:12, 2:12] = 1
    path = tmp_path / "mask.png"
    for value in (1, 255):
        save(path, mask * np.uint8(value))
        np.testing.assert_array_equal(read_mask(path, (20, 40)), mask)
    save(path, mask.astype(bool))
    np.testing.assert_array_equal(read_mask(path, (20, 40)), mask)
    save(path, mask * 0)
    assert not read_mask(path, (20, 40)).any()
    with pytest.raises(DataError, match="mask.png: a mask of 40 x 20 .* has 20 x 40"):
        read_mask(path, (40, 20))
    several = mask * np.uint8(7)
    several[0, 0] = 3
    save(path, several)
    with pytest.raises(DataError, match="of 3 values from 0 to 7, expected 0 where"):
        read_mask(path, (20, 40))
    blurred = tmp_path / "mask.jpg"
    save(blurred, mask * np.uint8(255))
    assert len(np.unique(read_image(blurred))) > 2
    with pytest.raises(DataError, match="values from .*save it as PNG"):
        read_mask(blurred, (20, 40))


def masked(films):
    """The first film of a split has a lesion, the second a black mask, one no mask."""
    mask = np.zeros((20, 40), np.uint8)
    mask[4:12, 2:12] = 255
    rows = []
    for i in range(9):
        split = ("train", "valid", "test")[i // 3]
        if i % 3 < 2:
            save(films / f"{i}_mask.png", mask * np.uint8(i % 3 == 0))
        rows.append(f"{i}.png,{split},{f'{i}_mask.png' if i % 3 < 2 else ''}")
    return table(films, "image,split,mask", rows), mask > 0


@pytest.mark.parametrize("kind", ["mask", "boxes"])
def test_masks_of_a_table_are_learned_from(films, kind):
    path, mask = masked(films)
    config = LabelledConfig(path, target=(kind,), split="split", mask="mask")
    config = dataclasses.replace(config, balance=True)
    data = open_labelled(config, films / "run", image_size=40, resize="mgca")
    # One film shows a lesion, so that one other is left of two.
    assert data.names == (LESION,) and len(data.parts["train"]) == 2
    np.testing.assert_array_equal(data.parts["test"].labels, [[1], [0], [0]])
    part = place_films(data, kind=kind, findings=())["test"]
    if kind == "mask":
        expected = np.pad(mask, ((10, 10), (0, 0)))
        np.testing.assert_array_equal(part[0]["mask"], expected)
        assert not part[1]["mask"].any() and not part[2]["mask"].any()
    else:
        np.testing.assert_array_equal(part[0]["boxes"], [[2, 14, 12, 22]])


def test_boxes_of_a_table_are_learned_from_where_every_film_has_one(films):
    """No label has both answers then, which places do not need."""
    rows = [f"{i}.png,{s},2,4,10,8" for i, s in enumerate(("train", "valid", "test"))]
    path = table(films, "image,split,x,y,width,height", rows)
    config = LabelledConfig(path, target=("boxes",), split="split", boxes=FOUR)
    data = open_labelled(config, films / "run", image_size=20, resize="mgca")
    part = place_films(data, kind="boxes", findings=())["train"]
    np.testing.assert_array_equal(part[0]["boxes"], [[1, 7, 6, 11]])


def test_a_mask_that_is_missing_or_has_changed_is_found_out(films):
    path, mask = masked(films)
    reader = Table(path, text=None, split="split", mask="mask")
    config = PrepareConfig(image_size=40)
    out = prepare(reader, films / "set", config, ledger=quiet())
    assert prepare(reader, out, config, ledger=quiet()) == out
    row = RecordSource(out, "train", fields=["lesions", "lesion_findings"])[0]
    np.testing.assert_array_equal(unpack(row, 40, [0])[10:30], mask)
    save(films / "0_mask.png", mask[:, ::-1].astype(np.uint8))
    with pytest.raises(FileExistsError, match="prepared from other files"):
        prepare(reader, out, config, ledger=quiet())
    (films / "0_mask.png").unlink()
    with pytest.raises(DataError, match="csv:2 .0.png.: no mask .0_mask.png"):
        reader.read(quiet())


def test_a_set_of_a_table_without_places_is_asked_for_as_before():
    """Sets that were prepared before a table had masks and boxes are still known."""
    later = ("mask", "boxes", "corners")
    fields = [f for f in dataclasses.fields(Table) if f.name not in later]
    older = dataclasses.make_dataclass(
        "Older",
        [(f.name, f.type, dataclasses.field(default=None)) for f in fields],
        namespace={"name": "table", "has_text": True, "read": Table.read},
    )
    now = Table(Path("films.csv"))
    values = {f.name: getattr(now, f.name) for f in fields}
    config = PrepareConfig()
    before = _request(older(**values), config, None)
    assert _request(now, config, None) == before
    assert _request(dataclasses.replace(now, mask="m"), config, None) != before
