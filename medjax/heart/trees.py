"""Folders that the code of DeepMesh and CHeart reads, and that 4Dsegment leaves.

*DeepMesh*: a folder per subject with cines of three views, contours as images, meshes
at end-diastole and the matrices between them. Matrices take voxel indices of the whole
scan to mm, ``origin`` is the first voxel of the part that was cut out of it: a vertex v
is at voxel ``inverse @ v - origin`` of the arrays. *CHeart*: arrays of labels over
time, lists of them for each part, and a table of conditions. The module of CHeart's
code that reads them was not released; names of lists are those in its scripts, columns
of the table those of its sister project AgeHeart. *4Dsegment*: meshes of the left
ventricle followed through the cycle, one file a frame.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medjax.data import meshes, nifti, npy, npz
from medjax.data.boundary import DataError, in_short
from medjax.data.ledger import Ledger
from medjax.data.meshes import Mesh
from medjax.data.nifti import Volume
from medjax.data.tables import read_table, read_text
from medjax.heart.datasets import conditions_of
from medjax.heart.drawing import slice_planes
from medjax.heart.label_maps import canonical

VIEWS = {"sa": "sa", "2ch": "la2ch", "4ch": "la4ch"}
"""Views in the names of files, and in the matrices."""
DEPTHS = np.arange(12, 53, 5) / 64
"""The nine short-axis slices with contours, as shares of the stack."""
CHEART_SPACING = (2.0, 1.25, 1.25)
"""mm along z, y and x of CHeart's arrays."""
PARTS = ("train", "val", "test")


class DeepMeshSubject(NamedTuple):
    """What a subject's folder holds; axes are those of the files.

    Attributes:
        images: cine of each view.
        contours: contour pixels of each view; of ``sa``, nine slices.
        projections: pixels where the true mesh meets each view's planes.
        template: vertices that the first stage starts from, mm.
        truth: vertices at end-diastole, mm.
        faces: of both.
        affines: voxel indices of the whole scan to mm.
        origins: first voxel of the arrays in the whole scan.
    """

    images: Mapping[str, Volume]
    contours: Mapping[str, Shaped[np.ndarray, "h w d t"]]
    projections: Mapping[str, Shaped[np.ndarray, "..."]]
    template: Float[np.ndarray, "n 3"]
    truth: Float[np.ndarray, "n 3"]
    faces: Int32[np.ndarray, "f 3"]
    affines: Mapping[str, Float[np.ndarray, "4 4"]]
    origins: Mapping[str, Float[np.ndarray, " 3"]]

    def voxels(
        self, view: str, points: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, "n 3"]:
        """Points in mm as indices of a view's arrays."""
        inverse = np.linalg.inv(self.affines[view])
        return points @ inverse[:3, :3].T + inverse[:3, 3] - self.origins[view]

    def planes(self, view: str) -> Float[np.ndarray, "d 3 3"]:
        """Origins and steps of a view's slices, mm, as :mod:`medjax.heart.planes` has
        them."""
        affine = self.affines[view].copy()
        affine[:3, 3] += affine[:3, :3] @ self.origins[view]
        return slice_planes(affine, self.images[view].data.shape[2])


def open_deepmesh(root: Path) -> list[Path]:
    """Folders of the subjects of a DeepMesh tree, sorted by name.

    Args:
        root: folder with one folder a subject.

    Raises:
        DataError: where there is no such folder, or no subject in it.
    """
    if not root.is_dir():
        raise DataError(f"data.root: {root}: no such folder")
    inside = sorted(p for p in root.iterdir() if p.is_dir())
    found = [p for p in inside if _stored(p, "sa_img.nii.gz").is_file()]
    if not found:
        held = in_short(sorted(p.name for p in root.iterdir()))
        raise DataError(
            f"data.root: {root} holds no subject of DeepMesh (<id>/sa_img.nii.gz), it "
            f"holds {held}"
        )
    return found


def _stored(folder: Path, name: str) -> Path:
    """Where a subject's file is: the second stage's code keeps some a folder below."""
    below = [folder / inner / name for inner in ("cropimg_64", "contourpara")]
    return next((path for path in below if path.is_file()), folder / name)


