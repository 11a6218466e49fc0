"""Moving hearts to track: phantom people, scanned, with meshes whose motion is known.

A person is scanned once (:mod:`medjax.heart.scanning`): images and label maps of all
frames on short-axis slices and two long-axis views. Beside them are the moving mesh,
whose vertices are material points, and contours: fine surfaces cut by the planes that
were truly hit. An example is a person at end-diastole and at one later frame, as
:mod:`medjax.heart.batch` says. Its ``planes`` are those that headers tell: breath-holds
displace what is seen against them, as in a clinic.

Drawing takes seconds a person, at the published sizes minutes. So everyone is drawn
once, into a folder of arrays that are read in place: a run that goes on, or another one
with the same settings, finds them there.

Training people follow the seed; the held-out ones are always the same.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, UInt8

from medjax.data.boundary import reading
from medjax.heart.contours import trace
from medjax.heart.data import HELD_OUT, expect_enough
from medjax.heart.exporting import MEAN_HEART
from medjax.heart.meshes import Topology
from medjax.heart.phantom import make_heart
from medjax.heart.phantom_mesh import SIZES, SURFACES, moving_mesh
from medjax.heart.population import person
from medjax.heart.scanning import ScanConfig, scan
from medjax.progress import track
from medjax.train.agree import on_first

DENSE = 4
"""As many times as many points are kept of contours as an example has: scores need
them, since a point is some way from the next one however well a mesh fits."""
FINE = (64, 48)
"""Vertices around and along of the surfaces whose contours are traced."""
VIEWS = 2
"""Along the long axis: 2CH and 4CH, behind the slices."""
DRAWN_BY = ("appearance", "contours", "meshes", "motion_data", "phantom")
DRAWN_BY += ("phantom_mesh", "population", "scanning", "strain")
"""Rooms that decide what a person is. People drawn by others are drawn again."""
MISPLACED = 3.0
"""Deviation of the template from the heart that is sought, mm along each axis."""


@dataclasses.dataclass(frozen=True)
class MotionDataConfig:
    """Whose hearts are tracked, and how they are seen."""

    scan: ScanConfig = ScanConfig()
    """Images, their planes and what is wrong with them."""
    views: Literal["sax", "sax+lax"] = "sax+lax"
    """Whether there are long-axis views; without, they are neither read nor learned
    from."""
    mesh: tuple[int, int] = SIZES["tiny"]
    """Vertices around and rings along each wall of the left ventricle."""
    right: bool = True
    """With the right ventricle."""
    contour_points: int = 32
    """Of each surface on each plane of an example."""
    people: int = 24
    """How many to train on."""
    test_people: int = 6
    """How many are held out."""
    infarcts: float = 0.2
    """Share of people with an infarct."""
    batch_size: int = 8
    """Of the global batch."""
    seed: int = 0
    """Of the training people and the order of rows."""
    cache: Path | None = None
    """Folder for people that are drawn; None: in the run's own."""


SMALL = MotionDataConfig(
    scan=ScanConfig(frames=8, size=40, spacing=3.6),
    right=False,
    people=16,
    test_people=4,
    batch_size=4,
)
"""What a CPU draws and learns from in a minute or two."""


