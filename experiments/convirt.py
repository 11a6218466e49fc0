"""ConVIRT, from reports and radiographs to an evaluated checkpoint.

``python -m experiments.convirt`` runs the ``tiny`` preset on embedded data on a CPU;
``paper``, ``repo`` and ``mgca`` are the real thing (``--data.root``). ``--help`` behind
a preset lists all flags.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.train.experiment import main
from medjax.train.optimizer import OptimizerConfig
from medjax.vlp.augment import AUGMENTATIONS
from medjax.vlp.convirt import CONFIGS, convirt
from medjax.vlp.pretraining import IMAGENET, TINY, Pretraining, run
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

PAPER = Pretraining(
    about="ConVIRT, settings of the paper",
    system=CONFIGS["paper"],
    image=ImageTowerConfig("resnet50", checkpoint=IMAGENET, dtype="bfloat16"),
    text=TextTowerConfig(
        checkpoint="emilyalsentzer/Bio_ClinicalBERT",
        max_length=112,
        pool="max",
        dtype="bfloat16",
    ),
    optimizer=OptimizerConfig(name="adam", lr=1e-4, weight_decay=1e-6),
    epochs=50,
    workdir=Path("runs/convirt-paper"),
).with_data(batch_size=32)

PRESETS = {
    "tiny": dataclasses.replace(
        TINY,
        about="ConVIRT on embedded data, small enough for a CPU",
        system=dataclasses.replace(
            CONFIGS["paper"],
            features=128,
            text="report",
            frozen_text_layers=0,
            augment=AUGMENTATIONS["tiny"],
        ),
        workdir=Path("runs/convirt-tiny"),
    ),
    "paper": PAPER,
    "repo": dataclasses.replace(
        PAPER,
        about="ConVIRT, settings of a widely used PyTorch version",
        system=CONFIGS["repo"],
        image=ImageTowerConfig("resnet50", dtype="bfloat16"),
        text=dataclasses.replace(PAPER.text, pool="mean"),
        workdir=Path("runs/convirt-repo"),
    ),
    "mgca": dataclasses.replace(
        PAPER,
        about="ConVIRT as the baseline of later papers",
        system=CONFIGS["mgca"],
        text=dataclasses.replace(PAPER.text, pool="cls"),
        optimizer=OptimizerConfig(
            lr=2e-5, weight_decay=0.05, schedule="cosine", min_lr=1e-8
        ),
        warmup_fraction=0.4,
        workdir=Path("runs/convirt-mgca"),
    ).with_data(batch_size=144),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, lambda config: run(config, convirt), __doc__))
