"""The three U-Net flavours against their definitions written in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn import unet

FLAVOURS = {
    "fastmri": unet.fastmri(chans=4, pools=2, out_channels=2),
    "basic": unet.basic(features=(4, 6, 8, 5), out_channels=2),
    "bilinear": unet.bilinear(widths=(4, 6, 8), out_channels=2),
}


def random_variables(module, *args, seed=0):
    """Numbers of the right shapes, drawn without compiling an initialisation."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    draw = {"var": lambda s: rng.uniform(0.5, 2.0, s)}

    def leaf(path, s):
        values = draw.get(path[-1].key, lambda s: 0.4 * rng.normal(size=s))(s.shape)
        return jnp.asarray(values, s.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def torch_unet(torch, config, variables, x):
    """The same network from its definition; evaluation mode."""
    f = torch.nn.functional

    def tensor(a):
        return torch.tensor(np.asarray(a))

    def conv(p, z, padding):
        weight = tensor(p["kernel"]).permute(3, 2, 0, 1)
        return f.conv2d(
            z, weight, tensor(p["bias"]) if "bias" in p else None, 1, padding
        )

    def norm_act(p, stats, z):
        if config.norm == "batch":
            mean, var = tensor(stats["norm"]["mean"]), tensor(stats["norm"]["var"])
            scale, bias = tensor(p["norm"]["scale"]), tensor(p["norm"]["bias"])
            z = f.batch_norm(z, mean, var, scale, bias)
        elif config.norm == "instance_affine":
            scale, bias = tensor(p["norm"]["scale"]), tensor(p["norm"]["bias"])
            z = f.instance_norm(z, weight=scale, bias=bias)
        else:
            z = f.instance_norm(z)
        return f.leaky_relu(z, config.slope)

    def block(p, stats, z):
        for i in (0, 1):
            z = conv(p[f"conv_{i}"], z, 1)
            z = norm_act(p.get(f"norm_{i}", {}), stats.get(f"norm_{i}"), z)
        return z

    params, stats = variables["params"], variables.get("batch_stats", {})
    levels = len(config.widths)
    skips, z = [], x
    for i in range(levels):
        if i:
            pool = f.max_pool2d if config.pool == "max" else f.avg_pool2d
            z = pool(z, 2)
        z = block(params[f"down_{i}"], stats.get(f"down_{i}", {}), z)
        skips.append(z)
    for i, skip in enumerate(skips[-2::-1]):
        p, s = params[f"up_{i}"], stats.get(f"up_{i}", {})
        if config.up == "bilinear":
            z = f.interpolate(z, scale_factor=2, mode="bilinear", align_corners=True)
        else:
            # Flipped: a transposed convolution runs over its kernel backwards in JAX.
            weight = tensor(np.asarray(p["up"]["kernel"])[::-1, ::-1].copy())
            bias = tensor(p["up"]["bias"]) if "bias" in p["up"] else None
            z = f.conv_transpose2d(z, weight.permute(2, 3, 0, 1), bias, 2)
        if config.up == "transpose_block":
            z = f.leaky_relu(f.instance_norm(z), config.slope)
        mode = {"edge": "replicate"}.get(config.pad, config.pad)
        short = [skip.shape[k] - z.shape[k] for k in (3, 2)]
        z = f.pad(z, (0, short[0], 0, short[1]), mode=mode)
        z = torch.cat([skip, z] if config.skip_first else [z, skip], 1)
        z = block(p["block"], s.get("block", {}), z)
    return conv(params["head"], z, 0)


@pytest.mark.parametrize("name", FLAVOURS)
@pytest.mark.parametrize("size", [(12, 16), (13, 11)])
def test_unet_equals_its_definition_in_torch(name, size):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    config = FLAVOURS[name]
    net = unet.UNet(config)
    x = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    variables = random_variables(net, jnp.asarray(x))
    ours = jax.jit(net.apply)(variables, jnp.asarray(x))
    theirs = torch_unet(torch, config, variables, torch.tensor(x).permute(0, 3, 1, 2))
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=2e-4)


def test_parameter_counts_of_the_published_networks():
    def count(config, channels):
        x = jax.ShapeDtypeStruct((1, 16, 16, channels), jnp.float32)
        shapes = jax.eval_shape(unet.UNet(config).init, jax.random.key(0), x)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))

    assert count(unet.fastmri(chans=18, pools=4, out_channels=2), 2) == 2_454_338
    reference = unet.basic(features=(32, 32, 64, 128, 256, 32), out_channels=18)
    assert count(reference, 18) == 1_983_890


def test_upsampling_keeps_corners_and_lines():
    row = jnp.arange(3.0)[None, :, None, None] * jnp.ones((1, 3, 4, 1))
    up = unet.upsample_bilinear(row)
    assert up.shape == (1, 6, 8, 1)
    np.testing.assert_allclose(up[0, :, 5, 0], np.linspace(0, 2, 6), atol=1e-6)
    single = unet.upsample_bilinear(jnp.full((1, 1, 1, 1), 7.0))
    np.testing.assert_allclose(single, 7.0)


def test_bfloat16_network_gives_float32_near_the_float32_result():
    config = FLAVOURS["fastmri"]
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 8, 8, 3)), jnp.float32)
    variables = random_variables(unet.UNet(config), x)
    full = jax.jit(unet.UNet(config).apply)(variables, x)
    half = jax.jit(unet.UNet(config, jnp.bfloat16).apply)(variables, x)
    assert half.dtype == jnp.float32
    assert float(jnp.linalg.norm(half - full) / jnp.linalg.norm(full)) < 0.05


def test_too_small_images_and_too_few_levels_are_refused():
    net = unet.UNet(FLAVOURS["fastmri"])
    with pytest.raises(ValueError, match="expected 4 pixels at least"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 3, 8, 1)))
    with pytest.raises(ValueError, match="two levels at least"):
        net = unet.UNet(unet.UNetConfig((4,), 1))
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_its_batch_norm_trains_as_every_other_of_the_house():
    """The running variance is the unbiased one, and half precision is not inside."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 4)) + 3, "float32")
    module = unet.NormActivation(FLAVOURS["bilinear"], jnp.bfloat16)
    variables = module.init(jax.random.key(0), x, train=False)
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    stats, flat = updated["batch_stats"]["norm"], np.asarray(x).reshape(-1, 4)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(stats["mean"], 0.1 * flat.mean(0), rtol=1e-5)
