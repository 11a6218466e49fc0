"""What a segmentation trains and on what shapes, by its flags and a set's description.

Patch and network are planned from a set's voxels and extents. A prepared set says them;
of phantoms two cases do, drawn here.
"""

import dataclasses

import numpy as np

from medjax.data.ledger import Ledger
from medjax.segmentation.cmrxmotion.grading import GradingConfig, grader_run
from medjax.segmentation.cmrxmotion.quality import QualitySystem
from medjax.segmentation.system import SegmentationConfig
from medjax.segmentation.systems import SegmentationRecord
from medjax.segmentation.training import (
    SegmentationTraining,
    described,
    open_data,
    sources_of,
)
from medjax.segmentation.uncertain import Uncertainty, system_of
from medjax.train.ensemble import members_apart
from medjax.train.experiment import Experiment
from medjax.train.workload import Workload, spec


def workload(config: SegmentationTraining) -> Workload:
    """The segmentation that a run of these flags trains.

    Args:
        config: The run.

    Raises:
        DataError: Where a set is named that is not here.
    """
    assumed: tuple[str, ...] = ()
    few = config.data
    if config.data.root is None:
        few = dataclasses.replace(few, train_cases=2, test_cases=0, annotators=(1, 1))
        assumed = ("data: patch and network as of two phantoms",)
    small = dataclasses.replace(config, data=few)
    found = open_data(small, Ledger(config.data.on_error))
    settings: SegmentationConfig = described(config, found)
    if isinstance(config, Uncertainty):
        settings = system_of(config, found)
        if config.method == "ensemble":
            apart = members_apart(config.optimizer)
            config = dataclasses.replace(config, optimizer=apart)
    record = SegmentationRecord(
        settings, found.preparation, found.data.name, config.window
    )
    system = record.build()
    patches, mixer = sources_of(small, settings, found)
    row = patches.cut({"index": 0}, np.random.default_rng(0))
    size = found.plan.batch_size
    if mixer is not None:
        assumed += (f"mixing: a bank of {len(found.train)} cases",)
    return Workload(
        system if mixer is None else mixer.system(system),
        {name: spec((size, *value.shape), value.dtype) for name, value in row.items()},
        len(patches),
        config,
        rules=system.rules,
        assumed=assumed,
    )


def grading(experiment: Experiment, config: GradingConfig) -> Workload:
    """The last grader that `medjax.segmentation.cmrxmotion.grading` trains.

    Args:
        experiment: Whose mesh and seed are taken.
        config: Of the graders.
    """
    run = grader_run(experiment, config)
    size, side = config.batch_size, config.size
    batch = {
        "image": spec((size, config.slices, side, side), np.float32),
        "grade": spec((size,), np.int32),
    }
    told = "the graders, each alone; the segmenters are planned by experiments.segment"
    return Workload(
        QualitySystem(config.systems[-1]), batch, None, run, assumed=(told,)
    )
