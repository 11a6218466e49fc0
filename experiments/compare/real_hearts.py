"""The cine of one pig: early frames to train on, late ones scanned while it breathes.

Frames of one animal are no animals: what is held out differs from what was trained on
by how far the heart has contracted, and by the breath that is put into it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import segment
from experiments.motion_scans import Arm, Scene, once, save, scanned, write_training
from medjax.data import nifti
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.mri.block_motion import BlockMotionConfig
from medjax.mri.motion import MODES, MotionConfig
from medjax.segmentation.datasets import Case, DataSet
from medjax.segmentation.evaluate import ScoringConfig, evaluate
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.labels import classes
from medjax.segmentation.prepared import in_memory
from medjax.segmentation.training import fitted

ARMS: Mapping[Arm, str] = {
    "clean": "frames at rest",
    "physiological": "these, and breathing copies",
}
STRUCTURES = {"LV": 1, "myocardium": 2}
"""Of the files: the cavity of the left ventricle, and its wall."""
COPIES = 2
"""Of each training frame, in which somebody breathes."""
SCANNER = MotionConfig(noise=0.02)
REST = "at_rest"


def scenes_of(folder: Path) -> list[tuple[str, Scene]]:
    """The frames of the short axis with their labels.

    Args:
        folder: With ``sa.nii.gz`` and ``seg_sa.nii.gz``.

    Raises:
        FileNotFoundError: Where one is missing.
        DataError: Where they do not lie on one grid.
    """
    image = nifti.read(folder / "sa.nii.gz", ndim=4)
    labels = nifti.read_labels(folder / "seg_sa.nii.gz", ndim=4)
    if image.data.shape != labels.data.shape:
        raise DataError(
            f"{folder}: sa.nii.gz has the shape {image.data.shape}, seg_sa.nii.gz "
            f"{labels.data.shape}"
        )
    rows, columns, gap = np.linalg.norm(image.affine[:3, :3], axis=0).tolist()
    return [
        (
            f"frame{number:02d}",
            Scene(
                np.moveaxis(image.data[..., number], 2, 0).astype(np.float32),
                np.moveaxis(labels.data[..., number], 2, 0).astype(np.int32),
                (gap, rows, columns),
                image.affine,
            ),
        )
        for number in range(image.data.shape[3])
    ]


def disturbed(
    folder: Path,
    arm: Arm,
    *,
    trained: int,
    steps: int,
    widths: tuple[int, ...],
    seed: int,
    workdir: Path,
) -> list[dict[str, Any]]:
    """Late frames, at rest and breathing, by a network that saw the early ones.

    Args:
        folder: Of the files.
        arm: What it was trained on.
        trained: How many frames.
        steps: Updates.
        widths: Channels of the network's levels.
        seed: Of weights, patches and breaths; all arms are asked of the same breaths.
        workdir: Of the run.

    Returns:
        A row for every way of breathing.

    Raises:
        ValueError: Where no frame would be left to train on, or to hold out.
    """
    scenes = scenes_of(folder)
    if not 0 < trained < len(scenes):
        raise ValueError(
            f"trained_frames: {trained} of {len(scenes)}, expected some, and fewer"
        )
    early, late = scenes[:trained], scenes[trained:]
    training, held_out = workdir / "training", workdir / "held-out"
    write_training(
        training, early, arm, SCANNER, BlockMotionConfig(), copies=COPIES, seed=seed
    )
    severities = _scan(held_out, late, seed=seed)
    cases = [*_cases(training, "train"), *_cases(held_out, "test")]
    data = DataSet("one pig", ("cine MRI",), classes(STRUCTURES), tuple(cases))
    preset, ledger = segment.PRESETS["tiny"], Ledger()
    gap, rows, columns = scenes[0][1].spacing
    asked = dataclasses.replace(
        preset,
        about=f"One pig, trained on {ARMS[arm]}",
        # Half the pixels along each axis: the animal fills a patch.
        plan=PlanConfig(
            rank=2,
            patch=(64, 64),
            batch_size=8,
            widths=widths,
            spacing=(2 * rows, 2 * columns, max(gap, 4 * rows)),
        ),
        window=WindowConfig(batch=8),
        train=dataclasses.replace(preset.train, steps=steps, seed=seed),
        workdir=workdir,
    )
    found = in_memory(data, asked.plan, ledger)
    model = fitted(asked, found)
    told = []
    for mode in (REST, *MODES):
        those = [case for case in found.cases("test") if case.id.endswith(f"-{mode}")]
        results, _ = evaluate(model, found.data, those, ScoringConfig(shown=0), ledger)
        row: dict[str, Any] = {"arm": arm, "mode": mode, "frames": len(those)}
        row["severity_mm"] = float(np.mean([severities[case.id] for case in those]))
        for score in results["scores"]:
            names = ("dice", "n_both_empty", "n_missed", "n_false")
            kept = {name: score[name] for name in names}
            row[score["structure"]] = kept | {"hd95": score["hd95_monai"]}
        told.append(row)
    return told


def _scan(
    folder: Path, scenes: list[tuple[str, Scene]], *, seed: int
) -> dict[str, float]:
    """Frames at rest and in every mode as files, and the severity of each, mm."""
    severities: dict[str, float] = {}

    def name_of(frame: str, mode: str) -> str:
        return f"{frame}-{mode}"

    def write(draft: Path) -> None:
        for number, (frame, scene) in enumerate(scenes):
            key = jax.random.fold_in(jax.random.key(seed + 1), number)
            for place, mode in enumerate((None, *MODES)):
                found = scanned(
                    scene, mode, SCANNER, key=jax.random.fold_in(key, place)
                )
                name = name_of(frame, mode or REST)
                save(draft, name, scene, found.moved.image, found.labels)
                (draft / f"{name}.txt").write_text(f"{float(found.moved.severity)}\n")

    once(folder, write)
    for path in sorted(folder.glob("*.txt")):
        severities[path.stem] = float(path.read_text())
    return severities


def _cases(folder: Path, split: str) -> list[Case]:
    images = [p for p in sorted(folder.glob("*.nii.gz")) if "-label" not in p.name]
    names = [path.name.removesuffix(".nii.gz") for path in images]
    return [
        Case(name, (path,), folder / f"{name}-label.nii.gz", name, split)
        for name, path in zip(names, images, strict=True)
    ]
