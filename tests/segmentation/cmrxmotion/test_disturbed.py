"""Scans under motion: what is uncertain, how far ejection fractions are off, scores."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from medjax.data.nifti import Volume
from medjax.segmentation.cmrxmotion.disturbed import (
    SEGMENTATIONS,
    Answer,
    acquisitions,
    counts,
    ejection_errors,
    in_turn,
    rows_by_breathing,
    rows_by_grade,
    task2_rows,
)
from medjax.segmentation.cmrxmotion.grading import (
    GradingConfig,
    grades_of,
    grading_row,
    stack_of,
)
from medjax.segmentation.cmrxmotion.quality import QualityConfig
from medjax.segmentation.cmrxmotion.reader import Scan
from medjax.segmentation.cmrxmotion.scoring import score_case
from medjax.segmentation.cmrxmotion.submission import write_segmentation

SPACING = (1.5, 1.5, 8.0)
AFFINE = np.diag([*SPACING, 1.0])


def labels(cavity):
    """A cavity of so many voxels, a wall and a right ventricle."""
    out = np.zeros((10, 10, 2), np.int32)
    out[..., 0].flat[:cavity] = 1
    out[7:9, :4, 1], out[7:9, 5:9, 1] = 2, 3
    return out


def answer(phase, grade, said, truth, *, acquisition=3):
    scan = Scan(
        f"P001-{acquisition}-{phase}", "P001", acquisition, phase, Path(), None, grade
    )
    volume = Volume(truth.astype(np.float32), AFFINE, SPACING)
    true = Volume(truth, AFFINE, SPACING)
    scores = score_case(said, truth, SPACING, official=False)
    zeros = np.zeros(truth.shape, np.float32)
    return Answer(scan, volume, true, said, zeros, 0.25, scores)


@pytest.fixture
def beat():
    """60 of 80 voxels where 40 of 80 are true: an error of -25 points."""
    return [
        answer("ED", 2, labels(80), labels(80)),
        answer("ES", 1, labels(60), labels(40)),
    ]


def test_ejection_fractions_are_of_acquisitions_by_their_worse_phase(beat):
    (pair,) = acquisitions(beat[::-1])
    assert pair == tuple(beat) and acquisitions(beat[:1]) == []
    assert ejection_errors([pair]) == pytest.approx([25.0 - 50.0])
    first, second = rows_by_grade("clean", beat)
    assert (first["acquisitions"], second["acquisitions"]) == (0, 1)
    blind = dataclasses.replace(beat[0], said=np.zeros_like(beat[0].said))
    assert ejection_errors([(blind, beat[1])]) == []


def test_rows_of_breathing_do_not_ask_for_grades(beat):
    held = answer("ED", None, labels(80), labels(80), acquisition=1)
    first, second = rows_by_breathing("clean", [*beat, held])
    assert (first["breathing"], first["n"], first["acquisitions"]) == (
        "breath hold",
        1,
        0,
    )
    assert (second["breathing"], second["n"], second["acquisitions"]) == ("free", 2, 1)
    assert second["LV_dice"] == pytest.approx((1 + 0.8) / 2)
    assert second["EF error"] == pytest.approx(25.0)
    assert [row["n"] for row in rows_by_grade("clean", [*beat, held])] == [1, 1]


def test_rows_are_means_over_scans_of_a_grade(beat):
    first, second = rows_by_grade("clean", beat)
    assert (first["grade"], second["grade"]) == (1, 2)
    assert second["dice"] == 1 and second["LV_hd95"] == 0
    assert first["LV_dice"] == pytest.approx(2 * 40 / 100)
    assert second["EF error"] == pytest.approx(25.0) and np.isnan(first["EF error"])
    assert (second["n_missed"], second["n_false"], second["n_both_empty"]) == (0, 0, 0)
    assert counts([a.scan for a in beat]) == [
        {"breathing": "free", "grade 1": 1, "grade 2": 1, "grade 3": 0}
    ]


def without(structure, labels):
    return np.where(labels == structure, 0, labels)


def test_what_is_empty_is_counted_beside_the_means_it_is_in():
    """Of four scans of a grade one misses the RV, one invents it, one has none."""
    full = labels(80)
    bare = without(3, full)
    pairs = [(full, full), (bare, full), (full, bare), (bare, bare)]
    found = [
        answer("ED", 2, said, truth, acquisition=number)
        for number, (said, truth) in enumerate(pairs, 1)
    ]
    (row,) = rows_by_grade("clean", found)
    diagonal = np.linalg.norm(np.array(full.shape) * SPACING)
    assert row["RV_dice"] == 0.5 and row["RV_hd95"] == pytest.approx(diagonal / 2)
    for name in ("n_both_empty", "n_missed", "n_false"):
        assert row[f"RV_{name}"] == row[name] == 1 and row[f"LV_{name}"] == 0


def test_official_scores_punish_a_missed_structure_more(beat, tmp_path):
    for each in beat:
        said = without(3, each.said)
        folder = tmp_path / SEGMENTATIONS / "clean"
        write_segmentation(folder, each.scan.name, said, each.image)
    official, correct = task2_rows({"clean": beat}, tmp_path)
    assert (official["scored"], correct["scored"]) == ("official", "correct")
    assert official["RV_hd95"] == 373
    for row in (official, correct):
        assert (row["RV_n_missed"], row["n_missed"], row["n_false"]) == (2, 2, 0)
    diagonal = np.linalg.norm(np.array(beat[0].said.shape) * SPACING)
    assert correct["RV_hd95"] == pytest.approx(diagonal)
    assert official["LV_dice"] == pytest.approx((1 + 0.8) / 2)
    # What stops the script is told, and scored otherwise.
    for each in beat:
        bare = Volume(without(3, each.truth.data), AFFINE, SPACING)
        write_segmentation(folder, each.scan.name, each.said, each.image)
        beat[beat.index(each)] = dataclasses.replace(each, truth=bare)
    official, correct = task2_rows({"clean": beat}, tmp_path)
    assert "RV is predicted and the truth has none" in official["remark"]
    assert correct["RV_dice"] == 0 and "remark" not in correct
    assert (correct["RV_n_false"], correct["n_missed"]) == (2, 0)


def test_grades_are_shown_in_turn(beat):
    more = [*beat, answer("ED", 2, labels(80), labels(80), acquisition=4)]
    assert [a.scan.grade for a in in_turn(more, 3)] == [1, 2, 2]
    assert [a.scan.grade for a in in_turn(more, 2)] == [1, 2]


def test_a_grading_is_scored_and_its_errors_are_counted(beat):
    row = grading_row("softmax", [a.scan for a in beat], np.array([3, 1]))
    assert row["accuracy"] == 0.5
    assert row["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    bare = dataclasses.replace(beat[0].scan, grade=None)
    with pytest.raises(ValueError, match="P001-3-ED"):
        grades_of([bare])


def test_stacks_are_of_one_extent_however_they_lie():
    data = np.arange(6 * 8 * 3, dtype=np.float32).reshape(6, 8, 3)
    config = GradingConfig(slices=3, size=6)
    straight = stack_of(Volume(data, AFFINE, SPACING), config)
    np.testing.assert_array_equal(straight, np.moveaxis(data, 2, 0)[:, :, 1:7])
    turned = np.array([[0, 0, 1.5, 0], [0, 1.5, 0, 0], [8, 0, 0, 0], [0, 0, 0, 1.0]])
    lying = Volume(np.transpose(data, (2, 1, 0)), turned, (8.0, 1.5, 1.5))
    np.testing.assert_array_equal(stack_of(lying, config), straight)
    fewer = dataclasses.replace(config, slices=2, size=10)
    wide = stack_of(Volume(data, AFFINE, SPACING), fewer)
    np.testing.assert_array_equal(wide[:, 2:8, 1:9], np.moveaxis(data, 2, 0)[[0, 2]])
    assert wide.shape == (2, 10, 10) and not wide[:, :2].any()
    coarse = dataclasses.replace(config, pixel=3.0, size=3)
    assert stack_of(Volume(data, AFFINE, SPACING), coarse).shape == (3, 3, 3)
    with pytest.raises(ValueError, match="each once"):
        GradingConfig(systems=(QualityConfig(), QualityConfig()))
