"""Hearts scanned while they breathe, as a tree of CMRxMotion: phantoms and real scans.

What the simulator of :mod:`medjax.mri` does to a heart at rest becomes files that
:mod:`medjax.segmentation` reads as it reads the challenge's, so that invented and real
volunteers go the same way. A scene is a heart at rest: a phantom, which is known at any
height, or a scan of a held breath, between whose slices one interpolates.
"""

import csv
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax.data import nifti
from medjax.mri.block_motion import BlockMotionConfig, block_motion
from medjax.mri.cine_phantom import (
    CineConfig,
    CineView,
    LabelView,
    Subject,
    breathing_weight,
    cine_phantom,
)
from medjax.mri.motion import (
    MODES,
    Breathing,
    Mode,
    MotionConfig,
    Moved,
    beat_of_line,
    beats_of,
    draw_breathing,
    labels_at,
    move,
)
from medjax.progress import Progress
from medjax.segmentation.cmrxmotion.reader import (
    PHASES,
    Scan,
    read_scan,
)
from medjax.segmentation.cmrxmotion.report import Strip
from medjax.typing import Key

Arm = Literal["clean", "block", "physiological"]
SEVERITIES = "severity.csv"


@dataclasses.dataclass(frozen=True)
class Scene:
    """A heart at rest, in one phase.

    Attributes:
        image: magnitude.
        labels: of the challenge.
        spacing: mm between slices, rows and columns.
        affine: of its files, whose third axis counts slices.
        subject: of a phantom.
        cine: of a phantom.
        frame: of a phantom: 0 end-diastole, 1 end-systole.
    """

    image: Float[np.ndarray, "d h w"]
    labels: Int[np.ndarray, "d h w"]
    spacing: tuple[float, float, float]
    affine: Float[np.ndarray, "4 4"]
    subject: Subject | None = None
    cine: CineConfig | None = None
    frame: int = 0


class Scanned(NamedTuple):
    """A scene as it was scanned.

    Attributes:
        moved: image, k-space, severity, grade.
        labels: at the heart's mean place.
        displacement: of the heart from there at each line, mm.
    """

    moved: Moved
    labels: Int[Array, "d h w"]
    displacement: Float[Array, "d h"]


def phantom_scenes(config: CineConfig, *, seed: int, number: int) -> dict[str, Scene]:
    """A volunteer's two phases, by name.

    Args:
        config: of two frames.
        seed: of everybody.
        number: of the volunteer.
    """
    key = jax.random.fold_in(jax.random.key(seed), number)
    cine = cine_phantom(config, key=key)
    affine = np.diag([config.pixel, config.pixel, config.gap, 1.0])
    return {
        phase: Scene(
            np.asarray(cine.image[frame]),
            np.asarray(cine.labels[frame]),
            config.spacing,
            affine,
            cine.subject,
            config,
            frame,
        )
        for frame, phase in enumerate(PHASES)
    }


def real_scene(scan: Scan) -> Scene:
    """A scan with a label map, taken for one at rest."""
    image, label = read_scan(scan)
    if label is None:
        raise ValueError(f"{scan.name}: motion is put into scans with a label map")
    rows, columns, gap = image.spacing
    return Scene(
        np.moveaxis(image.data, 2, 0).astype(np.float32),
        np.moveaxis(label.data, 2, 0).astype(np.int32),
        (gap, rows, columns),
        image.affine,
    )


def scanned(
    scene: Scene, mode: Mode | None, config: MotionConfig, *, key: Key
) -> Scanned:
    """A scene scanned while its owner breathes.

    Args:
        scene: at rest.
        mode: how it is breathed; None: not at all.
        config: of the scanner.
        key: of the breath and the noise. End-diastole and end-systole of one
            acquisition have one, since they are scanned in the same heartbeats.
    """
    slices, lines = scene.image.shape[:2]
    breath_key, noise_key = jax.random.split(key)
    noise_key = jax.random.fold_in(noise_key, scene.frame)
    if mode is None:
        beats = beats_of(lines, config.views)
        places = jnp.zeros((slices, beats, 3))
        breathing = Breathing(places, jnp.zeros((slices, beats), jnp.int32))
    else:
        breathing = draw_breathing(
            dataclasses.replace(config, mode=mode),
            slices=slices,
            lines=lines,
            key=breath_key,
        )
    return _scanned(
        jnp.asarray(scene.image),
        jnp.asarray(scene.labels),
        scene.subject,
        jnp.int32(scene.frame),
        breathing,
        noise_key,
        scene.spacing,
        scene.cine,
        # The simulator asks for the mode no more: one program serves all.
        dataclasses.replace(config, mode="free"),
    )


@functools.partial(jax.jit, static_argnames=("spacing", "cine", "config"))
def _scanned(
    image: Array,
    labels: Array,
    subject: Subject | None,
    frame: Array,
    breathing: Breathing,
    key: Key,
    spacing: tuple[float, float, float],
    cine: CineConfig | None,
    config: MotionConfig,
) -> Scanned:
    view, weight, at_height = None, None, None
    phase = jnp.int32(0)
    if cine is not None and subject is not None:
        view, weight, phase = CineView(cine), breathing_weight(cine), frame
        known = LabelView(cine)
        at_height = functools.partial(known, subject, frame)
        image = jnp.stack([image] * cine.frames)
    else:
        image = image[None]
    moved = move(
        image,
        phase,
        breathing,
        spacing,
        config,
        weight=weight,
        view=view,
        scene=subject,
        key=key,
    )
    drawn = labels_at(labels, moved.mean, spacing, weight=weight, view=at_height)
    beat = beat_of_line(labels.shape[1], views=config.views, ordering=config.ordering)
    away = breathing.displacement[:, beat] - moved.mean[:, None]
    return Scanned(moved, drawn, jnp.linalg.norm(away, axis=-1))


