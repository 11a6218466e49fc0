"""The door of clinical numbers, on phantoms whose numbers are known."""

import html
import json

import numpy as np
import pytest

from experiments.heart import main
from medjax.data import meshes, nifti
from medjax.data.volumes import Grid
from medjax.heart.appearance import heart_labels
from medjax.heart.clinical import label_volumes, mesh_volumes
from medjax.heart.exporting import anatomy_grid
from medjax.heart.fitting import Fitted
from medjax.heart.mesh_files import read_heart
from medjax.heart.phantom import make_heart
from medjax.heart.phantom_mesh import moving_mesh

TIMES = np.array([0.0, 0.2, 0.35, 0.7])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heart")
    heart = make_heart(
        volume=150,
        mass=90,
        length=94,
        ejection_fraction=0.6,
        shortening=0.17,
        rv_volume=160,
    )
    mesh = moving_mesh(heart, TIMES, (32, 24))
    whole = meshes.Mesh(mesh.vertices, mesh.faces, mesh.surface)
    meshes.write(folder / "heart.npz", whole)
    unit = meshes.Mesh(mesh.vertices / np.float32(100), mesh.faces, mesh.surface)
    meshes.write(folder / "unit.npz", unit)
    turned = anatomy_grid((12, 24, 24), (9.0, 5.0, 5.0))
    affine = turned.affine[:, [2, 1, 0, 3]]
    grid = Grid((24, 24, 12), affine)
    labels = np.moveaxis(heart_labels(heart, TIMES, grid, samples=1), 0, -1)
    nifti.write(folder / "seg.nii.gz", labels, affine=affine, time_step=0.05)
    return folder


def numbers(text, name):
    words = text.replace("\n", " ").split()
    return float(words[words.index(name) + 1])


def test_label_maps_and_meshes_are_measured(files, capsys):
    assert main(["measure", str(files / "seg.nii.gz"), str(files / "heart.npz")]) == 0
    labels, mesh = capsys.readouterr().out.split("heart.npz")
    for text, tolerance in ((labels, 0.06), (mesh, 0.012)):
        assert numbers(text, "LVEDV") == pytest.approx(150, rel=tolerance)
        assert numbers(text, "RVEDV") == pytest.approx(160, rel=tolerance)
        assert numbers(text, "LVM") == pytest.approx(90, rel=2 * tolerance)
        assert numbers(text, "LVEF") == pytest.approx(60, abs=40 * tolerance)
        assert "end-diastole is frame 0, end-systole frame 2" in text


def test_strain_is_told_by_wall_and_segment(files, capsys):
    page = files / "strain.html"
    assert main(["strain", str(files / "heart.npz"), "--report", str(page)]) == 0
    text = capsys.readouterr().out
    ratio = np.sqrt((1 - 0.6) / (1 - 0.17)) - 1

    def systolic(name):
        line = next(one for one in text.splitlines() if one.strip().startswith(name))
        return float(line.split("end-systole")[1].split()[0])

    assert systolic("GCS endo") == pytest.approx(100 * ratio, abs=1.5)
    assert systolic("GCS endo") < systolic("GCS mid") < systolic("GCS epi") < 0
    assert -22 < systolic("GLS endo") < systolic("GLS epi") < -10
    assert 40 < systolic("GRS") < 70
    # The 17th segment is beyond the cavity's end, so no endocardium is there.
    assert "basal anteroseptal" in text and "nan" not in text
    assert "1 segments hold no endocardium" in text
    told = page.read_text()
    assert told.count("<img") == 1 and "1 segments hold no endocardium" in told


