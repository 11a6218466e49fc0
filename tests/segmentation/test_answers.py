"""Answers beside annotators: numbers of cases whose scores are known."""

import dataclasses

import jax
import numpy as np
import pytest

from medjax.data.nifti import Volume
from medjax.metrics.calibration import roi_calibration
from medjax.segmentation.answers import (
    Answers,
    AnswersConfig,
    check,
    images_of,
    scores,
    summary,
)
from medjax.segmentation.datasets.embedded import ambiguous_phantoms
from medjax.segmentation.labels import Labels
from medjax.segmentation.phantoms.ambiguous import AmbiguousConfig
from medjax.segmentation.segmented import Segmented
from medjax.segmentation.uncertainty import image_score

CONFIG = AmbiguousConfig(size=20)


@pytest.fixture(scope="module")
def phantoms():
    return ambiguous_phantoms(CONFIG, seed=0, train=2, test=2, annotators=(2, 6))


def answers_of(draws, annotations, truth=None, **maps):
    """Answers in memory, draws being label maps or probabilities."""
    if draws.ndim == 4:
        draws = np.eye(2)[draws]
    shape = annotations.shape[1:]
    volumes = {
        name: Volume(value, np.eye(4), (1.0,) * 3) for name, value in maps.items()
    }
    empty = Volume(np.zeros(shape, np.uint8), np.eye(4), (1.0,) * 3)
    image = dataclasses.replace(empty, data=np.zeros(shape, np.float32))
    said = Segmented("a", empty, volumes)
    return Answers(
        image, annotations.astype(np.int32), truth, draws.astype(np.float32), said, 0.1
    )


@pytest.fixture(scope="module")
def case(phantoms):
    """An image of the set: what annotators drew, and the truth."""
    cases = images_of([c for c in phantoms.cases if c.split == "test"])[1]
    drawn = np.stack([phantoms.read(one)[1].data for one in cases])
    return cases, drawn, phantoms.probability(cases[0])


def test_annotators_of_one_image_are_together(phantoms, case):
    cases, drawn, truth = case
    assert len(cases) == 6 and len({one.patient for one in cases}) == 1
    images = [phantoms.read(one)[0][0].data for one in cases[:2]]
    np.testing.assert_array_equal(*images)
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_allclose(truth.sum(-1), 1, atol=1e-6)
    # Others than those of the set, of the same law.
    panels = [np.asarray(phantoms.drawn(1, 6, i).annotations) for i in range(1, 60)]
    error = np.abs(np.concatenate(panels).mean(0) - truth[..., 0, 1])
    assert error.max() < 5 * 0.5 / np.sqrt(6 * len(panels))
    fresh = phantoms.fresh(cases[0], 6)[..., 0]
    np.testing.assert_array_equal(fresh, panels[0])
    assert (fresh != drawn[..., 0]).any()


def test_held_out_phantoms_are_the_same_whatever_the_seed(phantoms):
    other = ambiguous_phantoms(CONFIG, seed=5, train=2, test=2, annotators=(2, 6))
    ids = [{c.id for c in d.cases if c.split == "test"} for d in (phantoms, other)]
    train = [
        {c.patient for c in d.cases if c.split == "train"} for d in (phantoms, other)
    ]
    assert ids[0] == ids[1] and not train[0] & train[1]


def test_annotators_themselves_are_perfect_answers(case):
    _, drawn, truth = case
    row = scores(answers_of(drawn, drawn, truth), 2)
    assert row["ged_squared"] == pytest.approx(0, abs=1e-6) and row["dice"] == 1
    assert row["area_variance"] == row["annotators_area_variance"] > 0
    assert np.isnan(row["ueo"])  # no error that entropy could overlap with
    assert row["ncc"] > 0.4


