"""Residual networks agree with PyTorch: values, statistics, gradients, both ways."""

import copy

import jax
import jax.numpy as jnp
import pytest

from medjax.nn.resnet import RESNETS, ResNet
from medjax.weights import from_torch, to_torch
from tests.nn.small_resnets import SMALL, evaluated, images, trained
from tests.nn.variables import random_variables

torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")

from tests.nn.torch_parity import (  # noqa: E402
    TOLERANCE,
    build,
    channels_first,
    channels_last,
    close,
    load_strict,
    relative_error,
    state,
)
from tests.nn.torch_resnet import TorchResNet  # noqa: E402


def imported(config, torch_net):
    template = jax.eval_shape(ResNet(config).init, jax.random.key(0), images((64, 64)))
    return from_torch(state(torch_net), "resnet", template)


def agree(ours, theirs):
    maps, pooled = theirs
    assert all(close(a, channels_last(b)) for a, b in zip(ours.maps, maps, strict=True))
    assert close(ours.pooled, pooled)


@pytest.mark.parametrize("size", [(64, 64), (65, 75), (66, 63)], ids=str)
@pytest.mark.parametrize("kind", SMALL)
def test_evaluation_agrees_for_even_and_odd_sizes(kind, size):
    config = SMALL[kind]
    torch_net = build(TorchResNet, config).eval()
    x = images(size)
    variables = imported(config, torch_net)
    agree(evaluated(config, variables, x), torch_net(channels_first(x)))


def test_a_training_step_agrees_in_output_statistics_and_gradient():
    config, x = SMALL["bottleneck"], images((48, 48), batch=4)
    torch_net = build(TorchResNet, config).train()
    variables = imported(config, torch_net)

    maps, pooled = torch_net(channels_first(x))
    (pooled.square().sum() + maps[1].square().mean()).backward()

    def loss(params):
        out, updated = trained(ResNet(config), {**variables, "params": params}, x)
        cost = jnp.sum(out.pooled**2) + jnp.mean(out.maps[1] ** 2)
        return cost, (out, updated)

    gradient, (out, updated) = jax.jit(jax.grad(loss, has_aux=True))(
        variables["params"]
    )
    agree(out, (maps, pooled))
    after = to_torch("resnet", {"params": variables["params"], **updated})
    named = to_torch("resnet", {"params": gradient})
    for name, value in torch_net.state_dict().items():
        if "running" in name:
            assert close(after[name], value), name
    for name, parameter in torch_net.named_parameters():
        assert close(named[name], parameter.grad), name


def test_an_exported_tower_loads_strictly_and_agrees():
    config, x = SMALL["bottleneck"], images((64, 64))
    variables = random_variables(ResNet(config), x)
    torch_net = TorchResNet(config).eval()
    load_strict(torch_net, to_torch("resnet", variables))
    agree(evaluated(config, variables, x), torch_net(channels_first(x)))


def test_resnet50_agrees_in_evaluation():
    config, x = RESNETS["resnet50"], images((64, 64), batch=2)
    torch_net = build(TorchResNet, config).eval()
    variables = imported(config, torch_net)
    with torch.no_grad():
        agree(evaluated(config, variables, x), torch_net(channels_first(x)))


def test_resnet50_in_training_is_as_exact_as_pytorch():
    """Fifty batch norms over few values each amplify the last bit of float32.

    PyTorch in float32 is itself about 1e-4 away from PyTorch in float64; so that is
    what both are compared with.
    """
    config, x = RESNETS["resnet50"], images((64, 64), batch=4)
    torch_net = build(TorchResNet, config).train()
    variables = imported(config, torch_net)
    ours, updated = jax.jit(lambda v: trained(ResNet(config), v, x))(variables)
    with torch.no_grad():
        exact_net = copy.deepcopy(torch_net).double()
        exact, exact_pooled = exact_net(channels_first(x).double())
        theirs, pooled = torch_net(channels_first(x))

    def as_exact(ours, theirs, exact):
        bound = max(TOLERANCE, 1.5 * relative_error(theirs, exact))
        return relative_error(ours, exact) < bound

    for a, b, c in zip(ours.maps, theirs, exact, strict=True):
        assert as_exact(a, channels_last(b), channels_last(c))
    assert as_exact(ours.pooled, pooled, exact_pooled)
    after = to_torch("resnet", {**variables, **updated})
    for name, value in exact_net.state_dict().items():
        if "running" in name:
            assert close(after[name], value), name
