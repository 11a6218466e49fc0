"""Grading and segmenting under motion, from flags to a submission."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import medjax
from experiments import cmrxmotion, grade
from experiments.cmrxmotion import PRESETS, run
from experiments.motion_scans import breath_key, phantom_scenes, scanned
from experiments.motion_volunteers import MotionData, volunteers
from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.mri.cine_phantom import CineConfig
from medjax.mri.motion import GRADES, MotionConfig
from medjax.segmentation.cmrxmotion.reader import find, read_grades
from medjax.segmentation.cmrxmotion.scoring import cmrxmotion_task1
from medjax.train.optimizer import OptimizerConfig
from tests.compiling import quickly

CINE = CineConfig(size=32, pixel=7.0, slices=2, gap=40.0, frames=2)
DATA = MotionData(volunteers=(2, 1, 1), cine=CINE, copies=1)
KEY = breath_key(0, 1, 4)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile(tmp_path_factory):
    """A few steps are over before an optimised program would be compiled."""
    before = jax.config.jax_compilation_cache_dir
    folder = str(tmp_path_factory.mktemp("compiled"))
    jax.config.update("jax_compilation_cache_dir", folder)
    with quickly():
        yield
    jax.config.update("jax_compilation_cache_dir", before)


def small(workdir, **changes):
    tiny = PRESETS["tiny"]
    grading = dataclasses.replace(tiny.grading, slices=2, size=32, steps=1)
    # One head is enough: its network is what takes long to compile.
    grading = dataclasses.replace(grading, systems=grading.systems[1:])
    return dataclasses.replace(
        tiny,
        data=DATA,
        grading=grading,
        arms=("clean", "physiological"),
        plan=dataclasses.replace(tiny.plan, patch=(16, 16), widths=(4, 8)),
        optimizer=OptimizerConfig(lr=1e-2),
        train=dataclasses.replace(tiny.train, steps=2, log_every=1),
        workdir=workdir,
        **changes,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hearts")


@pytest.fixture(scope="module")
def results(folder):
    return run(small(folder))


def test_a_run_scores_every_way_of_grading_and_every_segmenter(results, folder):
    kept = json.loads((folder / "evaluation.json").read_text())
    methods = [row["method"] for row in kept["grading"]]
    assert methods == ["ordinal", "uncertainty"]
    assert all(sum(map(sum, row["confusion"])) == 8 for row in kept["grading"])
    assert {row["trained on"] for row in kept["segmentation"]} == {
        "clean",
        "physiological",
    }
    for arm in ("clean", "physiological"):
        rows = [r for r in kept["segmentation"] if r["trained on"] == arm]
        assert sum(row["n"] for row in rows) == 8
        assert all(0 <= row["dice"] <= 1 for row in rows)
    scored = [(row["trained on"], row["scored"]) for row in kept["task2"]]
    assert scored == [
        (arm, kind)
        for arm in ("clean", "physiological")
        for kind in ("official", "correct")
    ]
    page = (folder / "report.html").read_text()
    assert "What breathing does" in page and "Task 2" in page and "://" not in page
    assert page.count("data:image/png") >= 16 + 5


def test_what_is_handed_in_is_as_the_challenge_takes_it(results, folder):
    with (folder / "submission/output.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["Image", "Label"] and rows[1:] == sorted(rows[1:])
    said = read_grades(folder / "submission/output.csv")
    truth = read_grades(folder / "volunteers/IQA.csv")
    held_out = {name: truth[name] for name in said}
    assert sorted(name[:4] for name in said) == ["P001"] * 8
    scores = cmrxmotion_task1(held_out, said)
    ordinal = results["grading"][0]
    assert scores["accuracy"] == ordinal["accuracy"]
    for scan in find(folder / "volunteers"):
        if scan.patient == "P001":
            written = nifti.read_labels(folder / f"submission/{scan.name}.nii.gz")
            image = nifti.read(scan.image)
            assert written.data.shape == image.data.shape == (32, 32, 2)
            np.testing.assert_array_equal(written.affine, image.affine)


def test_segmenters_are_runs_that_medjax_opens(results, folder):
    model = medjax.load(folder / "segment-clean")
    image = next((folder / "volunteers").rglob("P001-1-ED.nii.gz"))
    (found,) = model.predict([image])
    written = nifti.read_labels(folder / "segmentations/clean/P001-1-ED.nii.gz")
    np.testing.assert_array_equal(found.labels.data, written.data)


def test_graders_are_runs_that_grade_scans_of_anyone(results, folder, tmp_path, capsys):
    model = medjax.load(folder / "grade-ordinal")
    tree = folder / "volunteers/data"
    paths = sorted(p for p in tree.glob("P001-*/*.nii.gz") if "label" not in p.name)
    found = list(model.grade(paths))
    handed_in = read_grades(folder / "submission/output.csv")
    assert {one.id: one.grade for one in found} == handed_in
    assert all(abs(one.probabilities.sum() - 1) < 1e-5 for one in found)
    broken = tmp_path / "P001-1-EX.nii.gz"
    broken.write_bytes(paths[0].read_bytes()[:200])
    out = tmp_path / "grades.csv"
    given = [str(folder / "grade-ordinal"), *map(str, paths[:2]), str(broken)]
    assert grade.main([*given, "--out", str(out)]) == 1
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], int(row["grade"])) for row in rows] == [
        (one.id, one.grade) for one in found[:2]
    ]
    assert "P001-1-EX" in (tmp_path / "grades.csv.skipped.csv").read_text()
    capsys.readouterr()


def test_volunteers_are_as_their_severity_says(results, folder):
    with (folder / "volunteers/severity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 4 * 2
    for row in rows:
        above = sum(float(row["Severity"]) >= edge for edge in GRADES)
        assert int(row["Label"]) == 1 + above
    held = [float(r["Severity"]) for r in rows if r["Image"][5] == "1"]
    deep = [float(r["Severity"]) for r in rows if r["Image"][5] == "4"]
    assert max(held) < 0.5 < min(deep)
    parts = volunteers(DATA, folder, Ledger(log=lambda _: None))
    people = {part: {scan.patient for scan in scans} for part, scans in parts.items()}
    assert people == {
        "test": {"P001"},
        "validation": {"P002"},
        "train": {"P003", "P004"},
    }


def test_labels_are_of_the_mean_place_and_noise_of_every_scan():
    scene = phantom_scenes(CINE, seed=0, number=1)["ES"]
    quiet = scanned(scene, None, MotionConfig(), key=KEY)
    np.testing.assert_allclose(quiet.moved.image, scene.image, atol=1e-5)
    np.testing.assert_array_equal(quiet.labels, scene.labels)
    assert float(quiet.moved.severity) == 0
    moved = scanned(scene, "intensive", MotionConfig(), key=KEY)
    again = scanned(scene, "intensive", MotionConfig(), key=KEY)
    np.testing.assert_array_equal(moved.moved.image, again.moved.image)
    assert (np.asarray(moved.labels) != scene.labels).any()
    # The mean place is the middle of the lines' places: distances are from there.
    square = np.asarray(moved.displacement) ** 2
    energy = (np.abs(np.asarray(moved.moved.kspace)) ** 2).sum(-1)
    severity = np.sqrt((square * energy).sum() / energy.sum())
    assert severity == pytest.approx(float(moved.moved.severity), rel=1e-3)


def test_the_challenges_tree_is_graded_and_answered(results, folder, tmp_path):
    unseen = tmp_path / "validation"
    shutil.copytree(folder / "volunteers/data/P001-4", unseen / "data/P009-4")
    for path in (unseen / "data/P009-4").iterdir():
        if "label" in path.name:
            path.unlink()
        else:
            path.rename(path.with_name(path.name.replace("P001", "P009")))
    shares = (0.5, 0.25, 0.25)
    data = MotionData(folder / "volunteers", submit=unseen, shares=shares, copies=1)
    config = small(tmp_path / "run")
    config = dataclasses.replace(
        config,
        data=data,
        arms=("physiological",),
        grading=dataclasses.replace(config.grading, systems=()),
    )
    found = run(config)
    assert [row["method"] for row in found["grading"]] == ["uncertainty"]
    answered = {path.name for path in (tmp_path / "run/submission").iterdir()}
    assert answered == {"P009-4-ED.nii.gz", "P009-4-ES.nii.gz"}
    trained = sorted(p.name for p in (tmp_path / "run/training").rglob("*.nii.gz"))
    mild = {s.name for s in find(folder / "volunteers") if s.grade == 1}
    assert trained and {name[:9] for name in trained} <= mild


def test_a_scan_without_a_grade_is_listed_and_left_out(results, folder, tmp_path):
    tree = shutil.copytree(folder / "volunteers", tmp_path / "tree")
    rows = (tree / "IQA.csv").read_text().splitlines(keepends=True)
    kept = [row for row in rows if "P002-3-ES" not in row]
    (tree / "IQA.csv").write_text("".join(kept))
    data = MotionData(tree, shares=(0.5, 0.25, 0.25), on_error="skip")
    ledger = Ledger("skip", log=lambda _: None)
    parts = volunteers(data, tmp_path, ledger)
    names = {scan.name for scans in parts.values() for scan in scans}
    assert len(names) == 4 * 4 * 2 - 1 and "P002-3-ES" not in names
    assert [skip.id for skip in ledger.skipped] == ["P002-3-ES"]
    with pytest.raises(DataError, match="no grade in IQA.csv"):
        volunteers(data, tmp_path, Ledger(log=lambda _: None))


def test_a_damaged_scan_is_listed_and_left_out(results, folder, tmp_path):
    tree = shutil.copytree(folder / "volunteers", tmp_path / "tree")
    path = tree / "data/P001-2/P001-2-ED.nii.gz"
    path.write_bytes(path.read_bytes()[:300])
    data = MotionData(tree, shares=(0.5, 0.25, 0.25), on_error="skip")
    ledger = Ledger("skip", log=lambda _: None)
    parts = volunteers(data, tmp_path, ledger)
    assert sum(map(len, parts.values())) == 4 * 4 * 2 - 1
    assert [skip.id for skip in ledger.skipped] == ["P001-2-ED"]
    with pytest.raises(DataError, match="P001-2-ED"):
        volunteers(data, tmp_path, Ledger(log=lambda _: None))


def test_what_does_not_fit_is_told_in_words(folder, tmp_path):
    config = small(tmp_path)
    with pytest.raises(ValueError, match="one segmenter"):
        run(dataclasses.replace(config, arms=()))
    with pytest.raises(ValueError, match="two frames"):
        dataclasses.replace(DATA, cine=CineConfig())
    shutil.copytree(folder / "volunteers/data", tmp_path / "bare/data")
    bare = dataclasses.replace(config, data=MotionData(tmp_path / "bare"))
    with pytest.raises(DataError, match="a grade for every scan"):
        run(bare)
    assert cmrxmotion.PRESETS["challenge"].epochs
