"""Segmentation: mixing, surfaces, tiles, ensembles and motion against their peers.

Each task is the same work for both sides, which take turns:

============ ========================================================================
``lesions``  one batch of lesions turned, flipped, resized, bent and relit, against five
             transforms one after the other: torchio's, and SciPy's interpolation
``volume``   ten lesions put into a whole brain and half of its own painted over,
             against SciPy's interpolation and filters, one lesion at a time
``surfaces`` HD95, ASSD and surface Dice of three labels, against MONAI and medpy
``tiles``    tiles cut, weighed and blended, with a network that costs nothing, against
             MONAI
``samples``  sixteen answers of hierarchical uncertainty, against as many passes through
             all of the network
``ensemble`` a training step of five members in one program, against five steps
``motion``   a frame of a slice scanned over twelve heartbeats, against torchio's motion
             of as many poses, and SciPy's shifts with NumPy's transform
============ ========================================================================

What is not installed is left out and named. Where both give one answer (surfaces,
tiles) their largest difference is printed beside the ratio; transforms at random have
no common answer, and their agreement with SciPy is the matter of tests.
"""

from typing import Any

from experiments.bench.goals import Goal, Goals
from experiments.bench.segmentation_tasks import (
    PEERS,
    TASKS,
    SegmentationBenchConfig,
)
from experiments.bench.tasks import run_tasks

GOALS: Goals = {
    "cpu": {
        "lesions": Goal(8.0),
        "volume": Goal(5.0),
        "surfaces": Goal(2.0),
        "tiles": Goal(1.0),
        "samples": Goal(1 / 0.6),
        "ensemble": Goal(1.0),
        "motion": Goal(5.0),
    },
}
"""What is asked for, by device."""


def run(config: SegmentationBenchConfig) -> dict[str, Any]:
    """Times every task, prints and writes.

    Args:
      config: sizes.

    Returns:
      What the JSON file holds.
    """
    tasks = {name: TASKS[name] for name in config.tasks}
    return run_tasks("segmentation", config, tasks, goals=GOALS, peers=PEERS)
