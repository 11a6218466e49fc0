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

Or people of a data set: scans with label maps (:mod:`medjax.heart.motion_trees`), or
DeepMesh's folders (:mod:`medjax.heart.motion_folders`).
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float, Float32

from medjax.data import meshes
from medjax.data.boundary import reading
from medjax.heart.contours import trace
from medjax.heart.data import HELD_OUT, expect_enough, expect_root, expect_somebody
from medjax.heart.datasets import labelled, open_tree
from medjax.heart.exporting import MEAN_HEART
from medjax.heart.fitting import FitConfig
from medjax.heart.meshes import Topology
from medjax.heart.motion_folders import folder_mesh, read_folder, wall_topology
from medjax.heart.motion_trees import read_subject
from medjax.heart.phantom import make_heart
from medjax.heart.phantom_mesh import SIZES, SURFACES, moving_mesh
from medjax.heart.population import person
from medjax.heart.scanning import ScanConfig, scan
from medjax.heart.subject import DENSE, VIEWS, Subject
from medjax.heart.trees import open_deepmesh
from medjax.progress import track
from medjax.train.agree import on_first

Format = Literal["phantom", "ukb", "acdc", "mnms", "deepmesh"]
Truth = Literal["known", "meshes fitted to labels", "contours"]
"""What stands for the truth in later frames."""
FINE = (64, 48)
"""Vertices around and along of the surfaces whose contours are traced."""
DRAWN_BY = ("appearance", "contours", "meshes", "motion_data", "phantom")
DRAWN_BY += ("phantom_mesh", "population", "scanning", "strain", "subject")
"""Rooms that decide what a phantom person is. Those drawn by others are drawn again."""
FITTED_BY = ("aha", "cine", "coarsen", "datasets", "drawing", "fitting", "label_maps")
FITTED_BY += ("losses", "meshes", "motion_trees", "phantom_mesh", "slicing", "subject")
FITTED_BY += ("supervision",)
"""The same of a tree's people."""
FOLDED_BY = ("data", "meshes", "motion_folders", "motion_trees", "subject", "trees")
"""The same of DeepMesh's folders."""
MISPLACED = 3.0
"""Deviation of the template from the heart that is sought, mm along each axis."""


@dataclasses.dataclass(frozen=True)
class MotionDataConfig:
    """Whose hearts are tracked, and how they are seen."""

    root: Path | None = None
    """Folder of the data set; None: phantoms."""
    format: Format = "phantom"
    """Whose tree it is. Of ``acdc`` and ``mnms`` end-diastole and end-systole are
    labelled, so they want ``scan.frames`` to be 2. Folders of ``deepmesh`` have a mesh
    of their own, without a right ventricle, and want ``scan`` to be that of their
    images."""
    scan: ScanConfig = ScanConfig()
    """Images, their planes and what is wrong with them."""
    views: Literal["sax", "sax+lax"] = "sax+lax"
    """Whether there are long-axis views; without, they are neither read nor learned
    from."""
    mesh: tuple[int, int] = SIZES["tiny"]
    """Vertices around and rings along each wall of the left ventricle; ``deepmesh`` has
    its own."""
    right: bool = True
    """With the right ventricle."""
    contour_points: int = 32
    """Of each surface on each plane of an example."""
    people: int = 24
    """Of phantoms: how many to train on."""
    test_people: int = 6
    """How many are held out: of phantoms, or the last of a tree."""
    infarcts: float = 0.2
    """Share of phantoms with an infarct."""
    fit_steps: tuple[int, int] = (150, 100)
    """Updates of a mesh that is fitted to a tree's label maps, at end-diastole and at
    every later frame."""
    batch_size: int = 8
    """Of the global batch."""
    seed: int = 0
    """Of the training people and the order of rows."""
    cache: Path | None = None
    """Folder for people that are drawn or fitted; None: in the run's own."""


