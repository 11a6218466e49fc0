"""PromptMR: its U-Net from the definition, its windows, and gradients."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from medjax.mri import promptmr
from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.published import read_published
from medjax.mri.sense import rss
from medjax.weights import from_torch, part, to_torch
from medjax.weights.reconstruction import prompt_unet
from medjax.weights.reconstruction import promptmr as promptmr_names

# Compiling is what these tests wait for.
HASTE = {"xla_backend_optimization_level": 0}
NET = promptmr.PromptUNetConfig(
    features=4,
    widths=(4, 6, 8),
    prompt_widths=(2, 3, 4),
    prompt_count=2,
    prompt_sizes=(5, 4, 3),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1, 1),
    skip_blocks=1,
    bottleneck_blocks=1,
)
SMALL = promptmr.PromptMRConfig(cascades=2, window=3, network=NET, sens_network=NET)


def random_variables(shapes, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(path, s):
        fan_in = np.prod(s.shape[:-1]) if len(s.shape) > 2 else 4
        if path[-1].key == "patterns":
            return jnp.asarray(rng.uniform(size=s.shape), s.dtype)
        return jnp.asarray(rng.normal(size=s.shape) / fan_in**0.5, s.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def torch_prompt_unet(torch, tensors, x):
    """The published network's definition, on tensors under its own names."""
    f = torch.nn.functional
    state = {name: torch.tensor(np.array(value)) for name, value in tensors.items()}

    def conv(name, z, stride=1):
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        return f.conv2d(z, weight, bias, stride, weight.shape[-1] // 2)

    def block(name, z):
        y = f.prelu(conv(f"{name}.body.0", z), state[f"{name}.body.1.weight"])
        y = conv(f"{name}.body.2", y)
        weights = conv(f"{name}.CA.conv_du.0", f.adaptive_avg_pool2d(y, 1)).relu()
        return z + y * conv(f"{name}.CA.conv_du.2", weights).sigmoid()

    def prompt(name, z):
        logits = f.linear(
            z.mean((2, 3)),
            state[f"{name}.linear_layer.weight"],
            state[f"{name}.linear_layer.bias"],
        )
        patterns = state[f"{name}.prompt_param"][0]
        mixed = torch.einsum("bk,kchw->bchw", logits.softmax(1), patterns)
        mixed = f.interpolate(mixed, z.shape[2:], mode="bilinear")
        return conv(f"{name}.dec_conv3x3", mixed)

    z, skips = conv("feat_extract", x), []
    for i in (1, 2, 3):
        z = block(f"enc_level{i}.encoder.0", z)
        skips.append(z)
        z = conv(f"enc_level{i}.down", z, stride=2)
    z = block("bottleneck.0", z)
    for i in (3, 2, 1):
        z = torch.cat([z, prompt(f"prompt_level{i}", z)], 1)
        z = conv(f"dec_level{i}.reduce", block(f"dec_level{i}.fuse.0", z))
        z = f.interpolate(z, scale_factor=2, mode="bilinear")
        z = conv(f"dec_level{i}.up.1", z)
        skip = block(f"skip_attn{i}.skip_attn.0", skips[i - 1])
        z = block(f"dec_level{i}.ca", z + skip)
    return conv("conv_last", z)


@pytest.mark.parametrize("turned", [False, True])
def test_prompt_unet_equals_its_definition_in_torch(turned):
    """Through the name table, which is read back to the same weights."""
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    x = np.random.default_rng(1).normal(size=(2, 16, 24, 6)).astype(np.float32)
    net = promptmr.PromptUNet(NET, 6)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.asarray(x))
    variables = random_variables(shapes)
    ours = jax.jit(net.apply)(variables, jnp.asarray(x))
    table = prompt_unet(turned=turned)
    tensors = to_torch(table, variables)
    image = torch.tensor(x).permute(0, 3, 2, 1) if turned else None
    image = torch.tensor(x).permute(0, 3, 1, 2) if image is None else image
    theirs = torch_prompt_unet(torch, tensors, image)
    theirs = theirs.permute(0, 3, 2, 1) if turned else theirs.permute(0, 2, 3, 1)
    scale = float(theirs.abs().max())
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-5)
    again = from_torch(tensors, table, shapes)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_published_weights_tell_their_sizes(tmp_path):
    """A whole network under its own names, as Lightning saves it."""
    batch = batch_of()
    system = promptmr.promptmr_system(SMALL)
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    variables = random_variables(shapes)
    tensors = to_torch(promptmr_names(), variables)
    one = "cascades.1.model.unet.enc_level1.down.weight"
    kernel = variables["params"]["cascades"]["network"]["unet"]["down_0"]["kernel"][1]
    np.testing.assert_array_equal(tensors[one], np.transpose(kernel, (3, 2, 1, 0)))
    wrapped = {f"promptmr.{name}": tensor for name, tensor in tensors.items()}
    wrapped["loss.w"] = np.ones((1, 1, 7, 7), np.float32)
    save_file(wrapped, tmp_path / "p.safetensors")
    found = read_published(tmp_path / "p.safetensors")
    assert found.config == SMALL
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
    # A block alone, by the names it has in the whole.
    block = part(tensors, "cascades.1.model.unet.")
    net = promptmr.PromptUNet(NET, 6)
    own = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 16, 16, 6)))
    single = from_torch(block, prompt_unet(), own)["params"]
    whole = variables["params"]["cascades"]["network"]["unet"]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[1]), single, whole)
    del wrapped["promptmr.cascades.1.dc_weight"]
    save_file(wrapped, tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match=r"p\.safetensors: .*cascades\.1\."):
        read_published(tmp_path / "p.safetensors")
    save_file({"fc.weight": np.ones(3, "f4")}, tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="expected fastMRI's U-Net or VarNet, or Prom"):
        read_published(tmp_path / "p.safetensors")


