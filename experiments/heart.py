"""Clinical numbers of any heart: label volumes and moving meshes of your own files.

::

    python -m experiments.heart measure seg_sa.nii.gz heart.npz
    python -m experiments.heart strain heart.npz
    python -m experiments.heart slice heart.npz --like sa.nii.gz --out labels.nii.gz
    python -m experiments.heart convert heart.npz heart.vtk
    python -m experiments.heart track RUN cine.nii.gz --mesh heart.vtk --out moving
    python -m experiments.heart fit seg_sa.nii.gz --image sa.nii.gz
    python -m experiments.heart export deepmesh folder --people 2

``measure`` gives volumes, ejection fractions and masses of label maps (NIfTI, in the
numbering of ``--codes``) and of meshes (VTK, PLY, STL, OBJ, npz). ``strain`` wants an
``npz`` with ``vertices`` (frames, n, 3) in mm, ``faces`` and ``surface`` (0
endocardium, 1 epicardium, 2 right ventricle), or label maps of a cycle, to which a mesh
is fitted first. A folder of 4Dsegment is a moving mesh as well. ``slice`` draws a mesh
as label maps on the slices of an image. ``fit`` goes the other way: label maps of a
cycle give a mesh that moves, its volumes beside those of the labels. ``convert`` writes
a mesh in another format, a moving one as one file a frame, or with another number of
frames. ``track`` follows the mesh of end-diastole through a cine scan with a run of
``experiments.graph_motion`` or ``experiments.deepmesh``. ``export`` writes phantom
people in the folders that DeepMesh's and CHeart's code reads.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from medjax.data import meshes, nifti
from medjax.data.boundary import DataError
from medjax.heart import cycle
from medjax.heart.clinical import Diastole, function, label_volumes, mesh_volumes
from medjax.heart.fitting import FitConfig
from medjax.heart.label_maps import canonical
from medjax.heart.mesh_files import read_heart
from medjax.heart.meshes import volumes
from medjax.train.ending import ends_in_words

IMAGES = (".nii", ".nii.gz")
"""Endings of label maps."""
Ventricle = Literal["ukb", "acdc", "mnms", "cheart"]


@dataclasses.dataclass(frozen=True)
class Measure:
    """Volumes, ejection fractions and masses."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Label maps of a cycle, or meshes."""
    codes: Ventricle = "ukb"
    """Whose numbering label maps have: 1 LV, 2 muscle, 3 RV in ukb."""
    diastole: Diastole = "first"
    """End-diastole: the first frame, the one of the largest volume, or a number."""
    heart_rate: float | None = None
    """Beats a minute."""
    scale: float = 1.0
    """mm per unit of a mesh's file."""


@dataclasses.dataclass(frozen=True)
class Strain:
    """Strain of moving meshes, by wall and by segment."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Moving meshes (npz), or label maps of a cycle (NIfTI)."""
    codes: Ventricle = "ukb"
    """Whose numbering label maps have: 1 LV, 2 muscle, 3 RV in ukb."""
    diastole: Diastole = "first"
    """End-diastole: the first frame, the one of the largest volume, or a number."""
    fit: FitConfig = FitConfig()
    """How a mesh is fitted to label maps."""
    scale: float = 1.0
    """mm per unit of a mesh's file."""
    septum_direction: tuple[float, float, float] | None = None
    """From the long axis to the septum, for a heart without a right ventricle."""
    report: Path | None = None
    """A page with curves and bull's-eyes."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Label maps of a mesh on the slices of an image."""

    file: tyro.conf.Positional[Path]
    """The mesh."""
    like: Path
    """An image (NIfTI) with the slices; the labels have its grid."""
    out: Path = Path("labels.nii.gz")
    """Where the labels go."""
    scale: float = 1.0
    """mm per unit of the mesh's file."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A moving mesh of label maps of a cycle."""

    file: tyro.conf.Positional[Path]
    """Label maps (NIfTI) of the left ventricle and its muscle."""
    codes: Ventricle = "ukb"
    """Whose numbering the label maps have: 1 LV, 2 muscle, 3 RV in ukb."""
    diastole: Diastole = "first"
    """End-diastole: the first frame, the one of the largest volume, or a number."""
    image: Path | None = None
    """The cine, to be drawn below the contours of the page."""
    out: Path = Path("runs/heart-fit")
    """Folder of mesh.npz, result.json and report.html."""
    fit: FitConfig = FitConfig()
    """Sizes, steps and weights."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """A mesh in another format."""

    file: tyro.conf.Positional[Path]
    """The mesh."""
    out: tyro.conf.Positional[Path]
    """Where it goes; the ending says the format."""
    scale: float = 1.0
    """mm per unit of the file."""
    frames: int | None = None
    """Of a moving mesh: bring the cycle to so many frames, by periodic linear
    interpolation."""


@dataclasses.dataclass(frozen=True)
class Track:
    """A mesh that follows a cine scan: a VTK series, volumes, a page."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    cine: tyro.conf.Positional[Path]
    """Short-axis stack (NIfTI), frames last."""
    mesh: Path
    """At end-diastole, in the scanner's mm, with surfaces 0 endocardium, 1 epicardium
    and, if known, 2 right ventricle (npz, VTK, PLY)."""
    two_chamber: Path | None = None
    """Long-axis view from the anterior to the inferior wall."""
    four_chamber: Path | None = None
    """Long-axis view from the septum to the lateral wall."""
    diastole: int = 0
    """Frame of end-diastole."""
    septum_direction: tuple[float, float, float] | None = None
    """From the long axis to the septum, for a mesh without a right ventricle."""
    scale: float = 1.0
    """mm per unit of the mesh's file."""
    frames: int | None = None
    """Bring the cycle that was followed to so many frames, by periodic linear
    interpolation."""
    out: Path = Path("moving")
    """Folder of what was found."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Phantom people in a published folder layout."""

    layout: tyro.conf.Positional[Literal["deepmesh", "cheart"]]
    """Whose."""
    out: tyro.conf.Positional[Path]
    """The folder."""
    people: int = 4
    """How many."""
    seed: int = 0
    """Of the population."""