class Subject(NamedTuple):
    """One person: a scan, and what is known of the heart.

    Attributes:
        images: short-axis slices from apex to base, then 2CH and 4CH.
        labels: of the same, :data:`medjax.heart.appearance.LABELS`.
        planes: as headers tell, mm.
        plane_mask: 1 where there is an image, 0 where it is missing.
        times: shares of the cycle.
        vertices: of the true mesh, mm.
        template: the mean heart's mesh, roughly in place, mm.
        contours: mm along rows and columns; an example has every fourth point.
        contour_mask: 1 where there is a point.
        contour_surface: which surface it lies on.
        septum: from the long axis to the middle of the septum.
    """

    images: Float32[np.ndarray, "t p h w"]
    labels: UInt8[np.ndarray, "t p h w"]
    planes: Float32[np.ndarray, "p 3 3"]
    plane_mask: Float32[np.ndarray, " p"]
    times: Float32[np.ndarray, " t"]
    vertices: Float32[np.ndarray, "t n 3"]
    template: Float32[np.ndarray, "n 3"]
    contours: Float32[np.ndarray, "t p m 2"]
    contour_mask: Float32[np.ndarray, "t p m"]
    contour_surface: Int32[np.ndarray, "p m"]
    septum: Float64[np.ndarray, " 3"]

    def example(
        self, frame: int, vertices_ed: Float[np.ndarray, "n 3"] | None = None
    ) -> dict[str, np.ndarray]:
        """End-diastole and a frame, without the axis ``b``.

        Args:
            frame: the frame ``t``.
            vertices_ed: the mesh at end-diastole, where it is not to be the true one.
        """
        both = [0, frame]
        images = np.asarray(self.images[both])
        return {
            "sax": images[:, :-VIEWS],
            "lax": images[:, -VIEWS:],
            "planes": np.asarray(self.planes),
            "plane_mask": np.asarray(self.plane_mask),
            "time": np.asarray(self.times[frame], np.float32),
            "vertices_ed": np.asarray(
                self.vertices[0] if vertices_ed is None else vertices_ed
            ),
            "vertices_init": np.asarray(self.template),
            "vertices_t": np.asarray(self.vertices[frame]),
            "contours": np.asarray(self.contours[both, :, ::DENSE]),
            "contour_mask": np.asarray(self.contour_mask[both, :, ::DENSE]),
            "contour_surface": np.stack([self.contour_surface[:, ::DENSE]] * 2),
            "labels": self.labels[both].astype(np.int32),
        }


class MotionRows:
    """All later frames of all people, as rows of a pipeline.

    Args:
        people: with as many frames each.
        fields: of :mod:`medjax.heart.batch` that rows have.
        starts: meshes at end-diastole, where those are not to be the true ones.
    """

    def __init__(
        self,
        people: Sequence[Subject],
        fields: Sequence[str],
        starts: Sequence[Float[np.ndarray, "n 3"]] | None = None,
    ) -> None:
        self.people, self.fields, self.starts = people, fields, starts
        self._later = len(people[0].times) - 1

    def __len__(self) -> int:
        return len(self.people) * self._later

    def __getitem__(self, row: SupportsIndex, /) -> dict[str, np.ndarray]:
        one, frame = divmod(row.__index__(), self._later)
        start = None if self.starts is None else self.starts[one]
        whole = self.people[one].example(1 + frame, start)
        return {name: whole[name] for name in self.fields}


class MotionData(NamedTuple):
    """People to learn from, people held out, and the mesh that all of them have.

    Attributes:
        name: of the data, for titles.
        train: people.
        test: people.
        topology: of the mesh.
        reference: vertices of a typical heart, mm.
    """

    name: str
    train: list[Subject]
    test: list[Subject]
    topology: Topology
    reference: Float32[np.ndarray, "n 3"]


def mesh_of(
    size: tuple[int, int], *, right: bool
) -> tuple[Topology, Float32[np.ndarray, "n 3"]]:
    """The mesh of phantoms, and its vertices in the mean heart at end-diastole.

    Args:
        size: vertices around and rings along each wall.
        right: with the right ventricle.
    """
    mesh = moving_mesh(make_heart(**MEAN_HEART), np.zeros(1), size, right=right)
    names = SURFACES if right else SURFACES[:2]
    count = len(mesh.surface)
    return Topology.of(mesh.faces, count, mesh.surface, names), mesh.vertices[0]


