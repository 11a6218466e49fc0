"""E2E-VarNet, frame by frame, from undersampled k-space to T1 and T2 maps in ms.

``python -m experiments.varnet`` runs the ``tiny`` preset on embedded heart phantoms, on
a CPU, in a few minutes. ``repo`` has the published sizes and wants the prepared
challenge data::

    python -m experiments.varnet repo --data.root prepared/cmrxrecon --data.series t2

Coil maps are part of the network, which is indifferent to the unit of k-space and to
the numbers of frames and coils: ``python -m experiments.cmrxrecon file --learned RUN``
runs it on any k-space file. ``--kernels.implementation`` chooses the data consistency
kernels, and ``--help`` behind a preset lists all flags.
"""

import sys
from pathlib import Path

from medjax.mri.reconstruction import Reconstruction, run
from medjax.mri.scans import FULL_SIZE, SMALL
from medjax.mri.varnet import CONFIGS, VarNetConfig
from medjax.train.experiment import main
from medjax.train.launch import LaunchConfig
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig

NAME = "VarNet"

TINY = Reconstruction(
    about="VarNet on heart phantoms, small enough for a CPU",
    system=VarNetConfig(
        cascades=2, chans=6, pools=2, sens_chans=2, sens_pools=2, remat=False
    ),
    data=SMALL,
    optimizer=OptimizerConfig(lr=3e-3, clip_norm=1.0, schedule="cosine"),
    train=TrainConfig(steps=200, log_every=10, checkpoint_every=50),
    workdir=Path("runs/varnet-tiny"),
)

PRESETS = {
    "tiny": TINY,
    # facebookresearch/fastMRI, varnet_demo.py. There the rate falls to a tenth after 40
    # of the 50 epochs: --optimizer.schedule step, --optimizer.step-every their updates.
    "repo": Reconstruction(
        about="VarNet, settings of the released code",
        system=CONFIGS["repo"],
        data=FULL_SIZE,
        optimizer=OptimizerConfig(name="adam", lr=3e-4),
        launch=LaunchConfig(),
        epochs=50,
        workdir=Path("runs/varnet-repo"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, lambda config: run(config, NAME), __doc__))