def read_cycle(path: Path, codes: Ventricle) -> tuple[np.ndarray, nifti.Volume]:
    """Label maps with the codes of this domain, frames first, and the file's volume."""
    volume = nifti.read_labels(path)
    if volume.data.ndim not in (3, 4):
        raise DataError(f"{path}: {volume.data.ndim} axes, expected 3 or 4")
    data = volume.data if volume.data.ndim == 4 else volume.data[..., None]
    return canonical(np.moveaxis(data, 3, 0), codes, path), volume


def measure(config: Measure) -> int:
    """Prints a row of numbers per file."""
    for path in config.files:
        print(f"\n{path}")
        if path.name.endswith(IMAGES):
            labels, volume = read_cycle(path, config.codes)
            curves = label_volumes(labels, volume.affine)
        else:
            vertices, topology = read_heart(path, config.scale)
            if topology.names == ("mesh",):
                inside = volumes(vertices, topology, close=True)["mesh"] / 1e3
                print("  enclosed, mL: " + " ".join(f"{v:.1f}" for v in inside))
                continue
            curves = mesh_volumes(vertices, topology, close=True)
        if "lv" not in curves:
            raise DataError(f"{path}: no frame holds a left ventricle")
        for name, curve in curves.items():
            print(f"  {name}, mL: " + " ".join(f"{v:.1f}" for v in curve))
        found = function(curves, diastole=config.diastole, heart_rate=config.heart_rate)
        known = {k: v for k, v in found.features.items() if np.isfinite(v)}
        print("  " + "  ".join(f"{k} {v:.1f}" for k, v in known.items()))
        print("  " + "; ".join(found.remarks()))
    return 0


def strains(config: Strain) -> int:
    """Prints strain of each file."""
    from medjax.heart.analysis import mesh_strain
    from medjax.heart.strain_report import of_labels, section, told
    from medjax.report import Report

    page = Report("Strain", "engineering, %; end-diastole is the reference")
    for path in config.files:
        if path.name.endswith(IMAGES):
            labels, volume = read_cycle(path, config.codes)
            vertices, topology = of_labels(path, labels, volume.affine, config.fit)
        else:
            vertices, topology = read_heart(path, config.scale)
        curves = mesh_volumes(vertices, topology, close=True)
        ends = function(curves, diastole=config.diastole)
        septum = config.septum_direction
        found = mesh_strain(
            vertices,
            topology,
            diastole=ends.diastole,
            systole=ends.systole,
            septum_direction=None if septum is None else np.array(septum),
        )
        print(f"\n{path}: {'; '.join(ends.remarks()[:1])}; engineering strain, %")
        print(told(found))
        section(page, path.name, found)
    if config.report is not None:
        print(f"report: {page.save(config.report)}")
    return 0


def sliced(config: Slice) -> int:
    """Writes label maps of a mesh."""
    from medjax.heart.drawing import drawn

    vertices, topology = read_heart(config.file, config.scale)
    image = nifti.read(config.like)
    maps = drawn(vertices, topology, image.affine, image.data.shape[:3])
    step = image.time_step if len(maps) > 1 else None
    data = np.moveaxis(maps, 0, -1) if len(maps) > 1 else maps[0]
    nifti.write(config.out, data, affine=image.affine, time_step=step)
    print(f"labels: {config.out} {data.shape}")
    return 0


