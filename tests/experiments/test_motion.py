"""Motion systems from flags to report, a few steps on few people; runs open again."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

import experiments.deepmesh
import experiments.graph_motion
import medjax
from experiments.heart import main as heart
from medjax.data import meshes, nifti
from medjax.heart.clinical import function, mesh_volumes
from medjax.heart.data import HELD_OUT
from medjax.heart.deepmesh import DeepMeshConfig
from medjax.heart.deepmesh_networks import NetworkConfig
from medjax.heart.graph_motion import GraphMotionConfig
from medjax.heart.meshes import Topology
from medjax.heart.motion_data import MotionDataConfig, draw_subject, mesh_of
from medjax.heart.motion_report import cut_short
from medjax.heart.motion_systems import expect_room
from medjax.heart.scanning import ScanConfig
from medjax.heart.supervision import LossConfig
from medjax.heart.tracking import TrackingConfig, run
from medjax.heart.validation import ValidationConfig
from medjax.train.experiment import Experiment
from medjax.train.log import read_metrics
from medjax.train.stopping import past_scores
from tests.compiling import quickly

DATA = MotionDataConfig(
    scan=ScanConfig(frames=3, size=16, spacing=9.0, slices=5, gap=18.0),
    mesh=(8, 6),
    people=4,
    test_people=2,
    batch_size=8,
    contour_points=6,
)


@pytest.fixture(scope="module")
def quick():
    """Compiled for seconds, not for speed."""
    with quickly():
        yield


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "graph"
    tiny = experiments.graph_motion.TINY
    system = dataclasses.replace(
        tiny.system,
        widths=(4,),
        channels=4,
        width=8,
        steps=(1,),
        weights=(1.0,),
        loss=LossConfig(supervision="meshes"),
    )
    config = dataclasses.replace(
        tiny,
        system=system,
        data=DATA,
        train=dataclasses.replace(tiny.train, steps=1, log_every=1),
        workdir=folder,
    )
    return run(config), folder


def test_a_run_ends_with_errors_beside_no_motion_and_a_page(finished):
    results, folder = finished
    kept = json.loads((folder / "evaluation.json").read_text())
    still, ours = kept["tracking"]
    assert still["method"] == "no motion" and ours["method"] == "graph network"
    # Nothing moved: the whole stroke is missing, and no strain is there.
    assert still["ef_bias"] < -40 and still["flipped"] == still["muscle_drift"] == 0
    assert still["vertex_es"] > still["vertex"] > 1
    assert {"normal", "circumferential", "longitudinal"} <= set(ours)
    assert {row["view"] for row in kept["contours"]} == {"sax", "2ch", "4ch"}
    assert all("deepmesh_dropped" in row for row in kept["contours"])
    assert len(kept["each"]) == results["people"]["test"] == 2
    assert kept["frames"] == 3 and kept["frames_uneven"] < 1e-6
    page = (folder / "report.html").read_text()
    # Six contours, three bull's-eyes, and a moving mesh.
    assert page.count("<img") == 10 and "data:image/webp" in page
    assert "left ventricle, mL" in page and "://" not in page
    assert all(np.isfinite(v) for k, v in ours.items() if k != "method")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A held-out person as files: a stack, a view, and the mesh at end-diastole."""
    folder = tmp_path_factory.mktemp("scan")
    subject = draw_subject(DATA, HELD_OUT, 0)
    planes, images = subject.planes.astype(float), np.asarray(subject.images)
    for name, which in (("sax", slice(0, 5)), ("4ch", slice(6, 7))):
        first = planes[which][0]
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = first[1], first[2]
        affine[:3, 2] = 8.0 * np.cross(first[1], first[2]) / 81.0
        if name == "sax":
            affine[:3, 2] = planes[1, 0] - planes[0, 0]
        affine[:3, 3] = first[0]
        data = np.transpose(images[:, which], (2, 3, 1, 0))
        nifti.write(folder / f"{name}.nii.gz", data, affine=affine, time_step=0.1)
    topology, _ = mesh_of(DATA.mesh, right=True)
    mesh = meshes.Mesh(subject.vertices[0], topology.faces, topology.surface)
    meshes.write(folder / "heart.vtk", mesh)
    return folder, subject


