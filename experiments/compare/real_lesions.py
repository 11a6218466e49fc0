"""Real lesions: what thirty masks are like, and three patients segmented in turn."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from experiments import segment
from medjax.data import nifti
from medjax.data.ledger import Ledger
from medjax.metrics.lesionwise import EDGES, components
from medjax.segmentation.datasets import Case, DataSet
from medjax.segmentation.evaluate import ScoringConfig, evaluate
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.labels import classes
from medjax.segmentation.lesionmix.augmentation import MixingConfig
from medjax.segmentation.lesionmix.pairs import Pair, find_pairs
from medjax.segmentation.prepared import in_memory
from medjax.segmentation.training import fitted

METHODS: Mapping[str, tuple[str, MixingConfig]] = {
    "none": ("no mixing", MixingConfig()),
    "lesionmix": ("LesionMix", MixingConfig(method="lesionmix")),
}
"""What happens to patches; LesionMix has a bank of the two patients trained on."""
SCORES = (
    "dice",
    "lesion_f1",
    "lesion_sensitivity",
    "lesion_ppv",
    "hd95_monai",
    "volume_error_ml",
    "n_missed",
    "n_false",
)
COUNTS = ("from", "below", "lesions", "found", "false")
"""Of lesions by their size, mm^3."""


def patients_of(folder: Path) -> tuple[Pair, ...]:
    """Masks with the images that there are."""
    return find_pairs(
        folder, image="MNI_{case}_FLAIR.nii.gz", mask="MNI_{case}_GT.nii.gz"
    )


def pictured(folder: Path) -> list[str]:
    """Patients with an image.

    Raises:
        FileNotFoundError: For less than two: one is held out of the others.
    """
    found = [pair.case for pair in patients_of(folder) if pair.image is not None]
    if len(found) < 2:
        raise FileNotFoundError(
            f"{folder}: {len(found)} images MNI_*_FLAIR.nii.gz beside their masks, "
            "expected two at least"
        )
    return found


def strokes_of(folder: Path) -> list[Path]:
    """Files of masks.

    Raises:
        FileNotFoundError: If there are none.
    """
    found = sorted(folder.glob("Subject_*.nii.gz"))
    if not found:
        raise FileNotFoundError(f"{folder}: no masks Subject_*.nii.gz")
    return found


def described(patients: Path, strokes: Path) -> dict[str, Any]:
    """Loads and sizes of lesions, by the set.

    Args:
        patients: Folder of multiple sclerosis.
        strokes: Folder of strokes.
    """
    sets = {
        "multiple sclerosis": [pair.mask for pair in patients_of(patients)],
        "stroke": strokes_of(strokes),
    }
    return {name: statistics(paths) for name, paths in sets.items()}


def statistics(masks: Sequence[Path]) -> dict[str, Any]:
    """Loads of masks, and volumes and longest sides of their lesions.

    Args:
        masks: Files, 0 where no lesion is.
    """
    loads, sizes, sides = [], [], []
    for path in masks:
        volume = nifti.read_labels(path, ndim=3)
        voxel = float(np.prod(volume.spacing))
        numbers, _ = components(volume.data > 0)
        voxels = np.bincount(numbers.ravel())[1:]
        loads.append(float(voxels.sum()) * voxel)
        sizes += (voxels * voxel).tolist()
        sides += [
            max(s.stop - s.start for s in where)
            for where in ndimage.find_objects(numbers)
        ]
    place = np.digitize(sizes, EDGES)
    shares = np.bincount(place, minlength=len(EDGES) + 1) / len(sizes)
    return {
        "masks": len(masks),
        "lesions": len(sizes),
        "load_ml": (np.percentile(loads, [5, 50, 95]) / 1000).tolist(),
        "sizes_mm3": np.percentile(sizes, [5, 25, 50, 75, 95]).tolist(),
        "sides": np.percentile(sides, [50, 75, 90, 95, 99]).tolist(),
        "shares": shares.tolist(),
    }


def held_out(
    folder: Path,
    patient: str,
    method: str,
    *,
    steps: int,
    widths: tuple[int, ...],
    seed: int,
    workdir: Path,
) -> dict[str, Any]:
    """One patient's lesions by a network that was trained on the others.

    Args:
        folder: Of the files.
        patient: Who is held out.
        method: Of :data:`METHODS`.
        steps: Updates.
        widths: Channels of the network's levels.
        seed: Of weights and patches.
        workdir: Of the run.

    Returns:
        The scores of the patient's whole volume, on its own grid.
    """
    cases = tuple(
        Case(
            pair.case,
            (pair.image,),
            pair.mask,
            pair.case,
            "test" if pair.case == patient else "train",
        )
        for pair in patients_of(folder)
        if pair.image is not None
    )
    data = DataSet("three patients", ("FLAIR",), classes({"lesion": 1}), cases)
    preset, ledger = segment.PRESETS["tiny"], Ledger()
    asked = dataclasses.replace(
        preset,
        about=f"{METHODS[method][0]}, {patient} held out",
        # The longest voxels are those across the slices, so that these are axial; a
        # network of slices leaves their distance as it is.
        plan=PlanConfig(
            rank=2, patch=(64, 64), batch_size=8, widths=widths, spacing=(1.0, 1.0, 2.0)
        ),
        window=WindowConfig(batch=8),
        mixing=METHODS[method][1],
        train=dataclasses.replace(preset.train, steps=steps, seed=seed),
        workdir=workdir,
    )
    found = in_memory(data, asked.plan, ledger)
    model = fitted(asked, found)
    test = found.cases("test")
    results, _ = evaluate(model, found.data, test, ScoringConfig(shown=0), ledger)
    (row,) = results["scores"]
    told = {name: row[name] for name in SCORES}
    sizes = [{k: v for k, v in by.items() if k in COUNTS} for by in results["lesions"]]
    return {"method": method, "patient": patient, **told, "lesions": sizes}
