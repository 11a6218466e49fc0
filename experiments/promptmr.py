"""PromptMR, windows of adjacent frames, from undersampled k-space to T1 and T2 maps.

``python -m experiments.promptmr`` runs the ``tiny`` preset on embedded heart phantoms,
on a CPU, in a few minutes. ``repo`` has the published sizes and wants the prepared
challenge data, split as published::

    python -m experiments.prepare cmrxrecon --root ChallengeData --out prepared/hearts \
        --split promptmr
    python -m experiments.promptmr repo --data.root prepared/hearts --data.series t1

For T2, whose three frames are no cycle, the published preparation repeats the first and
the last: ``--system.edge repeat``. ``--kernels.implementation`` chooses the data
consistency kernels, and ``--help`` behind a preset lists all flags.
"""

import sys
from pathlib import Path

from medjax.mri.promptmr import CONFIGS
from medjax.mri.reconstruction import Reconstruction, run
from medjax.mri.scans import FULL_SIZE, SMALL
from medjax.train.experiment import main
from medjax.train.launch import LaunchConfig
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig

NAME = "PromptMR"

TINY = Reconstruction(
    about="PromptMR on heart phantoms, small enough for a CPU",
    system=CONFIGS["tiny"],
    data=SMALL,
    optimizer=OptimizerConfig(lr=2e-3, clip_norm=1.0, schedule="cosine"),
    train=TrainConfig(steps=100, log_every=10, checkpoint_every=50),
    workdir=Path("runs/promptmr-tiny"),
)

PRESETS = {
    "tiny": TINY,
    # hellopipu/PromptMR. There the rate falls to a tenth after 11 of the 12 epochs:
    # --optimizer.schedule step, --optimizer.step-every their updates.
    "repo": Reconstruction(
        about="PromptMR, settings of the released code",
        system=CONFIGS["repo"],
        data=FULL_SIZE,
        optimizer=OptimizerConfig(lr=2e-4, weight_decay=0.01),
        launch=LaunchConfig(),
        epochs=12,
        workdir=Path("runs/promptmr-repo"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, lambda config: run(config, NAME), __doc__))
