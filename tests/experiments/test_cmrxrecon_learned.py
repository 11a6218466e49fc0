"""experiments.cmrxrecon --learned: trained systems beside the classical methods."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import varnet
from medjax.data import mat73
from medjax.mri import cmrxrecon, sense
from medjax.mri.acquisition_config import MaskConfig
from medjax.mri.acquisitions import Acquisition
from medjax.mri.cmrxrecon.scores import (
    image_scores,
)
from medjax.mri.fourier import ifft2c
from medjax.mri.latent_transformer import CONFIGS as SINGLE_COIL
from medjax.mri.learned import Learned, open_run
from medjax.mri.reconstruction import run as train
from medjax.mri.scans import open_scans
from medjax.mri.systems import ReconstructionKernels, Trained, build
from medjax.mri.unrolled import CONFIGS as MULTI_COIL
from medjax.mri.varnet import VarNetConfig
from tests.experiments.scans import disc, reconstruct, refusal
from tests.mri.runs import COILS, FRAMES, SMALL_LATENT, H, W, write_run


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    cmrxrecon.fabricate(root / "2023", patients=1)
    return root


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    return disc()


SMALL_VARNET = VarNetConfig(cascades=1, chans=2, pools=1, sens_chans=2, sens_pools=1)


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "latent", SMALL_LATENT)


def test_a_trained_run_reconstructs_beside_the_classical_methods(
    plane, tree, tmp_path, quick_compiler
):
    """The weights are the averaged ones that the run was judged by."""
    preset = varnet.TINY
    small = dataclasses.replace(
        preset,
        system=SMALL_VARNET,
        data=dataclasses.replace(
            preset.data,
            **{"series": "t2", "height": 16, "width": 16, "coils": 2, "acs": 4},
            **{"acceleration": (2,), "patients": 8, "test_patients": 1},
            batch_size=8,
        ),
        train=dataclasses.replace(preset.train, steps=2, ema=0.5),
        workdir=tmp_path / "net",
    )
    judged = train(small, "VarNet")["scores"]
    results = reconstruct(
        *("phantom", "--data.height", "16", "--data.width", "16", "--data.coils", "2"),
        *("--data.series", "t2", "--data.subjects", "1", "--mask.acceleration", "2"),
        *("--mask.acs", "4", "--methods", "zero_filled", "--learned"),
        *(str(tmp_path / "net"), "--workdir", str(tmp_path)),
    )
    assert results["learned"]["net"]["updates"] == 2
    assert [row["method"] for row in results["summary"]] == ["zero_filled", "net"]
    assert "Trained systems" in (tmp_path / "report.html").read_text()
    # On the run's own held-out phantom: the scores that it ended with.
    opened = open_run(tmp_path / "net")
    acquisition = phantom_of(small.data)
    mask = jnp.asarray(MaskConfig(acs=4).draw(2, FRAMES, 16, 16))
    kspace = sense.sample(jnp.asarray(acquisition["kspace"]), mask)
    image = opened(kspace, mask, jnp.asarray(acquisition["sensitivities"]))
    scores = image_scores(
        np.asarray(image)[:, None],
        np.abs(acquisition["image"])[:, None],
        *("T2map", "2023"),
        ranking=False,
    )
    (row,) = (row for row in judged if row["method"] == "VarNet")
    assert scores["ssim"] == pytest.approx(row["ssim"], rel=1e-4)

    # A single frame, other coils and another unit; scattered points.
    np.save(tmp_path / "a.npy", 1e6 * plane)
    file = reconstruct(
        *("file", "--data.path", str(tmp_path / "a.npy"), "--mask.acs", "8"),
        *("--mask.pattern", "variable_density", "--mask.acceleration", "2"),
        *("--methods", "zero_filled", "--learned", str(tmp_path / "net")),
        *("--workdir", str(tmp_path)),
    )
    assert not file["skipped"] and file["summary"][1]["nmse"] < 1

    sent = tmp_path / "sent"
    board = reconstruct(
        *("tree", "--data.root", str(tree / "2023"), "--data.series", "T2map"),
        *("--data.sampling", "4", "--methods", "zero_filled", "--learned"),
        *(str(tmp_path / "net"), "--write-submission", str(sent)),
        *("--workdir", str(tmp_path)),
    )["leaderboard"]
    assert set(board) == {"zero_filled", "net"}
    place = "MultiCoil/Mapping/TrainingSet/AccFactor04/P001/T2map.mat"
    images = mat73.read(sent / "net" / place, "img4ranking")
    # In the unit of the files, whatever the network saw.
    plain = mat73.read(sent / "zero_filled" / place, "img4ranking")
    assert images.shape == plain.shape and 0.1 < images.max() / plain.max() < 10


def phantom_of(data):
    """The held-out phantom of a run's data."""
    return open_scans(data).test[0]