def read_deepmesh(folder: Path) -> DeepMeshSubject:
    """Reads one subject.

    Args:
        folder: of the subject; images may be in ``cropimg_64`` and all else in
            ``contourpara`` below it.

    Raises:
        FileNotFoundError: for a file that is absent.
        DataError: for one that is damaged, or arrays that do not fit each other.
    """
    images = {v: nifti.read(_stored(folder, f"{v}_img.nii.gz"), ndim=4) for v in VIEWS}
    contours = {v: npy.read(_stored(folder, f"contour_{v}.npy")) for v in VIEWS}
    names = {"sa": "SA", "2ch": "2CH", "4ch": "4CH"}
    projected = {
        v: npy.read(_stored(folder, f"proj_mesh_{n}.npy")) for v, n in names.items()
    }
    matrices, origins = (
        npz.read(_stored(folder, f"{n}.npz")) for n in ("affine", "origin")
    )
    for file, arrays, size in (("affine", matrices, 16), ("origin", origins, 3)):
        wrong = [
            key for key in VIEWS.values() if arrays.get(key, np.zeros(0)).size != size
        ]
        if wrong:
            raise DataError(
                f"{folder / file}.npz: {wrong} are absent or not of {size} numbers"
            )
    for view in VIEWS:
        seen, drawn = images[view].data.shape, contours[view].shape
        if len(drawn) != 4 or (seen[0], seen[1], seen[3]) != (*drawn[:2], drawn[3]):
            raise DataError(
                f"{folder}: {view} has images of {seen} and contours of {drawn}, "
                "expected rows, columns and frames to be the same"
            )
    template = _points(_stored(folder, "vertices_init_myo_ED_smooth.npy"))
    truth = _points(_stored(folder, "vertices_resampled_ED.npy"))
    # The second stage's code asks for a name without "smooth".
    faces_file = _stored(folder, "faces_init_myo_ED_smooth.npy")
    if not faces_file.exists():
        faces_file = _stored(folder, "faces_init_myo_ED.npy")
    faces = npy.read(faces_file)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise DataError(
            f"{faces_file}: {faces.dtype} {faces.shape}, expected corners f 3"
        )
    if not (
        len(template) == len(truth) and 0 <= faces.min() <= faces.max() < len(truth)
    ):
        raise DataError(
            f"{folder}: meshes of {len(template)} and {len(truth)} vertices do not fit "
            f"each other or faces up to {faces.max()}"
        )
    return DeepMeshSubject(
        images,
        contours,
        projected,
        template,
        truth,
        faces.astype(np.int32),
        {v: matrices[k].reshape(4, 4).astype(np.float64) for v, k in VIEWS.items()},
        {v: origins[k].reshape(3).astype(np.float64) for v, k in VIEWS.items()},
    )