def test_a_run_follows_a_cine_scan_of_ones_own(finished, scanned, capsys):
    _, run_folder = finished
    folder, subject = scanned
    out = folder / "moving"
    arguments = ["track", str(run_folder), str(folder / "sax.nii.gz")]
    mesh = ["--mesh", str(folder / "heart.vtk"), "--out", str(out)]
    assert heart([*arguments, *mesh, "--four-chamber", str(folder / "4ch.nii.gz")]) == 0
    told = capsys.readouterr().out
    assert "lv, mL: " in told and "LVEF" in told
    series = [meshes.read(path).vertices for path in sorted(out.glob("*.vtk"))]
    # The graph network is given the mesh at end-diastole, and moves it a little.
    assert len(series) == 3
    np.testing.assert_allclose(series[0], subject.vertices[0], atol=1e-3)
    assert 0 < np.abs(series[1] - series[0]).max() < 5 * np.sqrt(3)
    assert (out / "volumes.csv").read_text().count("\n") == 4
    page = (out / "moving.html").read_text()
    assert page.count("<img") == 2 and "basal anterior" in page
    # Its numbers are those of the meshes that were written.
    topology, _ = mesh_of(DATA.mesh, right=True)
    curves = mesh_volumes(np.stack(series).astype(float), topology, close=True)
    features = function(curves).features
    for name, unit in (("LVEDV", "mL"), ("LVEF", "%"), ("RVESV", "mL"), ("LVM", "g")):
        (value,) = re.findall(
            f"<span>{name}</span><strong>(.*?)</strong><em>{unit}</em>", page
        )
        assert float(value) == pytest.approx(features[name], abs=0.06)
    rows = csv.DictReader((out / "volumes.csv").read_text().splitlines())
    found = [float(row["lv (mL)"]) for row in rows]
    np.testing.assert_allclose(found, curves["lv"], atol=0.02)
    again = ["--out", str(folder / "again"), "--frames", "6"]
    assert heart([*arguments, *mesh[:2], *again]) == 0
    said = "6 frames, by periodic linear interpolation between 3"
    assert said in capsys.readouterr().out
    assert said in (folder / "again" / "moving.html").read_text()
    assert (folder / "again" / "volumes.csv").read_text().count("\n") == 7
    wrong = ["--mesh", str(folder / "sax.nii.gz")]
    assert heart([*arguments, *wrong]) == 1
    assert "sax.nii.gz" in capsys.readouterr().err


FITTED = dataclasses.replace(DATA, right=False, people=5)


def fitted_settings(folder):
    """DeepMesh, both stages one after the other, a step of each."""
    tiny = experiments.deepmesh.TINY
    network = NetworkConfig(
        levels=((4,), (6,)), stem=4, neck=8, up=(6,), fuse=6, volume=(4, 6)
    )
    return dataclasses.replace(
        tiny,
        system=dataclasses.replace(
            tiny.system, given=False, network=network, slice="projection", top=64
        ),
        data=FITTED,
        validation=ValidationConfig(keep="best", people=1),
        train=dataclasses.replace(tiny.train, steps=1, log_every=1),
        workdir=folder,
    )