SMALL = MotionDataConfig(
    scan=ScanConfig(frames=8, size=40, spacing=3.6),
    right=False,
    people=16,
    test_people=4,
    batch_size=4,
)
"""What a CPU draws and learns from in a minute or two."""


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
        truth: what stands for it; the motion of phantoms is known.
        valid: people set aside, by whom a state is chosen.
    """

    name: str
    train: list[Subject]
    test: list[Subject]
    topology: Topology
    reference: Float32[np.ndarray, "n 3"]
    truth: Truth = "known"
    valid: Sequence[Subject] = ()


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


def open_motion(
    config: MotionDataConfig,
    folder: Path,
    *,
    resliced: bool = False,
    aside: int = 0,
) -> MotionData:
    """The data that the flags describe.

    Args:
        config: who, and how they are scanned.
        folder: of the run, for people that are drawn or fitted.
        resliced: bring the stacks of a tree to as many slices as far apart as phantoms
            have (DeepMesh, whose slices are channels).
        aside: how many are set aside, the last of those to train on.

    Raises:
        DataError: where a person that was kept, or a tree, is damaged.
        ValueError: for counts or sizes that are impossible, a tree without a root, or a
            right ventricle that is asked of DeepMesh's folders.
    """
    least = {"people": 1, "test_people": 1, "batch_size": 1, "contour_points": 2}
    expect_enough(config, least)
    if config.scan.frames < 2:
        raise ValueError(
            f"data.scan.frames is {config.scan.frames}, expected 2 at least"
        )
    expect_root(config)
    if config.format == "deepmesh" and config.right:
        raise ValueError(
            "data.right: hearts in DeepMesh's folders have no right ventricle; "
            "--data.no-right leaves it out"
        )
    kept = config.cache if config.cache is not None else folder / "people"
    whats = {"phantom": "phantoms", "deepmesh": "folders read"}
    what = whats.get(config.format, "meshes fitted")

    def make() -> tuple[str | None, list[str]]:
        """The mesh that people of a tree share, and folders of all people, those of the
        tree as this process finds it."""
        shared = None
        if config.format == "phantom":
            making = _phantoms(config, kept)
        elif config.format == "deepmesh":
            shared, making = _folders(config, kept)
        else:
            making = _fitted(config, kept, resliced=resliced)
        expect_somebody(config, len(making), aside)
        absent = [path for path in making if not path.is_dir()]
        for path in track(absent, what, len(absent), "hearts"):
            _keep(path, making[path]())
        return None if shared is None else str(shared), [str(path) for path in making]

    shared, folders = on_first(make, what=what)
    people = [_seen(_open(Path(path)), config) for path in folders]
    truths: dict[Format, Truth] = {"phantom": "known", "deepmesh": "contours"}
    truth = truths.get(config.format, "meshes fitted to labels")
    topology, reference = mesh_of(config.mesh, right=config.right)
    if shared is not None:
        mesh = meshes.read(shared)
        topology, reference = wall_topology(mesh), mesh.vertices.astype(np.float32)
    split = len(people) - config.test_people
    told = f"hearts of {config.root} ({config.format})"
    start = split - aside
    name = f"{start} {'phantom hearts' if config.format == 'phantom' else told}"
    parts = people[:start], people[split:], topology, reference, truth
    return MotionData(name, *parts, people[start:split])


Making = dict[Path, Callable[[], Subject]]
"""Folders of people, and what makes those that are not there."""


def _phantoms(config: MotionDataConfig, kept: Path) -> Making:
    counts = {1 + config.seed: config.people, HELD_OUT: config.test_people}
    return {
        kept / _digest(config) / f"{p}-{i:05d}": functools.partial(
            draw_subject, config, p, i
        )
        for p, count in counts.items()
        for i in range(count)
    }


def _fitted(config: MotionDataConfig, kept: Path, *, resliced: bool) -> Making:
    assert config.root is not None
    assert config.format not in ("phantom", "deepmesh")
    around, rings = config.mesh
    first, later = config.fit_steps
    how = FitConfig(around, rings, first_steps=first, steps=later)
    settings = (config.scan, how, config.right, config.contour_points, resliced)
    making: Making = {}
    for case in labelled(open_tree(config.root, config.format), config.root):
        files = [case.image, *case.labels.values()]
        files += [*case.long_axis.values(), *case.view_labels.values()]
        digest = _told((*settings, case, _stamps(files)), FITTED_BY)
        making[kept / f"{case.name}-{digest}"] = functools.partial(
            read_subject,
            case,
            config.scan,
            how,
            points=DENSE * config.contour_points,
            right=config.right,
            resliced=resliced,
        )
    return making


def _folders(config: MotionDataConfig, kept: Path) -> tuple[Path, Making]:
    """DeepMesh's subjects, and where the template of the first one is kept."""
    assert config.root is not None
    folders = open_deepmesh(config.root)
    mesh = folder_mesh(folders[0])
    settings = (config.scan, config.contour_points, mesh.faces.tobytes())
    shared = kept / f"template-{_told(mesh.vertices.tobytes(), FOLDED_BY)}.npz"
    kept.mkdir(parents=True, exist_ok=True)
    meshes.write(shared, mesh)
    making: Making = {}
    for one in folders:
        stamps = _stamps(sorted(path for path in one.rglob("*") if path.is_file()))
        digest = _told((*settings, one, stamps), FOLDED_BY)
        making[kept / f"{one.name}-{digest}"] = functools.partial(
            read_folder,
            one,
            config.scan,
            mesh,
            points=DENSE * config.contour_points,
        )
    return shared, making


def _stamps(files: Sequence[Path]) -> list[tuple[int, int]]:
    """What changes with a file: size and time."""
    return [(s.st_size, s.st_mtime_ns) for s in (path.stat() for path in files)]


def _digest(config: MotionDataConfig) -> str:
    """A name for phantoms drawn by these settings and by this code."""
    settings = (config.scan, config.mesh, config.right, config.contour_points)
    return _told((*settings, config.infarcts), DRAWN_BY)


def _told(settings: object, rooms: Sequence[str]) -> str:
    """A name for settings and the code of some rooms."""
    told = hashlib.sha256(repr(settings).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in rooms:
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
        label_mask=np.ones(len(seen.planned.origin), np.float32),
        times=times.astype(np.float32),
        vertices=pose.place(mesh.vertices).astype(np.float32),
        template=template.astype(np.float32),
        contours=np.stack([one.points for one in traced]),
        contour_mask=np.stack([one.mask for one in traced]),
        contour_surface=traced[0].surface,
        septum=pose.rotation[:, 0].copy(),
        infarct=mesh.infarct.astype(np.float32),
    )


def _keep(folder: Path, subject: Subject) -> None:
    """Writes a person's arrays; a folder is whole, or it is not there."""
    draft = folder.with_name(f"{folder.name}.part")
    draft.mkdir(parents=True, exist_ok=True)
    for name, array in subject._asdict().items():
        if array is not None:
            np.save(draft / f"{name}.npy", array)
    draft.rename(folder)


def _open(folder: Path) -> Subject:
    """A person's arrays, read when they are used."""
    found = {}
    for name in Subject._fields:
        path = folder / f"{name}.npy"
        if path.is_file() or name not in Subject._field_defaults:
            with reading(path, "drawn person"):
                found[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    return Subject(**found)
