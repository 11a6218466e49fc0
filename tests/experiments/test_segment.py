"""A segmentation from flags to report, opened again, and applied to files."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import medjax
from experiments import predict
from experiments.prepare import segmentation as prepare_segmentation
from experiments.segment import PRESETS
from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.segmentation.datasets.embedded import lesion_phantoms
from medjax.segmentation.evaluate import ScoringConfig, case_scores
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.images import find_images
from medjax.segmentation.lesionmix.augmentation import MixingConfig
from medjax.segmentation.lesionmix.inpaint import InpaintConfig
from medjax.segmentation.lesionmix.mix import LesionMixConfig
from medjax.segmentation.lesionmix.populate import PopulateConfig
from medjax.segmentation.phantoms.lesions import LesionConfig
from medjax.segmentation.several import EnsembleConfig
from medjax.segmentation.training import described, fitted, opened, run
from medjax.train import goodput, speed
from medjax.train.log import read_metrics
from medjax.train.mesh import MeshConfig
from medjax.train.optimizer import OptimizerConfig
from tests.compiling import quickly

BRAINS = LesionConfig(shape=(40, 40), slots=6)
TIMED = {*speed.TIMED, *goodput.ROW}


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile(tmp_path_factory):
    """A few steps are over before an optimised program would be compiled."""
    before = jax.config.jax_compilation_cache_dir
    folder = str(tmp_path_factory.mktemp("compiled"))
    jax.config.update("jax_compilation_cache_dir", folder)
    with quickly():
        yield
    jax.config.update("jax_compilation_cache_dir", before)


def small(workdir, *, steps):
    """The tiny preset on smaller brains; a constant rate, so that it can go on."""
    tiny = PRESETS["tiny"]
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(
            tiny.data,
            phantom=BRAINS,
            train_cases=4,
            test_cases=2,
        ),
        plan=dataclasses.replace(
            tiny.plan, patch=(16, 16), batch_size=8, widths=(4, 8)
        ),
        optimizer=OptimizerConfig(lr=1e-3),
        train=dataclasses.replace(tiny.train, steps=steps, log_every=1),
        workdir=workdir,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(folder):
    return run(small(folder / "whole", steps=3))


def drawn(count):
    """Images and label maps of brains, one slice each."""
    data = lesion_phantoms(BRAINS, seed=1, train=count, validation=0, test=0)
    pairs = [data.read(case) for case in data.cases]
    return [(images[0].data[..., 0], label.data[..., 0]) for images, label in pairs]


def curve(workdir):
    return [
        {name: value for name, value in row.items() if name not in TIMED}
        for row in read_metrics(workdir)
    ]


def test_a_run_ends_with_scores_and_a_page(whole, folder):
    kept = json.loads((folder / "whole/evaluation.json").read_text())
    (row,) = kept["scores"]
    assert row["structure"] == "lesion" and row["n"] == 2
    assert 0 <= row["dice"] <= 1 and row["n_missed"] + row["n_false"] <= 2
    page = (folder / "whole/report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') >= 8
    assert "after augmentation" in page and "empty in both" in page
    assert "://" not in page


def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(whole, folder):
    for steps in (1, 3):
        again = run(small(folder / "cut", steps=steps))
    assert curve(folder / "cut") == curve(folder / "whole")
    assert again["scores"] == whole["scores"]


@pytest.fixture(scope="module")
def images(folder):
    """A phantom whose axes are flipped, permuted and have other voxels."""
    place = folder / "images"
    place.mkdir()
    affine = np.array(
        [[0, -1.0, 0, 40], [0, 0, 1.0, -20], [3.0, 0, 0, 7], [0, 0, 0, 1]], float
    )
    brains = [image[:, :36] for image, _ in drawn(2)]
    nifti.write(place / "turned.nii.gz", np.stack(brains), affine=affine)
    return place


def test_files_are_segmented_on_their_own_grid(whole, folder, images, capsys):
    out = folder / "predicted"
    flags = ["--out", str(out), "--write", "prob", "entropy"]
    assert predict.main([str(folder / "whole"), str(images), *flags]) == 0
    assert "1 of 1: turned (2x40x36)" in capsys.readouterr().out
    original = nifti.read(images / "turned.nii.gz")
    label = nifti.read_labels(out / "turned.nii.gz")
    assert label.data.shape == original.data.shape and set(np.unique(label.data)) <= {
        0,
        1,
    }
    np.testing.assert_allclose(label.affine, original.affine, atol=1e-5)
    probability = nifti.read(out / "turned_prob.nii.gz").data
    np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.argmax(probability, -1), label.data)
    entropy = nifti.read(out / "turned_entropy.nii.gz").data
    assert 0 <= entropy.min() and entropy.max() <= np.log(2) + 1e-5
    summary = json.loads((out / "turned.json").read_text())
    voxels = int((label.data == 1).sum())
    assert summary["volume_ml"]["lesion"] == pytest.approx(voxels * 3 / 1000)


def test_any_run_is_opened_by_medjax(whole, folder, images):
    model = medjax.load(folder / "whole")
    (found,) = model.predict([images / "turned.nii.gz"])
    again = nifti.read_labels(folder / "predicted/turned.nii.gz")
    np.testing.assert_array_equal(found.labels.data, again.data)
    assert not found.maps
    with pytest.raises(ValueError, match="expected some of"):
        list(model.predict([images / "turned.nii.gz"], written=("levels",)))


def test_what_cannot_be_read_is_listed(whole, folder, tmp_path, capsys):
    (tmp_path / "broken.nii").write_bytes(b"nothing")
    flags = ["--out", str(tmp_path / "out")]
    assert predict.main([str(folder / "whole"), str(tmp_path), *flags]) == 1
    assert "broken" in (tmp_path / "out/skipped.csv").read_text()
    none = predict.main([str(folder / "whole"), str(tmp_path / "no*"), *flags])
    assert none == 1 and "found none" in capsys.readouterr().err


def test_images_of_several_channels_are_put_together(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000"):
        (tmp_path / f"{name}.nii.gz").touch()
    with pytest.raises(DataError, match="'a'. have another number of files than the 3"):
        find_images([str(tmp_path)], 3)
    (tmp_path / "b_0001.nii.gz").touch()
    found = find_images([str(tmp_path / "*.nii.gz")], 2)
    assert [[p.name[:6] for p in paths] for paths in found] == [
        ["a_0000", "a_0001"],
        ["b_0000", "b_0001"],
    ]
    for number in range(3):  # people count patients like that too
        (tmp_path / f"case_{number + 1:04d}.nii").touch()
    found = find_images([str(tmp_path / "case*")], 1)
    assert [[p.name for p in one] for one in found] == [
        [f"case_{number + 1:04d}.nii"] for number in range(3)
    ]


def test_a_raw_set_is_prepared_and_trained_on(tmp_path, capsys):
    rows = ["image,label,case"]
    for i, (image, label) in enumerate(drawn(4)):
        for kind, data in (("image", image), ("label", label)):
            data = np.repeat(data[..., None], 3, axis=2)
            nifti.write(tmp_path / f"{kind}{i}.nii.gz", data, affine=np.eye(4))
        rows.append(f"image{i}.nii.gz,label{i}.nii.gz,{i}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    out, flags = tmp_path / "set", ["--labels", "lesion=1", "--plan.rank", "2"]
    source = ["--format", "table", "--root", str(tmp_path / "pairs.csv")]
    status = prepare_segmentation.main([*source, "--out", str(out), *flags])
    assert not status
    told = capsys.readouterr().out
    assert "rows in pairs.csv: kept 4" in told and "plan: 2-D U-Net" in told
    config = small(tmp_path / "run", steps=1)
    data = dataclasses.replace(config.data, root=out, format="prepared")
    config = dataclasses.replace(config, data=data)
    solid = dataclasses.replace(config, plan=PlanConfig(rank=3))
    with pytest.raises(ValueError, match="the set is planned for 2 axes"):
        run(solid)
    results = run(config)
    assert results["scores"][0]["n"] == 1


def test_lesions_are_mixed_while_training_and_the_run_is_used_as_any(folder):
    few = LesionMixConfig(PopulateConfig(slots=2), InpaintConfig(sweeps=2))
    mixing = MixingConfig(method="lesionmix", p=1.0, lesionmix=few)
    config = dataclasses.replace(small(folder / "mixed", steps=2), mixing=mixing)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, checkpoint_every=1)
    )
    results = run(config)
    assert results["scores"][0]["n"] == 2
    model = medjax.load(folder / "mixed")
    image, label = drawn(1)[0]
    volume = nifti.Volume(image[..., None], np.eye(4), (1.0, 1.0, 1.0))
    assert model.segment([volume], id="a").labels.data.shape == (*label.shape, 1)
    # No checkpoint holds the bank: whoever goes on makes the same one again.
    assert set(model.variables) == {"params"}
    shutil.rmtree(folder / "mixed/checkpoints/2")
    found, _ = opened(config, Ledger(log=lambda _: None))
    again = fitted(config, found)
    assert again.step == 2
    chex.assert_trees_all_equal(again.variables, model.variables)


def test_members_of_an_ensemble_share_the_bank_of_lesions(folder):
    """Split over devices, where the bank is whole on each."""
    few = LesionMixConfig(PopulateConfig(slots=2), InpaintConfig(sweeps=2))
    config = dataclasses.replace(
        small(folder / "members", steps=1),
        mixing=MixingConfig(method="lesionmix", p=1.0, lesionmix=few),
        mesh=MeshConfig(model=2),
    )
    found, _ = opened(config, Ledger(log=lambda _: None))
    plain = described(config, found)
    given = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    model = fitted(config, found, EnsembleConfig(**given, members=2))
    assert set(model.variables) == {"params"}
    kernels = jax.tree.leaves(model.variables["params"])
    assert all(len(leaf) == 2 for leaf in kernels)
    assert max(float(jnp.abs(leaf[0] - leaf[1]).max()) for leaf in kernels) > 0.01


def test_a_run_is_not_renamed_by_a_command_that_does_not_fit_it(whole, folder):
    """Other widths in the same folder are refused, and it opens as before."""
    before = (folder / "whole/system.json").read_text()
    config = small(folder / "whole", steps=3)
    other = dataclasses.replace(config.plan, widths=(4, 6))
    with pytest.raises(DataError, match="is of another model"):
        run(dataclasses.replace(config, plan=other))
    assert (folder / "whole/system.json").read_text() == before


def test_misses_and_false_finds_are_told_apart():
    empty, full = np.zeros((4, 5, 6), int), np.zeros((4, 5, 6), int)
    full[1:3, 1:3, 1:3] = 1
    structures, spacing = {"x": 1}, (1.0, 1.0, 2.0)
    diagonal = np.sqrt(4**2 + 5**2 + 12**2)
    for said, true, dice, distance in (
        (empty, empty, 1, 0),
        (empty, full, 0, diagonal),
        (full, empty, 0, diagonal),
        (full, full, 1, 0),
    ):
        found = case_scores(said, true, spacing, structures, ScoringConfig())["x"]
        assert found["dice"] == dice
        assert found["hd95_monai"] == pytest.approx(distance)
        assert (found["predicted"], found["present"]) == (said.any(), true.any())
