"""The challenge's files and scores: a tree, golden values, every empty case."""

import numpy as np
import pytest

from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.segmentation.cmrxmotion.reader import (
    find,
    read_grades,
    read_scan,
    split_by_patient,
)
from medjax.segmentation.cmrxmotion.scoring import (
    BLACKLIST,
    cmrxmotion_task1,
    cmrxmotion_task2,
    score_case,
)
from medjax.segmentation.cmrxmotion.submission import write_grades, write_segmentation
from tests.metrics.shapes import ELLIPSOIDS

AFFINE = np.diag([2.0, 2.0, 12.0, 1.0])
TRUTH = [1, 1, 2, 2, 3, 3, 1, 2, 3, 1]
SAID = [1, 2, 2, 3, 3, 2, 1, 2, 3, 3]


def named(grades):
    return {f"P{i:03}-1-ED": grade for i, grade in enumerate(grades)}


def test_golden_kappas():
    scores = cmrxmotion_task1(named(TRUTH), named(SAID))
    assert scores["accuracy"] == 0.6 and scores["n"] == 10
    assert scores["kappa_none"] == pytest.approx(0.411765, abs=1e-6)
    assert scores["kappa"] == pytest.approx(0.444444, abs=1e-6)
    assert scores["kappa_quadratic"] == pytest.approx(0.477612, abs=1e-6)


def test_grades_are_paired_by_name():
    said = named(SAID)
    backwards = dict(reversed(list(said.items())))
    assert cmrxmotion_task1(named(TRUTH), backwards)["accuracy"] == 0.6
    said.pop("P003-1-ED")
    said["P099-1-ED"] = 1
    with pytest.raises(DataError, match="P003-1-ED.*missing.*P099-1-ED"):
        cmrxmotion_task1(named(TRUTH), said)


def blocks(seed=0):
    """A stack with all three structures."""
    labels = np.zeros((12, 12, 4), np.uint8)
    labels[2:9, 2:9] = 2
    labels[4:7, 4:7] = 1
    labels[9:11, 2:9] = 3
    return np.roll(labels, seed % 3, axis=1)


@pytest.fixture
def tree(tmp_path):
    """Two volunteers; the severe scan has no labels, one affine is off."""
    rows = []
    for patient, number, phase, grade in [
        ("P001", 1, "ED", 1),
        ("P001", 1, "ES", 2),
        ("P001", 4, "ED", 3),
        ("P002", 3, "ES", 1),
    ]:
        name = f"{patient}-{number}-{phase}"
        folder = tmp_path / "data" / f"{patient}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(0).random((12, 12, 4, 1)).astype(np.float32)
        nifti.write(folder / f"{name}.nii.gz", image, affine=AFFINE)
        if grade < 3:
            affine = AFFINE + (patient == "P002") * np.eye(4, k=3)
            nifti.write(folder / f"{name}-label.nii.gz", blocks(), affine=affine)
        rows.append(f"{name},{grade}")
    (tmp_path / "IQA.csv").write_text("Image,Label\n" + "\n".join(rows) + "\n")
    return tmp_path


def test_the_tree(tree):
    scans = find(tree)
    assert [s.name for s in scans] == [
        "P001-1-ED",
        "P001-1-ES",
        "P001-4-ED",
        "P002-3-ES",
    ]
    assert [s.grade for s in scans] == [1, 2, 3, 1]
    assert scans[2].label is None and scans[2].acquisition == 4
    assert find(tree / "data") == scans
    image, label = read_scan(scans[0])
    assert image.data.shape == label.data.shape == (12, 12, 4)
    assert image.spacing == (2, 2, 12)
    with pytest.warns(UserWarning, match="the image's geometry is taken"):
        image, label = read_scan(scans[3])
    np.testing.assert_array_equal(label.affine, image.affine)
    assert read_scan(scans[2])[1] is None


def test_a_set_without_grades(tree):
    (tree / "IQA.csv").unlink()
    assert all(scan.grade is None for scan in find(tree))


def test_faults_of_a_tree_are_named(tree):
    with (tree / "IQA.csv").open("a") as file:
        file.write("P009-1-ED,2\nP001-1-ED,2\nP001-1-ES,4\n")
    with pytest.raises(DataError, match="IQA.csv:7: the scan was graded before"):
        find(tree)
    ledger = Ledger("skip")
    assert len(find(tree, ledger=ledger)) == 4
    told = {skip.id: skip.reason for skip in ledger.skipped}
    assert told["P009-1-ED"] == "a grade without an image"
    assert told["IQA.csv:8"] == "the grade is none of 1, 2 and 3"
    with pytest.raises(FileNotFoundError, match="no scan"):
        find(tree / "data" / "P001-1")
    folder = tree / "data" / "P001-1"
    nifti.write(folder / "P001-1-ED-label.nii.gz", 4 + blocks(), affine=AFFINE)
    with pytest.raises(DataError, match="expected 0 to 3"):
        read_scan(find(tree, ledger=Ledger("skip"))[0])
    nifti.write(folder / "P001-1-ED-label.nii.gz", blocks()[1:], affine=AFFINE)
    with pytest.raises(DataError, match=r"image has shape \(12, 12, 4\), its labels"):
        read_scan(find(tree, ledger=Ledger("skip"))[0])


