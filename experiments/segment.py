"""Segmentation by nnU-Net, from a data set to an evaluated checkpoint.

``python -m experiments.segment`` trains the ``tiny`` preset on embedded lesion phantoms
on a CPU in two to three minutes. The real thing reads sets as people keep them::

    python -m experiments.segment nnunet --data.format nnunet \\
        --data.root Dataset001_Brain --workdir runs/brain
    python -m experiments.segment residual --data.format acdc --data.root ACDC
    python -m experiments.segment nnunet --data.format table --data.root pairs.csv \\
        --data.channels FLAIR --data.labels lesion=1

``nnunet`` has nnU-Net's rules, loss, augmentation, optimiser and length (1000 epochs of
250 batches), ``flat`` the same in slices, ``residual`` its residual encoder M. A run
leaves checkpoints, ``evaluation.json`` and ``report.html`` in ``--workdir``; the same
command goes on where it stopped, and ``experiments.predict`` applies it.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.segmentation.augment import AugmentConfig
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.training import Segmentation, run
from medjax.train.experiment import main
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig

NNUNET = Segmentation(
    about="nnU-Net of volumes, as version 2 trains it",
    dtype="bfloat16",
    window=WindowConfig(mirror=True),
    optimizer=OptimizerConfig(
        name="sgd",
        lr=0.01,
        momentum=0.99,
        nesterov=True,
        weight_decay=3e-5,
        clip_norm=12.0,
        schedule="poly",
    ),
    epochs=1000,
    workdir=Path("runs/segment-nnunet"),
)

PRESETS = {
    "tiny": Segmentation(
        about="A small U-Net on lesion phantoms, small enough for a CPU",
        plan=PlanConfig(rank=2, patch=(64, 64), batch_size=8, widths=(16, 32, 64)),
        augment=AugmentConfig(turn=30),
        window=WindowConfig(batch=1),
        optimizer=OptimizerConfig(lr=3e-3, clip_norm=12.0, schedule="cosine"),
        train=TrainConfig(steps=150, log_every=10, checkpoint_every=50),
        workdir=Path("runs/segment-tiny"),
    ),
    "nnunet": NNUNET,
    "flat": dataclasses.replace(
        NNUNET,
        about="nnU-Net of slices, as version 2 trains it",
        plan=PlanConfig(rank=2),
        workdir=Path("runs/segment-flat"),
    ),
    "residual": dataclasses.replace(
        NNUNET,
        about="nnU-Net of volumes with a residual encoder (M)",
        plan=PlanConfig(budget="residual_m"),
        workdir=Path("runs/segment-residual"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, run, __doc__))