def strip_of(scene: Scene, found: Scanned, name: str) -> Strip:
    """The middle slice of a scan for the page."""
    middle = scene.image.shape[0] // 2
    return Strip(
        name,
        scene.image[middle],
        np.asarray(found.moved.image[middle]),
        np.abs(np.asarray(found.moved.kspace[middle])),
        np.asarray(found.displacement[middle]),
        float(found.moved.severity),
        int(found.moved.grade),
    )


def write_volunteers(
    folder: Path, config: CineConfig, motion: MotionConfig, *, count: int, seed: int
) -> None:
    """Phantom volunteers as the challenge's tree, and ``severity.csv`` beside it.

    Args:
        folder: which appears when it is complete.
        config: the phantom, of two frames.
        motion: the scanner.
        count: of volunteers, P001 and on.
        seed: of everything.
    """

    def write(draft: Path) -> None:
        rows = []
        with Progress("scan", count, "volunteers") as progress:
            for number in range(1, count + 1):
                scenes = phantom_scenes(config, seed=seed, number=number)
                for acquisition, mode in enumerate(MODES, 1):
                    key = breath_key(seed, number, acquisition)
                    for phase, scene in scenes.items():
                        name = f"P{number:03d}-{acquisition}-{phase}"
                        found = scanned(scene, mode, motion, key=key)
                        moved = found.moved
                        place = draft / "data" / name.rsplit("-", 1)[0]
                        save(place, name, scene, moved.image, found.labels)
                        grade, severity = int(moved.grade), float(moved.severity)
                        rows.append((name, grade, round(severity, 4)))
                progress.advance()
        for file, columns in (("IQA.csv", 2), (SEVERITIES, 3)):
            with (draft / file).open("w", newline="") as opened:
                table = csv.writer(opened)
                table.writerow(("Image", "Label", "Severity")[:columns])
                table.writerows(row[:columns] for row in rows)

    once(folder, write)


def breath_key(seed: int, number: int, acquisition: int) -> Key:
    """Of one acquisition of a volunteer."""
    person = jax.random.fold_in(jax.random.key(seed + 1), number)
    return jax.random.fold_in(person, acquisition)


def write_training(
    folder: Path,
    scenes: Sequence[tuple[str, Scene]],
    arm: Arm,
    motion: MotionConfig,
    block: BlockMotionConfig,
    *,
    copies: int,
    seed: int,
) -> None:
    """What one segmenter is trained on: scenes at rest, and copies that moved.

    Args:
        folder: which appears when it is complete.
        scenes: with names.
        arm: clean (no copies), block motion with the labels at rest, or breathing with
            the labels where the heart was in the mean.
        motion: the scanner of breathing copies; the modes take turns.
        block: of block motion.
        copies: of each scene.
        seed: of the copies.
    """

    def write(draft: Path) -> None:
        draft.mkdir(parents=True, exist_ok=True)
        with Progress(f"{arm} motion", len(scenes), "scenes") as progress:
            for number, (name, scene) in enumerate(scenes):
                person = jax.random.fold_in(jax.random.key(seed + 2), number)
                # The noise of the scanner is in what is at rest as well. Its key is one
                # beside those of the copies, which splitting their parent would give.
                rest_key = jax.random.fold_in(person, 0)
                rest = scanned(scene, None, motion, key=rest_key).moved.image
                save(draft, name, scene, rest, scene.labels)
                for copy in range(0 if arm == "clean" else copies):
                    key = jax.random.fold_in(person, 1 + copy)
                    image, labels = rest, scene.labels
                    if arm == "block":
                        image = block_motion(rest, scene.spacing[1:], block, key=key)
                    else:
                        mode = MODES[copy % len(MODES)]
                        found = scanned(scene, mode, motion, key=key)
                        image, labels = found.moved.image, found.labels
                    save(draft, f"{name}-{copy}", scene, image, labels)
                progress.advance()

    once(folder, write)


def save(
    folder: Path,
    name: str,
    scene: Scene,
    image: Float[Array | np.ndarray, "d h w"],
    labels: Int[Array | np.ndarray, "d h w"],
) -> None:
    """``<name>.nii.gz`` and ``<name>-label.nii.gz``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = np.moveaxis(np.asarray(image, np.float32), 0, 2)
    nifti.write(folder / f"{name}.nii.gz", data, affine=scene.affine)
    drawn = np.moveaxis(np.asarray(labels, np.uint8), 0, 2)
    nifti.write(folder / f"{name}-label.nii.gz", drawn, affine=scene.affine)


def once(folder: Path, write: Callable[[Path], None]) -> None:
    """Fills a folder under another name, so that it is there whole or not at all."""
    if folder.exists():
        return
    draft = folder.with_name(f"{folder.name}.part")
    draft.mkdir(parents=True, exist_ok=True)
    write(draft)
    draft.rename(folder)