@pytest.fixture(scope="module")
def fitted(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "deepmesh"
    return run(fitted_settings(folder)), folder


def test_deepmesh_fits_a_template_first_and_moves_what_it_found(fitted):
    results, folder = fitted
    still, ours = results["tracking"]
    assert ours["method"] == "DeepMesh"
    # Both start from a mesh that was fitted, not from the truth.
    assert still["vertex_ed"] == ours["vertex_ed"] > 1
    assert (folder / "ed" / "system.json").exists()
    opened = medjax.load(folder)
    assert opened.trained.system.stage == "motion"
    assert set(opened.weights) == {"ed", "."}
    # Four people to learn from, and one by whom either stage's state is chosen.
    assert results["people"] == {"train": 4, "valid": 1, "test": 2}
    for stage in (folder, folder / "ed"):
        assert list(past_scores(stage, opened.trained.stopping.metric)) == [1]
    with pytest.raises(ValueError, match="is the first stage of a run, which moves"):
        medjax.load(folder / "ed")


def test_a_heart_without_a_right_ventricle_is_followed_too(fitted, scanned):
    """Its stack is brought to the slices that the network has for channels."""
    _, run_folder = fitted
    folder, subject = scanned
    topology, mean = mesh_of((10, 7), right=False)
    middle = subject.vertices[0].mean(0)
    moving = medjax.load(run_folder).track(
        folder / "sax.nii.gz", mesh=(mean - mean.mean(0) + middle, topology)
    )
    assert moving.vertices.shape == (3, *mean.shape)
    assert moving.strain.segments is None and "rv" not in moving.numbers.curves
    with pytest.raises(ValueError, match=r"surfaces \['wall'\], expected endo and epi"):
        bare = Topology.of(topology.faces, topology.count)
        medjax.load(run_folder).track(folder / "sax.nii.gz", mesh=(mean, bare))


def test_planes_cut_short_are_told_of_either_stage(tmp_path):
    assert cut_short(tmp_path) == 0
    for folder, share in ((tmp_path, 0.0), (tmp_path / "ed", 0.25)):
        folder.mkdir(exist_ok=True)
        rows = [{"step": 1, "overflow_ed": share}, {"step": 2, "overflow_ed": 0.0}]
        told = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(told)
    assert cut_short(tmp_path) == 0.25


def test_training_ends_where_planes_are_cut_short(fitted, tmp_path, monkeypatch):
    """What a plane has no room for is never passed over, of either stage."""
    _, folder = fitted
    assert read_metrics(folder)[0]["overflow_motion"] == 0
    assert read_metrics(folder / "ed")[0]["overflow_ed"] == 0

    def train(self, *_, refuse, **__):
        refuse(1, {"loss": 1.0, "overflow_ed": 0.5})

    monkeypatch.setattr(Experiment, "fit_recorded", train)
    data = dataclasses.replace(FITTED, cache=folder / "people")
    config = dataclasses.replace(fitted_settings(tmp_path), data=data)
    with pytest.raises(ValueError, match=r"step 1: on 50.* of planes .* system.top 64"):
        run(config)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("system", "told"),
    [
        (GraphMotionConfig(loss=LossConfig(size=9)), r"loss\.size 9 and \.reach 8 "),
        (
            DeepMeshConfig(slice="coverage", coverage=LossConfig(reach=3)),
            r"coverage\.size 512 and \.reach 3 ",
        ),
    ],
)
def test_what_has_too_little_room_is_named_by_its_flags(system, told):
    expect_room(system, 7, {"overflow": 0.0, "loss": 3.0})
    with pytest.raises(ValueError, match=r"step 7: on 25\.0% of .* system\." + told):
        expect_room(system, 7, {"overflow_ed": 0.25, "overflow_motion": 0.0})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stage": "ed"}, "system.stage is 'ed', which moves nothing"),
        ({"row": 4}, "show-row is 4, expected one of 2 people"),
    ],
)
def test_runs_that_cannot_be_scored_are_refused(change, told, tmp_path):
    tiny = experiments.deepmesh.TINY
    config = dataclasses.replace(
        tiny,
        system=dataclasses.replace(tiny.system, stage=change.get("stage", "motion")),
        evaluation=TrackingConfig(show_row=change.get("row", 0)),
        data=DATA,
        workdir=tmp_path,
    )
    with pytest.raises(ValueError, match=told):
        run(config)
    assert not list(tmp_path.iterdir())


def test_the_published_sizes_are_presets():
    deep, graph = experiments.deepmesh.PRESETS, experiments.graph_motion.PRESETS
    assert set(deep) == {"tiny", "repo", "paper"} and set(graph) == {"tiny", "full"}
    scan = deep["repo"].data.scan
    assert (scan.slices, scan.size, scan.frames) == (64, 128, 50)
    keep = {name: one.validation.keep for name, one in (deep | graph).items()}
    assert keep.pop("paper") == "best" and set(keep.values()) == {"last"}
    assert deep["repo"].system.transposed and not deep["paper"].system.transposed
