"""Vision transformers agree with PyTorch under timm's names, both ways."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from medjax.nn.vit import VITS, ViT, ViTConfig
from medjax.weights import from_torch, to_torch
from tests.nn.variables import random_variables

torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")

from tests.nn.torch_parity import (  # noqa: E402
    build,
    channels_first,
    close,
    load_strict,
    state,
)
from tests.nn.torch_vit import TorchViT  # noqa: E402

SMALL = ViTConfig(width=48, layers=2, heads=4, patch=8, image_size=32)


def images(height, width, batch=2):
    return jax.random.normal(jax.random.key(0), (batch, height, width, 3))


def imported(config, torch_net):
    x = images(config.image_size, config.image_size)
    template = jax.eval_shape(ViT(config).init, jax.random.key(0), x)
    return from_torch(state(torch_net), "vit", template)


def agree(config, variables, torch_net, x):
    ours = jax.jit(ViT(config).apply)(variables, x)
    with torch.no_grad():
        theirs = torch_net(channels_first(x))
    assert close(ours.cls, theirs[:, 0])
    rows, columns = (side // config.patch for side in x.shape[1:3])
    assert ours.tokens.shape == (len(x), rows, columns, config.width)
    assert close(ours.tokens.reshape(len(x), -1, config.width), theirs[:, 1:])


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (24, 16)], ids=str)
def test_an_imported_tower_agrees_also_at_sizes_it_was_not_trained_at(size):
    torch_net = build(TorchViT, SMALL)
    agree(SMALL, imported(SMALL, torch_net), torch_net, images(*size))


def test_an_exported_tower_loads_strictly_and_agrees():
    x = images(32, 32)
    variables = random_variables(ViT(SMALL), x)
    torch_net = TorchViT(SMALL)
    load_strict(torch_net, to_torch("vit", variables))
    agree(SMALL, variables, torch_net, x)


def test_two_layers_of_the_base_width_agree_at_224_pixels():
    config = dataclasses.replace(VITS["vit_b16"], layers=2)
    torch_net = build(TorchViT, config)
    agree(config, imported(config, torch_net), torch_net, images(224, 224, batch=1))


def test_gradients_agree():
    torch_net = build(TorchViT, SMALL)
    variables, x = imported(SMALL, torch_net), images(32, 40)

    @jax.jit
    @jax.grad
    def gradient(variables):
        out = ViT(SMALL).apply(variables, x)
        return jnp.sum(out.cls**2 * jnp.arange(48.0)[None]) + jnp.sum(out.tokens**3)

    y = torch_net(channels_first(x))
    cost = (y[:, 0] ** 2 * torch.arange(48.0)).sum() + (y[:, 1:] ** 3).sum()
    cost.backward()
    named = to_torch("vit", gradient(variables))
    for name, parameter in torch_net.named_parameters():
        assert close(named[name], parameter.grad), name
