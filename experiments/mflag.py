"""M-FLAG, from reports and radiographs to an evaluated checkpoint.

``python -m experiments.mflag`` runs the ``tiny`` preset on embedded data on a CPU;
``repo`` and ``paper`` are the real thing (``--data.root``). ``--help`` behind a preset
lists all flags.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.train.experiment import main
from medjax.train.optimizer import OptimizerConfig
from medjax.vlp.augment import AUGMENTATIONS
from medjax.vlp.mflag import CONFIGS, MFlagConfig, mflag
from medjax.vlp.pretraining import IMAGENET, TINY, Pretraining, run
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

REPO = Pretraining(
    about="M-FLAG, settings of the released code",
    system=CONFIGS["repo"],
    image=ImageTowerConfig(
        "resnet50", checkpoint=IMAGENET, dtype="bfloat16", statistics="device"
    ),
    text=TextTowerConfig(
        checkpoint="microsoft/BiomedVLP-CXR-BERT-general",
        max_length=512,
        dtype="bfloat16",
    ),
    optimizer=OptimizerConfig(
        lr=2e-5, weight_decay=0.05, schedule="restarts", min_lr=1e-8
    ),
    epochs=50,
    # T_0 = 0.4 of the steps that four processes of batch 512 would take.
    restart_fraction=0.4,
    workdir=Path("runs/mflag-repo"),
).with_data(resize="imitate", batch_size=2048)

PRESETS = {
    "tiny": dataclasses.replace(
        TINY,
        about="M-FLAG on embedded data, small enough for a CPU",
        system=dataclasses.replace(
            MFlagConfig(), features=128, hidden=256, augment=AUGMENTATIONS["tiny"]
        ),
        workdir=Path("runs/mflag-tiny"),
    ),
    "repo": REPO,
    "paper": dataclasses.replace(
        REPO,
        about="M-FLAG, orthogonality loss of the paper",
        system=CONFIGS["paper"],
        image=dataclasses.replace(REPO.image, statistics="global"),
        workdir=Path("runs/mflag-paper"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, lambda config: run(config, mflag), __doc__))
