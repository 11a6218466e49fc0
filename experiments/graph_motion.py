"""A graph network that follows a heart's mesh from cine images.

``python -m experiments.graph_motion`` runs the ``tiny`` preset on embedded phantom
hearts.
"""

import sys
from pathlib import Path

from medjax.heart.graph_motion import CONFIGS
from medjax.heart.motion_data import MotionDataConfig
from medjax.heart.tracking import GraphTracking, run
from medjax.train.experiment import main
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig

TINY = GraphTracking(
    about="A graph network on phantom hearts, small enough for a CPU",
    system=CONFIGS["tiny"],
    data=MotionDataConfig(people=16, test_people=4),
    optimizer=OptimizerConfig(name="adam", lr=2e-3, clip_norm=1.0, schedule="cosine"),
    train=TrainConfig(steps=150, log_every=10, checkpoint_every=100),
    workdir=Path("runs/graph_motion-tiny"),
)
PRESETS = {"tiny": TINY}

if __name__ == "__main__":
    sys.exit(main(PRESETS, run, __doc__))
