"""MGCA, from reports and radiographs to an evaluated checkpoint.

``python -m experiments.mgca`` runs the ``tiny`` preset on embedded data on a CPU;
``repo`` and ``paper`` are the real thing with a ResNet-50, ``vit`` the released code
with a vision transformer (``--data.root``). ``--help`` behind a preset lists all flags.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.train.experiment import main
from medjax.train.optimizer import OptimizerConfig
from medjax.vlp.augment import AUGMENTATIONS
from medjax.vlp.mgca import CONFIGS, MgcaConfig, mgca
from medjax.vlp.pretraining import IMAGENET, TINY, Pretraining, run
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

REPO = Pretraining(
    about="MGCA, settings of the released code",
    system=CONFIGS["repo"],
    image=ImageTowerConfig("resnet50", checkpoint=IMAGENET, dtype="bfloat16"),
    text=TextTowerConfig(
        checkpoint="emilyalsentzer/Bio_ClinicalBERT",
        layers=6,
        max_length=112,
        dtype="bfloat16",
    ),
    # The code stops when a validation loss has not fallen for five epochs, and takes
    # the weights of the lowest: here all epochs are run, and the last weights taken.
    optimizer=OptimizerConfig(
        lr=2e-5, weight_decay=0.05, schedule="cosine", min_lr=1e-8
    ),
    epochs=50,
    warmup_fraction=0.4,
    workdir=Path("runs/mgca-repo"),
).with_data(batch_size=144)

PRESETS = {
    "tiny": dataclasses.replace(
        TINY,
        about="MGCA on embedded data, small enough for a CPU",
        system=dataclasses.replace(
            MgcaConfig(), hidden=256, prototypes=32, augment=AUGMENTATIONS["tiny"]
        ),
        workdir=Path("runs/mgca-tiny"),
    ),
    "repo": REPO,
    "paper": dataclasses.replace(
        REPO,
        about="MGCA as the paper means it",
        system=CONFIGS["paper"],
        workdir=Path("runs/mgca-paper"),
    ),
    "vit": dataclasses.replace(
        REPO,
        about="MGCA, settings of the released code, with a vision transformer",
        system=dataclasses.replace(CONFIGS["repo"], augment=AUGMENTATIONS["mgca"]),
        image=dataclasses.replace(
            REPO.image,
            architecture="vit_b16",
            checkpoint="timm/deit_base_patch16_224.fb_in1k",
        ),
        workdir=Path("runs/mgca-vit"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, lambda config: run(config, mgca), __doc__))
