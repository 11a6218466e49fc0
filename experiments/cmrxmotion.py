"""CMRxMotion: hearts scanned while they breathe, graded, and segmented in spite of it.

Wang et al. 2022, arXiv 2210.06385; results in arXiv 2507.19165::

    python -m experiments.cmrxmotion
    python -m experiments.cmrxmotion challenge --data.root CMRxMotion \\
        --data.submit CMRxMotion/validation

With no flag phantom hearts are scanned while they breathe in the challenge's four ways;
their grades follow from how far the heart was from line to line. Scans are graded by
two networks and by the uncertainty of a segmenter that never saw a grade, and segmented
by three that were trained on hearts at rest, on these and block motion (augmentation
as libraries have it), or on these and breathing copies. All of it goes through the
challenge's files: ``volunteers`` is a tree as it has it, ``submission`` what would be
handed in, scored as its script does and as it should be. ``experiments.grade`` grades
scans of anyone by ``grade-ordinal`` or ``grade-softmax`` in the run's folder.

With the challenge's tree copies are made of the scans of grade 1. ``--data.submit`` is
a tree without grades and labels: ``submission`` is then of that.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from experiments.motion_scans import (
    Arm,
    breath_key,
    phantom_scenes,
    scanned,
    strip_of,
)
from experiments.motion_volunteers import (
    MotionData,
    Parts,
    training_set,
    volunteers,
)
from experiments.segment import NNUNET
from medjax.data.ledger import Ledger
from medjax.metrics.cases import in_words
from medjax.mri.motion import MODES, MotionConfig
from medjax.segmentation.augment import AugmentConfig
from medjax.segmentation.cmrxmotion.disturbed import (
    SEGMENTATIONS,
    Answer,
    answers,
    counts,
    in_turn,
    rows_by_breathing,
    rows_by_grade,
    task2_rows,
)
from medjax.segmentation.cmrxmotion.grader import TrainedGrader
from medjax.segmentation.cmrxmotion.grading import (
    GradingConfig,
    grades_of,
    grading_row,
    stacks_of,
    trained_grader,
)
from medjax.segmentation.cmrxmotion.quality import (
    QualityConfig,
    graded,
    thresholds_of,
)
from medjax.segmentation.cmrxmotion.reader import find, readable
from medjax.segmentation.cmrxmotion.report import Strip, motion_page
from medjax.segmentation.cmrxmotion.submission import (
    write_grades,
    write_segmentation,
)
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.prepared import in_memory
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.training import Segmentation, fitted
from medjax.train.agree import on_first
from medjax.train.experiment import Experiment, main
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnderMotion(Experiment):
    """One run; every field is a flag. Optimizer and train are the segmenters'."""

    contents: ClassVar[Mapping[str, str]] = {
        "volunteers": "phantoms as the challenge keeps its volunteers",
        "submission": "grades and label maps, as the challenge takes them",
        "segmentations": "label maps of the held-out scans, by segmenter",
        "grade-softmax": "a grader of three logits, for experiments.grade",
        "grade-ordinal": "a grader of two thresholds, for experiments.grade",
    }

    data: MotionData = MotionData()
    """Whose hearts."""
    grading: GradingConfig = GradingConfig()
    """How scans are graded."""
    arms: tuple[Arm, ...] = ("clean", "block", "physiological")
    """What segmenters are trained on; the first one's uncertainty grades as well, and
    the last one's label maps are handed in."""
    plan: PlanConfig = PlanConfig(rank=2)
    """What is chosen of patch and network."""
    augment: AugmentConfig = AugmentConfig()
    """What else happens to patches."""
    window: WindowConfig = WindowConfig()
    """Tiles of whole scans."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the segmenters' arithmetic."""
    shown: int = 3
    """Scans that the page shows, of as many grades as there are."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How processes find each other."""


def run(config: UnderMotion) -> dict[str, Any]:
    """Scans, trains, grades, segments, scores and reports.

    Args:
      config: The run.

    Returns:
      The evaluation, as in ``evaluation.json``.
    """
    if not config.arms:
        raise ValueError("arms: expected one segmenter at least")
    ledger = Ledger(config.data.on_error)
    parts = volunteers(config.data, config.workdir, ledger)
    test = parts["test"]
    segmenters = {arm: segmenter(config, arm, parts, ledger) for arm in config.arms}
    found: dict[str, list[Answer]] = {}
    for arm, model in segmenters.items():
        out = config.workdir / SEGMENTATIONS / arm
        found[arm] = answers(model, test, out=out)
    graders = {
        system.head: trained_grader(
            config,
            system,
            stacks_of(parts["train"], config.grading),
            grades_of(parts["train"]),
            config.grading,
        )
        for system in config.grading.systems
    }
    first = config.arms[0]
    results = {
        "counts": counts(test),
        "grading": graded_by(config, graders, segmenters[first], parts, found[first]),
        "segmentation": [
            row for arm, those in found.items() for row in rows_by_grade(arm, those)
        ],
        "breathing": [
            row for arm, those in found.items() for row in rows_by_breathing(arm, those)
        ],
        "task2": task2_rows(found, config.workdir),
    }
    last = config.arms[-1]
    handed_in = found[last]
    if config.data.submit is not None:
        given = readable(find(config.data.submit, ledger=ledger), ledger=ledger)
        handed_in = answers(segmenters[last], given)
    submit(config, handed_in, graders)

    def keep() -> None:
        page = motion_page(
            config.workdir,
            results,
            strips(config),
            {arm: in_turn(those, config.shown) for arm, those in found.items()},
            title=config.about,
            subtitle=f"{len(test)} held-out scans of "
            f"{len({scan.patient for scan in test})} volunteers",
        )
        if ledger.skipped:
            ledger.write_skipped(config.workdir / "skipped.csv")
            print(ledger.summary())
        for row in results["grading"]:
            print(
                f"graded by {row['method']}: kappa {row['kappa']:.3f}, accuracy "
                f"{row['accuracy']:.3f} of {row['n']:.0f} scans"
            )
        for row in results["segmentation"]:
            print(
                f"trained on {row['trained on']}, grade {row['grade']}: Dice "
                f"{row['dice']:.3f} of {row['n']} scans"
                + "".join(f", {told}" for told in in_words(row))
            )
        print(f"report: {page}")

    on_first(keep, what="report")
    return results


