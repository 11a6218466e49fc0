"""A trained motion system on anyone's heart: a cine scan in, a moving mesh out."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from medjax.data import nifti
from medjax.data.meshes import Mesh, write_series
from medjax.data.whole import whole
from medjax.heart import cycle
from medjax.heart.aha import NAMES
from medjax.heart.analysis import MeshStrain, mesh_strain
from medjax.heart.bullseye import bullseye
from medjax.heart.cine import Cine, heart_directions, prepare
from medjax.heart.clinical import Function, function, mesh_volumes
from medjax.heart.deepmesh import DeepMeshConfig
from medjax.heart.graph_motion import GraphMotionConfig
from medjax.heart.mesh_files import read_heart
from medjax.heart.meshes import Topology
from medjax.heart.motion_pictures import moving_pair
from medjax.heart.motion_systems import Follower, TrainedMotion, load_weights
from medjax.report import Report
from medjax.typing import Variables


@dataclasses.dataclass(frozen=True)
class Followed:
    """A heart over the cycle, end-diastole first.

    Attributes:
        vertices: mm, in the scanner's frame.
        topology: of the mesh that was given.
        times: shares of the cycle.
        numbers: volumes and ejection fractions.
        strain: by wall; by segment where it is known where the septum is.
        axes: from apex to base, and to the septum if known.
        resampled: where frames are not those of the scan, how they were made.
    """

    vertices: Float32[np.ndarray, "t n 3"]
    topology: Topology
    times: Float32[np.ndarray, " t"]
    numbers: Function
    strain: MeshStrain
    axes: tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"] | None]
    resampled: str | None = None

    def save(self, folder: str | Path) -> list[Path]:
        """Writes a series of VTK files, ``moving.npz``, ``volumes.csv`` and a page.

        Args:
            folder: made where it is missing.

        Returns:
            The files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mesh = Mesh(self.vertices, self.topology.faces, self.topology.surface)
        made = write_series(folder / "moving.vtk", mesh)
        table = folder / "volumes.csv"
        with whole(table) as draft, draft.open("w", newline="") as file:
            rows = csv.writer(file)
            names = list(self.numbers.curves)
            rows.writerow(["time", *(f"{name} (mL)" for name in names)])
            for t, share in enumerate(self.times):
                values = [self.numbers.curves[name][t] for name in names]
                rows.writerow([f"{share:.4f}", *(f"{v:.2f}" for v in values)])
        return [*made, table, self.report().save(folder / "moving.html")]

    def report(self) -> Report:
        """The moving mesh, its volumes, strain and segments."""
        found = {k: v for k, v in self.numbers.features.items() if np.isfinite(v)}
        remarks = [*self.numbers.remarks(), *filter(None, [self.resampled])]
        page = Report("A heart that was followed", "; ".join(remarks))
        units = {"EF": "%", "CO": "L/min", "M": "g"}
        told = {
            name: (value, next((u for e, u in units.items() if name.endswith(e)), "mL"))
            for name, value in found.items()
        }
        page.numbers(told)
        along, septum = self.axes
        if septum is None:
            septum = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
        picture = moving_pair([self.vertices], self.topology, along, septum)
        page.picture(picture, "two views of the mesh, the base on top")
        names = list(self.numbers.curves)
        curves = [
            {"share of the cycle": float(share)}
            | {name: float(self.numbers.curves[name][t]) for name in names}
            for t, share in enumerate(self.times)
        ]
        page.curves("volumes, mL", curves, x="share of the cycle")
        rows = [
            {"strain": name, "end-systole, %": 100 * curve.end_systolic}
            for name, curve in self.strain.curves.items()
        ]
        page.table(rows, caption="engineering strain")
        if self.strain.segments is None:
            page.text("No segments: nothing says where the septum is.")
            return page
        values = 100 * self.strain.segments
        page.picture(
            bullseye(values, -40, 0), "circumferential strain at end-systole, %"
        )
        listed = zip(NAMES, values.tolist(), strict=True)
        page.table([{"segment": name, "%": value} for name, value in listed])
        return page


