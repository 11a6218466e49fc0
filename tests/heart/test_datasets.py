"""Trees of cardiac data, written from a phantom and read back; their known traps."""

import numpy as np
import pytest

from medjax.data import meshes, nifti
from medjax.data.boundary import DataError
from medjax.heart.appearance import LABELS, heart_labels
from medjax.heart.clinical import label_volumes
from medjax.heart.datasets import open_tree
from medjax.heart.exporting import (
    DeepMeshExport,
    anatomy_grid,
    export_cheart,
    export_deepmesh,
)
from medjax.heart.label_maps import SOURCES, SYSTOLE, canonical
from medjax.heart.phantom_mesh import moving_mesh
from medjax.heart.population import person
from medjax.heart.trees import open_cheart, read_4dsegment, read_deepmesh

GRID = anatomy_grid((12, 24, 24), (9.0, 5.0, 5.0))
EXPORT = DeepMeshExport(
    size=24, spacing=6.0, depth=32, gap=4.0, frames=3, mesh=(48, 40)
)


@pytest.fixture(scope="module")
def truth(heart):
    """Labels of four frames, `i j k t` as in files, and their affine."""
    labels = heart_labels(heart, np.array([0, 0.2, 0.35, 0.7]), GRID, samples=1)
    affine = GRID.affine[:, [2, 1, 0, 3]]
    return np.transpose(labels, (3, 2, 1, 0)), affine


def stored(labels, source):
    """Label maps with a source's codes."""
    codes = np.zeros(5, np.int16)
    for code, name in SOURCES[source].items():
        codes[LABELS[name]] = code
    return codes[labels]


