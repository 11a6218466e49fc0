"""Whose hearts are graded and segmented under motion: phantoms, or the challenge's.

Either way volunteers lie in the challenge's tree and are split into parts, and those to
train on give what each segmenter is trained on: hearts at rest, and copies that moved.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from experiments.motion_scans import (
    Arm,
    Scene,
    phantom_scenes,
    real_scene,
    write_training,
    write_volunteers,
)
from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger, OnError
from medjax.mri.block_motion import BlockMotionConfig
from medjax.mri.cine_phantom import CineConfig
from medjax.mri.motion import MotionConfig
from medjax.segmentation.cmrxmotion.reader import (
    Scan,
    find,
    readable,
    split_by_patient,
)
from medjax.segmentation.datasets import Case, DataSet
from medjax.segmentation.datasets.hearts import LABELS
from medjax.train.agree import on_first
from medjax.train.sets import on_disk

Parts = Mapping[str, tuple[Scan, ...]]
"""``train``, ``validation`` and ``test``."""


@dataclasses.dataclass(frozen=True)
class MotionData:
    """Whose hearts."""

    root: Path | None = None
    """The challenge's training tree, with ``data`` and ``IQA.csv``; None: phantoms."""
    submit: Path | None = None
    """A tree of the challenge to be answered, without labels and grades."""
    volunteers: tuple[int, int, int] = (16, 6, 8)
    """Phantoms to train on, to validate on, and held out."""
    shares: tuple[float, float, float] = (0.5, 0.2, 0.3)
    """Of real volunteers: the same."""
    cine: CineConfig = CineConfig(size=64, pixel=3.5, slices=6, gap=14.0, frames=2)
    """The phantom; its two frames are end-diastole and end-systole."""
    motion: MotionConfig = MotionConfig(noise=0.02)
    """The scanner; its mode is chosen for every scan."""
    block: BlockMotionConfig = BlockMotionConfig()
    """Of block motion."""
    copies: int = 4
    """Of each training scan that motion is put into."""
    seed: int = 0
    """Of volunteers, breathing and split."""
    on_error: OnError = "raise"
    """A scan without a grade or one that cannot be read, or a grade without a scan:
    stop, or list it and go on."""

    def __post_init__(self) -> None:
        if min(self.volunteers) < 1 or self.cine.frames != 2:
            raise ValueError(
                f"data: {self.volunteers} volunteers and {self.cine.frames} frames, "
                "expected one of each part at least, and two frames"
            )


def volunteers(data: MotionData, workdir: Path, ledger: Ledger) -> Parts:
    """Scans to train on, to validate on and held out: no volunteer is in two parts.

    Args:
        data: Whose hearts.
        workdir: Of the run; phantoms are written into it once.
        ledger: Takes what the challenge's tree lacks.

    Raises:
        DataError: If no scan has a grade, or one is at fault and the ledger raises.
    """
    names = ("train", "validation", "test")
    if data.root is not None:
        on_disk(data.root, "data.root")
        # Those without a grade are in the ledger by now.
        scans = [s for s in find(data.root, ledger=ledger) if s.grade is not None]
        if not scans:
            raise DataError("data: expected a grade for every scan (IQA.csv), got none")
        # Here, so that nobody meets a damaged file once half of a run is over.
        scans = readable(scans, ledger=ledger)
        shares: dict[str, float] = dict(zip(names, data.shares, strict=True))
        return split_by_patient(scans, shares, seed=data.seed)
    folder = workdir / "volunteers"
    count = sum(data.volunteers)
    on_first(
        lambda: write_volunteers(
            folder, data.cine, data.motion, count=count, seed=data.seed
        ),
        what="volunteers",
    )
    scans = find(folder)
    # Those held out come first, so that more training leaves them as they are.
    train, validation, test = data.volunteers
    edges = {"test": (0, test), "validation": (test, test + validation)}
    edges["train"] = (test + validation, count)
    patients = sorted({scan.patient for scan in scans})
    return {
        name: tuple(s for s in scans if s.patient in patients[slice(*edges[name])])
        for name in names
    }


def training_set(data: MotionData, arm: Arm, parts: Parts, folder: Path) -> DataSet:
    """What one segmenter is trained on, written once.

    Args:
        data: Whose hearts, and how they move.
        arm: The kind of motion.
        parts: Of which those to train on are taken.
        folder: Of the files.
    """

    def write() -> None:
        write_training(
            folder,
            scenes(data, parts),
            arm,
            data.motion,
            data.block,
            copies=data.copies,
            seed=data.seed,
        )

    on_first(write, what=f"training scans, {arm}")
    images = [p for p in sorted(folder.glob("*.nii.gz")) if "-label" not in p.name]
    names = [path.name.removesuffix(".nii.gz") for path in images]
    cases = tuple(
        Case(name, (path,), folder / f"{name}-label.nii.gz", name[:4], "train")
        for name, path in zip(names, images, strict=True)
    )
    return DataSet(f"{arm} hearts", ("cine MRI",), LABELS, cases)


def scenes(data: MotionData, parts: Parts) -> list[tuple[str, Scene]]:
    """Hearts at rest to train on: phantoms, or real scans of grade 1."""
    if data.root is not None:
        mild = [s for s in parts["train"] if s.grade == 1 and s.label is not None]
        if not mild:
            raise DataError("data: no training scan of grade 1 has a label map")
        return [(scan.name, real_scene(scan)) for scan in mild]
    found = []
    for patient in sorted({scan.patient for scan in parts["train"]}):
        both = phantom_scenes(data.cine, seed=data.seed, number=int(patient[1:]))
        found += [(f"{patient}-{phase}", scene) for phase, scene in both.items()]
    return found