def _points(path: Path) -> Float32[np.ndarray, "n 3"]:
    points = npy.read(path)
    if points.ndim == 3 and len(points) == 1:
        points = points[0]
    if points.ndim != 2 or points.shape[1] != 3:
        raise DataError(f"{path}: shape {points.shape}, expected n 3")
    # float16 has steps of 0.06 mm at 100 mm; what was lost is not there any more.
    return points.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A person of CHeart's tree, unread.

    Attributes:
        name: of the person.
        part: one of :data:`PARTS`.
        labels: array ``t z y x``, or two arrays ``z y x`` of end-diastole and
            end-systole.
        conditions: by the names of :class:`medjax.heart.population.Person`.
    """

    name: str
    part: str
    labels: tuple[Path, ...]
    conditions: Mapping[str, float]

    def read(self) -> Int32[np.ndarray, "t z y x"]:
        """The label maps, with the codes of this domain.

        Raises:
            DataError: where an array is damaged, has other axes, or unknown codes.
        """
        arrays = [npy.read(path) for path in self.labels]
        if len(arrays) == 2:
            if arrays[0].shape != arrays[1].shape:
                raise DataError(f"{self.labels[0].parent}: two frames of unequal shape")
            stored = np.stack(arrays)
        else:
            stored = arrays[0]
        where = self.labels[0]
        whole = np.rint(stored)
        if stored.ndim != 4 or stored.size == 0 or np.abs(whole - stored).max() > 1e-3:
            raise DataError(
                f"{where}: {stored.dtype} {stored.shape}, expected whole numbers, axes "
                "t z y x"
            )
        return canonical(whole.astype(np.int64), "cheart", where, plane=(2, 3))


def open_cheart(root: Path, *, ledger: Ledger | None = None) -> list[Sequence]:
    """The people of a CHeart tree.

    Lists ``label/<part>_sequence.txt`` name one person a line: an array
    ``seg/<name>.npy`` of all frames, or a folder ``seg/<name>`` with
    ``seg_sa_ED_SR.npy`` and ``seg_sa_ES_SR.npy``. ``conditions.csv`` has a line per
    person, whose name is in the column ``Unnamed: 0`` (pandas' index).

    Args:
        root: folder with ``seg``, ``label`` and, if known, ``conditions.csv``.
        ledger: receives people whose files are absent; the first is raised without one.

    Raises:
        DataError: where there is no list, or a person is not found.
    """
    ledger = ledger or Ledger(log=lambda line: None)
    known = _conditions(root / "conditions.csv", ledger)
    found = []
    for part in PARTS:
        path = root / "label" / f"{part}_sequence.txt"
        if not path.exists():
            continue
        for name in read_text(path).split():
            name = name.removesuffix(".npy")
            whole, folder = root / "seg" / f"{name}.npy", root / "seg" / name
            ends = [folder / f"seg_sa_{end}_SR.npy" for end in ("ED", "ES")]
            if whole.is_file():
                labels = (whole,)
            elif all(end.is_file() for end in ends):
                labels = tuple(ends)
            else:
                ledger.fault(name, f"neither {whole} nor {ends[0]} is there")
                continue
            found.append(Sequence(name, part, labels, known.get(name, {})))
    if not found:
        held = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
        raise DataError(
            f"data.root: {root} holds no people of CHeart (label/train_sequence.txt "
            f"and seg/<name>.npy), it holds {in_short(held)}"
        )
    return found


def _conditions(path: Path, ledger: Ledger) -> dict[str, dict[str, float]]:
    """Conditions by name of the person, from the table if there is one."""
    if not path.exists():
        return {}
    rows = read_table(path, (), ledger=ledger)
    index = next((c for c in ("Unnamed: 0", "") if rows and c in rows[0][1]), None)
    if index is None:
        raise DataError(f"{path}: no column 'Unnamed: 0' with the names of people")
    return {row[index]: conditions_of(row) for _, row in rows}


def read_4dsegment(folder: Path) -> Mesh:
    """The moving mesh that 4Dsegment leaves of a person.

    Vertices are as the files have them. Their space is that of the atlas, to which
    scans are brought with y and z turned: sizes are the person's, directions are not
    those of the scan.

    Args:
        folder: of the person, with ``vtkfile/mesh_00.vtk`` and so on in it or below.

    Returns:
        The mesh; of two sheets the one that encloses more is the epicardium.

    Raises:
        FileNotFoundError: where there is no such folder.
        DataError: where it holds no meshes, frames are missing, files are damaged, or
            frames have other triangles than the first.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    files: dict[int, Path] = {}
    for path in sorted(folder.rglob("mesh_*.vtk")):
        number = path.stem.removeprefix("mesh_")
        if path.parent.name != "vtkfile" or not number.isdecimal():
            continue
        if int(number) in files:
            raise DataError(f"{folder}: {files[int(number)]} and {path}: which is it?")
        files[int(number)] = path
    if sorted(files) != list(range(len(files))) or not files:
        raise DataError(
            f"{folder}: frames {in_short(sorted(files))} of vtkfile/mesh_NN.vtk, "
            "expected all of 0, 1, 2 and so on"
        )
    frames = [meshes.read(files[t]) for t in range(len(files))]
    first = frames[0]
    for t, one in enumerate(frames):
        if one.vertices.shape != first.vertices.shape or not np.array_equal(
            one.faces, first.faces
        ):
            raise DataError(f"{files[t]}: has other vertices or triangles than frame 0")
    vertices = np.stack([one.vertices for one in frames])
    return Mesh(vertices, first.faces, sheets(first, files[0]))


def sheets(mesh: Mesh, path: Path) -> Int32[np.ndarray, " n"]:
    """0 for the endocardium, 1 for the epicardium: vertices of the wider sheet.

    Args:
        mesh: two open sheets.
        path: of the file, for messages.

    Raises:
        DataError: for another number of sheets than two.
    """
    count = len(mesh.vertices)
    one, other = mesh.faces[:, [0, 1]].ravel(), mesh.faces[:, [1, 2]].ravel()
    joined = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    _, sheet = connected_components(joined, directed=False)
    used = np.unique(sheet[mesh.faces[:, 0]])
    if len(used) != 2:
        raise DataError(
            f"{path}: {len(used)} sheets, expected endocardium and epicardium"
        )
    boxes = [np.ptp(mesh.vertices[sheet == k], axis=0).prod() for k in used]
    return (sheet == used[int(np.argmax(boxes))]).astype(np.int32)
