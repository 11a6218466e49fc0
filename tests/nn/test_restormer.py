"""Restormer against its definition written in PyTorch, and its pixel shuffles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.restormer import (
    Restormer,
    RestormerConfig,
    pixel_shuffle,
    pixel_unshuffle,
)

TINY = RestormerConfig(
    3, widths=(2, 4, 8, 16), blocks=(2, 1, 1, 1), heads=(1, 2, 2, 4), refinement=1
)


def torch_restormer(torch, config, params, x):
    f = torch.nn.functional

    def tensor(a):
        return torch.tensor(np.array(a))

    def conv(p, z, groups=1):
        weight = tensor(p["kernel"]).permute(3, 2, 0, 1)
        return f.conv2d(z, weight, None, 1, weight.shape[-1] // 2, groups=groups)

    def layer_norm(p, z):
        z = z.permute(0, 2, 3, 1)
        z = f.layer_norm(z, z.shape[-1:], tensor(p["scale"]), tensor(p["bias"]))
        return z.permute(0, 3, 1, 2)

    def attention(p, heads, z):
        b, c, h, w = z.shape
        qkv = conv(p["qkv_depthwise"], conv(p["qkv"], z), groups=3 * c)
        q, k, v = (a.reshape(b, heads, c // heads, h * w) for a in qkv.chunk(3, 1))
        q, k = f.normalize(q, dim=-1), f.normalize(k, dim=-1)
        weights = torch.softmax(q @ k.mT * tensor(p["temperature"]), dim=-1)
        return conv(p["project"], (weights @ v).reshape(b, c, h, w))

    def feed_forward(p, z):
        z = conv(p["expand"], z)
        gate, value = conv(p["depthwise"], z, groups=z.shape[1]).chunk(2, 1)
        return conv(p["project"], f.gelu(gate) * value)

    def blocks(p, heads, z):
        stacked = p["blocks"]
        for i in range(stacked["norm_0"]["scale"].shape[0]):
            q = jax.tree.map(lambda a, i=i: np.asarray(a)[i], stacked)
            z = z + attention(q["attention"], heads, layer_norm(q["norm_0"], z))
            z = z + feed_forward(q["feed_forward"], layer_norm(q["norm_1"], z))
        return z

    heads = config.heads
    features = [blocks(params["encoders_0"], heads[0], conv(params["embed"], x))]
    for i in (0, 1, 2):
        z = f.pixel_unshuffle(conv(params[f"down_{i}"], features[-1]), 2)
        features.append(blocks(params[f"encoders_{i + 1}"], heads[i + 1], z))
    z = features[-1]
    for i, level in enumerate((3, 2, 1)):
        z = f.pixel_shuffle(conv(params[f"up_{level}"], z), 2)
        z = torch.cat([z, features[level - 1]], 1)
        if level > 1:
            z = conv(params[f"reduce_{level - 1}"], z)
        z = blocks(params[f"decoders_{i}"], heads[level - 1], z)
    z = blocks(params["refinement"], heads[0], z)
    return x + conv(params["head"], z)


def test_restormer_equals_its_definition_in_torch():
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 16, 3)).astype(np.float32)
    net = Restormer(TINY)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.asarray(x))
    variables = jax.tree.map(
        lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes
    )
    ours = jax.jit(net.apply)(variables, jnp.asarray(x))
    theirs = torch_restormer(
        torch, TINY, variables["params"], torch.tensor(x).permute(0, 3, 1, 2)
    ).permute(0, 2, 3, 1)
    scale = float(theirs.abs().max())
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-5)


def test_pixel_shuffle_undoes_unshuffle():
    x = jnp.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    squeezed = pixel_unshuffle(x)
    assert squeezed.shape == (2, 2, 3, 12)
    # The four pixels of a square, row by row, of channel 1.
    np.testing.assert_array_equal(squeezed[0, 1, 2, 4:8], x[0, 2:4, 4:6, 1].ravel())
    np.testing.assert_array_equal(pixel_shuffle(squeezed), x)


def test_zero_head_is_the_identity_and_bad_shapes_are_refused():
    net = Restormer(TINY, head_init=jax.nn.initializers.zeros)
    x = jnp.ones((1, 8, 8, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    assert shapes["params"]["encoders_0"]["blocks"]["norm_0"]["scale"].shape == (2, 2)
    with pytest.raises(ValueError, match="multiples of 8"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 8, 12, 3)))
    wrong = RestormerConfig(3, widths=(2, 4, 8, 12))
    with pytest.raises(ValueError, match="each twice the one before"):
        jax.eval_shape(Restormer(wrong).init, jax.random.key(0), x)


def test_gradients_are_finite_even_for_an_empty_image():
    """Maps of zeros have no direction; normalising them must not make NaN."""
    plan = RestormerConfig(
        1, widths=(2, 4, 8, 16), blocks=(1, 1, 1, 1), heads=(1, 1, 1, 1), refinement=1
    )
    net = Restormer(plan)
    x = (
        jnp.zeros((2, 8, 8, 1))
        .at[1]
        .set(jax.random.normal(jax.random.key(0), (8, 8, 1)))
    )
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes
    )
    haste = {"xla_backend_optimization_level": 0}

    @functools.partial(jax.jit, compiler_options=haste)
    @jax.grad
    def gradient(variables):
        return jnp.mean(net.apply(variables, x) ** 2)

    for path, g in jax.tree_util.tree_leaves_with_path(gradient(variables)):
        assert np.isfinite(g).all() and np.any(g != 0), path
