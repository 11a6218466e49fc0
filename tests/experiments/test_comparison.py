"""What experiments.cmrxrecon writes, does to coils, and takes as a mask."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cmrxrecon as experiment
from medjax.data import cfl, mat73, nifti
from medjax.mri import cmrxrecon, coils, sense
from medjax.mri.acquisition_config import FileData
from medjax.mri.acquisitions import open_data
from medjax.mri.coil_preparation import CoilConfig, open_noise, prepare_coils
from medjax.mri.fourier import fft2c
from medjax.mri.kspace_files import read_mask
from tests.mri.test_coils import smooth_maps

H, W, COILS = 20, 16, 4
TIMES = (0.0, 35.0, 55.0)


@pytest.fixture(scope="module")
def series() -> np.ndarray:
    """A disc of T2 = 45 ms under four coils, fully sampled, ``t c h w``."""
    y, x = np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij")
    disc = ((y**2 + x**2 < 0.6) * (1 + 0.5 * x)).astype(np.complex64)
    image = disc * np.exp(-np.reshape(TIMES, (3, 1, 1)) / 45)
    kspace = fft2c(
        sense.expand(jnp.asarray(image, jnp.complex64), smooth_maps(h=H, w=W))
    )
    return np.asarray(kspace)


@pytest.fixture
def path(series, tmp_path):
    np.save(tmp_path / "scan.npy", series)
    return tmp_path / "scan.npy"


def run(path, folder, *arguments) -> dict:
    given = ["file", "--data.path", path, "--workdir", folder / "run", *arguments]
    assert not experiment.main([str(a) for a in given])
    return json.loads((folder / "run" / "evaluation.json").read_text())


def refusal(capsys, path, folder, *arguments) -> str:
    given = ["file", "--data.path", path, "--workdir", folder / "run", *arguments]
    assert experiment.main([str(a) for a in given]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def scores(found: dict) -> dict[str, float]:
    return {row["method"]: row["psnr"] for row in found["summary"]}


MAPPED = ("--data.times", *TIMES, "--data.contrast", "t2", "--methods", "cg_sense")
HALF = ("--mask.acceleration", "2", "--mask.acs", "8")


def test_images_coil_maps_and_relaxation_maps_are_written(path, tmp_path, capsys):
    out = tmp_path / "out"
    run(path, tmp_path, *MAPPED, *HALF, "--write", out)
    place = out / "scan_R2"
    printed = capsys.readouterr().out
    names = [
        *("cg_sense", "cg_sense_t2", "cg_sense_t2_sd", "cg_sense_t2_fault"),
        *("reference", "reference_t2", "reference_t2_sd", "reference_t2_fault"),
        *("coil_maps_magnitude", "coil_maps_phase"),
    ]
    assert sorted(p.name for p in place.iterdir()) == sorted(
        f"{name}.nii.gz" for name in names
    )
    assert f"written, {len(names)} files:" in printed
    assert str(place / "cg_sense_t2_sd.nii.gz") in printed
    assert "says nothing of geometry" in printed
    image = nifti.read(place / "cg_sense.nii.gz").data  # w h d t
    assert image.shape == (W, H, 1, 3)
    t2 = nifti.read(place / "cg_sense_t2.nii.gz").data[W // 2, H // 2]
    sd = nifti.read(place / "cg_sense_t2_sd.nii.gz").data[W // 2, H // 2]
    assert t2 == pytest.approx(45, rel=0.02) and 0 <= sd < 2
    maps = nifti.read(place / "coil_maps_magnitude.nii.gz").data  # w h d c
    norm = np.sqrt((maps[W // 2, H // 2] ** 2).sum())
    assert maps.shape == (W, H, 1, COILS) and norm == pytest.approx(1, rel=1e-4)

    run(path, tmp_path, *MAPPED, *HALF, "--write", out, "--write-format", "npz")
    with np.load(place / "reconstruction.npz") as stored:
        np.testing.assert_allclose(stored["cg_sense"].transpose(), image, rtol=1e-5)
        assert stored["coil_maps"].shape == (1, 1, COILS, H, W)
    run(path, tmp_path, *MAPPED, *HALF, "--write", out, "--write-format", "cfl")
    assert cfl.read(place / "cg_sense").shape == (W, H, 1, 1, 1, 3)
    assert cfl.read(place / "coil_maps").shape == (W, H, 1, COILS)


def test_a_trees_images_lie_where_its_segmentation_says(tmp_path):
    root = tmp_path / "tree"
    cmrxrecon.fabricate(root, patients=1)
    arguments = ("tree", "--data.root", root, "--data.series", "T2map", "--methods")
    arguments += ("zero_filled", "--data.slices", "1", "--data.sampling", "4")
    more = ("--workdir", tmp_path / "run", "--write", tmp_path / "out")
    assert not experiment.main([str(a) for a in (*arguments, *more)])
    place = tmp_path / "out" / "P001_T2map_R4"
    volume = nifti.read(place / "zero_filled_t2.nii.gz")
    assert volume.data.shape == (48, 28)
    expected = np.diag([1.0, 1.0, 8.0, 1.0])
    expected[2, 3] = 8  # the second of two slices
    np.testing.assert_allclose(volume.affine, expected)
    assert not (place / "coil_maps_phase.nii.gz").exists()  # nobody looked at any


def test_the_2025_tree_is_read_by_centre_and_scanner(tmp_path):
    root = tmp_path / "tree"
    cmrxrecon.fabricate(root, edition=2025, patients=1)
    full = cmrxrecon.find(root, name="T1map", edition=2025)
    places = ["Center001/UIH_30T_umr780/P001", "Center006/Siemens_30T_Prisma/P001"]
    assert [one.patient for one in full] == places and full[0].key == "kspace"
    where = {"name": "T1map", "edition": 2025, "subset": "ValidationSet"}
    sampled = cmrxrecon.find(root, **where, sampling="Uniform4")
    assert [one.patient for one in sampled] == places
    with pytest.warns(UserWarning, match="nominal times"):
        whole, part = (cmrxrecon.read_series(x[1]) for x in (full, sampled))
    np.testing.assert_array_equal(part.kspace, whole.kspace * part.mask)
    assert part.mask.shape == (36, 1) and whole.mask.all()
    with pytest.raises(FileNotFoundError, match="no T2map_kus_ktRadial8.mat in"):
        cmrxrecon.find(root, **{**where, "name": "T2map"}, sampling="ktRadial8")
    with pytest.raises(ValueError, match="2025 edition is MultiCoil only"):
        cmrxrecon.find(root, name="T1map", edition=2025, coils="SingleCoil")


def test_a_mask_file_samples_what_it_says(path, series, tmp_path, capsys):
    lines = (np.arange(H) % 3 == 0) | (abs(np.arange(H) - H // 2) < 4)
    np.save(tmp_path / "third.npy", lines)
    mat73.write(
        tmp_path / "m.mat", {"mask": np.tile(lines[:, None], (1, W)).astype(float)}
    )
    cfl.write(tmp_path / "pat", np.tile(lines, (W, 1)).astype(np.complex64))
    for name, key in (("third.npy", None), ("m.mat", "mask"), ("pat.cfl", None)):
        found = read_mask(tmp_path / name, key=key)
        np.testing.assert_array_equal(found, lines[None, :, None])
    only = ("--methods", "zero_filled")
    found = run(path, tmp_path, *only, "--data.mask", tmp_path / "third.npy")
    (row,) = found["summary"]
    assert row["sampling"] == "third" and "nominal R 3" in found["masks"][0]
    named = run(path, tmp_path, *only, "--data.mask", "kt_equispaced", *HALF)
    plain = run(path, tmp_path, *only, "--mask.pattern", "kt_equispaced", *HALF)
    assert named["masks"] == plain["masks"]

    def said(*arguments):
        return refusal(capsys, path, tmp_path, *only, *arguments)

    assert "expected a file or one of" in said("--data.mask", "spiral")
    np.save(tmp_path / "short.npy", lines[1:])
    assert "has shape (1, 19, 1)" in said("--data.mask", tmp_path / "short.npy")
    np.save(tmp_path / "none.npy", lines & False)
    assert "samples nothing" in said("--data.mask", tmp_path / "none.npy")
    np.save(path, series * lines[:, None])
    np.save(tmp_path / "all.npy", lines | True)
    assert "samples what was not measured" in said("--data.mask", tmp_path / "all.npy")
    assert not experiment.main(
        ["file", "--data.path", str(path), "--data.mask", str(tmp_path / "third.npy")]
        + ["--workdir", str(tmp_path / "run"), *only]
    )


def test_maps_in_two_sets_are_used_by_cg_sense_and_refused_by_others(
    path, tmp_path, capsys
):
    maps = np.asarray(smooth_maps(h=H, w=W))
    both = np.stack([maps, np.roll(maps, H // 2, axis=1)], axis=-1)
    cfl.write(tmp_path / "sens", both.transpose(2, 1, 0, 3)[:, :, None])
    cfl.write(tmp_path / "one", both[..., :1].transpose(2, 1, 0, 3)[:, :, None])
    some = ("--methods", "cg_sense", "wavelet", "--mask.acceleration", "2")
    given = (*some, "--mask.acs", "8", "--classical.cg-lam", "1e-4", "--data.maps")
    found = run(path, tmp_path, *given, tmp_path / "sens.cfl")
    assert found["skipped"] == {
        "wavelet": "the maps come in 2 sets, which cg_sense alone can use"
    }
    single = run(path, tmp_path, *given, tmp_path / "one.cfl")
    assert scores(found)["cg_sense"] > 25 and "wavelet" in scores(single)


def acquisition(path):
    return open_data(FileData(path))[0][1]()


def test_whitened_coils_have_independent_noise_in_the_same_unit(path, tmp_path):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(COILS, COILS)) + 1j * rng.normal(size=(COILS, COILS))
    noise = rng.normal(size=(2, COILS, 20_000))
    samples = (factor @ (noise[0] + 1j * noise[1])).astype(np.complex64)
    np.save(tmp_path / "noise.npy", samples)
    scan = open_noise(CoilConfig(noise=tmp_path / "noise.npy"))
    assert np.real(np.diag(scan)).mean() == pytest.approx(1, rel=1e-4)
    mat73.write(tmp_path / "cov.mat", {"c": 7 * factor @ factor.conj().T})
    known = open_noise(CoilConfig(noise=tmp_path / "cov.mat", noise_key="c"))
    np.testing.assert_allclose(scan, known, atol=0.05)
    white = np.asarray(
        coils.whiten(jnp.asarray(samples[:, :, None]), jnp.asarray(scan))
    )
    covariance = np.cov(white[..., 0])
    np.testing.assert_allclose(
        covariance / covariance[0, 0].real, np.eye(COILS), atol=1e-3
    )
    prepared = prepare_coils(acquisition(path), CoilConfig(), scan)
    assert prepared.kspace.shape == (3, 1, COILS, H, W)


@pytest.mark.parametrize("compression", ["svd", "geometric"])
def test_all_virtual_coils_give_the_same_image_and_fewer_nearly(
    path, tmp_path, compression
):
    common = (*HALF, "--methods", "cg_sense", "--coils.compression", compression)
    plain = scores(run(path, tmp_path, *HALF, "--methods", "cg_sense"))
    # Maps are estimated anew of the virtual coils: the same up to their smoothing.
    whole = scores(run(path, tmp_path, *common, "--coils.compress", COILS))
    assert whole["cg_sense"] == pytest.approx(plain["cg_sense"], abs=1.5)
    fewer = scores(run(path, tmp_path, *common, "--coils.compress", "3"))
    assert fewer["cg_sense"] > plain["cg_sense"] - 6


def test_what_does_not_fit_the_coils_is_said(path, tmp_path, capsys):
    def said(*arguments):
        return refusal(capsys, path, tmp_path, "--methods", "zero_filled", *arguments)

    assert "expected 1 to 4, the coils of scan.npy" in said("--coils.compress", "9")
    np.save(tmp_path / "noise.npy", np.eye(3, dtype=np.complex64))
    assert "of 3 coils, the series" in said("--coils.noise", tmp_path / "noise.npy")
    np.save(tmp_path / "flat.npy", np.ones((4, 2), np.complex64))
    assert "smallest eigenvalue" in said("--coils.noise", tmp_path / "flat.npy")
    np.save(tmp_path / "one.npy", np.ones(4, np.complex64))
    assert "covariance (c, c) or samples" in said("--coils.noise", tmp_path / "one.npy")
    points = ("--mask.pattern", "variable_density", "--coils.compression", "geometric")
    assert "needs masks of whole lines" in said(*points, "--coils.compress", "2")
    points = ("--coils.compression", "geometric", "--coils.compress", "2")
    points += ("--data.mask",)
    assert "pattern is variable_density" in said(*points, "variable_density")
    scattered = np.random.default_rng(0).random((H, W)) < 0.5
    np.save(tmp_path / "scattered.npy", scattered)
    assert "needs whole lines" in said(*points, tmp_path / "scattered.npy")
    with pytest.raises(ValueError, match=r"data\.slices is empty"):
        open_data(FileData(path, slices=()))
