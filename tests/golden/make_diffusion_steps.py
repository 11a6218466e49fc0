"""Writes diffusion_steps.npz: the steps of ``diffusers``' samplers, in float64.

Of each sampler and schedule, [75, 4]: for every number of steps from 1 to 75 the
weighted sums over its steps of their times, and of how much of the latent, of the
network's answer and of the guess one step before the next latent has. NaN where theirs
takes one step more than it was asked for: ``trailing`` at 61.

Needs PyTorch and ``diffusers`` (0.42.1 wrote the committed file), which the test that
reads it does not. Run in the repository's root as
``python -m tests.golden.make_diffusion_steps``.
"""

import numpy as np

from tests.vlp import torch_diffusion as theirs
from tests.vlp.diffusion_arrays import GOLDEN, SCHEDULES, STEPS, added


def steps() -> dict[str, np.ndarray]:
    arrays = {}
    for sampler in ("ddim", "dpmpp2m"):
        for name, settings in SCHEDULES.items():
            sums = []
            for count in STEPS:
                rows = theirs.moves(sampler, count, **settings)
                sums.append(added(rows) if len(rows) == count else np.full(4, np.nan))
            arrays[f"{sampler} {name}"] = np.stack(sums)
    return arrays


if __name__ == "__main__":
    np.savez_compressed(GOLDEN / "diffusion_steps.npz", **steps())
