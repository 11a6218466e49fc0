"""Healthy tissue under masks of others' lesions, painted over and compared.

A lesion's mask is laid over a patient who is healthy there. Whoever fills it knows the
tissue around; what lies under the mask is the truth. Errors are in units of the brain's
standard deviation, over the mask alone; ``from_limit`` is the distance from the
converged harmonic fill.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from experiments.compare.real_lesions import patients_of, pictured, strokes_of
from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.nifti import Volume
from medjax.data.volumes import grid_of, resample
from medjax.metrics.lesionwise import components
from medjax.progress import Progress
from medjax.segmentation.lesionmix.bank import brain_of
from medjax.segmentation.lesionmix.inpaint import InpaintConfig, fill
from medjax.segmentation.sampling import window

PLAIN = InpaintConfig(texture=False)
change = dataclasses.replace
FILLS: Mapping[str, tuple[str, InpaintConfig]] = {
    "ring": ("one mean of the ring", change(PLAIN, fill="ring")),
    "pushpull": ("push and pull", change(PLAIN, fill="pushpull")),
    "harmonic8": ("push and pull, then 8 sweeps", change(PLAIN, sweeps=8)),
    "harmonic_ring": ("ring, then 32 sweeps", change(PLAIN, start="ring")),
    "harmonic": ("push and pull, then 32 sweeps (default)", PLAIN),
    "telea": ("fast marching, without slopes", change(PLAIN, fill="telea")),
    "telea_slopes": (
        "fast marching, as in its paper",
        change(PLAIN, fill="telea", slopes=True),
    ),
    "biharmonic": ("biharmonic", change(PLAIN, fill="biharmonic")),
    "limit": ("harmonic, 1000 sweeps", change(PLAIN, sweeps=1000)),
}
LIMIT = "limit"
SIZES = (30.0, 3000.0)
"""Of lesions, mm^3: from and to."""
BOX, MARGIN = 48, 8
"""Voxels along each axis of what is cut out around a lesion; around the lesion in it,
at least."""
NEAR = 2
"""Voxels around a lesion that have to be healthy as well."""


class Patient(NamedTuple):
    """Someone with an image.

    Attributes:
        image: as measured.
        healthy: the brain without lesions and what is next to them.
        spread: standard deviation of the brain.
    """

    image: Float[np.ndarray, "i j k"]
    healthy: Bool[np.ndarray, "i j k"]
    spread: float


class Task(NamedTuple):
    """A place to fill.

    Attributes:
        image: with tissue everywhere.
        mask: of the lesion.
        usable: healthy tissue.
        spread: standard deviation of the brain.
        spacing: mm.
    """

    image: Float[np.ndarray, "i j k"]
    mask: Bool[np.ndarray, "i j k"]
    usable: Bool[np.ndarray, "i j k"]
    spread: float
    spacing: tuple[float, ...]


def compared(
    patients: Path, strokes: Path, *, lesions: int, large: int, seed: int
) -> dict[str, Any]:
    """Errors of every fill under lesions, and under strokes.

    Args:
        patients: Folder of images and masks.
        strokes: Folder of masks.
        lesions: How many.
        large: How many strokes.
        seed: Of their choice.
    """
    known = [p for p in patients_of(patients) if p.case in pictured(patients)]
    read = [_patient(pair.image, pair.mask) for pair in known if pair.image is not None]
    grids = [volume for volume, _ in read]
    people = [person for _, person in read]
    small = list(_lesions(patients, grids[0], people, count=lesions, seed=seed))
    if len(small) < lesions:
        raise DataError(
            f"{patients}: {len(small)} lesions of {SIZES[0]:g} to {SIZES[1]:g} mm^3 "
            f"lie where another patient is healthy, expected {lesions}"
        )
    found = {"lesions": scored(small, "lesions")}
    every = list(_strokes(strokes_of(strokes)[:large], grids, people))
    return found | {"strokes": scored(every, "strokes")}


def scored(tasks: Sequence[Task], what: str) -> dict[str, Any]:
    """Root mean square errors of all fills, over the tasks.

    Args:
        tasks: Places to fill.
        what: They are.
    """
    errors: dict[str, list[float]] = {name: [] for name in FILLS}
    apart: dict[str, list[float]] = {name: [] for name in FILLS}
    with Progress(f"fill {what}", len(tasks), what) as progress:
        for task in tasks:
            given = [jnp.asarray(x) for x in (task.image, task.mask, task.usable)]
            done = {
                name: np.asarray(_filled(*given, task.spacing, how))
                for name, (_, how) in FILLS.items()
            }
            judged = task.mask & task.usable
            for name, image in done.items():
                for into, other in ((errors, task.image), (apart, done[LIMIT])):
                    gap = (image - other)[judged]
                    into[name].append(float(np.sqrt(np.mean(gap**2))) / task.spread)
            progress.advance()
    volumes = [float(t.mask.sum() * np.prod(t.spacing)) for t in tasks]
    return {
        "n": len(tasks),
        "volumes_mm3": np.percentile(volumes, [0, 50, 100]).tolist(),
        "fills": {
            name: {"error": _middle(errors[name]), "from_limit": _middle(apart[name])}
            for name in FILLS
        },
    }


def _middle(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "mean": float(np.mean(values))}


@functools.partial(jax.jit, static_argnames=("spacing", "config"))
def _filled(
    image: Array,
    mask: Array,
    usable: Array,
    spacing: tuple[float, ...],
    config: InpaintConfig,
) -> Array:
    lesion = (mask & usable).astype(jnp.int32)
    return fill(image, lesion, usable, spacing, config, key=jax.random.key(0))


def _patient(image: Path, mask: Path) -> tuple[Volume, Patient]:
    volume = nifti.read(image, ndim=3)
    lesion = nifti.read_labels(mask, ndim=3).data > 0
    brain = brain_of(volume.data)
    near = np.asarray(ndimage.binary_dilation(lesion, iterations=2), bool)
    found = Patient(volume.data, brain & ~near, float(volume.data[brain].std()))
    return volume, found


def _lesions(
    folder: Path,
    grid: Volume,
    people: Sequence[Patient],
    *,
    count: int,
    seed: int,
) -> Iterator[Task]:
    """Lesions of those without an image, over those with one who are healthy there.

    All are registered to one space: a lesion stays where it is.
    """
    spacing = tuple(float(s) for s in grid.spacing)
    voxel = float(np.prod(spacing))
    box, candidates = (BOX,) * 3, []
    for pair in patients_of(folder):
        if pair.image is not None:
            continue
        numbers, _ = components(nifti.read_labels(pair.mask, ndim=3).data > 0)
        for number, where in enumerate(ndimage.find_objects(numbers), 1):
            mask = numbers[where] == number
            if SIZES[0] <= mask.sum() * voxel <= SIZES[1]:
                first = [s.start for s in where]
                candidates.append((first, mask))
    order = np.random.default_rng(seed).permutation(len(candidates))
    taken = 0
    for place in order:
        if taken == count:
            return
        first, mask = candidates[place]
        if max(mask.shape) > BOX - 2 * MARGIN:
            continue
        before = [(BOX - n) // 2 for n in mask.shape]
        inside = window(mask, [-n for n in before], box)
        corner = [a - n for a, n in zip(first, before, strict=True)]
        around = np.asarray(ndimage.binary_dilation(inside, iterations=NEAR), bool)
        for turn in range(len(people)):
            person = people[(taken + turn) % len(people)]
            usable = window(person.healthy, corner, box)
            if usable[around].all():
                image = window(person.image, corner, box).astype(np.float32)
                yield Task(image, inside, usable, person.spread, spacing)
                taken += 1
                break


def _strokes(
    masks: Sequence[Path], grids: Sequence[Volume], people: Sequence[Patient]
) -> Iterator[Task]:
    """Strokes over one patient after the other; only what is healthy is judged."""
    for number, path in enumerate(masks):
        turn = number % len(people)
        grid, person = grids[turn], people[turn]
        mask = resample(
            nifti.read_labels(path, ndim=3), grid_of(grid), interpolation="nearest"
        )
        lesion = (mask.data > 0) & person.healthy
        if not lesion.any():
            raise DataError(f"{path}: no voxel of it lies in the brain that it is over")
        (where,) = ndimage.find_objects(lesion.astype(np.uint8))
        corner = [s.start - MARGIN for s in where]
        # In steps that few shapes follow.
        shape = [-(-(s.stop - s.start + 2 * MARGIN) // 16) * 16 for s in where]
        yield Task(
            window(person.image, corner, shape).astype(np.float32),
            window(lesion, corner, shape),
            window(person.healthy, corner, shape),
            person.spread,
            tuple(float(s) for s in grid.spacing),
        )