def test_a_system_of_fixed_scale_sees_the_magnitude_it_was_trained_on(
    latent, plane, quick_compiler
):
    opened = open_run(latent)
    mask = jnp.asarray(MaskConfig(acs=8).draw(2, FRAMES, H, W))
    kspace = sense.sample(jnp.asarray(np.stack([plane] * FRAMES)), mask)
    maps = jnp.asarray(np.ones((COILS, H, W), np.complex64) / COILS**0.5)
    image = opened(kspace, mask, maps)
    other = 2.0**-17  # changes no rounding
    np.testing.assert_allclose(
        opened(kspace * other, mask, maps), image * other, rtol=1e-5
    )
    # Written out: half of the largest pixel is what "discs" had.
    factor = 0.5 / float(sense.rss(ifft2c(kspace)).max())
    alone = jax.jit(build(SMALL_LATENT, ReconstructionKernels()).reconstruct)

    def error(factor):
        batch = {"kspace": kspace * factor, "mask": mask, "sensitivities": maps}
        batch = {name: value[None] for name, value in batch.items()}
        found = np.abs(alone(opened.variables, batch)[0]) / factor
        return np.median(np.abs(found - image)) / np.median(image)

    assert error(factor) < 1e-5 and error(0.1 * factor) > 1e-3


def series_of(frames=FRAMES, coils=COILS, contrast=None, size=(H, W)):
    kspace = np.zeros((frames, 1, coils, *size), np.complex64)
    measured = np.ones((1, size[0], 1), bool)
    return Acquisition("x", "x", kspace, measured, contrast=contrast)


def test_what_the_weights_do_not_fit_is_skipped_by_name(
    latent, plane, tmp_path, capsys
):
    def reason(run, **differs):
        return run.reason_against(series_of(**differs))

    opened = open_run(latent)
    assert reason(opened) is None
    assert reason(opened, frames=1) == "frames: needs 3, the series has 1"
    assert reason(opened, coils=8) == "coils: needs 3, the series has 8"
    assert reason(opened, frames=9, coils=8) == (
        "frames and coils: needs 3 and 3, the series has 9 and 8"
    )
    assert "image is 1x9, expected" in reason(opened, size=(1, 9))
    single = dataclasses.replace(SINGLE_COIL["tiny"], network=SMALL_LATENT.network)
    one_coil = open_run(write_run(tmp_path / "single", single, coils=1))
    assert reason(one_coil) == "coils: needs 1, the series has 3"

    np.save(tmp_path / "a.npy", plane)
    file = ("file", "--data.path", str(tmp_path / "a.npy"), "--mask.acs", "8")
    runs = ("--learned", str(latent), "--workdir", str(tmp_path))
    some = reconstruct(*file, "--methods", "zero_filled", *runs)
    assert some["skipped"] == {"latent": "frames: needs 3, the series has 1"}
    assert {row["method"] for row in some["summary"]} == {"zero_filled"}
    lonely = refusal(capsys, *file, "--methods", "low_rank_plus_sparse", *runs)
    assert "no method can be used" in lonely and "needs a series" in lonely


def test_the_polarity_of_inversion_recovery_is_for_t1_alone():
    def reason(system, contrast):
        trained = Trained(system, 0.5, "discs", "t1", FRAMES, COILS, (4,), 8)
        run = Learned(trained, 7, {}, lambda *_: None, lambda shape: None)
        return run.reason_against(series_of(contrast=contrast))

    for signed in (SINGLE_COIL["tiny_restormer"], MULTI_COIL["repo_restormer"]):
        assert reason(signed, "t1") is None
        for contrast, named in (("t2", "this is T2"), (None, "of unknown contrast")):
            why = reason(signed, contrast)
            assert "negates the first 3 frames" in why and named in why
        plain = dataclasses.replace(signed, network=SMALL_LATENT.network)
        assert reason(plain, "t2") is None
    for plain in (VarNetConfig(), dataclasses.replace(signed, denoiser="modl")):
        assert reason(plain, "t2") is None


def test_folders_that_are_no_usable_run_are_refused(latent, tmp_path, capsys):
    def said(*runs) -> str:
        folders = [str(run) for run in runs]
        return refusal(capsys, "phantom", "--learned", *folders)

    assert "gone: no such folder" in said(tmp_path / "gone")
    assert "no system.json in it" in said(tmp_path)
    Trained.load(latent).save(tmp_path)
    assert "has no checkpoint: train it first" in said(tmp_path)
    (tmp_path / "system.json").write_text('{"family": "gan"}')
    assert "a run of 'gan', expected one of latent_transformer" in said(tmp_path)
    assert "two runs are called 'latent'" in said(latent, latent)
    other = write_run(tmp_path / "cg_sense", SMALL_LATENT)
    assert "['cg_sense'] are methods already" in said(other)
    dataclasses.replace(Trained.load(other), frames=4).save(other)
    assert "is of another system than its record" in said(other)
