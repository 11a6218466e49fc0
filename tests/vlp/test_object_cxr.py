"""Object-CXR: annotations as the files have them, drawn, boxed, and refused."""

import numpy as np
import pytest
from PIL import Image

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.records import RecordSource
from medjax.vlp.datasets import ObjectCxr, PrepareConfig, prepare
from medjax.vlp.datasets.lesions import Shape, check_boxes, draw_shape, unpack
from medjax.vlp.datasets.object_cxr import FINDING, outlines
from medjax.vlp.labelled import LabelledConfig, open_labelled
from medjax.vlp.placed import place_films

HEAD = "image_name,annotation"
THREE = "0 8 10 28 40;1 40 10 60 30;2 70 20 90 20 90 50 70 50"
"""A rectangle, an ellipse and a polygon on a film of 100 x 60 pixels."""


def quiet(on_error="raise"):
    return Ledger(on_error, log=lambda line: None)


@pytest.fixture
def folder(tmp_path):
    """Six films to train on, two of dev; every second one has objects."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("dev", 2)):
        (tmp_path / part).mkdir()
        rows = [HEAD]
        for i in range(count):
            film = rng.integers(0, 256, (60, 100), np.uint8)
            Image.fromarray(film).save(tmp_path / part / f"{i:05}.jpg")
            rows.append(f"{i:05}.jpg,{'' if i % 2 else THREE}")
        (tmp_path / f"{part}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_rows_become_outlines_boxes_and_a_label(folder):
    studies = ObjectCxr(folder).read(quiet())
    assert [s.split for s in studies] == [""] * 6 + ["test"] * 2
    one, other = studies[:2]
    assert one.id == "train/00000" and one.image == folder / "train/00000.jpg"
    assert one.labels == {FINDING: 1.0} and other.labels == {FINDING: 0.0}
    assert one.boxes == ((8, 10, 20, 30), (40, 10, 20, 20), (70, 20, 20, 30))
    kinds = [shape.kind for shape in one.lesions[FINDING]]
    assert kinds == ["rectangle", "ellipse", "polygon"]
    assert not other.boxes and not other.lesions
    # The test set that came later makes dev what its name says.
    (folder / "dev.csv").rename(folder / "test.csv")
    (folder / "dev.csv").write_text(f"{HEAD}\n00009.jpg,\n")
    assert [s.split for s in ObjectCxr(folder).read(quiet())[6:]] == [
        "valid",
        "test",
        "test",
    ]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("3 1 2 3 4", "object 1: expected 0 .rectangle., 1"),
        ("0 1 2 3 4;", "object 2: expected 0"),
        ("0 1 2 3", "object 1: rectangle of 3 coordinates, expected 4"),
        ("0 1 2 3 4;1 5 6 7 8 9", "object 2: ellipse of 5 coordinates, expected 4"),
        ("2 1 2 3 4", "object 1: polygon of 4 coordinates, expected an even nu"),
        ("2 1 2 3 4 5 6 7", "object 1: polygon of 7 coordinates"),
        ("1 SECRET 2 3 4", "object 1: 'ellipse': expected a number"),
        ("0 1 2 nan 4", "object 1: 'rectangle': expected a number"),
        ("0 3 2 1 4", "object 1: rectangle that encloses nothing: expected x1"),
        ("2 1 1 2 1 3 1", "object 1: polygon that encloses nothing"),
    ],
)
def test_damaged_annotations_are_refused_by_file_and_line(folder, annotation, message):
    path = folder / "train.csv"
    path.write_text(path.read_text().replace("00003.jpg,", f"00003.jpg,{annotation}"))
    with pytest.raises(DataError, match=f"^train.csv:5: {message}") as caught:
        ObjectCxr(folder).read(quiet())
    assert "SECRET" not in str(caught.value)
    ledger = quiet("skip")
    studies = ObjectCxr(folder).read(ledger)
    assert len(studies) == 7 and "train/00003" not in {s.id for s in studies}
    assert [skip.id for skip in ledger.skipped] == ["train.csv:5"]


def test_tables_of_something_else_are_refused(folder):
    (folder / "dev.csv").write_text("image,label\na.jpg,1\n")
    with pytest.raises(DataError, match=r"dev.csv: no column \['image_name', 'annot"):
        ObjectCxr(folder).read(quiet())
    (folder / "dev.csv").unlink()
    with pytest.raises(DataError, match="not look like an Object-CXR folder.*dev.csv"):
        ObjectCxr(folder).read(quiet())


def test_outlines_hold_the_pixels_whose_middle_is_inside():
    rectangle, ellipse, polygon = outlines("0 2 1 5 3;1 -4 0 4 6;2 1 1 9 1 9 9 5 3 1 9")
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(draw_shape(rectangle, (6, 8)), expected)
    y, x = np.mgrid[:6, :8] + 0.5
    inside = (x / 4) ** 2 + ((y - 3) / 3) ** 2 <= 1
    np.testing.assert_array_equal(draw_shape(ellipse, (6, 8)), inside)
    # A bracket whose lower side is notched up to (5, 3); its area is 64 - 24.
    drawn = draw_shape(polygon, (12, 12))
    assert drawn[2, 4] and not drawn[5, 5] and drawn[7, 1] and drawn[7, 8]
    assert abs(int(drawn.sum()) - 40) <= 2 and not drawn[:, 9:].any()
    again = draw_shape(Shape("polygon", polygon.points[::-1]), (12, 12))
    np.testing.assert_array_equal(again, drawn)
    assert not draw_shape(Shape("ellipse", ((1e9, 0), (2e9, 4))), (6, 8)).any()


def test_a_box_that_is_of_another_film_is_refused(folder):
    check_boxes([(-2, 0, 8, 8), (6, 4, 4, 4)], (8, 8), "a")
    for boxes in ([(0, 0, 4, 4), (5, 5, 8, 8)], [(0, 0, 1, 1), (20, 20, 4, 4)]):
        with pytest.raises(DataError, match="^a: most of box 2 lies .* of 8 x 8 pix"):
            check_boxes(boxes, (8, 8), "a")
    path = folder / "train.csv"
    path.write_text(path.read_text().replace("0 8 10 28 40", "0 800 10 828 40"))
    with pytest.raises(DataError, match="train/00000: most of box 1 lies beside"):
        prepare(ObjectCxr(folder), folder / "set", ledger=quiet())


def test_objects_reach_the_prepared_set(folder):
    config = PrepareConfig(image_size=50, valid=0.0)
    out = prepare(ObjectCxr(folder), folder / "set", config, ledger=quiet())
    rows = RecordSource(out, "test", fields=["boxes", "lesions", "lesion_findings"])
    # Half the size, ten rows of black above and below.
    np.testing.assert_allclose(
        rows[0]["boxes"], [[4, 15, 14, 30], [20, 15, 30, 25], [35, 20, 45, 35]]
    )
    mask = unpack(rows[0], 50, [0])
    assert mask[15:30, 4:14].all() and mask[20:35, 35:45].all()
    assert abs(int(mask.sum()) - (150 + 25 * np.pi + 150)) < 8
    assert not unpack(rows[1], 50, [0]).any() and not len(rows[1]["boxes"])


@pytest.mark.parametrize("kind", ["mask", "boxes"])
def test_objects_that_touch_are_boxes_of_their_own(folder, kind):
    """A set that keeps boxes is not asked what hangs together in its masks."""
    for part in ("train", "dev"):
        path = folder / f"{part}.csv"
        text = path.read_text().replace(THREE, "0 10 10 40 40;0 40 10 80 40")
        path.write_text(text)
    for split in ("train", "valid", "test"):
        ids = {"train": "train/00000\ntrain/00001\n", "valid": "train/00002\n"}
        (folder / f"{split}.txt").write_text(ids.get(split, "dev/00000\ndev/00001\n"))
    lists = {f"{s}_ids": folder / f"{s}.txt" for s in ("train", "valid", "test")}
    config = LabelledConfig(
        folder, "object_cxr", (kind,), prepared=folder / "set", **lists
    )
    data = open_labelled(config, folder, image_size=100, resize="mgca")
    part = place_films(data, kind=kind, findings=())["test"]
    row = part[0]
    if kind == "boxes":
        expected = np.asarray([[10, 30, 40, 60], [40, 30, 80, 60]])
        np.testing.assert_allclose(row["boxes"], expected)
    else:
        assert row["mask"].sum() == 30 * 70 and not part[1]["mask"].any()
