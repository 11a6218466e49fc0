"""Meshes of VTK, trimesh and our own; order and number of vertices stay."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from medjax.data import meshes, vtk
from medjax.data.boundary import DataError
from medjax.data.meshes import Mesh
from medjax.data.vtk import Surface

GOLDEN = Path(__file__).parents[1] / "golden" / "meshes"
POINTS = np.array(
    [(0, 0, 0), (1.5, 0, 0.25), (0, 2, 0), (1.5, 2, -0.125), (0.5, 1, 3), (9, 9, 9)]
)
TRIANGLES = {
    (0, 1, 4),
    (1, 3, 4),
    (0, 2, 3),
    (0, 3, 1),
    (2, 4, 3),
    (3, 4, 1),
    (3, 1, 0),
}
"""Of the golden surface, each from its smallest corner or as listed, turning kept."""


def turned(faces) -> set[tuple[int, ...]]:
    """Faces begun at their smallest corner."""
    return {
        tuple(int(i) for i in np.roll(face, -int(np.argmin(face)))) for face in faces
    }


@pytest.mark.parametrize(
    "name",
    [
        *("ascii_4.2.vtk", "ascii_5.1.vtk", "binary_4.2.vtk", "binary_5.1.vtk"),
        *("ascii.vtp", "raw.vtp", "zlib.vtp", "ascii.ply", "binary.ply"),
    ],
)
def test_what_vtk_wrote_is_read_with_order_and_unused_vertices(name):
    mesh = meshes.read(GOLDEN / name)
    np.testing.assert_array_equal(mesh.vertices, POINTS.astype(np.float32))
    assert mesh.vertices.dtype == np.float32
    assert turned(mesh.faces) == turned(TRIANGLES) and len(mesh.faces) == 7
    if not name.endswith("ply"):
        np.testing.assert_array_equal(mesh.surface, [0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("name", ["ascii.stl", "binary.stl"])
def test_stl_merges_equal_corners(name, tmp_path):
    mesh = meshes.read(GOLDEN / name)
    expected = POINTS[mesh_order(mesh.vertices)]
    np.testing.assert_array_equal(mesh.vertices, expected.astype(np.float32))
    back = np.array([mesh_order(mesh.vertices)[face] for face in mesh.faces])
    assert turned(back) == turned(TRIANGLES)
    # A binary file may begin as a text one does.
    data = (GOLDEN / "binary.stl").read_bytes()
    (tmp_path / "a.stl").write_bytes(b"solid".ljust(80) + data[80:])
    np.testing.assert_array_equal(
        meshes.read(tmp_path / "a.stl").faces, meshes.read(GOLDEN / "binary.stl").faces
    )


def mesh_order(vertices) -> np.ndarray:
    """Which of the golden points every vertex is."""
    apart = np.linalg.norm(vertices[:, None] - POINTS[None], axis=-1)
    assert (apart.min(axis=1) == 0).all()
    return apart.argmin(axis=1)


@pytest.fixture
def mesh():
    codes = np.array([0, 0, 1, 1, 2, 7], np.int32)
    faces = np.array([(0, 1, 4), (1, 3, 4), (0, 2, 3)], np.int32)
    return Mesh(POINTS / 3, faces, codes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ending", ["vtk", "vtp", "ply", "obj", "npz"])
def test_a_mesh_reads_back_as_it_was(mesh, ending, dtype, tmp_path):
    written = Mesh(mesh.vertices.astype(dtype), mesh.faces, mesh.surface)
    path = tmp_path / f"a.{ending}"
    meshes.write(path, written)
    back = meshes.read(path)
    np.testing.assert_array_equal(back.vertices.astype(dtype), written.vertices)
    np.testing.assert_array_equal(back.faces, mesh.faces)
    if ending != "obj":
        assert back.vertices.dtype == dtype
        np.testing.assert_array_equal(back.surface, mesh.surface)
    if ending in ("vtk", "ply"):
        text = tmp_path / f"text.{ending}"
        writer = vtk.write_legacy if ending == "vtk" else meshes.ply.write
        writer(text, Surface(*vars(written).values()), binary=False)
        np.testing.assert_array_equal(meshes.read(text).vertices, written.vertices)


def test_trimesh_reads_what_is_written(mesh, tmp_path):
    for ending in ("ply", "stl", "obj"):
        meshes.write(tmp_path / f"a.{ending}", mesh)
        other = trimesh.load(
            tmp_path / f"a.{ending}", process=False, maintain_order=True
        )
        corners = mesh.vertices[mesh.faces]
        np.testing.assert_allclose(other.triangles, corners, rtol=1e-6)


def test_frames_go_into_npz_or_one_file_each(mesh, tmp_path):
    moving = Mesh(np.stack([mesh.vertices, mesh.vertices + 1]), mesh.faces)
    meshes.write(tmp_path / "a.npz", moving)
    np.testing.assert_array_equal(
        meshes.read(tmp_path / "a.npz").vertices, moving.vertices
    )
    made = meshes.write_series(tmp_path / "b.vtk", moving)
    assert [path.name for path in made] == ["b_000.vtk", "b_001.vtk"]
    np.testing.assert_array_equal(meshes.read(made[1]).vertices, moving.vertices[1])
    with pytest.raises(DataError, match=r"b\.vtk: vertices have shape \(2, 6, 3\)"):
        meshes.write(tmp_path / "b.vtk", moving)


@pytest.mark.parametrize(
    ("name", "vertices", "faces"),
    [
        ("Standard_LV_800.obj", 402, 800),
        ("Standard_LV_2000.obj", 1002, 2000),
        ("Standard_LV_4055.obj", 4055, 8106),
        ("Standard_BiV.obj", 3561, 7118),
    ],
)
def test_templates_keep_their_vertices(shared_data, name, vertices, faces):
    path = shared_data / "heart" / "ghdheart" / name
    mesh = meshes.read(path)
    assert (len(mesh.vertices), len(mesh.faces)) == (vertices, faces)
    other = trimesh.load(path, process=False, maintain_order=True)
    np.testing.assert_allclose(mesh.vertices, other.vertices, atol=1e-12)
    np.testing.assert_array_equal(mesh.faces, other.faces)


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\n"


@pytest.mark.parametrize(
    ("faces", "expected"),
    [
        ("f 1 2 3 4", [(0, 1, 2), (0, 2, 3)]),
        ("f 1/9/9 2//5 3/2", [(0, 1, 2)]),
        ("f -4 -3 -1\nf 1 \\\n2 3", [(0, 1, 3), (0, 1, 2)]),
    ],
)
def test_corners_of_obj(tmp_path, faces, expected):
    (tmp_path / "a.obj").write_text(OBJ + faces)
    np.testing.assert_array_equal(meshes.read(tmp_path / "a.obj").faces, expected)


PLY = """ply
format ascii 1.0
element wire 1
property list uchar float strength
element vertex 3
property float y
property uchar red
property float x
property float z
element face 1
property int flag
property list uchar uint vertex_index
end_header
2 0.5 0.25
5 255 1 9
6 255 2 9
7 255 3 8
1 3 0 1 2
"""


def test_other_elements_and_properties_are_passed_over(tmp_path):
    (tmp_path / "a.ply").write_text(PLY)
    mesh = meshes.read(tmp_path / "a.ply")
    np.testing.assert_array_equal(mesh.vertices, [(1, 5, 9), (2, 6, 9), (3, 7, 8)])
    np.testing.assert_array_equal(mesh.faces, [(0, 1, 2)])
    head = PLY[: PLY.index("end_header")].replace("ascii", "binary_big_endian")
    body = np.array([0.5, 0.25], ">f4").tobytes()
    for row in mesh.vertices:
        body += np.array([row[1]], ">f4").tobytes() + b"\xff"
        body += np.array([row[0], row[2]], ">f4").tobytes()
    corners = np.array([0, 1, 2], ">u4").tobytes()
    faces = b"\0\0\0\1\3" + corners + b"\0\0\0\1\4" + corners + corners[:4]
    head = head.replace("face 1", "face 2")
    (tmp_path / "b.ply").write_bytes(head.encode() + b"end_header\n\2" + body + faces)
    back = meshes.read(tmp_path / "b.ply")
    np.testing.assert_array_equal(back.vertices, mesh.vertices)
    np.testing.assert_array_equal(back.faces, [(0, 1, 2), (0, 1, 2), (0, 2, 0)])


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("ascii_4.2.vtk", (b"POLYDATA", b"STRUCTURED_GRID"), "holds STRUCTURED_GRID, "),
        ("ascii_4.2.vtk", (b"3 0 1 4", b"3 0 1 8"), "corners 0 to 8 of a mesh of 6"),
        ("ascii_4.2.vtk", (b"0.25", b"nan"), "the mesh has 1 .*vertex 1, axis 2"),
        ("ascii_4.2.vtk", (b"POINTS 6", b"POINTS 60"), "not an intact mesh"),
        (
            "ascii_5.1.vtk",
            (b"0 3 7 10", b"0 3 7 11"),
            "10 corners for 3 polygons of 11",
        ),
        ("ascii.vtp", (b"0 1 4 0 2 3", b"0 1 4 0 2"), "9 corners for 3 polygons of 10"),
        ("appended.vtp", (b"", b""), "appended behind the document.*pyvista"),
        ("zlib.vtp", (b"vtkZLibData", b"vtkLZ4Data"), "packed by vtkLZ4Data"),
        ("binary.stl", (b"Visual", b"Vi"), "no STL file"),
        ("ascii.ply", (b"ply\n", b"plx\n"), "no PLY file"),
        ("ascii.ply", (b"vertex 6", b"vertex 99999999999"), "not an intact mesh"),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path, name, change, told):
    data = (GOLDEN / name).read_bytes().replace(*change)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}: .*{told}"):
        meshes.read(tmp_path / name)


def test_what_is_no_mesh_is_named(tmp_path, mesh):
    with pytest.raises(FileNotFoundError, match="none.vtk: no such file"):
        meshes.read(tmp_path / "none.vtk")
    with pytest.raises(DataError, match=r"a\.mesh: no mesh by its ending, .*\.vtk"):
        meshes.write(tmp_path / "a.mesh", mesh)
    (tmp_path / "a.obj").write_text(OBJ)
    with pytest.raises(DataError, match="4 vertices and no triangles"):
        meshes.read(tmp_path / "a.obj")
    np.savez(tmp_path / "a.npz", points=POINTS)
    with pytest.raises(DataError, match=r"no \['vertices', 'faces'\], found \['points"):
        meshes.read(tmp_path / "a.npz")
