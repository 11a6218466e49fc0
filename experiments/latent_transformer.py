"""Latent Transformer, from undersampled k-space to T1 and T2 maps in ms.

``python -m experiments.latent_transformer`` runs the ``tiny`` preset: the multi-coil
system on embedded heart phantoms, on a CPU, in a few minutes. ``repo`` and
``repo_restormer`` have the published sizes and training and want the prepared
challenge data::

    python -m experiments.latent_transformer repo --data.root prepared/cmrxrecon \\
        --data.series t2 --data.acceleration 10
    python -m experiments.latent_transformer repo_single --data.root prepared/single

``tiny`` takes ``--data.root`` too. ``--system.network.no-attention`` is the ablation
without temporal attention, ``--system.denoiser modl`` reconstructs frame by frame,
``--kernels.implementation`` chooses the data consistency kernels, and ``--help`` behind
a preset lists all flags. A run leaves its checkpoints, ``evaluation.json`` and
``report.html`` in ``--workdir``; the same command goes on where it stopped.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.mri.latent_transformer import (
    CONFIGS as SINGLE_COIL,
)
from medjax.mri.latent_transformer import LatentTransformerConfig
from medjax.mri.reconstruction import Reconstruction, run
from medjax.mri.scans import FULL_SIZE, SMALL
from medjax.mri.unrolled import CONFIGS as MULTI_COIL
from medjax.mri.unrolled import UnrolledConfig
from medjax.train.experiment import main
from medjax.train.launch import LaunchConfig
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig

NAME = "Latent Transformer"

TINY = Reconstruction(
    about="Latent Transformer on heart phantoms, small enough for a CPU",
    # The phantoms' coil maps are exact, so that there is nothing to refine in them.
    system=UnrolledConfig(
        network=LatentTransformerConfig(
            widths=(8, 16), denoiser_widths=(16, 16, 16), heads=2, layers=1
        ),
        scale=1.6,
        cg_iterations=6,
    ),
    normalise=True,
    data=dataclasses.replace(SMALL, acceleration=(8,), batch_size=4),
    optimizer=OptimizerConfig(lr=3e-3, clip_norm=1.0, schedule="cosine"),
    train=TrainConfig(steps=120, log_every=10, checkpoint_every=40),
    workdir=Path("runs/latent-transformer-tiny"),
)
"""Multi-coil, one unroll."""

REPO = Reconstruction(
    about="Latent Transformer, multi-coil, settings of the released code",
    system=MULTI_COIL["repo"],
    data=dataclasses.replace(FULL_SIZE, acceleration=(4,), batch_size=16, seed=999),
    optimizer=OptimizerConfig(
        lr=3e-4, b2=0.99, weight_decay=0.01, schedule="cosine", min_lr=1e-6
    ),
    train=TrainConfig(seed=999),
    launch=LaunchConfig(),
    epochs=300,
    workdir=Path("runs/latent-transformer-repo"),
)

PRESETS = {
    "tiny": TINY,
    "repo": REPO,
    "repo_restormer": dataclasses.replace(
        REPO,
        about="Restormer flavour, multi-coil, settings of the released code",
        system=MULTI_COIL["repo_restormer"],
        workdir=Path("runs/latent-transformer-repo-restormer"),
    ),
    "repo_single": dataclasses.replace(
        REPO,
        about="Latent Transformer, single-coil, settings of the released code",
        system=SINGLE_COIL["repo"],
        data=dataclasses.replace(REPO.data, coils=1),
        workdir=Path("runs/latent-transformer-repo-single"),
    ),
    "repo_single_restormer": dataclasses.replace(
        REPO,
        about="Restormer flavour, single-coil, settings of the released code",
        system=SINGLE_COIL["repo_restormer"],
        data=dataclasses.replace(REPO.data, coils=1),
        workdir=Path("runs/latent-transformer-repo-single-restormer"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, lambda config: run(config, NAME), __doc__))
