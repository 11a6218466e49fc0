"""UperNet: PyTorch's numbers from the same weights, and what the whole thing is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.vlp.augment import AugmentConfig
from medjax.vlp.place_system import recipe
from medjax.vlp.segmenter import SegmenterConfig, benchx_loss, segmenter
from medjax.vlp.towers import ImageTowerConfig
from medjax.vlp.upernet import Pyramid, UperNet, cells

PARITY = "side by side needs the extra: parity"


def random_weights(module, maps, rng):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), maps, train=False))
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32), shapes
    )


def in_training(module, variables, maps):
    apply = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable="batch_stats"))
    return apply(variables, maps)[0]


def channels_first(torch, maps):
    return [torch.tensor(np.asarray(x)).permute(0, 3, 1, 2) for x in maps]


def test_the_head_is_pytorch_s():
    torch = pytest.importorskip("torch", reason=PARITY)
    from tests.vlp import torch_upernet

    rng = np.random.default_rng(0)
    # Of a film of 110 pixels, which halves to sides that no pool divides.
    sizes = ((28, 5), (14, 6), (7, 7), (4, 9))
    maps = [jnp.asarray(rng.normal(size=(2, n, n, c)), jnp.float32) for n, c in sizes]
    module = UperNet(8, dropout=0.0)
    variables = random_weights(module, maps, rng)
    ours = in_training(module, variables, maps)
    theirs = torch_upernet.head(channels_first(torch, maps), variables["params"])
    assert ours.shape == (2, 28, 28)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)
    pooled = torch.nn.functional.adaptive_avg_pool2d(
        torch.tensor(np.asarray(maps[2])).permute(0, 3, 1, 2), 3
    )
    np.testing.assert_allclose(
        cells(maps[2], 3), pooled.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6
    )


def test_the_pyramid_of_a_vit_is_pytorch_s():
    torch = pytest.importorskip("torch", reason=PARITY)
    from tests.vlp import torch_upernet

    rng = np.random.default_rng(1)
    maps = [jnp.asarray(rng.normal(size=(2, 4, 4, 6)), jnp.float32) for _ in range(4)]
    variables = random_weights(Pyramid(), maps, rng)
    ours = in_training(Pyramid(), variables, maps)
    theirs = torch_upernet.pyramid(channels_first(torch, maps), variables["params"])
    assert [x.shape[1] for x in ours] == [16, 8, 4, 2]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


def test_the_loss_and_its_gradient_are_pytorch_s():
    torch = pytest.importorskip("torch", reason=PARITY)
    from tests.vlp import torch_upernet

    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3, 5, 4)).astype(np.float32)
    mask = rng.random((3, 5, 4)) < 0.4
    mask[1] = False
    ours, gradient = jax.value_and_grad(benchx_loss)(
        jnp.asarray(logits), jnp.asarray(mask)
    )
    theirs = torch.tensor(logits, requires_grad=True)
    there = torch_upernet.loss(theirs, torch.tensor(mask, dtype=torch.float32))
    there.backward()
    np.testing.assert_allclose(ours, there.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["resnet50", "vit_b16"])
def test_every_tower_carries_it(architecture):
    """Sizes of mmsegmentation's settings, of 512 pixels."""
    still = AugmentConfig(size=512)
    image = ImageTowerConfig(architecture)
    config = SegmenterConfig(still, False, head="upernet", widths=(512,))
    system = segmenter(config, image)
    shapes = jax.eval_shape(system.init, jax.random.key(0), {})
    films = jnp.zeros((2, 512, 512), jnp.uint8)
    assert jax.eval_shape(system.find, shapes, films).shape == (2, 512, 512)
    decoder = shapes["params"]["decoder"]
    top = 2048 if architecture == "resnet50" else 768
    assert decoder["context"]["conv"]["kernel"].shape == (3, 3, top + 4 * 512, 512)
    assert decoder["all"]["conv"]["kernel"].shape == (3, 3, 4 * 512, 512)
    shallow = shapes["params"]["shallow"]["conv"]["conv"]["kernel"]
    into = 1024 if architecture == "resnet50" else 768
    assert shallow.shape == (3, 3, into, 256)


def test_both_heads_learn_on_maps_of_a_vit():
    config = SegmenterConfig(
        recipe(AugmentConfig(size=32, normalise="half"), moves=False, mirrors=True),
        False,
        head="upernet",
        widths=(8,),
    )
    system = segmenter(config, ImageTowerConfig("vit_tiny"))
    rng = np.random.default_rng(3)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (4, 32, 32)), jnp.uint8),
        "mask": jnp.asarray(rng.random((4, 32, 32)) < 0.3),
    }
    variables = jax.jit(system.init)(jax.random.key(0), batch)
    heads = {k: v for k, v in variables["params"].items() if k != "image"}

    @jax.jit
    def of(heads, key):
        def loss(heads):
            params = {**variables["params"], **heads}
            return system.loss({**variables, "params": params}, batch, key)[0]

        return jax.value_and_grad(loss)(heads)

    one, gradients = of(heads, jax.random.key(1))
    other, _ = of(heads, jax.random.key(2))
    assert one != other  # films are mirrored, channels dropped
    for name in ("decoder", "shallow"):
        norms = jax.tree.map(lambda g: float(jnp.abs(g).max()), gradients[name])
        assert all(value > 0 for value in jax.tree.leaves(norms["classify"])), norms


def test_the_shallow_head_is_of_training_alone():
    """What it says changes the loss by 0.4 of its own, and nothing that is found."""
    config = SegmenterConfig(AugmentConfig(size=32), False, head="upernet", widths=(8,))
    system = segmenter(config, ImageTowerConfig("resnet_tiny"))
    batch = {
        "image": jnp.zeros((2, 32, 32), jnp.uint8),
        "mask": jnp.ones((2, 32, 32), bool),
    }
    variables = jax.jit(system.init)(jax.random.key(0), batch)
    other = jax.tree.map(lambda x: x, variables)
    bias = other["params"]["shallow"]["classify"]
    bias["kernel"], bias["bias"] = 0 * bias["kernel"], 0 * bias["bias"] - 2.0
    films = batch["image"]
    found = jax.jit(system.find)
    np.testing.assert_array_equal(found(variables, films), found(other, films))
    more = jax.tree.map(lambda x: x, other)
    more["params"]["shallow"]["classify"]["bias"] += 4.0
    loss = jax.jit(lambda v: system.loss(v, batch, jax.random.key(1)))
    logits = [jnp.full((2, 32, 32), value) for value in (-2.0, 2.0)]
    low, high = (benchx_loss(x, batch["mask"]) for x in logits)
    (one, (_, updated)), (two, _) = loss(other), loss(more)
    np.testing.assert_allclose(one - two, 0.4 * (low - high), rtol=1e-4)
    # Statistics of the tower, which is kept, stay.
    stays, before = (v["batch_stats"]["image"] for v in (updated, variables))
    jax.tree.map(np.testing.assert_array_equal, stays, before)
