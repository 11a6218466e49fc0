"""Segmentations with several answers, from flags to report, opened and applied."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import medjax
from experiments import predict
from experiments.compare.publishing import differences, summarise
from experiments.compare.uncertainty import Comparison, compare, headline, table
from experiments.hierarchical import PRESETS
from medjax.data import nifti
from medjax.segmentation import unfamiliar
from medjax.segmentation.phantoms.ambiguous import AmbiguousConfig
from medjax.segmentation.uncertain import run
from medjax.train.optimizer import OptimizerConfig
from tests.compiling import quickly

SIZE = 16


COMPARED = Comparison(
    systems=("deterministic", "tta", "ensemble"),
    seeds=(0,),
    steps=1,
    size=SIZE,
    widths=(4, 6),
    batch_size=8,
    train_images=2,
    test_images=2,
    strengths=(3,),
    samples=3,
)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """A few steps are over before an optimised program would be compiled, and each
    shift is one more program."""
    with quickly(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfamiliar, "SHIFTS", ("noise", "anatomy"))
        yield


def small(workdir, **changes):
    """The tiny preset on smaller phantoms."""
    tiny = PRESETS["tiny"]
    change = dataclasses.replace
    return change(
        tiny,
        data=change(
            tiny.data,
            ambiguous=AmbiguousConfig(size=SIZE),
            train_cases=2,
            test_cases=2,
        ),
        plan=change(tiny.plan, patch=(SIZE, SIZE), batch_size=8, widths=(4, 6)),
        samples=3,
        optimizer=OptimizerConfig(lr=1e-3),
        train=change(tiny.train, steps=2, log_every=1),
        evaluation=change(tiny.evaluation, strengths=(3,)),
        workdir=workdir,
        **changes,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(folder):
    return run(small(folder / "whole"))


def test_a_run_ends_with_scores_and_a_page(whole, folder):
    kept = json.loads((folder / "whole/evaluation.json").read_text())
    assert kept["method"] == "hierarchical" and kept["draws"] == 3
    assert len(kept["images"]) == 2 and kept["annotators"] == [16, 16]
    scores, floors = kept["scores"], kept["floors"]
    assert 0 <= scores["dice"]["mean"] <= 1 and 0 <= scores["ged_squared"]["mean"] <= 2
    # What is lost against the truth is what is above the floor.
    for name in ("nll", "brier"):
        above, excess = scores[name]["mean"] - floors[name], scores[f"excess_{name}"]
        assert excess["mean"] > 0 and excess["mean"] == pytest.approx(above, abs=1e-4)
    parts = scores["mi_level0"]["mean"] + scores["additivity_gap"]["mean"]
    assert scores["mi"]["mean"] == pytest.approx(parts, abs=1e-6)
    shifts = [row["shift"] for row in kept["unfamiliar"]]
    assert shifts == ["noise", "anatomy"]
    for row in kept["unfamiliar"]:
        assert {"auroc_mi", "auroc_entropy", "growth_level0", "fpr_mi"} <= set(row)
    page = (folder / "whole/report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') >= 20
    for words in ("level0", "true entropy", "annotator 5", "unfamiliar images by mi"):
        assert words in page
    assert "://" not in page


@pytest.fixture(scope="module")
def image(whole, folder):
    """A held-out phantom as a file."""
    path = folder / "image.nii.gz"
    model = medjax.load(folder / "whole")
    assert model.written == ("prob", "entropy", "mi", "variance", "levels")
    rng = np.random.default_rng(0)
    nifti.write(path, rng.normal(size=(SIZE, 12, 2)), affine=np.diag([1, 1, 3, 1.0]))
    return path


def test_maps_are_written_beside_the_labels(image, folder, capsys):
    out = folder / "predicted"
    maps = ["prob", "entropy", "mi", "variance", "levels"]
    flags = ["--out", str(out), "--write", *maps]
    assert predict.main([str(folder / "whole"), str(image), *flags]) == 0
    original = nifti.read(image)
    found = {
        name: nifti.read(out / f"image_{name}.nii.gz")
        for name in ("prob", "entropy", "mi", "variance", "level0")
    }
    for volume in found.values():
        assert volume.data.shape[:3] == original.data.shape
        np.testing.assert_allclose(volume.affine, original.affine, atol=1e-5)
    p = found["prob"].data
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(-1)
    np.testing.assert_allclose(found["entropy"].data, entropy, atol=1e-4)
    assert (found["mi"].data <= entropy + 1e-4).all() and found["mi"].data.max() > 0
    # With one level there is nothing else to be drawn.
    np.testing.assert_allclose(found["level0"].data, found["mi"].data, atol=1e-5)
    capsys.readouterr()
    assert predict.main([str(folder / "whole"), str(image), "--write", "level9"]) == 1
    assert "expected some of ['prob', 'entropy', 'mi'" in capsys.readouterr().err


def test_an_opened_run_gives_answers_and_maps(image, folder, tmp_path):
    model = medjax.load(folder / "whole")
    (answers,) = model.samples([image], 4, seed=1)
    (again,) = model.samples([image], 2, seed=1)
    assert len(answers) == 4 and set(np.unique(answers[0].data)) <= {0, 1}
    np.testing.assert_array_equal(answers[1].data, again[1].data)
    drawn = model.draw([nifti.read(image)], id="image", count=4, seed=1)
    np.testing.assert_array_equal(answers[2].data, drawn[2].data[..., 1] > 0.5)
    # The mean of a draw and what it says of the mirror image would be no draw.
    window = dataclasses.replace(model.record.window, mirror=True)
    given = [nifti.read(image)]
    same = model.draw(given, id="image", count=4, seed=1, window=window)
    np.testing.assert_array_equal(same[2].data, drawn[2].data)
    (maps,) = model.uncertainty([image])
    assert set(maps.maps) == {"entropy", "mi", "variance", "level0"}
    still = nifti.read(image)
    data = still.data.reshape(*still.data.shape[:2], -1, 1).repeat(2, axis=3)
    nifti.write(tmp_path / "cine.nii.gz", data, affine=still.affine)
    (moving,) = model.samples([tmp_path / "cine.nii.gz"], 2, seed=1)
    for answer, alone in zip(moving, again, strict=True):
        assert answer.data.shape == data.shape
        np.testing.assert_array_equal(answer.data[..., 1], alone.data)


@pytest.fixture(scope="module")
def compared(folder):
    """One seed: a network, views of it, and an ensemble."""
    return compare(dataclasses.replace(COMPARED, workdir=folder / "compare"))


def test_the_comparison_keeps_what_is_finished(compared, folder, monkeypatch):
    config = dataclasses.replace(COMPARED, workdir=folder / "compare")
    assert [row["system"] for row in compared["runs"]] == list(config.systems)
    text = table(compared)
    assert text.count("deep ensemble") == 3 and "truth, other annotators" in text
    assert "| objects of held-out images | empty in both | missed | false |" in text
    monkeypatch.setattr("experiments.compare.uncertainty.run", pytest.fail)
    assert compare(config)["runs"] == compared["runs"]
    with pytest.raises(ValueError, match="now.*use another workdir"):
        compare(dataclasses.replace(config, steps=2))
    with pytest.raises(ValueError, match="tta asks the network of deterministic"):
        compare(dataclasses.replace(config, systems=("tta",)))


def test_one_answer_has_no_samples(compared, folder, image):
    run = folder / "compare/deterministic-0"
    results = json.loads((run / "evaluation.json").read_text())
    assert results["draws"] == 1 and results["scores"]["area_sd_ratio"]["mean"] == 0
    names = ("auroc", "average_precision", "fpr", "growth")
    assert set(results["unfamiliar"][0]) == {
        "shift",
        "strength",
        *(f"{name}_entropy" for name in names),
    }
    model = medjax.load(run)
    with pytest.raises(ValueError, match="'segmentation' has one answer"):
        next(model.samples([image]))
    with pytest.raises(ValueError, match=r"\['mi'\], expected some of"):
        list(model.predict([image], written=["mi"]))
    assert json.loads((run / "system.json").read_text())["can"] == ["predict"]
    members = medjax.load(folder / "compare/ensemble-0").variables["params"]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(members)} == {5}


def test_the_numbers_compared_are_those_of_the_evaluation(whole):
    row = headline(whole)
    assert row["ged_squared"] == whole["scores"]["ged_squared"]["mean"]
    of_noise = [r for r in whole["unfamiliar"] if r["shift"] == "noise"]
    assert row["auroc noise"] == of_noise[0]["auroc_mi"]
    assert row["level0 noise"] == of_noise[0]["growth_level0"]
    # A method without levels beside one that has them, over two seeds.
    plain = {name: value for name, value in row.items() if "level" not in name}
    rows = [
        {"system": system, "seed": seed, "seconds": 1, **numbers}
        for seed in (0, 1)
        for system, numbers in (("probunet", plain), ("noise_floor", row))
    ]
    results = {
        "summary": summarise(rows),
        "differences": differences(rows, "noise_floor"),
        "floors": whole["floors"],
    }
    text = table(results)
    assert f"{whole['floors']['ged_squared']:.4f}" in text
    assert "variances tied to a floor, level0" in text
    assert "| Probabilistic U-Net | +0.0000 [+0.0000, +0.0000]" in text
