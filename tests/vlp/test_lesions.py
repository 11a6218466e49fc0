"""Where lesions lie: run lengths, boxes and masks, of files and of drawn films."""

import numpy as np
import pytest
from scipy import ndimage

from medjax.data.boundary import DataError
from medjax.data.images import fit_square
from medjax.data.ledger import Ledger
from medjax.data.records import RecordSource
from medjax.vlp.datasets import PrepareConfig, SiimPneumothorax, prepare
from medjax.vlp.datasets.lesions import draw_runs, fill, pack, surround, unpack
from medjax.vlp.rendering import DrawnGenerator
from medjax.vlp.rendering.drawing import draw_with_lesions
from medjax.vlp.rendering.graph import Finding, FindingGraph


def runs_of(mask):
    """Relative run lengths down the columns, by walking over the pixels."""
    words, gap, length = [], 0, 0
    for pixel in mask.T.ravel():
        if pixel:
            length += 1
        elif length:
            words += [gap, length]
            gap, length = 1, 0
        else:
            gap += 1
    words += [gap, length] if length else []
    return " ".join(map(str, words))


def blobs(shape=(9, 7)):
    mask = np.zeros(shape, bool)
    mask[1:3, 2:5] = mask[6:9, 0:2] = mask[8, 6] = True
    return mask


def test_run_lengths_are_walked():
    mask = blobs()
    np.testing.assert_array_equal(draw_runs(runs_of(mask), mask.shape, "a"), mask)
    assert not draw_runs(" -1", (3, 4), "a").any()
    for wrong, message in (("1", "pairs"), ("1 x", "pairs"), ("60 9", "pixel 69")):
        with pytest.raises(DataError, match=f"film 3: .*{message}"):
            draw_runs(wrong, mask.shape, "film 3")


def test_boxes_surround_what_hangs_together_and_fill_it():
    boxes = surround(blobs())
    expected = {(2, 1, 5, 3), (0, 6, 2, 9), (6, 8, 7, 9)}
    assert {tuple(box) for box in boxes.tolist()} == expected
    filled = fill(boxes, 9)
    np.testing.assert_array_equal(filled[:, :7], blobs())
    assert surround(np.zeros((4, 4), bool)).shape == (0, 4)
    assert not fill(np.zeros((0, 4)), 5).any()


def test_packed_masks_are_unpacked_by_finding():
    rng = np.random.default_rng(0)
    masks = {name: rng.random((5, 5)) < 0.3 for name in "ac"}
    rows, which = pack({**masks, "b": np.zeros((5, 5), bool)}, "abc", 5)
    assert rows.shape == (2, 4) and which.tolist() == [0, 2]
    row = {"lesions": rows, "lesion_findings": which}
    np.testing.assert_array_equal(unpack(row, 5, [2]), masks["c"])
    np.testing.assert_array_equal(unpack(row, 5, [0, 1, 2]), masks["a"] | masks["c"])
    assert not unpack(row, 5, [1]).any()


@pytest.mark.parametrize("mode", ["mgca", "imitate"])
def test_a_mask_goes_where_its_film_goes(mode):
    """A bright square on a dark film of another shape, and its mask."""
    film = np.zeros((60, 90), np.uint8)
    film[5:55, 10:80] = 40
    film[20:40, 30:60] = 250
    square, placement = fit_square(film, 45, mode=mode)
    moved = placement.mask(film == 250, 45)
    # Averaged and interpolated borders are a pixel wide.
    assert (moved != (square > 140)).sum() <= 2 * 4 * 15
    assert moved.sum() > 100
    corners = placement.boxes(np.array([[30.0, 20, 30, 20]]))
    assert np.abs(surround(moved) - corners).max() <= 1


def test_what_a_film_shows_lies_where_it_was_drawn():
    rng = np.random.default_rng
    left = FindingGraph({"Nodule": Finding("left", "upper", "severe")})
    film, found = draw_with_lesions(left, 64, rng(3))
    (mask,) = found.values()
    assert 4 < mask.sum() < 400
    # The patient's left is at the right of the film.
    rows, columns = np.nonzero(mask)
    assert columns.min() > 28 and rows.mean() < 32
    near = ndimage.binary_dilation(mask, iterations=3) & ~mask
    assert film[mask].mean() > film[near].mean() + 10
    assert draw_with_lesions(FindingGraph({}), 64, rng(3))[1] == {}
    both = DrawnGenerator(64)
    films, masks = both.with_lesions(["There is a left nodule."], seed=1)
    np.testing.assert_array_equal(films, both(["There is a left nodule."], seed=1))
    assert masks[0]["Nodule"].any()


def test_siim_lesions_reach_the_prepared_set(tmp_path, monkeypatch):
    """Two lesions of one film, none of another; a third film has no row."""
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:15] = mask[30:38, 40:55] = True
    halves = [mask.copy(), mask.copy()]
    halves[0][:, 30:] = halves[1][:, :30] = False
    ids = [f"1.2.{i}" for i in range(3)]
    film = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    for i, name in enumerate(ids):
        folder = tmp_path / f"raw/dicom-images-train/{i}/{i}"
        folder.mkdir(parents=True)
        (folder / f"{name}.dcm").touch()
    # How DICOM is read is proven in tests/data/test_images.py.
    monkeypatch.setattr("medjax.vlp.datasets.rows.read_image", lambda path: film)
    lines = [f"{ids[0]}, {runs_of(half)}" for half in halves]
    lines += [f"{ids[1]}, -1", "1.2.3, -1"]
    (tmp_path / "raw/train-rle.csv").write_text(
        "\n".join(["ImageId, EncodedPixels", *lines]) + "\n"
    )
    ledger = Ledger("skip")
    reader = SiimPneumothorax(tmp_path / "raw")
    one, other = reader.read(ledger)
    assert one.labels == {"Pneumothorax": 1.0} and len(one.lesions["Pneumothorax"]) == 2
    assert other.labels == {"Pneumothorax": 0.0} and not other.lesions
    assert len(ledger.skipped) == 1
    config = PrepareConfig(image_size=60, valid=0.0, test=0.0)
    out = prepare(reader, tmp_path / "set", config, ledger=Ledger("skip"))
    rows = RecordSource(out, "train", fields=["id", "lesions", "lesion_findings"])
    found = {rows[i]["id"]: unpack(rows[i], 60, [0]) for i in range(2)}
    np.testing.assert_array_equal(found[ids[0]][10:50], mask)
    assert not found[ids[1]].any()
