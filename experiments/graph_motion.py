"""A graph network that follows a heart's mesh from cine images.

``python -m experiments.graph_motion`` runs the ``tiny`` preset on embedded phantom
hearts.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.heart.graph_motion import CONFIGS
from medjax.heart.motion_data import SMALL, MotionDataConfig
from medjax.heart.phantom_mesh import SIZES
from medjax.heart.scanning import ScanConfig
from medjax.heart.supervision import LossConfig
from medjax.heart.tracking import GraphTracking, run
from medjax.train.experiment import main
from medjax.train.launch import LaunchConfig
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig

TINY = GraphTracking(
    about="A graph network on phantom hearts, small enough for a CPU",
    # Two levels of the mesh, not three: less to compile.
    system=dataclasses.replace(
        CONFIGS["tiny"],
        steps=(1, 2, 1),
        step_mm=8.0,
        loss=LossConfig(size=192, reach=4, pyramid=2),
    ),
    data=SMALL,
    optimizer=OptimizerConfig(name="adam", lr=3e-3, clip_norm=1.0, schedule="cosine"),
    train=TrainConfig(steps=100, log_every=10, checkpoint_every=100),
    workdir=Path("runs/graph_motion-tiny"),
)
FULL = GraphTracking(
    about="A graph network of 1.7 million parameters, fine meshes and images",
    system=dataclasses.replace(
        CONFIGS["full"], loss=LossConfig(size=1024, reach=8, slice_thickness=8.0)
    ),
    data=MotionDataConfig(
        scan=ScanConfig(frames=20, size=96, spacing=1.5, slices=10),
        mesh=SIZES["small"],
        people=96,
        test_people=32,
    ),
    optimizer=OptimizerConfig(name="adam", lr=1e-3, clip_norm=1.0, schedule="cosine"),
    epochs=50,
    warmup_fraction=0.02,
    launch=LaunchConfig(),
    workdir=Path("runs/graph_motion-full"),
)
PRESETS = {"tiny": TINY, "full": FULL}

if __name__ == "__main__":
    sys.exit(main(PRESETS, run, __doc__))
