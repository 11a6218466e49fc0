"""experiments.cmrxrecon end to end: phantoms, a look-alike tree, files, faults."""

import json

import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cmrxrecon as experiment
from medjax.data import cfl, mat73
from medjax.mri import cmrxrecon, masks, sense
from medjax.mri.acquisition_config import FileData, MaskConfig
from medjax.mri.acquisitions import open_data
from medjax.mri.cmrxrecon import lookalike
from medjax.mri.cmrxrecon.scores import (
    fit_maps,
    leaderboard,
    reference_of,
)
from medjax.mri.fourier import ifft2c
from medjax.mri.kspace_axes import arrange, fully_sampled
from medjax.mri.kspace_files import read_kspace
from tests.experiments.scans import disc, reconstruct, refusal
from tests.mri.runs import COILS, H, W


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    cmrxrecon.fabricate(root / "2023", patients=1)
    cmrxrecon.fabricate(root / "2024", edition=2024, patients=1)
    return root


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    return disc()


def test_phantoms_are_reconstructed_scored_and_mapped(tmp_path, capsys):
    results = reconstruct(
        *("phantom", "--data.height", "32", "--data.width", "24", "--data.subjects"),
        *("1", "--data.series", "t2", "--mask.acs", "8", "--aha-level", "mid"),
        *("--methods", "zero_filled", "cg_sense"),
        *("--mask.acceleration", "3", "--workdir", str(tmp_path)),
    )
    printed = capsys.readouterr().out
    assert "T2map R3: nominal R 3, true R " in printed and "myocardium truth" in printed
    rows = {row["method"]: row for row in results["summary"]}
    assert set(rows) == {"zero_filled", "cg_sense"}
    assert rows["cg_sense"]["psnr"] > rows["zero_filled"]["psnr"] + 2
    assert rows["cg_sense"]["nmse"] < rows["zero_filled"]["nmse"]
    for row in rows.values():
        assert 0 < row["myocardium_reference"] < 60 and row["myocardium_truth"] > 0
        assert any(name.startswith("aha_") for name in row)
    assert json.loads((tmp_path / "evaluation.json").read_text())["summary"]
    page = (tmp_path / "report.html").read_text()
    assert "Errors, 5 times brighter" in page and "Fitted signal at row" in page


def test_the_challenges_own_files_and_a_submission(tree, tmp_path):
    results = reconstruct(
        *("tree", "--data.root", str(tree / "2023"), "--data.series", "T2map"),
        *("--data.sampling", "4", "8", "--methods", "zero_filled", "cg_sense"),
        *("--write-submission", str(tmp_path / "sent"), "--workdir", str(tmp_path)),
    )
    sampling = [row["sampling"] for row in results["summary"]]
    assert sampling == ["R4", "R4", "R8", "R8"]
    best = results["leaderboard"]["cg_sense"]
    of_method = [r for r in results["summary"] if r["method"] == "cg_sense"]
    assert best["ssim"] == pytest.approx(np.mean([r["ssim"] for r in of_method]))

    place = "MultiCoil/Mapping/TrainingSet/AccFactor04/P001/T2map.mat"
    sent = mat73.read(tmp_path / "sent/zero_filled" / place, "img4ranking")
    full = read_kspace(tree / "2023" / place, key="kspace_sub04").kspace
    images = np.asarray(sense.rss(ifft2c(jnp.asarray(full))))
    assert sent.dtype == np.float32 and sent.shape == (3, 2, 14, 16)
    np.testing.assert_allclose(sent, images[..., 7:21, 16:32], rtol=1e-4, atol=1e-9)


def test_a_tree_of_single_frames_has_no_curves(tmp_path):
    def first_frame(name: str, patient: int) -> lookalike.Scan:
        scan = lookalike.ellipse_scan(name, patient)
        return scan._replace(kspace=scan.kspace[:1], times=scan.times[:1])

    cmrxrecon.fabricate(tmp_path / "tree", patients=1, series=first_frame)
    results = reconstruct(
        *("tree", "--data.root", str(tmp_path / "tree"), "--data.sampling", "4"),
        *("--data.series", "T2map", "--data.slices", "1", "--methods", "zero_filled"),
        *("--workdir", str(tmp_path)),
    )
    assert [row["sampling"] for row in results["summary"]] == ["R4"]
    page = (tmp_path / "report.html").read_text()
    assert "Errors, 5 times brighter" in page and "Fitted signal" not in page


