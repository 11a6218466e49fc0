"""Weights, outputs and steps of torch diffusers, as they are stored."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from medjax.vlp.diffusion.samplers import ddim_table, solver_table
from medjax.vlp.diffusion.schedule import ScheduleConfig

GOLDEN = Path(__file__).parents[1] / "golden"
STEPS = range(1, 76)
"""Numbers of steps of which every step is compared."""
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SCHEDULES = {
    f"{prediction} {spacing}": {
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        "timestep_spacing": spacing,
    }
    for prediction in ("epsilon", "v_prediction")
    for spacing in ("leading", "linspace", "trailing")
} | {
    "cosine": {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }
}
"""Those of Stable Diffusion, and the one of a generator that starts from nothing."""


def stored() -> dict[str, np.ndarray]:
    """All arrays by name."""
    with np.load(GOLDEN / "diffusion.npz") as arrays:
        return {name: arrays[name] for name in arrays}


def config(golden: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    return json.loads(str(golden[f"{name}/config"]))


def weights(golden: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    prefix = f"{name}/weights/"
    return {
        key.removeprefix(prefix): value.astype(np.float32)
        for key, value in golden.items()
        if key.startswith(prefix)
    }


def schedule(name: str) -> ScheduleConfig:
    """One of `SCHEDULES` as ours."""
    return ScheduleConfig.from_dict({**BETAS, **SCHEDULES[name]})


def moves(sampler: str, steps: int, schedule: ScheduleConfig) -> np.ndarray:
    """What each step of ours does, [s, 4], in float64.

    Its time, and how much of the latent, of the network's answer and of the guess of
    the clean latent one step before there is in the next latent.

    Args:
      sampler: its name.
      steps: how many.
      schedule: what the network was trained on.
    """
    table = (ddim_table if sampler == "ddim" else solver_table)(schedule, steps)
    alpha, sigma, none = table["alpha"], table["sigma"], np.zeros(steps)
    # The clean latent and the noise, each of the latent and of the answer.
    if schedule.prediction_type == "epsilon":
        clean, noise = (1 / alpha, -sigma / alpha), (none, 1 + none)
    else:
        clean, noise = (alpha, -sigma), (sigma, alpha)
    if sampler == "ddim":
        to, left = table["next_alpha"], table["next_sigma"]
        mixed = [to * c + left * n for c, n in zip(clean, noise, strict=True)]
        return np.stack([table["time"], *mixed, none], axis=1)
    latent, answer = (table["now"] * c for c in clean)
    kept = table["keep"] + latent
    return np.stack([table["time"], kept, answer, table["before"]], axis=1)


def added(rows: np.ndarray) -> np.ndarray:
    """All rows of `moves` as one, [4]: a weighted sum, each row with its own weight."""
    return np.linspace(1.0, 2.0, len(rows)) @ rows
