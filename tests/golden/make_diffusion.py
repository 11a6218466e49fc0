"""Writes diffusion.npz: what torch ``diffusers`` makes of tiny random networks.

Needs PyTorch and ``diffusers`` (0.42 wrote the committed file), which the tests that
read it do not. Weights and inputs are exact in float16. Run in the repository's root as
``python -m tests.golden.make_diffusion``.
"""

import json
from pathlib import Path

import numpy as np
import torch

from tests.vlp import torch_diffusion as theirs

Arrays = dict[str, np.ndarray]


def stored(model: torch.nn.Module, config: dict, name: str) -> Arrays:
    arrays = {f"{name}/config": np.array(json.dumps(config))}
    for key, tensor in model.state_dict().items():
        arrays[f"{name}/weights/{key}"] = tensor.numpy().astype(np.float16)
    return arrays


@torch.no_grad()
def diffusion() -> Arrays:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float16).astype(np.float32)

    arrays = {"latent": draw(2, 4, 4, 4), "states": draw(2, 5, 12)}
    arrays |= {"image": draw(1, 8, 8, 3), "steps": np.array([7, 901])}
    arrays["ids"] = rng.integers(0, 40, (2, 9))
    latent, states = theirs.first(arrays["latent"]), torch.tensor(arrays["states"])
    for kind in theirs.UNETS:
        model = theirs.unet(kind)
        arrays |= stored(model, dict(model.config), f"unet {kind}")
        said = model(latent, torch.tensor(arrays["steps"]), states).sample
        arrays[f"unet {kind}/out"] = theirs.last(said)
    model = theirs.autoencoder()
    arrays |= stored(model, dict(model.config), "autoencoder")
    moments = model.encode(theirs.first(arrays["image"])).latent_dist.parameters
    arrays["autoencoder/moments"] = theirs.last(moments)
    arrays["autoencoder/decoded"] = theirs.last(model.decode(latent).sample)
    for activation in ("quick_gelu", "gelu"):
        model = theirs.text(activation)
        name = f"text {activation}"
        arrays |= stored(model, model.config.to_dict(), name)
        out = model(torch.tensor(arrays["ids"])).last_hidden_state
        arrays[f"{name}/out"] = out.numpy()
    for sampler in ("ddim", "dpmpp2m"):
        for prediction in ("epsilon", "v_prediction"):
            solver = theirs.scheduler(sampler, prediction_type=prediction)
            found = theirs.trajectory(solver, latent, 20)
            arrays[f"{sampler} {prediction}"] = theirs.last(found)
    return arrays


if __name__ == "__main__":
    path = Path(__file__).with_name("diffusion.npz")
    np.savez_compressed(path, **diffusion())
