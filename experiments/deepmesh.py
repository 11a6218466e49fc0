"""DeepMesh: a template fitted to a heart, then moved, by convolutional fields.

``python -m experiments.deepmesh`` runs the ``tiny`` preset on embedded phantom hearts,
on a CPU, in four minutes of its time: the second stage alone, which moves a mesh that
is given at end-diastole. ``--system.no-given`` fits that mesh first, as published,
which a few hundred steps do badly; with ``--system.stage joint`` both are trained as
one. Planes see the surface of a mesh this coarse (``--system.slice coverage``), not its
vertices, which are too few.

The other presets have the published sizes, 128 x 128 x 64 voxels, 50 frames and a mesh
of 22 thousand vertices, on phantom people; drawing one takes minutes, once. ``repo`` is
the released code's, ``paper`` mends its geometry and keeps the state that is best for
people set aside. With the folders that the released
code reads, one a person::

    python -m experiments.deepmesh paper --data.root people --data.format deepmesh

Of those the first stage of ``repo`` learns where the true mesh meets planes. Released
weights become a run by ``python -m experiments.convert motionEst.pth RUN``.

``--help`` behind a preset lists all flags.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.heart.deepmesh import CONFIGS
from medjax.heart.motion_data import SMALL, MotionDataConfig
from medjax.heart.phantom_mesh import SIZES
from medjax.heart.scanning import ScanConfig
from medjax.heart.supervision import LossConfig
from medjax.heart.tracking import DeepMeshTracking, run
from medjax.heart.validation import ValidationConfig
from medjax.train.experiment import main
from medjax.train.launch import LaunchConfig
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig

PUBLISHED = MotionDataConfig(
    scan=ScanConfig(
        frames=50, size=128, spacing=1.25, slices=64, gap=2.0, thickness=2.0
    ),
    mesh=SIZES["full"],
    right=False,
    people=16,
    test_people=4,
)
TINY = DeepMeshTracking(
    about="DeepMesh on phantom hearts, small enough for a CPU",
    system=dataclasses.replace(
        CONFIGS["tiny"],
        given=True,
        slice="coverage",
        # Room for meshes that the first steps tear.
        coverage=LossConfig(size=320, reach=4, pyramid=2),
        plane=10.0,
        laplacian=0.3,
        laplacian_ed=1.0,
        # Of a field in mm: 0.5 would outweigh all that a moving heart gains.
        smoothness=0.0005,
    ),
    data=SMALL,
    optimizer=OptimizerConfig(name="adam", lr=5e-3, clip_norm=1.0, schedule="cosine"),
    train=TrainConfig(steps=200, log_every=10, checkpoint_every=100),
    workdir=Path("runs/deepmesh-tiny"),
)
FULL = {
    name: DeepMeshTracking(
        about=about,
        system=CONFIGS[name],
        data=PUBLISHED,
        # qmeng99/DeepMesh: Adam at a constant rate, 401 epochs.
        optimizer=OptimizerConfig(name="adam", lr=1e-4),
        epochs=401,
        validation=ValidationConfig(keep="best" if name == "paper" else "last"),
        launch=LaunchConfig(),
        workdir=Path(f"runs/deepmesh-{name}"),
    )
    for name, about in (
        ("repo", "DeepMesh, settings of the released code"),
        ("paper", "DeepMesh, its geometry mended, smooth displacements, not shapes"),
    )
}
PRESETS = {"tiny": TINY, **FULL}

if __name__ == "__main__":
    sys.exit(main(PRESETS, run, __doc__))
