"""What a learned reconstruction trains and on what shapes, by its flags alone."""

import re

import jax
import numpy as np

from medjax.data.records import METADATA, read_metadata
from medjax.mri.phantom import cardiac_phantom
from medjax.mri.reconstruction import Reconstruction
from medjax.mri.scans import ScansConfig
from medjax.mri.series import at_magnitude
from medjax.mri.systems import build
from medjax.train.workload import Workload, spec


def workload(config: Reconstruction) -> Workload:
    """The reconstruction that `medjax.mri.reconstruction.run` trains.

    Args:
        config: The run.

    Returns:
        System, batch and rows. The sizes of a set that is not here are the phantoms'.
    """
    system = build(config.system, config.kernels)
    if config.normalise:
        system = at_magnitude(system, 1.0)
    (frames, coils, height, width), rows, assumed = sizes(config.data)
    size = config.data.batch_size
    batch = {
        "kspace": spec((size, frames, coils, height, width), np.complex64),
        "sensitivities": spec((size, coils, height, width), np.complex64),
        "times": spec((size, frames), np.float32),
        "label": spec((size, height, width), np.int32),
        "mask": spec((size, 1, height, 1), np.bool_),
    }
    return Workload(system, batch, rows, config, assumed=assumed)


def sizes(
    data: ScansConfig,
) -> tuple[tuple[int, int, int, int], int | None, tuple[str, ...]]:
    """Frames, coils, rows and columns of a series; series; what was assumed."""
    phantom = jax.eval_shape(
        lambda: cardiac_phantom(data.phantom(), key=jax.random.key(0))
    )
    own = phantom.kspace.shape
    if data.root is None:
        return own, data.patients, ()
    # What experiments.prepare writes has its sizes in its name: t1map_9x10x144x512.
    folders = [data.root, *sorted(data.root.glob(f"{data.series}map_*"))]
    found = {}
    for folder in folders:
        named = re.fullmatch(rf"{data.series}map_(\d+)x(\d+)x(\d+)x(\d+)", folder.name)
        if named:
            t, c, h, w = (int(n) for n in named.groups())
            here = (folder / METADATA).is_file()
            counts = read_metadata(folder)["splits"] if here else None
            found[t, c, h, w] = None if counts is None else int(counts.get("train", 0))
    if found:
        largest = max(found, key=lambda size: size[2] * size[3])
        counted = [rows for rows in found.values() if rows is not None]
        rows = sum(counted) if len(counted) == len(found) else None
        several = f"data.root: of {len(found)} matrix sizes the largest, {largest}"
        return largest, rows, (several,) * (len(found) > 1)
    told = (
        f"data.root: {data.root} is not here: series of {own[0]} frames, {data.coils} "
        f"coils, {data.height} x {data.width} (data.coils, data.height, data.width)"
    )
    return own, None, (told,)