class Tracker:
    """A trained system that follows hearts.

    Args:
        trained: what the run says of itself.
        weights: of its stages by folder.
    """

    def __init__(
        self, trained: TrainedMotion, weights: Mapping[str, Variables]
    ) -> None:
        self.trained, self.weights = trained, weights

    def track(
        self,
        cine: str | Path | nifti.Volume,
        *,
        mesh: str | Path | tuple[Float[np.ndarray, "n 3"], Topology],
        views: Mapping[str, str | Path | nifti.Volume] | None = None,
        septum: Sequence[float] | None = None,
        diastole: int = 0,
        scale: float = 1.0,
        frames: int | None = None,
    ) -> Followed:
        """Follows a heart from end-diastole through its cycle.

        Args:
            cine: short-axis stack (NIfTI), frames last.
            mesh: at end-diastole in the scanner's mm, with surfaces ``endo`` and
                ``epi`` and perhaps ``rv``. A system that fits the mesh itself
                (DeepMesh) takes it for its template.
            views: long-axis images by name, ``2ch`` and ``4ch``, of as many frames.
            septum: direction from the long axis to the septum, for a mesh without a
                right ventricle; without it images are left as they are turned, and
                there are no segments.
            diastole: frame of end-diastole.
            scale: mm per unit of the mesh's file.
            frames: bring the cycle that was followed to so many, by periodic linear
                interpolation; volumes and strain are of these.

        Raises:
            FileNotFoundError: for a file that is absent.
            DataError: for one that is damaged, or scans that do not fit.
            ValueError: for a mesh without a wall, or a frame that is not there.
        """
        if isinstance(mesh, tuple):
            vertices, topology = mesh
        else:
            moving, topology = read_heart(mesh, scale)
            vertices = moving[0]
        if not {"endo", "epi"} <= set(topology.names):
            raise ValueError(
                f"mesh: surfaces {list(topology.names)}, expected endo and epi, which "
                "an npz, a VTK or a PLY file may tell as 'surface'"
            )
        config = self.trained.system
        toward = None if septum is None else np.asarray(septum, np.float64)
        opened = {
            name: one if isinstance(one, nifti.Volume) else nifti.read(one)
            for name, one in {"sax": cine, **(views or {})}.items()
        }
        scan = prepare(
            opened.pop("sax"),
            opened,
            np.asarray(vertices, np.float64),
            topology,
            self.trained.scan,
            septum=toward,
            diastole=diastole,
            resliced=not isinstance(config, GraphMotionConfig),
        )
        follower = Follower(self.weights, config, topology, vertices)
        found, times, remark = self._follow(follower, scan, vertices), scan.times, None
        if frames is not None:
            remark = cycle.told(len(found), frames)
            found = cycle.resampled(found, frames)
            times = (np.arange(frames) / frames).astype(np.float32)
        along, across = heart_directions(found[0], topology, toward)
        numbers = function(mesh_volumes(found, topology, close=True))
        strain = mesh_strain(
            found,
            topology,
            diastole=numbers.diastole,
            systole=numbers.systole,
            septum_direction=across if "rv" not in topology.names else None,
        )
        axes = (along, across)
        return Followed(found, topology, times, numbers, strain, axes, remark)

    def _follow(
        self, follower: Follower, scan: Cine, vertices: Float[np.ndarray, "n 3"]
    ) -> Float32[np.ndarray, "t n 3"]:
        start = follower.start(scan.example(1, vertices))
        later = range(1, len(scan.times))
        moved = follower.follow([scan.example(t, start) for t in later])
        return np.concatenate([start[None], moved])


def open_run(folder: Path) -> Tracker:
    """The tracker of a run, with the weights that it kept.

    Raises:
        FileNotFoundError: for a folder that is absent, or not a run's.
        ValueError: for a run without a checkpoint, or the first stage of one.
    """
    trained = TrainedMotion.load(folder)
    if isinstance(trained.system, DeepMeshConfig) and trained.system.stage == "ed":
        raise ValueError(
            f"{folder} is the first stage of a run, which moves nothing: open the run, "
            "the folder above"
        )
    return Tracker(trained, load_weights(folder, trained))
