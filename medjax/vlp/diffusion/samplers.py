"""Noise to latents in a few steps: DDIM and DPM-Solver++, with guidance.

DDIM: Song et al., "Denoising diffusion implicit models", ICLR 2021, without new noise.
DPM-Solver++ (2M): Lu et al., arXiv 2211.01095, second order from two network calls
that lie behind each other; its first and last steps are of first order. Guidance: Ho
and Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598: the network is
asked with and without the report, and its answer goes beyond the first, away from the
second.

Both samplers are one `jax.lax.scan` over a table of numbers made on the host in
float64: a step is a sum of what it knows with the table's weights.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax.vlp.diffusion.schedule import (
    Sampler,
    ScheduleConfig,
    ddim_steps,
    solver_steps,
)

Denoise = Callable[[Float[Array, "b h w c"], Int[Array, " b"]], Float[Array, "b h w c"]]
"""``denoise(latent, steps)``: what the network predicts of noisy latents."""
Table = dict[str, np.ndarray]


def ddim_table(config: ScheduleConfig, steps: int) -> Table:
    """The numbers of each of DDIM's steps: where it is, and where it goes."""
    times = ddim_steps(config, steps)
    alphas, sigmas = config.alphas(), config.sigmas()
    last = (1.0, 0.0) if config.set_alpha_to_one else (alphas[0], sigmas[0])
    before = times - config.num_train_timesteps // steps
    held = np.maximum(before, 0)
    return {
        "time": times,
        "alpha": alphas[times],
        "sigma": sigmas[times],
        "next_alpha": np.where(before >= 0, alphas[held], last[0]),
        "next_sigma": np.where(before >= 0, sigmas[held], last[1]),
    }


def solver_table(config: ScheduleConfig, steps: int) -> Table:
    """The numbers of each of DPM-Solver++'s steps: weights of what it knows.

    ``keep`` weighs the latent, ``now`` the guess of the clean latent at this step and
    ``before`` that of the step before.
    """
    times = solver_steps(config, steps)
    alpha, sigma = config.alphas()[times], config.sigmas()[times]
    to_alpha = np.append(alpha[1:], 1.0)
    to_sigma = np.append(sigma[1:], 0.0)
    logs = np.log(alpha) - np.log(sigma)
    # From the last step there is no way back: its signal-to-noise is infinite.
    h = np.append(np.diff(logs), np.inf)
    gain = -to_alpha * np.expm1(-h)
    ratio = np.zeros(steps)
    if steps > 2:
        ratio[1:-1] = h[1:-1] / h[:-2]
    return {
        "time": times,
        "alpha": alpha,
        "sigma": sigma,
        "keep": to_sigma / sigma,
        "now": gain * (1.0 + 0.5 * ratio),
        "before": -0.5 * gain * ratio,
    }


def sample(
    denoise: Denoise,
    noise: Float[Array, "b h w c"],
    config: ScheduleConfig,
    *,
    steps: int,
    sampler: Sampler = "dpmpp2m",
) -> Float[Array, "b h w c"]:
    """Latents of noise, scaled as the network knows them.

    Args:
      denoise: the network with its text, and with guidance.
      noise: of unit variance.
      config: what the network was trained on.
      steps: network calls.
      sampler: ``dpmpp2m`` needs about 20 steps, ``ddim`` 50 or more.

    Raises:
      ValueError: for steps that there are not.
    """
    table = (ddim_table if sampler == "ddim" else solver_table)(config, steps)
    rows = {
        k: jnp.asarray(v, jnp.int32 if k == "time" else jnp.float32)
        for k, v in table.items()
    }

    def ddim(latent: Array, row: dict[str, Array]) -> tuple[Array, None]:
        clean, noise = _parts(denoise, latent, row, config)
        if config.clip_sample:
            clean = jnp.clip(clean, -1.0, 1.0)
        return row["next_alpha"] * clean + row["next_sigma"] * noise, None

    def solve(
        known: tuple[Array, Array], row: dict[str, Array]
    ) -> tuple[tuple[Array, Array], None]:
        latent, before = known
        clean, _ = _parts(denoise, latent, row, config)
        to = row["keep"] * latent + row["now"] * clean + row["before"] * before
        return (to, clean), None

    if sampler == "ddim":
        return jax.lax.scan(ddim, noise, rows)[0]
    return jax.lax.scan(solve, (noise, jnp.zeros_like(noise)), rows)[0][0]


def _parts(
    denoise: Denoise, latent: Array, row: dict[str, Array], config: ScheduleConfig
) -> tuple[Array, Array]:
    """The clean latent and the noise that a prediction says there are."""
    alpha, sigma = row["alpha"], row["sigma"]
    said = denoise(latent, jnp.broadcast_to(row["time"], latent.shape[:1]))
    if config.prediction_type == "epsilon":
        return (latent - sigma * said) / alpha, said
    return alpha * latent - sigma * said, sigma * latent + alpha * said


def guided(
    network: Callable[
        [Float[Array, "b h w c"], Int[Array, " b"], Float[Array, "b m e"]],
        Float[Array, "b h w c"],
    ],
    text: Float[Array, "b m e"],
    without: Float[Array, "b m e"],
    guidance: float,
) -> Denoise:
    """A network that is asked with and without its text in one call.

    Args:
      network: ``network(latent, steps, text)``.
      text: of each report.
      without: what stands for no report.
      guidance: 1: the answer with the report; 0: without; more: beyond the first.
    """
    if guidance == 1.0:
        return lambda latent, steps: network(latent, steps, text)
    both = jnp.concatenate([without, text])

    def denoise(latent: Array, steps: Array) -> Array:
        twice = jnp.concatenate([latent, latent]), jnp.concatenate([steps, steps])
        empty, told = jnp.split(network(*twice, both), 2)
        return empty + guidance * (told - empty)

    return denoise


def row_noise(
    key: jax.Array, rows: Int[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b h w c"]:
    """Noise that depends on the seed and the row alone, whoever else is in the batch.

    Args:
      key: of the seed.
      rows: places of the reports in the call.
      shape: of one latent.
    """

    def one(row: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, row), shape)

    return jax.vmap(one)(rows)
