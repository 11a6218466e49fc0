"""Segmentation that says how sure it is: hierarchical uncertainty, and its peers.

``python -m experiments.hierarchical`` trains the ``tiny`` preset on embedded phantoms
that annotators draw differently, whose every pixel's probability is known, and scores
its answers against them. ``--method`` trains a peer on the same network, patches and
updates: ``deterministic``, ``tta``, ``dropout``, ``ensemble``, ``probunet``,
``phiseg``, ``ssn``::

    python -m experiments.hierarchical --method probunet --workdir runs/probunet
    python -m experiments.hierarchical --system.kl standard --system.beta 0.01
    python -m experiments.hierarchical ours --data.format nnunet \\
        --data.root Dataset001_Brain --workdir runs/brain

Rows of a table (``--data.format table``) that name the same image, each with a ``case``
of its own, are its annotators.
``paper`` has the published network (what its text leaves open is a flag), ``ours``
nnU-Net's with tied variances. A run leaves checkpoints, ``evaluation.json`` and
``report.html`` in ``--workdir``; the same command goes on where it stopped, and
``experiments.predict RUN IMAGES --write mi entropy levels`` writes its maps.
"""

import dataclasses
import sys
from pathlib import Path

from experiments.segment import NNUNET
from medjax.segmentation.augment import NONE
from medjax.segmentation.fingerprint import PlanConfig
from medjax.segmentation.hierarchical import Hierarchy
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.sets import SegmentationDataConfig
from medjax.segmentation.uncertain import Uncertainty, run
from medjax.train.experiment import main
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig

# Mirrors alone: how blurred an edge is tells how unsure annotators are there, and
# turning would blur it.
MIRRORS = dataclasses.replace(NONE, mirror=True)

# Answers that differ as annotators do: with one draw of noise of single pixels, as the
# paper's text reads, they are all alike. Each draw of an update costs a decoder.
SPREAD = Hierarchy(draws=4, together=0.5)

TINY = Uncertainty(
    about="Hierarchical uncertainty on ambiguous phantoms, small enough for a CPU",
    system=SPREAD,
    data=SegmentationDataConfig(format="ambiguous", train_cases=48, test_cases=8),
    plan=PlanConfig(rank=2, patch=(64, 64), batch_size=8, widths=(8, 16, 32)),
    augment=MIRRORS,
    blend="probability",
    window=WindowConfig(batch=1),
    # Deviations start at 0.05 and have a short run to find theirs.
    optimizer=OptimizerConfig(
        lr=3e-3,
        clip_norm=12.0,
        schedule="cosine",
        rates=(("log_variances", 20.0),),
    ),
    train=TrainConfig(steps=120, log_every=10, checkpoint_every=60),
    workdir=Path("runs/hierarchical-tiny"),
)
OURS = dataclasses.replace(
    TINY,
    about="Hierarchical uncertainty on nnU-Net's network, variances tied to a floor",
    data=SegmentationDataConfig(),
    plan=PlanConfig(),
    augment=NNUNET.augment,
    dtype=NNUNET.dtype,
    window=WindowConfig(),
    optimizer=NNUNET.optimizer,
    train=NNUNET.train,
    epochs=NNUNET.epochs,
    workdir=Path("runs/hierarchical-ours"),
)
PRESETS = {
    "tiny": TINY,
    "paper": dataclasses.replace(
        OURS,
        about="Hierarchical uncertainty of slices, latents tied to standard normals",
        # Weight and levels are not in the paper's text: all skips, and a small weight.
        system=Hierarchy(kl="standard", beta=1e-2),
        plan=PlanConfig(rank=2, widths=(32, 64, 128, 256, 512)),
        workdir=Path("runs/hierarchical-paper"),
    ),
    "ours": OURS,
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, run, __doc__))