def fitted(config: Fit) -> int:
    """Fits a mesh to label maps; prints and writes what came out."""
    from experiments.bench.measure import facts
    from experiments.compare.publishing import keep
    from medjax.heart.fitting import fit
    from medjax.heart.fitting_report import page, scores, told

    labels, volume = read_cycle(config.file, config.codes)
    image = None
    if config.image is not None:
        image = nifti.read(config.image, ndim=4).data
        if image.shape != (*labels.shape[1:], len(labels)):
            raise DataError(
                f"{config.image}: {image.shape}, expected the labels' "
                f"{(*labels.shape[1:], len(labels))}"
            )
    began = time.process_time()
    found = fit(labels, volume.affine, config.fit)
    spent = time.process_time() - began
    result = scores(found, labels, volume.affine, diastole=config.diastole)
    print(told(result))
    mesh = meshes.Mesh(found.vertices, found.topology.faces, found.topology.surface)
    config.out.mkdir(parents=True, exist_ok=True)
    meshes.write(config.out / "mesh.npz", mesh)
    about = {
        "file": config.file.name,
        "shape": list(labels.shape),
        "vertices": found.topology.count,
        "fit": dataclasses.asdict(config.fit),
        "cpu_seconds": round(spent, 1),
        "facts": facts(),
    }
    keep(config.out / "result.json", about | result)
    name = config.file.name
    report = page(name, result, found, labels, volume.affine, image)
    print(f"mesh: {config.out / 'mesh.npz'}")
    print(f"report: {report.save(config.out / 'report.html')}")
    return 0


def convert(config: Convert) -> int:
    """Writes a mesh in another format."""
    mesh = meshes.read(config.file)
    if config.scale != 1:
        scaled = (config.scale * mesh.vertices).astype(mesh.vertices.dtype)
        mesh = dataclasses.replace(mesh, vertices=scaled)
    if config.frames is not None:
        moving = mesh.vertices if mesh.vertices.ndim == 3 else mesh.vertices[None]
        brought = cycle.resampled(moving, config.frames)
        mesh = dataclasses.replace(mesh, vertices=brought)
        print(cycle.told(len(moving), config.frames))
    if mesh.vertices.ndim == 3 and config.out.suffix != ".npz":
        made = meshes.write_series(config.out, mesh)
        print(f"meshes: {made[0]} to {made[-1].name}")
    else:
        meshes.write(config.out, mesh)
        print(f"mesh: {config.out}")
    return 0


def track(config: Track) -> int:
    """Follows a heart."""
    from medjax.heart.tracker import open_run

    views = {"2ch": config.two_chamber, "4ch": config.four_chamber}
    moving = open_run(config.run).track(
        config.cine,
        mesh=config.mesh,
        views={name: path for name, path in views.items() if path is not None},
        septum=config.septum_direction,
        diastole=config.diastole,
        scale=config.scale,
        frames=config.frames,
    )
    if moving.resampled is not None:
        print(f"  {moving.resampled}")
    for name, curve in moving.numbers.curves.items():
        print(f"  {name}, mL: " + " ".join(f"{v:.1f}" for v in curve))
    known = {k: v for k, v in moving.numbers.features.items() if np.isfinite(v)}
    print("  " + "  ".join(f"{k} {v:.1f}" for k, v in known.items()))
    made = moving.save(config.out)
    print(f"written: {made[0]} and {len(made) - 1} more")
    return 0


def export(config: Export) -> int:
    """Writes phantom people."""
    from medjax.heart.exporting import DeepMeshExport, export_cheart, export_deepmesh
    from medjax.heart.population import person

    # CHeart's folder has three parts, none of them empty.
    least = {"deepmesh": 1, "cheart": 3}[config.layout]
    if config.people < least:
        raise ValueError(f"people is {config.people}, expected {least} at least")
    everyone = [person(config.seed, i) for i in range(config.people)]
    if config.layout == "deepmesh":
        for i, one in enumerate(everyone):
            folder = config.out / f"{i:04d}"
            export_deepmesh(folder, one.heart, DeepMeshExport(), seed=i)
            print(folder, flush=True)
    else:
        people = {"train": everyone[:-2], "val": everyone[-2:-1], "test": everyone[-1:]}
        export_cheart(config.out, people)
        print(config.out)
    return 0


Command = (
    Annotated[Measure, tyro.conf.subcommand("measure")]
    | Annotated[Strain, tyro.conf.subcommand("strain")]
    | Annotated[Slice, tyro.conf.subcommand("slice")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Track, tyro.conf.subcommand("track")]
    | Annotated[Export, tyro.conf.subcommand("export")]
)


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.heart"
    config = tyro.cli(Command, args=arguments, description=__doc__, prog=prog)
    match config:
        case Measure():
            return measure(config)
        case Strain():
            return strains(config)
        case Slice():
            return sliced(config)
        case Fit():
            return fitted(config)
        case Convert():
            return convert(config)
        case Track():
            return track(config)
    return export(config)


if __name__ == "__main__":
    sys.exit(main())
