"""Phantom hearts in the folders that DeepMesh's and CHeart's released code reads.

Neither came with data (DeepMesh issue 2). What is written here is read by
:mod:`medjax.heart.trees`, and by the released code: full size is 128 x 128 x 64 voxels
of 1.25 x 1.25 x 2 mm, 50 frames for DeepMesh and 20 for CHeart. Unlike theirs, images
of DeepMesh's short axis were never thick slices.
"""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from medjax.data import nifti
from medjax.data.volumes import Grid
from medjax.heart import phantom
from medjax.heart.appearance import LABELS, draw_texture, heart_labels
from medjax.heart.label_maps import SOURCES
from medjax.heart.phantom import Heart, make_heart
from medjax.heart.phantom_mesh import SIZES, moving_mesh
from medjax.heart.population import Person
from medjax.heart.scanning import Pose, ScanConfig, Slices, draw_pose, expose, plan
from medjax.heart.trees import CHEART_SPACING, DEPTHS, PARTS, VIEWS

COLUMNS = ("Age", "Sex", "Height", "Weight", "SBP")
MEAN_HEART = {
    "volume": 150.0,
    "mass": 88.0,
    "length": 94.0,
    "ejection_fraction": 0.6,
    "shortening": 0.17,
    "rv_volume": 160.0,
}


@dataclasses.dataclass(frozen=True)
class DeepMeshExport:
    """Size of what is written; the defaults are the released code's."""

    size: int = 128
    """Rows and columns of all views."""
    spacing: float = 1.25
    """Of pixels, mm."""
    depth: int = 64
    """Short-axis slices."""
    gap: float = 2.0
    """Between them, mm."""
    frames: int = 50
    """Of the cycle."""
    mesh: tuple[int, int] = SIZES["full"]
    """Vertices around and rings along each wall."""