def segmenter(config: UnderMotion, arm: Arm, parts: Parts, ledger: Ledger) -> Segmenter:
    """Trains one segmenter, or goes on training it, in a folder of its own."""
    found = training_set(config.data, arm, parts, config.workdir / "training" / arm)
    asked = Segmentation(
        about=f"Hearts, trained on {arm} motion",
        plan=config.plan,
        augment=config.augment,
        window=config.window,
        dtype=config.dtype,
        optimizer=config.optimizer,
        train=config.train,
        epochs=config.epochs,
        warmup_fraction=config.warmup_fraction,
        mesh=config.mesh,
        workdir=config.workdir / f"segment-{arm}",
    )
    return fitted(asked, in_memory(found, config.plan, ledger))


def graded_by(
    config: UnderMotion,
    graders: Mapping[str, TrainedGrader],
    clean: Segmenter,
    parts: Parts,
    found: Sequence[Answer],
) -> list[dict[str, Any]]:
    """Every way of grading the held-out scans, scored."""
    test = [answer.scan for answer in found]
    stacks = stacks_of(test, config.grading)
    rows = [
        grading_row(head, test, grader.grades(stacks))
        for head, grader in graders.items()
    ]
    known, asked = (
        np.array([answer.uncertainty for answer in those])
        for those in (answers(clean, parts["validation"]), found)
    )
    cuts = thresholds_of(known, grades_of(parts["validation"]))
    return [*rows, grading_row("uncertainty", test, graded(asked, cuts))]


def submit(
    config: UnderMotion, found: Sequence[Answer], graders: Mapping[str, TrainedGrader]
) -> None:
    """Writes what the challenge takes: ``output.csv`` and a label map for each scan."""
    folder = config.workdir / "submission"
    for answer in found:
        write_segmentation(folder, answer.scan.name, answer.said, answer.image)
    if graders:
        scans = [answer.scan for answer in found]
        grades = [*graders.values()][-1].grades(stacks_of(scans, config.grading))
        names = [scan.name for scan in scans]
        write_grades(
            folder / "output.csv", dict(zip(names, map(int, grades), strict=True))
        )


def strips(config: UnderMotion) -> list[Strip]:
    """The first volunteer, breathing in every way; nothing of real ones."""
    data = config.data
    if data.root is not None:
        return []
    scene = phantom_scenes(data.cine, seed=data.seed, number=1)["ED"]
    return [
        strip_of(
            scene,
            scanned(scene, mode, data.motion, key=breath_key(data.seed, 1, number)),
            mode.replace("_", " "),
        )
        for number, mode in enumerate(MODES, 1)
    ]


PRESETS = {
    "tiny": UnderMotion(
        about="Breathing phantom hearts, small enough for a CPU",
        data=MotionData(volunteers=(10, 4, 6)),
        grading=GradingConfig(slices=4, batch_size=8, steps=80),
        plan=PlanConfig(rank=2, patch=(64, 64), batch_size=8, widths=(8, 16, 32)),
        augment=AugmentConfig(turn=30),
        optimizer=OptimizerConfig(lr=5e-3, clip_norm=12.0, schedule="cosine"),
        train=TrainConfig(steps=80, log_every=10, checkpoint_every=80),
        workdir=Path("runs/cmrxmotion-tiny"),
    ),
    "challenge": UnderMotion(
        about="CMRxMotion: grades and label maps",
        grading=GradingConfig(
            systems=tuple(
                QualityConfig(encoder="resnet50", head=head)
                for head in ("softmax", "ordinal")
            ),
            size=192,
            pixel=1.5,
            steps=4000,
            optimizer=OptimizerConfig(lr=3e-4, clip_norm=5.0, schedule="cosine"),
        ),
        data=MotionData(motion=MotionConfig()),
        dtype=NNUNET.dtype,
        window=NNUNET.window,
        optimizer=NNUNET.optimizer,
        epochs=NNUNET.epochs,
        launch=LaunchConfig(),
        workdir=Path("runs/cmrxmotion-challenge"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, run, __doc__))