def test_no_volunteer_is_in_two_parts(tree):
    scans = find(tree)
    parts = split_by_patient(scans, {"train": 0.5, "test": 0.5}, seed=0)
    who = [{scan.patient for scan in part} for part in parts.values()]
    assert who[0] | who[1] == {"P001", "P002"} and not who[0] & who[1]
    with pytest.raises(ValueError, match="would be empty"):
        split_by_patient(scans, {"train": 0.9, "test": 0.1}, seed=0)
    with pytest.raises(ValueError, match="1 at most"):
        split_by_patient(scans, {"train": 0.9, "test": 0.9}, seed=0)


def test_golden_distances():
    """The pair of ellipsoids that medpy scored; LV alone, the others in neither."""
    said, true = ELLIPSOIDS.a.astype(np.int32), ELLIPSOIDS.b.astype(np.int32)
    scores = score_case(said, true, ELLIPSOIDS.spacing, official=False)
    assert scores["LV_dice"] == pytest.approx(0.487815, abs=1e-6)
    assert scores["LV_hd95"] == pytest.approx(12.2193, abs=6e-5)
    assert scores["LV_hd"] == pytest.approx(23.4787, abs=6e-5)
    assert (scores["RV_dice"], scores["RV_hd95"]) == (1.0, 0.0)
    official = score_case(said, true, ELLIPSOIDS.spacing, official=True)
    assert official["LV_hd95"] == scores["LV_hd95"]
    # Nothing to find and nothing said: the script's numbers are those of a miss.
    assert (official["RV_dice"], official["RV_hd95"]) == (0.0, 373.0)


def test_empty_cases_in_both_modes():
    truth = blocks()
    without = np.where(truth == 3, 0, truth)
    missed = score_case(without, truth, (2.0, 2.0, 12.0), official=True)
    assert (missed["RV_dice"], missed["RV_hd95"]) == (0.0, 373.0)
    assert missed["LV_dice"] == pytest.approx(1.0)
    correct = score_case(without, truth, (2.0, 2.0, 12.0), official=False)
    diagonal = np.linalg.norm([24, 24, 48])
    assert (correct["RV_dice"], correct["RV_hd95"]) == (0.0, pytest.approx(diagonal))
    with pytest.raises(DataError, match="case: RV is predicted and the truth has none"):
        score_case(truth, without, (2.0, 2.0, 12.0), official=True)
    invented = score_case(truth, without, (2.0, 2.0, 12.0), official=False)
    assert invented["RV_dice"] == 0.0
    with pytest.raises(DataError, match="the prediction has shape"):
        score_case(truth[1:], truth, (2.0, 2.0, 12.0), official=True)


def test_a_folder_is_paired_by_name(tmp_path):
    truths, said = tmp_path / "gt", tmp_path / "said"
    truths.mkdir()
    image = nifti.Volume(np.zeros((12, 12, 4), np.float32), AFFINE, (2.0, 2.0, 12.0))
    names = ["P021-1-ED", "P021-1-ES", "P028-2-ED", "P028-2-ES"]
    for seed, name in enumerate(names):
        nifti.write(truths / f"{name}-label.nii.gz", blocks(seed), affine=AFFINE)
    # One is missing, one is nobody's; what is there is right.
    write_segmentation(said, names[1], blocks(1), image)
    write_segmentation(said, "P077-1-ED", blocks(), image)
    scores = cmrxmotion_task2(said, truths, official=True)
    assert set(names) & set(BLACKLIST) == set(scores.excluded)
    assert scores.missing == ("P021-1-ED",) and scores.extra == ("P077-1-ED",)
    assert [row["case"] for row in scores.cases] == names[:2]
    assert scores.mean["MYO_dice"] == pytest.approx(0.5)
    assert scores.mean["MYO_hd95"] == pytest.approx(373 / 2)
    assert scores.empty["MYO_n_missed"] == 1 and scores.empty["MYO_n_false"] == 0
    correct = cmrxmotion_task2(said, truths, official=False)
    assert len(correct.cases) == 4 and correct.mean["MYO_dice"] == 0.25
    assert correct.empty["MYO_n_missed"] == 3
    with pytest.raises(FileNotFoundError, match="no such folder"):
        cmrxmotion_task2(tmp_path / "none", truths, official=True)


def test_submissions_read_back(tmp_path):
    path = tmp_path / "output.csv"
    write_grades(path, {"P002-1-ED": 3, "P001-1-ED": 1})
    assert path.read_text() == "Image,Label\nP001-1-ED,1\nP002-1-ED,3\n"
    assert read_grades(path) == {"P001-1-ED": 1, "P002-1-ED": 3}
    with pytest.raises(ValueError, match="expected 1, 2 or 3"):
        write_grades(path, {"P002-1-ED": 0})
    image = nifti.Volume(np.zeros((12, 12, 4), np.float32), AFFINE, (2.0, 2.0, 12.0))
    file = write_segmentation(tmp_path, "P001-1-ED", blocks(), image)
    back = nifti.read_labels(file)
    np.testing.assert_array_equal(back.data, blocks())
    np.testing.assert_array_equal(back.affine, AFFINE)
    with pytest.raises(ValueError, match="labels of shape"):
        write_segmentation(tmp_path, "x", blocks()[1:], image)
    with pytest.raises(ValueError, match="expected 0 to 3"):
        write_segmentation(tmp_path, "x", 2 + blocks(), image)