def test_strain_of_label_maps_is_that_of_the_mesh_fitted_to_them(
    files, capsys, monkeypatch
):
    """By a fit that finds the mesh that the labels were drawn of."""
    vertices, topology = read_heart(files / "heart.npz", 1.0)
    asked = []

    def fit(labels, affine, config):
        asked.append((labels, config))
        return Fitted(vertices, topology, {"lv": np.array([0.9, 0.8])})

    monkeypatch.setattr("medjax.heart.fitting.fit", fit)
    assert main(["strain", str(files / "heart.npz")]) == 0
    wanted = capsys.readouterr().out.splitlines()[2:]
    arguments = ["strain", str(files / "seg.nii.gz"), "--fit.steps", "7"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-len(wanted) :] == wanted
    assert "Dice with them: lv 0.850" in told and "around the heart" in told
    ((labels, config),) = asked
    assert labels.shape == (4, 24, 24, 12) and config.steps == 7
    truth = nifti.read_labels(files / "seg.nii.gz").data
    np.testing.assert_array_equal(labels, np.moveaxis(truth, 3, 0))


@pytest.mark.parametrize(
    ("direction", "told"),
    [("0 0 1", "0.0 degrees off the long axis"), ("0 0 0", "of no length")],
)
def test_a_direction_that_does_not_say_where_the_septum_is_is_refused(
    files, capsys, direction, told
):
    arguments = ["strain", str(files / "heart.npz"), "--septum-direction"]
    assert main([*arguments, *direction.split()]) == 1
    found = capsys.readouterr()
    assert "septum_direction is [0.0, 0.0, " in found.err and told in found.err
    assert "basal anterior" not in found.out


def test_a_mesh_is_drawn_on_an_images_slices(files, capsys):
    out = files / "drawn.nii.gz"
    arguments = ["slice", str(files / "heart.npz"), "--like", str(files / "seg.nii.gz")]
    assert main([*arguments, "--out", str(out)]) == 0
    drawn, truth = (nifti.read_labels(p).data for p in (out, files / "seg.nii.gz"))
    assert drawn.shape == truth.shape
    for code, least in ((1, 0.93), (2, 0.8), (3, 0.85)):
        both = 2 * ((drawn == code) & (truth == code)).sum()
        assert both / ((drawn == code).sum() + (truth == code).sum()) > least


def test_a_mesh_follows_label_maps(files, capsys):
    out = files / "fit"
    # A few steps on a coarse mesh, and frames far apart: it follows, and lags behind.
    sizes = "--fit.around 16 --fit.rings 10 --fit.first-steps 60 --fit.steps 20"
    sizes += " --fit.loss.size 160"
    arguments = ["fit", str(files / "seg.nii.gz"), "--out", str(out), *sizes.split()]
    assert main(arguments) == 0
    found = json.loads((out / "result.json").read_text())
    assert found["dice"]["lv"] > 0.91 and found["dice"]["myo"] > 0.88
    assert found["dice"]["rv"] > 0.86
    assert found["ef"]["labels"] == pytest.approx(60, abs=1)
    assert 45 < found["ef"]["mesh"] < 61
    first = {
        k: v["mesh_ml"][0] / v["labels_ml"][0] for k, v in found["volumes"].items()
    }
    np.testing.assert_allclose(list(first.values()), 1.0, atol=0.04)
    assert f"mesh {found['ef']['mesh']:.1f} %" in capsys.readouterr().out
    # What is written is what was scored.
    assert main(["measure", str(out / "mesh.npz")]) == 0
    told = numbers(capsys.readouterr().out, "LVEF")
    assert told == pytest.approx(found["ef"]["mesh"], abs=0.06)
    page = html.unescape((out / "report.html").read_text())
    assert page.count("<img") == 8
    # The page's numbers are the result's, and these the mesh's and the label maps'.
    moving, topology = read_heart(out / "mesh.npz")
    meshed = mesh_volumes(moving, topology, close=True)
    labels = nifti.read_labels(files / "seg.nii.gz")
    counted = label_volumes(np.moveaxis(labels.data, 3, 0), labels.affine)
    for name, both in found["volumes"].items():
        np.testing.assert_allclose(both["mesh_ml"], meshed[name], atol=2e-3)
        np.testing.assert_allclose(both["labels_ml"], counted[name], atol=2e-3)
        apart = np.abs(meshed[name] - counted[name]).mean()
        assert both["mae_ml"] == pytest.approx(apart, abs=1e-3)
        for whose, curve in (("mesh", meshed), ("labels", counted)):
            told = " ".join(f"{v:.1f}" for v in curve[name])
            assert f"{name} of {whose}, mL: {told}\n" in page
        dice, worst = found["dice"][name], found["worst_dice"][name]
        told = f"{both['mae_ml']:.2f} mL, Dice {dice:.3f}, {worst:.3f} in the worst"
        assert f"{name}: mean absolute difference {told} frame\n" in page
        assert worst <= dice
    told = f"labels {found['ef']['labels']:.1f} %, mesh {found['ef']['mesh']:.1f} %"
    assert f"ejection fraction: {told} (end-diastole is frame 0)" in page
    wrong = [*arguments, "--image", str(files / "other.nii.gz")]
    nifti.write(files / "other.nii.gz", np.zeros((9, 9, 9, 4)), affine=np.eye(4))
    assert main(wrong) == 1
    assert "(9, 9, 9, 4), expected the labels'" in capsys.readouterr().err