def test_the_truth_loses_nothing_against_itself(case):
    _, drawn, truth = case
    row = scores(answers_of(truth[None], drawn, truth), 2)
    assert row["excess_nll"] == pytest.approx(0, abs=1e-6)
    assert row["excess_brier"] == row["rmse"] == pytest.approx(0, abs=1e-6)
    assert row["spearman"] == pytest.approx(1, abs=1e-6)
    p = truth[..., 1]
    entropy = -np.where(truth > 0, truth * np.log(np.maximum(truth, 1e-30)), 0)
    assert row["nll"] == pytest.approx(entropy.sum(-1).mean(), rel=1e-4)
    assert row["brier"] == pytest.approx((2 * p * (1 - p)).mean(), rel=1e-4)


def test_what_levels_do_not_add_up_to_is_told(case):
    _, drawn, _ = case
    parts = {"mi": 0.5, "level0": 0.2, "level1": 0.1}
    maps = {name: np.full(drawn.shape[1:], v) for name, v in parts.items()}
    row = scores(answers_of(drawn, drawn, **maps), 2)
    assert row["additivity_gap"] == pytest.approx(0.2)
    assert row["mi_level1"] == pytest.approx(0.1) and "excess_nll" not in row


def test_nothing_where_nobody_saw_anything_is_counted():
    """Empty on both sides: Dice 1, GED 0; what has no value is not in a mean."""
    none = np.zeros((3, 8, 8, 1), int)
    row = scores(answers_of(none[:2], none), 2)
    assert row["dice"] == 1 and row["ged_squared"] == 0 and row["ncc_constant"] == 3
    some = none.copy()
    some[:, 2:5, 2:5] = 1
    wrong = scores(answers_of(none[:2], some), 2)
    assert wrong["dice"] == 0 and wrong["ged_squared"] == 2
    invented = scores(answers_of(some[:2], none), 2)
    blank = roi_calibration(np.eye(2)[none[0]], none[0])
    table = summary([row, wrong], blank)
    assert table["ueo"]["n_undefined"] == 1 and table["dice"]["mean"] == 0.5
    table = summary([row, wrong, invented, invented], blank)
    empty = [table["dice"][key] for key in ("n_both_empty", "n_missed", "n_false")]
    assert empty == [1, 1, 2] and "n_missed" not in table
    assert table["dice"]["mean"] == 0.25 and table["dice"]["n"] == 4
    assert np.isnan(table["area_sd_ratio"]["mean"])


def test_an_image_counts_near_what_is_predicted():
    plane = np.zeros((21, 21, 1), np.float32)
    plane[10, 10], plane[10, 13], plane[10, 15] = 5.0, 2.0, 100.0
    foreground = np.zeros(plane.shape, bool)
    foreground[10, 10] = True
    # A disc of radius 3 holds 29 pixels, the one at distance 5 not among them.
    assert image_score(plane, foreground) == pytest.approx(7 / 29)
    assert image_score(plane, ~foreground & foreground) == pytest.approx(
        107 / 441, rel=1e-5
    )
    # A ball, in a volume of three slices: 25 pixels within the root of 8 beside 29.
    solid = np.zeros((21, 21, 3), np.float32)
    solid[10, 10, 1] = solid[0, 0, 0] = 1.0
    assert image_score(solid, solid[..., 1:2] * [0, 1, 0] > 0) == pytest.approx(1 / 79)


def test_panels_draw_the_same_image(phantoms):
    first, second = (phantoms.drawn(3, 6, panel) for panel in (0, 1))
    np.testing.assert_array_equal(first.image, second.image)
    assert (np.asarray(first.annotations) != np.asarray(second.annotations)).any()
    again = jax.tree.map(np.asarray, phantoms.drawn(3, 6, 1))
    np.testing.assert_array_equal(again.annotations, second.annotations)


def test_what_cannot_be_scored_is_refused_before_training(phantoms):
    whole = Labels((0, 1), ("whole",), regions=((1,),), painted=(1,))
    check(phantoms)
    with pytest.raises(ValueError, match=r"regions \['whole'\], expected classes"):
        check(dataclasses.replace(phantoms, labels=whole))
    with pytest.raises(ValueError, match=r"strengths: \(4,\), expected some of"):
        AnswersConfig(strengths=(4,))
    with pytest.raises(ValueError, match="0 images and 5.0 voxels"):
        AnswersConfig(images=0)
