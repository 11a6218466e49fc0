"""Latent diffusion: films from noise, and distances of sets, against their peers.

============= =======================================================================
``sampling``  latents of a batch by DDIM with guidance, a small U-Net, against torch
              ``diffusers`` with our weights (where it is installed)
``films``     reports to films, text model and decoder with it, by DPM-Solver++; ours
              alone
``frechet``   the Fréchet distance of two sets of features, against the root of a
              product of covariances by SciPy, as ``torchmetrics`` and others take it
============= =======================================================================
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from experiments.bench.goals import Goal, Goals, unlike
from experiments.bench.tasks import Task, peer, run_tasks
from medjax.metrics.frechet import frechet_distance
from medjax.nn.diffusion.autoencoder import AutoencoderConfig
from medjax.nn.diffusion.clip_text import ClipTextConfig
from medjax.nn.diffusion.settings import as_settings
from medjax.nn.diffusion.unet import UNet, UNetConfig
from medjax.vlp.diffusion.generator import films as films_of
from medjax.vlp.diffusion.networks import Networks
from medjax.vlp.diffusion.samplers import guided, sample
from medjax.vlp.diffusion.schedule import SamplingConfig, ScheduleConfig
from medjax.weights import to_torch
from medjax.weights.diffusion import unet as names

FILMS = {20: 9.0, 75: 2.9}
"""Per second that are asked for of one H200, by network calls of a film."""


TaskName = Literal["sampling", "films", "frechet"]


@dataclasses.dataclass(frozen=True)
class DiffusionBenchConfig:
    """Sizes."""

    tasks: tuple[TaskName, ...] = get_args(TaskName)
    """What is measured."""
    widths: tuple[int, ...] = (32, 64)
    """Of the U-Net's levels."""
    side: int = 32
    """Of latents."""
    batch_size: int = 8
    """Films."""
    steps: int = 20
    """Network calls of a film."""
    text: tuple[int, int] = (16, 32)
    """Tokens of a text, and their width."""
    networks: Literal["small", "stable-diffusion"] = "small"
    """Of the task ``films``: of latents, text and widths as above, or those of Stable
    Diffusion 2.1, films of 512 pixels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic of ``films``."""
    vectors: int = 5000
    """Of features in each set."""
    features: int = 2048
    """Of a vector."""
    turns: int = 3
    """Timed turns of each."""
    seed: int = 0
    """Of weights, noise and features."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""


PUBLISHED = DiffusionBenchConfig(
    networks="stable-diffusion", batch_size=16, dtype="bfloat16"
)
"""What goals per second are for: an hour of a CPU."""


def goals(config: DiffusionBenchConfig) -> Goals:
    """What is asked for, by device.

    Args:
      config: says how often the network is called for a film.
    """
    films = Goal(per_second=FILMS.get(config.steps))
    return {
        "cpu": {"sampling": Goal(1.3), "frechet": Goal(5.0)},
        "H200": {"sampling": Goal(1.0), "films": films},
    }


def run(config: DiffusionBenchConfig) -> dict[str, Any]:
    """Times every task, prints and writes."""
    tasks = {"sampling": sampling, "films": films, "frechet": frechet}
    least = {"batch_size": PUBLISHED.batch_size}
    return run_tasks(
        "diffusion",
        config,
        {name: tasks[name] for name in config.tasks},
        goals=goals(config),
        peers=("torch", "diffusers"),
        sizes=unlike(config, PUBLISHED, same=("networks",), least=least),
    )


def small(config: DiffusionBenchConfig) -> UNetConfig:
    """A U-Net that looks at the text in all but its first level."""
    levels, (_, wide) = len(config.widths), config.text
    return UNetConfig(
        sample_size=config.side,
        block_out_channels=config.widths,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=wide,
        norm_num_groups=8,
    )


def sampling(config: DiffusionBenchConfig) -> Task:
    """Noise to latents, with and without the text in every step."""
    rng = np.random.default_rng(config.seed)
    sizes, (tokens, wide) = small(config), config.text
    b, shape = config.batch_size, (config.side, config.side, sizes.in_channels)
    text = rng.normal(size=(b, tokens, wide)).astype(np.float32)
    without = np.zeros_like(text)
    noise = rng.normal(size=(b, *shape)).astype(np.float32)
    net, schedule = UNet(sizes), ScheduleConfig()
    start = jnp.zeros((1, *shape)), jnp.zeros((1,)), jnp.zeros((1, tokens, wide))
    params = jax.jit(net.init)(jax.random.key(config.seed), *start)

    @jax.jit
    def ours(params: Any, noise: jax.Array, text: jax.Array) -> jax.Array:
        def predict(latent: jax.Array, steps: jax.Array, text: jax.Array) -> Any:
            return net.apply(params, latent, steps, text)

        denoise = guided(predict, text, jnp.asarray(without), 3.0)
        return sample(denoise, noise, schedule, steps=config.steps, sampler="ddim")

    theirs, gaps = {}, {}
    torch, diffusers = peer("torch"), peer("diffusers")
    if torch and diffusers:
        settings = as_settings(sizes, compute=("attention", "dtype"))
        other = diffusers.UNet2DConditionModel(**settings).eval()
        tensors = to_torch(names(linear=False), params)
        state = {k: torch.tensor(np.array(v)) for k, v in tensors.items()}
        other.load_state_dict(state)
        both = torch.tensor(np.concatenate([without, text]))
        latent = torch.tensor(noise).permute(0, 3, 1, 2)
        said = schedule.to_dict()

        @torch.no_grad()
        def loop() -> Any:
            solver = diffusers.DDIMScheduler.from_config(said)
            solver.set_timesteps(config.steps)
            x = latent
            for time in solver.timesteps:
                answers = other(torch.cat([x, x]), time, both).sample.chunk(2)
                answer = answers[0] + 3.0 * (answers[1] - answers[0])
                x = solver.step(answer, time, x).prev_sample
            return x

        theirs["diffusers"] = loop
        found = np.asarray(ours(params, noise, text)).transpose(0, 3, 1, 2)
        gaps["diffusers, latents"] = float(np.abs(found - loop().numpy()).max())
    about = f"{b} films of latents {config.side}, {config.steps} steps, guidance"
    work = lambda: jax.block_until_ready(ours(params, noise, text))  # noqa: E731
    return Task(about, work, theirs, gaps, amount=b, unit="films")


def films(config: DiffusionBenchConfig) -> Task:
    """Tokens of reports to films, as a generator makes a group of them."""
    if config.networks == "stable-diffusion":
        unet = UNetConfig(
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        text = ClipTextConfig(
            hidden_size=1024,
            num_hidden_layers=23,
            num_attention_heads=16,
            intermediate_size=4096,
            hidden_act="gelu",
        )
        networks = Networks(unet, AutoencoderConfig(), text)
    else:
        tokens, wide = config.text
        text = ClipTextConfig(
            vocab_size=100,
            hidden_size=wide,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=2 * wide,
            max_position_embeddings=tokens,
        )
        decoder = AutoencoderConfig(
            block_out_channels=config.widths, layers_per_block=1, norm_num_groups=8
        )
        networks = Networks(small(config), decoder, text)
    networks = networks.with_dtype(config.dtype)
    params = jax.jit(networks.init)(jax.random.key(config.seed))
    how = SamplingConfig(steps=config.steps, group=config.batch_size)
    make = jax.jit(functools.partial(films_of, networks, how))
    rng = np.random.default_rng(config.seed)
    b = config.batch_size
    ids = rng.integers(1, 99, (b + 1, networks.max_length)).astype(np.int32)
    given = jax.device_put((ids[:b], np.arange(b, dtype=np.int32), ids[b:]))

    def work() -> Any:
        return jax.block_until_ready(make(params, jax.random.key(0), *given))

    about = f"{b} films of {networks.image_size} pixels, {config.steps} steps"
    return Task(about, work, {}, {}, amount=b, unit="films")


def frechet(config: DiffusionBenchConfig) -> Task:
    """Distance of two sets of vectors."""
    rng = np.random.default_rng(config.seed)
    n, d = config.vectors, config.features
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    real, made = (rng.normal(size=(n, d)) @ mix + 0.1 * i for i in range(2))

    def root() -> float:
        one, other = (np.cov(x, rowvar=False) for x in (real, made))
        common: Any = linalg.sqrtm(one @ other)
        apart = ((real.mean(0) - made.mean(0)) ** 2).sum()
        traces = np.trace(one) + np.trace(other) - 2 * np.trace(common.real)
        return float(apart + traces)

    ours, theirs = frechet_distance(real, made), root()
    gaps = {"SciPy, distance": abs(ours - theirs) / theirs}
    about = f"Fréchet distance, {n} vectors of {d} features"
    return Task(about, lambda: frechet_distance(real, made), {"SciPy": root}, gaps)
