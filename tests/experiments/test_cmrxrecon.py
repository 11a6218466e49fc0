"""experiments.cmrxrecon end to end: phantoms, a look-alike tree, files, faults."""

import dataclasses
import json

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cmrxrecon as experiment
from experiments import varnet
from medjax.data import cfl, mat73
from medjax.mri import cmrxrecon, masks, sense
from medjax.mri.acquisition_config import FileData, MaskConfig
from medjax.mri.acquisitions import Acquisition, open_data
from medjax.mri.cmrxrecon.scores import (
    fit_maps,
    image_scores,
    leaderboard,
    reference_of,
)
from medjax.mri.comparison import run as compare
from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.kspace_axes import arrange, fully_sampled
from medjax.mri.kspace_files import read_kspace
from medjax.mri.latent_transformer import CONFIGS as SINGLE_COIL
from medjax.mri.latent_transformer import LatentTransformerConfig
from medjax.mri.learned import Learned, open_run
from medjax.mri.reconstruction import run as train
from medjax.mri.scans import open_scans
from medjax.mri.systems import ReconstructionKernels, Trained, build
from medjax.mri.unrolled import CONFIGS as MULTI_COIL
from medjax.mri.unrolled import UnrolledConfig
from medjax.mri.varnet import VarNetConfig
from medjax.train.checkpoint import Checkpoints
from medjax.train.state import TrainState

H, W, COILS = 20, 16, 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    cmrxrecon.fabricate(root / "2023", patients=1)
    cmrxrecon.fabricate(root / "2024", edition=2024, patients=1)
    return root


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    """Fully sampled k-space of a disc seen by three coils, ``c h w``."""
    y, x = np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij")
    disc = (y**2 + x**2 < 0.6) * (1 + 0.5 * x)
    maps = [np.exp(-((y - a) ** 2) + 1j * a * x) for a in (-0.8, 0.0, 0.8)]
    coil_images = (np.stack(maps) * disc).astype(np.complex64)
    return np.asarray(fft2c(jnp.asarray(coil_images)))


def reconstruct(*arguments: str) -> dict:
    asked = experiment.command(arguments)
    return compare(asked)


def refusal(capsys, *arguments: str) -> str:
    """What a fault ends with."""
    assert experiment.main(arguments) == 1
    return capsys.readouterr().err.splitlines()[-1]


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


@pytest.fixture
def quick_to_compile():
    """Networks that run once or twice are over before they would be optimised."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


SMALL_VARNET = VarNetConfig(cascades=1, chans=2, pools=1, sens_chans=2, sens_pools=1)
SMALL_LATENT = UnrolledConfig(
    network=LatentTransformerConfig(
        widths=(4, 4), denoiser_widths=(4, 4, 4), heads=1, layers=1
    ),
    cg_iterations=3,
    scale=100.0,
    refine_maps=True,
)
FRAMES = 3


def write_run(folder, system, *, coils=COILS, series="t2"):
    """A run as training leaves it, its weights drawn at random."""
    trained = Trained(system, 0.5, "discs", series, FRAMES, coils, (4,), 8)
    batch = {
        "kspace": jax.ShapeDtypeStruct((1, FRAMES, coils, H, W), jnp.complex64),
        "mask": jax.ShapeDtypeStruct((1, 1, H, 1), jnp.bool_),
        "sensitivities": jax.ShapeDtypeStruct((1, coils, H, W), jnp.complex64),
    }
    shapes = jax.eval_shape(trained.build().init, jax.random.key(0), batch)
    rng = np.random.default_rng(0)

    def draw(shape):
        fan_in = np.prod(shape.shape[:-1], initial=1.0)
        return jnp.asarray(np.abs(rng.normal(size=shape.shape)) / fan_in, shape.dtype)

    drawn = jax.tree.map(draw, shapes)
    state = TrainState(
        jnp.asarray(7), drawn.pop("params"), drawn, {"count": jnp.zeros(())}
    )
    folder.mkdir(exist_ok=True)
    trained.save(folder)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, None, {}, wait=True)
    return folder


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "latent", SMALL_LATENT)


def test_a_trained_run_reconstructs_beside_the_classical_methods(
    plane, tree, tmp_path, quick_to_compile
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
    latent, plane, quick_to_compile
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