def test_a_moving_mesh_becomes_a_series(files, capsys):
    arguments = [str(files / "unit.npz"), str(files / "out.vtk"), "--scale", "100"]
    assert main(["convert", *arguments]) == 0
    assert "out_000.vtk to out_003.vtk" in capsys.readouterr().out
    back = meshes.read(files / "out_002.vtk")
    wanted = meshes.read(files / "heart.npz")
    np.testing.assert_allclose(back.vertices, wanted.vertices[2], atol=1e-4)
    np.testing.assert_array_equal(back.faces, wanted.faces)
    out = files / "eight.npz"
    arguments = [str(files / "heart.npz"), str(out), "--frames", "8"]
    assert main(["convert", *arguments]) == 0
    said = "8 frames, by periodic linear interpolation between 4"
    assert said in capsys.readouterr().out
    eight = meshes.read(out).vertices
    np.testing.assert_allclose(eight[::2], wanted.vertices, atol=1e-4)
    # Between the last frame and the first.
    middle = 0.5 * (wanted.vertices[3] + wanted.vertices[0])
    np.testing.assert_allclose(eight[7], middle, atol=1e-4)
    assert main(["convert", *arguments[:3], "1"]) == 1
    assert "frames: 1 of 4, expected 2 of a cycle" in capsys.readouterr().err


def test_two_people_are_a_deepmesh_folder_but_no_cheart_one(
    tmp_path, capsys, monkeypatch
):
    made = []
    monkeypatch.setattr(
        "medjax.heart.exporting.export_deepmesh",
        lambda folder, *_, seed: made.append((folder.name, seed)),
    )
    assert main(["export", "deepmesh", str(tmp_path), "--people", "2"]) == 0
    assert made == [("0000", 0), ("0001", 1)]
    assert main(["export", "cheart", str(tmp_path), "--people", "2"]) == 1
    assert "people is 2, expected 3 at least" in capsys.readouterr().err


def test_files_that_are_no_hearts_end_in_one_sentence(files, capsys):
    assert main(["measure", str(files / "unit.npz")]) == 1
    told = capsys.readouterr().err
    # The command's own flag, which mends it.
    assert "expected 20 to 400" in told and "needs --scale" in told
    assert main(["measure", str(files / "unit.npz"), "--scale", "100"]) == 0
    labels = nifti.read(files / "seg.nii.gz")
    nifti.write(files / "one.nii.gz", labels.data[..., 0], affine=labels.affine)
    assert main(["strain", str(files / "one.nii.gz")]) == 1
    assert "one.nii.gz: one frame, expected label maps" in capsys.readouterr().err
    assert main(["measure", str(files / "nothing.nii.gz")]) == 1
    assert "nothing.nii.gz: no such file" in capsys.readouterr().err
    assert main(["measure", str(files / "seg.nii.gz"), "--codes", "acdc"]) == 1
    assert "another --data.format" in capsys.readouterr().err