def batch_of(b=1, t=3, c=2, h=10, w=8):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(b, t, c, h, w)) + 1j * rng.normal(size=(b, t, c, h, w))
    row = np.arange(h)[None, None, :, None]
    mask = np.broadcast_to((row % 3 == 0) | (abs(row - 5) < 2), (b, 1, h, 1))
    return {
        "kspace": fft2c(jnp.asarray(x, jnp.complex64)),
        "mask": jnp.asarray(mask),
    }


def test_every_parameter_gets_a_finite_gradient():
    system, batch = promptmr.promptmr_system(SMALL), batch_of()
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    variables = random_variables(shapes)
    step = jax.jit(
        jax.value_and_grad(system.loss, has_aux=True), compiler_options=HASTE
    )
    (value, (metrics, updated)), grads = step(variables, batch, jax.random.key(1))
    assert np.isfinite(value) and set(metrics) == {"nmse", "ssim"} and not updated
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(g).all(), name
        # The rectifier between squeeze and excite may be shut for all inputs.
        assert np.any(g != 0) or "squeeze" in name or "excite" in name, name


def test_full_sampling_with_silent_networks_returns_the_data():
    batch = batch_of()
    batch["mask"] = jnp.ones_like(batch["mask"])
    # Silent networks still give back the mean that was taken off: let it be zero.
    images = ifft2c(batch["kspace"])
    images -= jnp.mean(images, axis=(-2, -1), keepdims=True)
    batch["kspace"] = fft2c(images)
    system = promptmr.promptmr_system(SMALL)
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    variables["params"]["cascades"]["dc_weight"] = jnp.ones((2, 1))
    out = jax.jit(system.reconstruct, compiler_options=HASTE)(variables, batch)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, rss(images), atol=1e-5)


def test_windows_put_the_frame_in_the_middle():
    cyclic = promptmr.window_indices(9, 5, "circular")
    np.testing.assert_array_equal(cyclic[0], [7, 8, 0, 1, 2])
    np.testing.assert_array_equal(cyclic[:, 2], np.arange(9))
    # [a, a, b, c, c], as the published preparation pads the three frames of T2.
    repeated = promptmr.window_indices(3, 5, "repeat")
    np.testing.assert_array_equal(repeated[1], [0, 0, 1, 2, 2])
    with pytest.raises(ValueError, match="window is 4"):
        promptmr.window_indices(9, 4, "circular")


def test_published_size_and_fixed_prompts():
    batch = {
        "kspace": jax.ShapeDtypeStruct((1, 5, 2, 16, 16), jnp.complex64),
        "mask": jax.ShapeDtypeStruct((1, 1, 16, 1), jnp.bool_),
    }
    system = promptmr.promptmr_system(promptmr.CONFIGS["repo"])
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(total / 82e6 - 1) < 0.01  # "82 M" in the paper's table
    prompt = promptmr.Prompt(dataclasses.replace(NET, learn_prompts=False), 0)
    x = jnp.ones((1, 8, 8, 4))
    params = random_variables(jax.eval_shape(prompt.init, jax.random.key(0), x))
    grads = jax.grad(lambda v: jnp.sum(prompt.apply(v, x) ** 2))(params)["params"]
    assert np.all(grads["patterns"] == 0) and np.any(grads["mixer"]["kernel"] != 0)


def test_wrong_use_is_refused():
    make = inspect.unwrap(promptmr.promptmr_system)
    with pytest.raises(ValueError, match="cascades is 0"):
        make(dataclasses.replace(SMALL, cascades=0))
    with pytest.raises(ValueError, match="window is 2"):
        make(dataclasses.replace(SMALL, window=2))