def write(path, data, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    step = 0.03 if data.ndim == 4 else None
    nifti.write(path, data, affine=affine, time_step=step)


def a_ukb_case(root, truth, *, ends=False):
    labels, affine = truth
    write(root / "1000/sa.nii.gz", labels.astype(np.float32), affine)
    write(root / "1000/la_4ch.nii.gz", labels[:, :, :1].astype(np.float32), affine)
    maps = stored(labels, "ukb")
    if ends:
        write(root / "1000/label_sa_ED.nii.gz", maps[..., 0], affine)
        write(root / "1000/label_sa_ES.nii.gz", maps[..., 2], affine)
    else:
        write(root / "1000/seg_sa.nii.gz", maps, affine)


def an_acdc_case(root, truth, source="acdc"):
    labels, affine = truth
    folder, maps = root / "training/patient001", stored(labels, source)
    write(folder / "patient001_4d.nii.gz", labels.astype(np.float32), affine)
    write(folder / "patient001_frame01_gt.nii.gz", maps[..., 0], affine)
    write(folder / "patient001_frame03_gt.nii.gz", maps[..., 2], affine)
    told = "ED: 1\nES: 3\nGroup: DCM\nHeight: 184.0\nNbFrame: 4\nWeight: 95.0\n"
    (folder / "Info.cfg").write_text(told)
    return folder


def an_mnms_case(root, truth, source="mnms"):
    labels, affine = truth
    maps = stored(labels, source)
    maps[..., [1, 3]] = 0
    write(root / "Training/A0S9V9/A0S9V9_sa.nii.gz", labels.astype(np.float32), affine)
    write(root / "Training/A0S9V9/A0S9V9_sa_gt.nii.gz", maps, affine)
    (root / "information.csv").write_text(
        ",External code,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight\n"
        "0,A0S9V9,A,1,0,2,31,HCM,M,180,77\n1,B0S9V9,A,1,0,9,50,NOR,F,160,60\n"
    )


def test_trees_agree_on_what_they_hold(tmp_path, heart, truth):
    a_ukb_case(tmp_path / "ukb", truth)
    an_acdc_case(tmp_path / "acdc", truth)
    an_mnms_case(tmp_path / "mnms", truth)
    whole = np.moveaxis(truth[0], 3, 0)
    wanted = {"ukb": (0, 1, 2, 3), "acdc": (0, 2), "mnms": (0, 2)}
    for source, frames in wanted.items():
        (case,) = open_tree(tmp_path / source, source)
        found = case.read_labels()
        assert found.frames == frames and case.diastole == 0
        assert case.systole == (None if source == "ukb" else 2)
        np.testing.assert_array_equal(found.data, whole[list(frames)])
        assert case.read_image().data.shape == (24, 24, 12, 4)
        volume = label_volumes(found.data, found.affine)["lv"][0]
        assert volume == pytest.approx(heart.volume / 1e3, rel=0.05)
    ukb = open_tree(tmp_path / "ukb", "ukb")[0]
    assert list(ukb.long_axis) == ["4ch"]  # a missing view is no fault
    acdc = open_tree(tmp_path / "acdc", "acdc")[0]
    assert acdc.conditions == {"height": 184, "weight": 95} and acdc.group == "DCM"
    mnms = open_tree(tmp_path / "mnms", "mnms")[0]
    known = {"age": 31, "sex": 1, "height": 180, "weight": 77}
    assert mnms.conditions == known and mnms.group == "HCM"


def test_an_end_systole_whose_frame_is_unknown_is_the_last_map(tmp_path, truth):
    a_ukb_case(tmp_path, truth, ends=True)
    found = open_tree(tmp_path, "ukb")[0].read_labels()
    assert found.frames == (0, SYSTOLE)
    np.testing.assert_array_equal(found.data[1], truth[0][..., 2])


def test_exchanged_ventricles_are_found_out(tmp_path, truth):
    an_acdc_case(tmp_path, truth, source="ukb")
    case = open_tree(tmp_path, "acdc")[0]
    with pytest.raises(DataError, match="encloses what acdc calls the right ventricle"):
        case.read_labels()
    # Of M&Ms, whose order is not certain, the anatomy decides.
    an_mnms_case(tmp_path / "b", truth, source="acdc")
    found = open_tree(tmp_path / "b", "mnms")[0].read_labels()
    np.testing.assert_array_equal(found.data[0], truth[0][..., 0])


def test_an_unknown_code_is_named():
    with pytest.raises(
        DataError, match=r"labels \[0, 3, 4\], of which ukb has not \[4\]"
    ):
        canonical(np.array([[[[0, 3, 4]]]]), "ukb", "a file")
    # An image is no label map: of its hundreds of codes few are told, twice.
    with pytest.raises(DataError, match=r"7\] and 392 more, .*11\] and 388 more") as it:
        canonical(np.arange(400).reshape(1, 1, 20, 20), "ukb", "a file")
    assert len(str(it.value)) < 250


def test_an_acdc_sform_of_unit_voxels_gives_way_to_the_qform(tmp_path, truth):
    nibabel = pytest.importorskip("nibabel")
    folder = an_acdc_case(tmp_path, truth)
    for frame in ("01", "03"):
        path = folder / f"patient001_frame{frame}_gt.nii.gz"
        image = nibabel.load(path)
        data = np.asarray(image.dataobj)
        broken = nibabel.Nifti1Image(data, None, image.header)
        broken.set_qform(image.affine, 1)
        broken.set_sform(np.eye(4), 2)
        broken.to_filename(path)
    found = open_tree(tmp_path, "acdc")[0].read_labels()
    np.testing.assert_allclose(abs(np.linalg.det(found.affine)), 225, rtol=1e-5)


def test_trees_of_something_else_are_refused_by_name(tmp_path, truth):
    an_acdc_case(tmp_path, truth)
    with pytest.raises(
        DataError, match=r"no case of ukb \(<id>/sa.*holds \['training'"
    ):
        open_tree(tmp_path, "ukb")
    with pytest.raises(DataError, match="no such folder"):
        open_tree(tmp_path / "nowhere", "acdc")
    (tmp_path / "training/patient001/Info.cfg").write_text("ED: one\nES: 2\n")
    with pytest.raises(DataError, match="not an intact Info.cfg of ACDC"):
        open_tree(tmp_path, "acdc")
    (tmp_path / "c/X_sa.nii.gz").parent.mkdir()
    (tmp_path / "c/X_sa.nii.gz").touch()
    with pytest.raises(DataError, match="no table with the columns .'External code'"):
        open_tree(tmp_path / "c", "mnms")


@pytest.fixture(scope="module")
def subject(tmp_path_factory, heart):
    folder = tmp_path_factory.mktemp("deepmesh") / "0001"
    export_deepmesh(folder, heart, EXPORT, seed=5)
    return folder, read_deepmesh(folder)


def test_a_deepmesh_folder_is_read_as_it_was_written(heart, subject):
    folder, found = subject
    assert found.images["sa"].data.shape == (24, 24, 32, 3)
    assert found.contours["sa"].shape == (24, 24, 9, 3)
    assert found.images["2ch"].data.shape == (24, 24, 1, 3)
    assert found.projections["sa"].shape == (24, 24, 32)
    assert found.projections["4ch"].shape == (24, 24)
    names = {p.name for p in folder.iterdir()}
    assert {"sa_ES_img.nii.gz", "contour_2ch_es.npy", "faces_init_myo_ED.npy"} <= names
    assert found.faces.dtype == np.int32 and found.template.shape == found.truth.shape
    assert 1 < np.abs(found.template - found.truth).max() < 40
    # Edges are those of the phantom's mesh, wherever it was put.
    mesh = moving_mesh(heart, np.zeros(1), EXPORT.mesh, right=False)

    def edges(vertices, faces):
        sides = vertices[faces] - vertices[np.roll(faces, 1, axis=1)]
        return np.sort(np.linalg.norm(sides, axis=-1), axis=None)

    np.testing.assert_allclose(
        edges(found.truth, found.faces), edges(mesh.vertices[0], mesh.faces), atol=1e-3
    )


def test_vertices_and_contours_of_a_deepmesh_folder_meet_in_voxels(subject):
    _, found = subject
    for view, slices in (("sa", (12, 16, 21)), ("2ch", (0,)), ("4ch", (0,))):
        at = found.voxels(view, found.truth)
        for k in slices:
            which = {12: 3, 16: 4, 21: 6}.get(k, 0)
            pixels = np.argwhere(found.contours[view][:, :, which, 0])
            near = at[np.abs(at[:, 2] - k) < 0.3][:, :2]

            def gap(points, pixels=pixels):
                apart = np.linalg.norm(points[:, None] - pixels[None], axis=-1)
                return np.median(apart.min(1))

            assert len(near) > 20 and gap(near) < 0.9, (view, k)
            assert gap(near[:, ::-1]) > gap(near) + 0.2 or view == "sa"
            assert gap(near + 3) > gap(near) + 0.5


def test_a_deepmesh_folder_that_does_not_fit_is_refused(tmp_path, subject):
    import shutil

    folder = shutil.copytree(subject[0], tmp_path / "a")
    np.save(folder / "faces_init_myo_ED_smooth.npy", np.full((4, 3), 10**6))
    with pytest.raises(DataError, match="do not fit each other or faces up to 1000000"):
        read_deepmesh(folder)
    np.savez(folder / "origin.npz", sa=np.zeros(3))
    with pytest.raises(DataError, match=r"origin.npz: \['la2ch', 'la4ch'\] are absent"):
        read_deepmesh(folder)
    (folder / "origin.npz").unlink()
    with pytest.raises(FileNotFoundError, match="origin.npz: no such file"):
        read_deepmesh(folder)


def test_a_cheart_tree_is_read_as_it_was_written(tmp_path, heart):
    people = {"train": [person(0, 0)], "test": [person(0, 2)]}
    people["train"][0] = people["train"][0]._replace(heart=heart)
    shape, spacing = GRID.shape, GRID.spacing
    export_cheart(tmp_path, people, frames=3, shape=shape, spacing=spacing)
    found = open_cheart(tmp_path)
    assert [(s.name, s.part) for s in found] == [
        ("train0000", "train"),
        ("test0000", "test"),
    ]
    values = tuple(found[0].conditions.values())
    np.testing.assert_allclose(values, people["train"][0].conditions)
    labels = found[0].read()
    wanted = heart_labels(heart, np.arange(3) / 3, GRID)
    np.testing.assert_array_equal(labels, wanted)
    raw = np.load(tmp_path / "seg/train0000.npy")
    assert set(np.unique(raw)) == {0, 1, 2, 4} and raw.dtype == np.uint8
    # The other form: two frames of one person, floating point as some tools save them.
    folder = tmp_path / "seg/old"
    folder.mkdir()
    for end, frame in (("ED", 0), ("ES", 1)):
        np.save(folder / f"seg_sa_{end}_SR.npy", raw[frame].astype(np.float64))
    (tmp_path / "label/val_sequence.txt").write_text("old\n")
    old = next(s for s in open_cheart(tmp_path) if s.name == "old")
    np.testing.assert_array_equal(old.read(), wanted[:2])
    assert old.conditions == {}


def test_a_cheart_tree_at_fault_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no people of CHeart"):
        open_cheart(tmp_path)
    for name in ("seg", "label"):
        (tmp_path / name).mkdir()
    (tmp_path / "label/train_sequence.txt").write_text("x\n")
    with pytest.raises(DataError, match="x: neither"):
        open_cheart(tmp_path)
    np.save(tmp_path / "seg/x.npy", np.full((2, 3, 4), 1.5))
    (sequence,) = open_cheart(tmp_path)
    with pytest.raises(DataError, match=r"float64 \(2, 3, 4\), expected whole numbers"):
        sequence.read()
    np.save(tmp_path / "seg/x.npy", np.full((2, 3, 4, 5), 3))
    with pytest.raises(DataError, match=r"cheart has not \[3\]"):
        sequence.read()


def test_meshes_of_4dsegment_are_one_moving_mesh_with_two_walls(tmp_path, heart):
    moving = moving_mesh(heart, np.array([0.0, 0.2, 0.35]), (12, 8), right=False)
    # The epicardium first, as in the published template.
    order = np.argsort(-moving.surface, kind="stable")
    faces = np.argsort(order).astype(np.int32)[moving.faces]
    files = tmp_path / "A01" / "4D_rview" / "vtkfile"
    files.mkdir(parents=True)
    for t, frame in enumerate(moving.vertices):
        meshes.write(files / f"mesh_{t:02d}.vtk", meshes.Mesh(frame[order], faces))
    found = read_4dsegment(tmp_path / "A01")
    np.testing.assert_array_equal(found.vertices, moving.vertices[:, order])
    np.testing.assert_array_equal(found.faces, faces)
    np.testing.assert_array_equal(found.surface, moving.surface[order])
    last = files / "mesh_02.vtk"
    meshes.write(last, meshes.Mesh(moving.vertices[2, order], faces[::-1]))
    with pytest.raises(DataError, match="mesh_02.vtk: has other vertices or triangles"):
        read_4dsegment(tmp_path / "A01")
    last.rename(files / "mesh_07.vtk")
    with pytest.raises(DataError, match=r"frames \[0, 1, 7\] of vtkfile"):
        read_4dsegment(tmp_path / "A01")
    inner = moving.faces[moving.surface[moving.faces[:, 0]] == 0]
    one = meshes.Mesh(moving.vertices[0], inner)
    (tmp_path / "B" / "vtkfile").mkdir(parents=True)
    meshes.write(tmp_path / "B" / "vtkfile" / "mesh_0.vtk", one)
    with pytest.raises(DataError, match="1 sheets, expected endocardium"):
        read_4dsegment(tmp_path / "B")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_4dsegment(tmp_path / "nobody")