def open_motion(config: MotionDataConfig, folder: Path) -> MotionData:
    """The data that the flags describe.

    Args:
        config: who, and how they are scanned.
        folder: of the run, for people that are drawn.

    Raises:
        DataError: where a person that was kept is damaged.
        ValueError: for counts or sizes that are impossible.
    """
    least = {"people": 1, "test_people": 1, "batch_size": 1, "contour_points": 2}
    expect_enough(config, least)
    if config.scan.frames < 2:
        raise ValueError(
            f"data.scan.frames is {config.scan.frames}, expected 2 at least"
        )
    topology, reference = mesh_of(config.mesh, right=config.right)
    kept = config.cache if config.cache is not None else folder / "people"
    digest = _digest(config)
    counts = {1 + config.seed: config.people, HELD_OUT: config.test_people}
    every = [(p, i) for p, count in counts.items() for i in range(count)]
    names = [kept / digest / f"{p}-{i:05d}" for p, i in every]
    absent = [k for k, name in enumerate(names) if not name.is_dir()]

    def draw() -> None:
        for k in track(absent, "phantoms", len(absent), "heart"):
            _keep(names[k], draw_subject(config, *every[k]))

    on_first(draw, what="phantoms")
    people = [_seen(_open(name), config) for name in names]
    name = f"{config.people} phantom hearts"
    split = config.people
    return MotionData(name, people[:split], people[split:], topology, reference)


def _digest(config: MotionDataConfig) -> str:
    """A name for people drawn by these settings and by this code."""
    settings = (config.scan, config.mesh, config.right, config.contour_points)
    told = hashlib.sha256(repr((*settings, config.infarcts)).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in DRAWN_BY:
            told.update(path.read_bytes())
    return told.hexdigest()[:12]


def _seen(subject: Subject, config: MotionDataConfig) -> Subject:
    """A person with the views that there are to be."""
    if config.views == "sax+lax":
        return subject
    mask = np.array(subject.plane_mask)
    mask[-VIEWS:] = 0.0
    return subject._replace(plane_mask=mask)


def draw_subject(config: MotionDataConfig, population: int, number: int) -> Subject:
    """One person; the same for the same numbers.

    Args:
        config: how they are scanned.
        population: seed of the population.
        number: of the person.
    """
    who = person(population, number, infarcts=config.infarcts)
    rng = np.random.default_rng([population, number, 1])
    seen = scan(who.heart, config.scan, seed=int(rng.integers(2**31)))
    times, pose = config.scan.times, seen.pose
    mesh = moving_mesh(who.heart, times, config.mesh, right=config.right)
    fine = moving_mesh(who.heart, times, FINE, right=config.right)
    names = SURFACES if config.right else SURFACES[:2]
    surfaces = Topology.of(fine.faces, len(fine.surface), fine.surface, names)
    taken = seen.taken.steps(config.scan.spacing)
    traced = [
        trace(pose.place(frame), surfaces, taken, DENSE * config.contour_points)
        for frame in fine.vertices
    ]
    _, mean = mesh_of(config.mesh, right=config.right)
    template = pose.place(mean) + rng.normal(0, MISPLACED, 3)
    return Subject(
        images=seen.images,
        labels=seen.labels.astype(np.uint8),
        planes=seen.planned.steps(config.scan.spacing).astype(np.float32),
        plane_mask=np.ones(len(seen.planned.origin), np.float32),
        times=times.astype(np.float32),
        vertices=pose.place(mesh.vertices).astype(np.float32),
        template=template.astype(np.float32),
        contours=np.stack([one.points for one in traced]),
        contour_mask=np.stack([one.mask for one in traced]),
        contour_surface=traced[0].surface,
        septum=pose.rotation[:, 0].copy(),
    )


def _keep(folder: Path, subject: Subject) -> None:
    """Writes a person's arrays; a folder is whole, or it is not there."""
    draft = folder.with_name(f"{folder.name}.part")
    draft.mkdir(parents=True, exist_ok=True)
    for name, array in subject._asdict().items():
        np.save(draft / f"{name}.npy", array)
    draft.rename(folder)


def _open(folder: Path) -> Subject:
    """A person's arrays, read when they are used."""
    found = {}
    for name in Subject._fields:
        path = folder / f"{name}.npy"
        with reading(path, "drawn person"):
            found[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    return Subject(**found)