def export_deepmesh(
    folder: Path, heart: Heart, config: DeepMeshExport, *, seed: int
) -> None:
    """Writes one subject's folder.

    Args:
        folder: of the subject, made here.
        heart: whose.
        config: sizes.
        seed: of pose, planes, texture, noise, and of what was cut off the scan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pose, texture = draw_pose(rng), draw_texture(rng, 0.06)
    scan = ScanConfig(
        size=config.size, spacing=config.spacing, slices=config.depth, gap=config.gap
    )
    planes = plan(heart, scan, rng)
    times = np.arange(config.frames) / config.frames
    systole = int(np.argmax(phantom.activation(heart, times)))
    mesh = _wall_mesh(heart, pose, config.mesh)
    affines, origins = {}, {}
    views = {"sa": slice(0, config.depth), "2ch": [config.depth], "4ch": [-1]}
    names = {"sa": "SA", "2ch": "2CH", "4ch": "4CH"}
    for view, which in views.items():
        chosen = Slices(*(part[which] for part in planes))
        thick = config.gap if view == "sa" else 8.0
        image, label = expose(
            *(jax.tree.map(np.float32, part) for part in (heart, texture, chosen)),
            times.astype(np.float32),
            np.float32(config.spacing),
            np.float32(thick),
            config.size,
        )
        noise = rng.normal(0, 0.04, (2, *image.shape))
        seen = 1e3 * np.hypot(np.asarray(image) + noise[0], noise[1])
        cut = _affine(pose.turn(chosen), config.spacing, thick)
        origin = np.array([*rng.integers(10, 60, 2), 0 if view != "sa" else 4])
        whole = cut.copy()
        whole[:3, 3] -= cut[:3, :3] @ origin
        affines[VIEWS[view]], origins[VIEWS[view]] = whole, origin
        cine = np.transpose(seen, (2, 3, 1, 0)).astype(np.float32)
        rows = np.rint(DEPTHS * config.depth).astype(int) if view == "sa" else [0]
        drawn = _contours(np.asarray(label)[:, rows])
        nifti.write(folder / f"{view}_img.nii.gz", cine, affine=cut)
        end = cine[..., [systole]]
        nifti.write(folder / f"{view}_ES_img.nii.gz", end, affine=cut)
        np.save(folder / f"contour_{view}.npy", drawn)
        np.save(folder / f"contour_{view}_es.npy", drawn[..., [systole]])
        met = _met(mesh[0], cut, cine.shape[:3])
        met = met if view == "sa" else met[..., 0]
        np.save(folder / f"proj_mesh_{names[view]}.npy", met)
    inverses = {f"{name}inv": np.linalg.inv(a) for name, a in affines.items()}
    np.savez(folder / "affine.npz", **affines, **inverses)
    np.savez(folder / "origin.npz", **origins)
    template, faces = _wall_mesh(make_heart(**MEAN_HEART), pose, config.mesh)
    np.save(folder / "vertices_init_myo_ED_smooth.npy", template)
    np.save(folder / "vertices_resampled_ED.npy", mesh[0])
    for name in ("faces_init_myo_ED_smooth", "faces_init_myo_ED"):
        np.save(folder / f"{name}.npy", faces)


def _wall_mesh(
    heart: Heart, pose: Pose, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "n 3"], Int32[np.ndarray, "f 3"]]:
    """The left ventricle at end-diastole in space, the epicardium first as theirs."""
    mesh = moving_mesh(heart, np.zeros(1), size, right=False)
    half = np.int32(len(mesh.surface) // 2)
    vertices = np.roll(pose.place(mesh.vertices[0]), half, axis=0)
    faces = np.roll(mesh.faces, len(mesh.faces) // 2, axis=0)
    return vertices.astype(np.float32), np.where(
        faces < half, faces + half, faces - half
    )


def _affine(planes: Slices, spacing: float, thick: float) -> Float[np.ndarray, "4 4"]:
    """Of a stack of parallel planes: indices (i, j, plane) to mm."""
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = spacing * planes.rows[0], spacing * planes.columns[0]
    affine[:3, 2] = thick * planes.normal[0]
    if len(planes.origin) > 1:
        affine[:3, 2] = planes.origin[1] - planes.origin[0]
    affine[:3, 3] = planes.origin[0]
    return affine


def _contours(label: Int[np.ndarray, "t p h w"]) -> Bool[np.ndarray, "h w p t"]:
    """Pixels of muscle with a neighbour in their slice that is none."""
    muscle = np.pad(label == LABELS["myo"], ((0, 0), (0, 0), (1, 1), (1, 1)))
    inner = np.ones(label.shape, bool)
    for axis in (2, 3):
        for step in (-1, 1):
            inner &= np.roll(muscle, step, axis)[:, :, 1:-1, 1:-1]
    border = muscle[:, :, 1:-1, 1:-1] & ~inner
    return np.transpose(border, (2, 3, 1, 0))


def _met(
    vertices: Float[np.ndarray, "n 3"],
    affine: Float[np.ndarray, "4 4"],
    shape: tuple[int, int, int],
) -> Bool[np.ndarray, "h w d"]:
    """Voxels with a vertex in them."""
    inverse = np.linalg.inv(affine)
    at = np.rint(vertices @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    at = at[np.all((at >= 0) & (at < shape), axis=1)]
    met = np.zeros(shape, bool)
    met[tuple(at.T)] = True
    return met


def anatomy_grid(
    shape: Sequence[int], spacing: Sequence[float] = CHEART_SPACING
) -> Grid:
    """A grid of axes z, y, x around a heart in its own frame.

    z runs from apex to base, y to the front, x to the septum; the middle is 52 mm above
    the apex and 15 mm to the septum.

    Args:
        shape: voxels along z, y and x.
        spacing: mm along z, y and x.
    """
    affine = np.zeros((4, 4))
    middle = (52.0, 0.0, 15.0)
    for axis, (row, place) in enumerate(zip((2, 1, 0), middle, strict=True)):
        affine[row, axis] = spacing[axis]
        affine[row, 3] = place - 0.5 * spacing[axis] * (shape[axis] - 1)
    affine[3, 3] = 1
    return Grid(tuple(shape), affine)


def export_cheart(
    root: Path,
    people: Mapping[str, Sequence[Person]],
    *,
    frames: int = 20,
    shape: tuple[int, int, int] = (64, 128, 128),
    spacing: tuple[float, float, float] = CHEART_SPACING,
) -> None:
    """Writes label sequences, lists and the table of conditions.

    Args:
        root: folder, made here.
        people: by part, ``train``, ``val`` and ``test``.
        frames: of the cycle.
        shape: voxels along z, y, x.
        spacing: mm along z, y, x.
    """
    codes = np.zeros(1 + len(LABELS), np.uint8)
    for code, name in SOURCES["cheart"].items():
        codes[LABELS[name]] = code
    (root / "seg").mkdir(parents=True, exist_ok=True)
    (root / "label").mkdir(exist_ok=True)
    grid, times = anatomy_grid(shape, spacing), np.arange(frames) / frames
    with (root / "conditions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("Unnamed: 0", *COLUMNS))
        for part in PARTS:
            names = [f"{part}{i:04d}" for i in range(len(people.get(part, ())))]
            for name, person in zip(names, people.get(part, ()), strict=True):
                labels = heart_labels(person.heart, times, grid)
                np.save(root / "seg" / f"{name}.npy", codes[labels])
                table.writerow((name, *person.conditions))
            lines = "".join(f"{name}\n" for name in names)
            (root / "label" / f"{part}_sequence.txt").write_text(lines)