def test_the_leaderboard_is_of_methods_that_reconstructed_everything():
    scores = {"ssim": 0.9, "psnr": 30.0, "nmse": 0.01}
    rows = [
        {"method": method, "series": series, "sampling": "R4", "name": "P001"}
        | {"protocol": "2023", **scores}
        for method, done in (("both", ("T1map", "T2map")), ("one", ("T2map",)))
        for series in done
    ]
    assert set(leaderboard(rows, "MultiCoil")) == {"both"}
    assert set(leaderboard(rows[1:], "MultiCoil")) == {"both", "one"}


def test_a_validation_set_has_no_reference(tree, tmp_path):
    with pytest.warns(UserWarning, match="nominal times"):
        results = reconstruct(
            *("tree", "--data.root", str(tree / "2024"), "--data.edition", "2024"),
            *("--data.subset", "ValidationSet", "--data.sampling", "ktUniform4"),
            *("--data.series", "T2map", "--data.slices", "1", "--methods"),
            *("zero_filled", "grappa", "--workdir", str(tmp_path)),
        )
    for row in results["summary"]:
        assert row["sampling"] == "ktUniform4" and "ssim" not in row


def write_fastmri(path, plane: np.ndarray) -> None:
    """Two slices whose columns are the phase encodes, and their RSS cropped."""
    turned = plane.swapaxes(-1, -2)
    image = np.asarray(sense.rss(ifft2c(jnp.asarray(turned))))
    with h5py.File(path, "w") as file:
        file["kspace"] = np.stack([turned, 2 * turned])
        crop = image[2:-2, 2:-2].astype(np.float32)
        file["reconstruction_rss"] = np.stack([crop, 2 * crop])


def test_files_of_every_format_hold_the_same_scan(plane, tmp_path):
    np.save(tmp_path / "a.npy", plane)
    mat73.write(tmp_path / "a.mat", {"k": plane.transpose(1, 2, 0), "other": plane})
    cfl.write(tmp_path / "a", plane.transpose(2, 1, 0)[:, :, None])
    write_fastmri(tmp_path / "a.h5", plane)
    found = {
        "npy": read_kspace(tmp_path / "a.npy"),
        "mat": read_kspace(tmp_path / "a.mat", key="k", axes="hwc"),
        "cfl": read_kspace(tmp_path / "a.cfl"),
        "cfl by stem": read_kspace(tmp_path / "a"),
        "fastmri": read_kspace(tmp_path / "a.h5", slices=(0,)),
    }
    for name, file in found.items():
        assert file.kspace.shape == (1, 1, COILS, H, W), name
        np.testing.assert_allclose(file.kspace[0, 0], plane, rtol=1e-6, err_msg=name)
        assert fully_sampled(file.measured) and file.measured.shape == (1, H, 1)
    assert found["fastmri"].size == (H - 4, W - 4) and found["fastmri"].transposed


def test_a_file_is_undersampled_and_scored(plane, tmp_path):
    np.save(tmp_path / "a.npy", plane)
    common = ("--mask.acs", "8", "--mask.acceleration", "2", "--workdir", str(tmp_path))
    results = reconstruct("file", "--data.path", str(tmp_path / "a.npy"), *common)
    scores = {row["method"]: row["psnr"] for row in results["summary"]}
    assert results["skipped"] == {"low_rank_plus_sparse": "needs a series of frames"}
    assert len(scores) == 6
    for name in ("cg_sense", "grappa", "espirit_sense", "total_variation", "wavelet"):
        assert scores[name] > scores["zero_filled"] + 3, name


def test_fastmri_files_are_scored_per_volume(plane, tmp_path):
    write_fastmri(tmp_path / "a.h5", plane)
    results = reconstruct(
        *("file", "--data.path", str(tmp_path / "a.h5"), "--mask.acceleration", "1"),
        *("--methods", "zero_filled", "--workdir", str(tmp_path), "--mask.acs", "8"),
    )
    (row,) = results["summary"]
    assert row["protocol"] == "fastmri" and results["reference"] == ["the file's own"]
    assert row["nmse"] < 1e-6 and row["ssim"] > 0.999


