"""The command that mixes: what it writes, from phantoms and from a folder of files."""

import csv

import jax
import numpy as np
import pytest

from experiments import lesionmix
from medjax.data import nifti
from medjax.segmentation.phantoms.lesions import lesion_phantom
from tests.segmentation.lesionmix.cases import SOLID

SMALL = ["--lesionmix.populate.slots", "4", "--lesionmix.inpaint.sweeps", "4"]
AFFINE = np.array([[-1.0, 0, 0, 9], [0, 1, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]])
SHAPE = (24, 28, 26)


def rows_of(out):
    with (out / "mixed.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two volumes with lesions in the middle of a larger grid, and a mask alone."""
    root = tmp_path_factory.mktemp("cohort")
    for number in range(3):
        case = lesion_phantom(SOLID, key=jax.random.key(number))
        pads = [(2, 2)] * 3
        mask = np.pad(np.asarray(case.components) > 0, pads).astype(np.uint8)
        nifti.write(root / f"s{number}_GT.nii.gz", mask, affine=AFFINE)
        if number < 2:
            image = np.pad(1000 * np.asarray(case.image), pads)
            image[0, 0, 0] = 5.0  # a speck that is no brain
            nifti.write(root / f"s{number}_FLAIR.nii.gz", image, affine=AFFINE)
    return root


@pytest.fixture(scope="module")
def mixed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed")
    command = ["--data.root", str(folder), "--out", str(out), "--copies", "3"]
    assert lesionmix.main([*command, *SMALL]) == 0
    return out


def test_results_are_of_their_loads_and_on_their_grid(mixed, folder):
    rows = rows_of(mixed)
    assert [row["result"] for row in rows] == [
        f"s{case}_mix{copy}" for case in range(2) for copy in range(3)
    ]
    kinds = set()
    for row in rows:
        image = nifti.read(mixed / f"{row['result']}.nii.gz", ndim=3)
        label = nifti.read_labels(mixed / f"{row['result']}_label.nii.gz", ndim=3)
        assert image.data.shape == label.data.shape == SHAPE
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert label.data.sum() == pytest.approx(float(row["load"]))
        case = row["result"][:2]
        before = nifti.read(folder / f"{case}_FLAIR.nii.gz").data
        old = nifti.read_labels(folder / f"{case}_GT.nii.gz").data
        assert float(row["before"]) == old.sum()
        # Outside of the brain nothing changes, the speck included.
        np.testing.assert_array_equal(image.data[before == 0], 0)
        assert image.data[0, 0, 0] == 5
        more = float(row["before"]) < float(row["target"])
        kinds.add(more)
        smaller, larger = (old, label.data) if more else (label.data, old)
        assert not (smaller & ~larger).any()
    assert kinds == {True, False}, "the seed should show both"


def test_the_page_shows_loads_and_pictures(mixed):
    page = (mixed / "report.html").read_text()
    assert "lesion load" in page and "reached (n = 6)" in page
    assert "training cases (n = 3)" in page
    assert page.count("data:image/png") >= 10


def test_the_same_seed_writes_the_same_and_a_held_out_case_is_gone(
    mixed, folder, tmp_path
):
    command = ["--data.root", str(folder), "--copies", "1", *SMALL]
    assert lesionmix.main([*command, "--out", str(tmp_path / "again")]) == 0
    again = nifti.read(tmp_path / "again" / "s0_mix0.nii.gz").data
    np.testing.assert_array_equal(again, nifti.read(mixed / "s0_mix0.nii.gz").data)
    held = tmp_path / "held"
    held_out = ["--data.hold-out", "s0", "--out", str(held)]
    assert lesionmix.main([*command, *held_out]) == 0
    assert [row["result"] for row in rows_of(held)] == ["s1_mix0"]
    assert "training cases (n = 2)" in (held / "report.html").read_text()


def test_phantoms_by_a_peer(tmp_path):
    small = "--data.phantom.shape 32 32 --data.phantom.window 16 --data.phantoms 3"
    peer = ["--mixing", "carvemix", "--copies", "1", "--out", str(tmp_path)]
    assert lesionmix.main([*small.split(), *peer]) == 0
    rows = rows_of(tmp_path)
    assert len(rows) == 3 and all(row["load"] == row["target"] for row in rows)
    assert "a peer of LesionMix" in (tmp_path / "report.html").read_text()


def test_bad_input_is_told_in_words(folder, tmp_path, capsys):
    def refused(*arguments):
        assert lesionmix.main(["--out", str(tmp_path), *arguments]) == 1
        return capsys.readouterr().err

    root = ["--data.root", str(folder)]
    assert "expected {case} in both" in refused(*root, "--data.mask", "GT.nii.gz")
    assert "no mask {case}_x.nii" in refused(*root, "--data.mask", "{case}_x.nii")
    assert "no such folder" in refused("--data.root", str(tmp_path / "none"))
    assert "['s9'] are no cases" in refused(*root, "--data.hold-out", "s9")
    masks = ["--data.image", "{case}_T1.nii.gz"]
    assert "none of 3 cases has an image" in refused(*root, *masks)
    (tmp_path / "odd").mkdir()
    for name, n in (("a_FLAIR", 8), ("a_GT", 9)):
        data = np.ones((n, 8, 8), np.uint8)
        nifti.write(tmp_path / "odd" / f"{name}.nii.gz", data, affine=AFFINE)
    told = refused("--data.root", str(tmp_path / "odd"))
    assert "a: image (8, 8, 8) and mask (9, 8, 8) differ in shape" in told
