"""What a generator or a follower of hearts trains, by its flags alone."""

import dataclasses

import numpy as np

from medjax.heart.batch import AXES, WHOLE
from medjax.heart.cheart import cheart_system
from medjax.heart.generation import Generation
from medjax.heart.motion_data import mesh_of
from medjax.heart.motion_systems import build, stages
from medjax.heart.population import CONDITIONS
from medjax.heart.subject import PROJECTED, VIEWS
from medjax.heart.tracking import Tracking, learned
from medjax.train.workload import Workload, spec


def generation(config: Generation) -> Workload:
    """The generator that `medjax.heart.generation.run` trains."""
    data, size = config.data, config.data.batch_size
    rows = data.people - config.validation.aside if data.root is None else None
    _, length = config.resolved(rows=rows or size, batch_size=size)
    system = dataclasses.replace(
        config.system,
        shape=data.shape,
        frames=data.frames,
        warmup=round(config.kl_warmup * length.steps),
    )
    batch = {
        "labels": spec((size, data.frames, *data.shape), np.uint8),
        "conditions": spec((size, len(CONDITIONS)), np.float32),
    }
    return Workload(cheart_system(system), batch, rows, config)


def tracking(config: Tracking, *, stage: str = ".") -> Workload:
    """What `medjax.heart.tracking.run` trains in one of its stages.

    Args:
        config: the run.
        stage: folder of the stage, ``"."`` the last.

    Raises:
        ValueError: there is no such stage.
    """
    every = stages(learned(config))
    if stage not in every:
        raise ValueError(f"stage is {stage!r}, expected one of {list(every)}")
    data, scan, size = config.data, config.data.scan, config.data.batch_size
    topology, reference = mesh_of(data.mesh, right=data.right)
    system = build(every[stage], topology, reference)
    sizes = {"b": size, "d": scan.slices, "v": VIEWS, "h": scan.size, "w": scan.size}
    sizes |= {"p": scan.slices + VIEWS, "n": topology.count}
    sizes |= {"m": data.contour_points * len(topology.names), "q": PROJECTED}
    batch = {
        field: spec(
            tuple(sizes[a] if a.isalpha() else int(a) for a in AXES[field].split()),
            np.int32 if field in WHOLE else np.float32,
        )
        for field in system.fields
    }
    # How many people a tree has is not known without it.
    people = data.people - config.validation.aside
    rows = people * (scan.frames - 1) if data.root is None else None
    inside = dataclasses.replace(config, system=every[stage])
    return Workload(system, batch, rows, inside)
