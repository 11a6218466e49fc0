"""The comparison of attention: hearts, endpoint, verdicts, and one small run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.compare import attention
from experiments.compare.attention_effects import BLIND, effects, fell, table
from experiments.compare.attention_hearts import (
    FIELDS,
    endpoint,
    exchange,
    known_subspace,
    put_back,
    without_coil,
)
from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.scans import batch_of, phantoms
from medjax.mri.series import zero_filled
from medjax.train.experiment import Experiment

TINY = attention.Comparison(
    conditions=("exchanged",),
    seeds=(0,),
    warm_steps=2,
    steps=5,
    size=32,
    acs=4,
    acceleration=4,
    patients=8,
    watched=2,
    held_out=3,
    batch_size=8,
)


@pytest.fixture(scope="module")
def rows():
    data = attention.Comparison().data("shared", 0)
    return phantoms(data, 3, (*FIELDS, "t1"), key=jax.random.key(5)).arrays


def test_the_wall_is_five_pixels_thick(rows):
    for label in rows["label"]:
        inner = np.sqrt((label == 1).sum() / np.pi)
        outer = np.sqrt(((label == 1) | (label == 2)).sum() / np.pi)
        assert outer - inner > 5
        # All of it is in the picture.
        assert not (label == 2)[[0, -1]].any() and not (label == 2)[:, [0, -1]].any()


def test_a_coil_of_sensitivity_one_sees_the_same_scan(rows):
    seen = without_coil(rows)
    assert (seen["sensitivities"] == 1).all()
    image = np.asarray(ifft2c(jnp.asarray(seen["kspace"])))[:, :, 0]
    gap = np.abs(image - rows["image"])
    # What is left is the noise, of 0.3 % of the largest pixel.
    assert gap.std() < 0.006 * np.abs(rows["image"]).max()
    assert np.abs(image - rows["image"]).mean() > 1e-6


def test_frames_of_different_hearts_find_their_way_back(rows):
    mixed = exchange(rows)
    np.testing.assert_array_equal(mixed["image"][0, 2], rows["image"][2, 2])
    np.testing.assert_array_equal(mixed["image"][2, 1], rows["image"][0, 1])
    np.testing.assert_array_equal(mixed["kspace"][1, 1], rows["kspace"][2, 1])
    np.testing.assert_array_equal(put_back(mixed["image"]), rows["image"])


def test_the_endpoint_counts_the_inside_of_the_wall_alone(rows):
    image, times, label = (rows[k][0] for k in ("image", "times", "label"))
    assert endpoint(image, image, times, label) == 0
    # Elsewhere anything may be: the outermost pixel of the wall too.
    outside = image.copy()
    rim = (label == 2) & ~np.isin(np.roll(label, 1, 0), [2])
    outside[:, (label != 2) | rim] = 0
    assert endpoint(outside, image, times, label) == 0
    inside = image.copy()
    inside[0, label == 2] = 0
    assert endpoint(inside, image, times, label) > 10
    with pytest.raises(ValueError, match="of a wall in 8 x 8 pixels nothing is left"):
        endpoint(inside, image, times, label[::8, ::8])


def test_frames_of_two_kinds_are_solved_where_masks_move_on(rows):
    # A quarter of the lines in every frame, all of them in four; two kinds of frames.
    kinds = rows["image"][:1, [0, 8]]
    shares = np.random.default_rng(0).normal(size=(9, 2))
    series = np.einsum("tr,brhw->bthw", shares, kinds)
    kspace = np.asarray(fft2c(jnp.asarray(series)))[:, :, None]
    known = known_subspace(series, steps=200)
    size = np.linalg.norm(series)
    gaps = {}
    for shift in (3, 0):
        row = {"kspace": kspace[0], "sensitivities": np.ones((1, 64, 64), np.complex64)}
        batch = batch_of(row, acceleration=4, acs=8, shift=shift)
        for name, solve in (("known", known), ("zero", zero_filled)):
            gap = np.linalg.norm(np.asarray(solve(batch)) - series) / size
            gaps[name, shift] = gap
    assert gaps["known", 3] < 0.02 < 0.1 < gaps["zero", 3]
    # Where all frames lack the same lines there is nothing to solve.
    np.testing.assert_allclose(gaps["known", 0], gaps["zero", 0], rtol=0.02)


def a_run(arm, seed, errors, condition="shared"):
    return {
        "condition": condition,
        "arm": list(arm),
        "seed": seed,
        "before": [50.0] * len(errors),
        "errors": errors,
        "fell": 0.004,
    }


def test_verdicts_are_of_the_paired_differences():
    rng = np.random.default_rng(0)
    hearts = 100 + 20 * rng.normal(size=24)

    def runs(condition, gain):
        for seed in range(3):
            shared = hearts + rng.normal(size=24) + 3 * seed
            yield a_run(("neighbours", "apart"), seed, list(shared), condition)
            noise = rng.normal(size=24)
            yield a_run(
                ("frames", "apart"), seed, list(shared - gain + noise), condition
            )

    found = effects([*runs("shared", 0.0), *runs("shifted", 30.0)], margin=10.0)
    told = {e["effect"]: e["verdict"] for e in found}
    assert told == {
        "attention, frames apart (the endpoint)": "equivalent",
        "attention, masks that move on": "better",
    }
    # A margin that hides what has to be seen hides the rest as well.
    found_wide = effects([*runs("shared", 0.0), *runs("shifted", 30.0)], margin=50.0)
    wide = {e["effect"]: e["verdict"] for e in found_wide}
    assert wide == {
        "attention, frames apart (the endpoint)": BLIND,
        "attention, masks that move on": "equivalent",
    }
    results = {
        "bounds": {"shared": {"zero_filled": 80.0, "subspace": 79.5}},
        "runs": list(runs("shared", 0.0)),
        "effects": found,
        "margin": 10.0,
    }
    text = table(results)
    assert "| one mask for all frames | 80.0 | 79.5 |" in text
    assert "| equivalent |" in text and "3 x 24" in text and "0.4 %" in text


def test_a_curve_that_still_falls_is_told():
    rows = [{"step": s, "eval/t1": 100.0 - s} for s in range(0, 51, 5)]
    assert fell([*rows, {"step": 50, "loss": 1.0}]) == pytest.approx(1 / 6)


def test_a_small_comparison_runs_and_keeps_what_is_finished(tmp_path, monkeypatch):
    # One of the two arms: another takes as long, and nothing else.
    monkeypatch.setattr(attention, "IN_CONTROLS", attention.ARMS[:1])
    config = dataclasses.replace(TINY, workdir=tmp_path)
    results = attention.compare(config)
    (run,) = results["runs"]
    assert run["arm"] == ["frames", "apart"] and len(run["errors"]) == 3
    assert run["before"] != run["errors"] and np.isfinite(run["fell"])
    assert results["effects"] == []
    # Whole series are what a network of single frames begins with here too.
    assert (tmp_path / "shared-warm-0").is_dir()
    assert "frames of different hearts (negative control)" in table(results)
    monkeypatch.setattr(Experiment, "fit", None)
    assert attention.compare(config)["runs"] == results["runs"]
    with pytest.raises(ValueError, match="use another workdir"):
        attention.compare(dataclasses.replace(config, steps=6))
