"""Tiny pipelines of torch ``diffusers`` with random weights, for parity.

Needs torch and ``diffusers`` (extras: parity, peers); the stored arrays need neither.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from tests.vlp.clip_files import clip_tokenizer
from tests.vlp.diffusion_arrays import BETAS

BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "sample_size": 4,
}
UNETS = {
    "one": {**BLOCKS, "attention_head_dim": 2},
    "two": {**BLOCKS, "attention_head_dim": (2, 4), "use_linear_projection": True},
}
"""As Stable Diffusion 1.x and 2.x: one number of heads and convolutions of a pixel,
a number for each level and matrices."""
AUTOENCODER = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 8,
}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "bos_token_id": 38,
    "eos_token_id": 39,
    "pad_token_id": 39,
}
SCHEDULE = {
    **BETAS,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def rounded(model: torch.nn.Module) -> Any:
    """The network with random weights that float16 can hold."""
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        noise = 0.3 * torch.randn(tensor.shape, generator=generator)
        start = noise if tensor.ndim > 1 else 1 + noise
        tensor.copy_(start.half() if tensor.is_floating_point() else tensor)
    return model.eval()


def unet(kind: str) -> UNet2DConditionModel:
    return rounded(UNet2DConditionModel(**UNETS[kind]))


def autoencoder() -> AutoencoderKL:
    return rounded(AutoencoderKL(**AUTOENCODER))


def text(activation: str = "quick_gelu") -> CLIPTextModel:
    return rounded(CLIPTextModel(CLIPTextConfig(**TEXT, hidden_act=activation)))


def scheduler(name: str, **settings: str) -> Any:
    kinds = {"ddim": DDIMScheduler, "dpmpp2m": DPMSolverMultistepScheduler}
    said = {**SCHEDULE, **settings}
    if name == "dpmpp2m":
        del said["clip_sample"], said["set_alpha_to_one"]
    return kinds[name](**said)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """What a scheduler of theirs makes and keeps in float32 is float64 in here."""
    with (
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(np, "float32", np.float64),
    ):
        yield


def moves(name: str, steps: int, **settings: str) -> np.ndarray:
    """What each step of theirs does, [s, 4], as `diffusion_arrays.moves` has it.

    A step is linear in what it knows, so it is asked with one thing at a time.

    Args:
      name: of the sampler.
      steps: asked for; theirs may take one more.
      settings: of the schedule, beside `SCHEDULE`.
    """
    latent, answer, before = torch.eye(3, dtype=torch.float64)
    with in_float64():
        solver = scheduler(name, **settings)
        solver.set_timesteps(steps)
        rows = []
        for time in solver.timesteps:
            if name == "dpmpp2m":
                solver.model_outputs[-1] = before
            found = solver.step(answer, int(time), latent).prev_sample
            rows.append([float(time), *found.tolist()])
    return np.asarray(rows)


def answer(latent: Any, step: Any, xp: Any) -> Any:
    """A stand-in for a network: any function of latent and step that is not linear."""
    return xp.tanh(0.7 * latent) * (0.4 + 0.6 * step / 1000.0)


def trajectory(solver: Any, latent: torch.Tensor, steps: int) -> torch.Tensor:
    """Where a sampler of theirs ends."""
    solver.set_timesteps(steps)
    for step in solver.timesteps:
        said = answer(latent, step, torch)
        latent = solver.step(said, step, latent).prev_sample
    return latent


def first(array: np.ndarray) -> torch.Tensor:
    """Channels first."""
    return torch.tensor(np.asarray(array)).permute(0, 3, 1, 2)


def last(tensor: torch.Tensor) -> np.ndarray:
    """Channels last."""
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def pipeline(folder: Path, kind: str = "one", prediction: str = "epsilon") -> Any:
    """A whole Stable Diffusion of theirs, with its tokenizer."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    clip_tokenizer(folder)
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text(),
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        unet=unet(kind),
        scheduler=scheduler("ddim", prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