def test_times_of_a_file_give_maps(tmp_path, plane):
    decay = np.exp(-np.array([0, 35, 55]) / 45.0)
    np.save(tmp_path / "t.npy", (plane * decay[:, None, None, None]).astype("c8"))
    results = reconstruct(
        *("file", "--data.path", str(tmp_path / "t.npy"), "--data.times", "0", "35"),
        *("55", "--data.contrast", "t2", "--mask.pattern", "measured"),
        *("--methods", "zero_filled", "--workdir", str(tmp_path)),
    )
    assert results["summary"][0]["sampling"] == "measured"
    assert "T2, black 0 to white" in (tmp_path / "report.html").read_text()
    data = FileData(tmp_path / "t.npy", times=(0.0, 35.0, 55.0), contrast="t2")
    acquisition = open_data(data)[0][1]()
    fitted = fit_maps(reference_of(acquisition), acquisition)
    np.testing.assert_allclose(fitted[0, H // 2, W // 2], 45, rtol=1e-3)


def test_three_dimensional_scans_become_slices(plane):
    volume = np.stack([np.zeros_like(plane), plane, np.zeros_like(plane)])  # z c h w
    slices = arrange(volume, "zchw", "volume")
    assert slices.shape == (1, 3, COILS, H, W)
    # A single sample in z is a constant over slices.
    np.testing.assert_allclose(slices[0, 2], plane / np.sqrt(3), rtol=1e-5)


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        ("random_lines", (1, H, 1)),
        ("kt_equispaced", (2, H, 1)),
        ("kt_gaussian", (2, H, 1)),
        ("kt_radial", (2, H, W)),
        ("variable_density", (1, H, W)),
    ],
)
def test_every_pattern_can_be_drawn(pattern, shape):
    config = MaskConfig(pattern=pattern, acs=4)
    mask = config.draw(3, 2, H, W)
    assert mask.shape == shape and masks.describe(mask).true > 1


def test_faults_end_with_a_message_that_names_file_and_key(
    plane, tree, tmp_path, capsys
):
    def file(name: str, *more: str) -> str:
        return refusal(capsys, "file", "--data.path", str(tmp_path / name), *more)

    assert "gone.npy: no such file" in file("gone.npy")
    mat73.write(tmp_path / "a.mat", {"k": plane, "real": np.abs(plane)})
    assert "a.mat: no variable 'x', only ['k', 'real']" in file(
        "a.mat", "--data.key", "x"
    )
    assert "holds ['k', 'real'], say which one" in file("a.mat")
    assert "variable 'real' has dtype float32, expected complex" in file(
        "a.mat", "--data.key", "real"
    )
    assert "axes='hwh': expected one letter" in file(
        "a.mat", "--data.key", "k", "--data.axes", "hwh"
    )
    whole = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(whole[: len(whole) // 2])
    assert "cut.mat: not an intact MATLAB v7.3 file" in file(
        "cut.mat", "--data.key", "k"
    )
    np.save(tmp_path / "a.npy", plane * (np.arange(H) % 3 == 0)[:, None])
    assert "undersampled already (nominal R 3" in file("a.npy")
    (tmp_path / "a.txt").write_text("k-space")
    assert "'.txt' is none of .h5" in file("a.txt")
    with h5py.File(tmp_path / "b.h5", "w") as h5:
        h5["image"] = np.zeros(3)
    assert "b.h5: no 'dataset', only ['image']" in file("b.h5")
    np.save(tmp_path / "full.npy", plane)
    assert "has no fully sampled centre" in file(
        "full.npy", "--mask.acs", "0", "--methods", "cg_sense"
    )
    assert not experiment.main(
        ("file", "--data.path", str(tmp_path / "full.npy"), "--mask.acs", "0")
        + ("--methods", "zero_filled", "--workdir", str(tmp_path))
    )
    assert "2 times for 1 frames" in file("full.npy", "--data.times", "1", "2")
    assert "maps 'k' have shape" in file(
        *("full.npy", "--data.maps", str(tmp_path / "a.mat"), "--data.maps-key"),
        *("k", "--data.maps-axes", "hcw"),
    )

    def in_tree(*more: str) -> str:
        return refusal(capsys, "tree", *more)

    assert "no such folder of CMRxRecon 2023" in in_tree("--data.root", str(tmp_path))
    root = ("--data.root", str(tree / "2023"))
    assert "tree with --data.sampling" in in_tree(*root, "--write-submission", "x")
    assert "slice 7 of 2 slices" in in_tree(*root, "--data.slices", "7")
