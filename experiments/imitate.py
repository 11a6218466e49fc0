"""IMITATE, from reports and radiographs to an evaluated checkpoint.

``python -m experiments.imitate`` runs the ``tiny`` preset on embedded data on a CPU in
five minutes of its time; ``python -m experiments.imitate repo --data.root ...
--workdir ...`` is the real thing with the settings of the released code, ``paper`` with
those of the paper as far as they could be established. ``--help`` behind a preset lists
all flags.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.train.experiment import main
from medjax.train.optimizer import OptimizerConfig
from medjax.vlp.augment import AUGMENTATIONS
from medjax.vlp.imitate import CONFIGS, ImitateConfig, imitate
from medjax.vlp.pretraining import IMAGENET, TINY, Pretraining, run
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

REPO = Pretraining(
    about="IMITATE, settings of the released code",
    system=CONFIGS["repo"],
    image=ImageTowerConfig(
        "resnet50", checkpoint=IMAGENET, dtype="bfloat16", statistics="device"
    ),
    text=TextTowerConfig(
        checkpoint="emilyalsentzer/Bio_ClinicalBERT", max_length=256, dtype="bfloat16"
    ),
    optimizer=OptimizerConfig(
        lr=2e-4,
        weight_decay=0.05,
        schedule="restarts",
        restart_period=33341,
        restart_factor=2,
        min_lr=1e-8,
    ),
    epochs=20,
    workdir=Path("runs/imitate-repo"),
).with_data(resize="imitate", batch_size=1024)

PRESETS = {
    "tiny": dataclasses.replace(
        TINY,
        about="IMITATE on embedded data, small enough for a CPU",
        system=dataclasses.replace(
            ImitateConfig(),
            features=128,
            hidden_image=256,
            hidden_text=256,
            # Narrow stages give few tokens: take half of each.
            channel_ratios=(0.5, 0.5, 0.5, 0.5),
            token_length=192,
            augment=AUGMENTATIONS["tiny"],
        ),
        workdir=Path("runs/imitate-tiny"),
    ),
    "repo": REPO,
    "paper": dataclasses.replace(
        REPO,
        about="IMITATE, settings of the paper",
        system=CONFIGS["paper"],
        image=dataclasses.replace(REPO.image, statistics="global"),
        optimizer=OptimizerConfig(lr=4e-5, weight_decay=0.05, schedule="cosine"),
        epochs=50,
        warmup_fraction=0.1,
        workdir=Path("runs/imitate-paper"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, lambda config: run(config, imitate), __doc__))
