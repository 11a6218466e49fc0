"""nnU-Net's network against its authors' (where installed), and a restatement."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.nnunet import NNUNet, NNUNetConfig
from tests.nn.agreement import relative_error
from tests.nn.variables import random_variables

CONFIGS = {
    "thick slices": NNUNetConfig(
        out_channels=3,
        widths=(4, 6, 8),
        kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 1)),
        blocks=(2, 1, 2),
        decoder_blocks=(2, 1),
    ),
    "flat": NNUNetConfig(
        out_channels=2,
        widths=(4, 6),
        kernels=((3, 3), (3, 3)),
        strides=((1, 1), (2, 2)),
        blocks=(1, 2),
        decoder_blocks=(2,),
    ),
    "residual": NNUNetConfig(
        out_channels=2,
        widths=(4, 6, 6),
        kernels=((3, 3), (3, 3), (3, 3)),
        strides=((1, 1), (2, 2), (2, 1)),
        blocks=(1, 2, 1),
        decoder_blocks=(1, 1),
        residual=True,
    ),
}
SIZES = {2: (8, 12), 3: (4, 8, 12)}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")


def their_names(config):
    """Ours to the names of dynamic_network_architectures, module by module."""
    levels = len(config.widths)
    names = {}

    def conv(ours, theirs):
        names[(*ours, "conv")], names[(*ours, "norm")] = (
            f"{theirs}.conv",
            f"{theirs}.norm",
        )

    if config.residual:
        conv(("stem",), "encoder.stem.convs.0")
    for i in range(levels):
        for j in range(config.blocks[i]):
            if not config.residual:
                conv((f"encoder_{i}", f"conv_{j}"), f"encoder.stages.{i}.0.convs.{j}")
                continue
            block = f"encoder.stages.{i}.blocks.{j}"
            ours = (f"encoder_{i}", f"block_{j}")
            conv((*ours, "conv_0"), f"{block}.conv1")
            conv((*ours, "conv_1"), f"{block}.conv2")
            place = int(max(config.strides[i]) > 1)
            conv((*ours, "short"), f"{block}.skip.{place}")
    for i in range(levels - 1):
        s = levels - 2 - i  # theirs count from the bottom
        names[(f"up_{i}",)] = f"decoder.transpconvs.{s}"
        names[(f"heads_{i}",)] = f"decoder.seg_layers.{s}"
        for j in range(config.decoder_blocks[i]):
            conv((f"decoder_{i}", f"conv_{j}"), f"decoder.stages.{s}.convs.{j}")
    return names


def to_torch(torch, config, params):
    """A state dict in their layout; a transposed kernel runs backwards in JAX."""
    names, state = their_names(config), {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *module, kind = [key.key for key in path]
        value = np.asarray(leaf)
        if kind == "kernel" and module[0].startswith("up_"):
            value = np.flip(value, axis=tuple(range(config.rank)))
            value = np.moveaxis(value, (-2, -1), (0, 1))
        elif kind == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
        theirs = "bias" if kind == "bias" else "weight"
        value = torch.tensor(np.ascontiguousarray(value))
        state[f"{names[tuple(module)]}.{theirs}"] = value
    return state


def restated(torch, config, state, x):
    """The network as its papers and its authors' code have it, in plain functions."""
    f = torch.nn.functional
    conv = {2: f.conv2d, 3: f.conv3d}[config.rank]
    up = {2: f.conv_transpose2d, 3: f.conv_transpose3d}[config.rank]
    pool = {2: f.avg_pool2d, 3: f.avg_pool3d}[config.rank]

    def block(name, x, kernel, stride=1, active=True):
        pad = [k // 2 for k in kernel]
        bias = state.get(f"{name}.conv.bias")
        x = conv(x, state[f"{name}.conv.weight"], bias, stride, pad)
        weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
        x = f.instance_norm(x, weight=weight, bias=bias, eps=1e-5)
        return f.leaky_relu(x, 0.01) if active else x

    def residual(name, x, kernel, stride):
        short = pool(x, stride, stride) if max(stride) > 1 else x
        place = f"{name}.skip.{int(max(stride) > 1)}"
        if f"{place}.conv.weight" in state:
            short = block(place, short, (1,) * config.rank, active=False)
        x = block(f"{name}.conv1", x, kernel, stride)
        x = block(f"{name}.conv2", x, kernel, active=False)
        return f.leaky_relu(x + short, 0.01)

    if config.residual:
        x = block("encoder.stem.convs.0", x, config.kernels[0])
    features, levels = [], len(config.widths)
    for i in range(levels):
        for j in range(config.blocks[i]):
            stride = (1,) * config.rank if j else config.strides[i]
            kernel = config.kernels[i]
            if config.residual:
                x = residual(f"encoder.stages.{i}.blocks.{j}", x, kernel, stride)
            else:
                x = block(f"encoder.stages.{i}.0.convs.{j}", x, kernel, stride)
        features.append(x)
    logits = []
    for s, i in enumerate(reversed(range(levels - 1))):
        name = f"decoder.transpconvs.{s}"
        stride = config.strides[i + 1]
        x = up(x, state[f"{name}.weight"], state[f"{name}.bias"], stride)
        x = torch.cat([x, features[i]], 1)
        for j in range(config.decoder_blocks[i]):
            x = block(f"decoder.stages.{s}.convs.{j}", x, config.kernels[i])
        name = f"decoder.seg_layers.{s}"
        logits.append(conv(x, state[f"{name}.weight"], state[f"{name}.bias"]))
    return logits[::-1]


def their_network(torch, config):
    unet = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet", reason="oracle: nnU-Net's"
    )
    nn = torch.nn
    two, flat = config.rank == 2, config.residual
    cls = unet.ResidualEncoderUNet if flat else unet.PlainConvUNet
    return cls(
        2,
        len(config.widths),
        config.widths,
        nn.Conv2d if two else nn.Conv3d,
        config.kernels,
        config.strides,
        config.blocks,
        config.out_channels,
        config.decoder_blocks[::-1],
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if two else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=True,
    )


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    """A network with random weights and what it says of an image."""
    config = CONFIGS[request.param]
    size = SIZES[config.rank]
    x = np.random.default_rng(1).normal(size=(2, *size, 2)).astype(np.float32)
    net = NNUNet(config)
    variables = random_variables(net, jnp.asarray(x))
    levels = jax.jit(lambda v, x: net.apply(v, x, method="levels"))
    return config, x, variables, levels(variables, jnp.asarray(x))


def test_every_level_equals_its_definition_in_torch(case, torch):
    config, x, variables, ours = case
    state = to_torch(torch, config, variables["params"])
    theirs = restated(torch, config, state, torch.tensor(np.moveaxis(x, -1, 1)))
    assert len(ours) == len(theirs) == len(config.widths) - 1
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine, torch.movedim(other, 1, -1)) < 1e-4


def test_every_level_equals_nnunets_own_network(case, torch):
    config, x, variables, ours = case
    model = their_network(torch, config)
    state = to_torch(torch, config, variables["params"])
    # Their modules hold every convolution and norm a second time, in a sequence.
    found = model.load_state_dict(state, strict=False)
    twice = ("all_modules", "decoder.encoder")
    assert not found.unexpected_keys
    assert all(any(word in name for word in twice) for name in found.missing_keys)
    with torch.no_grad():
        theirs = model(torch.tensor(np.moveaxis(x, -1, 1)))
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine, torch.movedim(other, 1, -1)) < 1e-4


def parameters(config, channels=1):
    shape = (1, *config.divisor, channels)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    shapes = jax.eval_shape(NNUNet(config).init, jax.random.key(0), image)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_parameter_counts_of_the_published_networks():
    """Of the default three-dimensional plan, plain and with a residual encoder."""
    plain = NNUNetConfig(
        out_channels=2,
        widths=(32, 64, 128, 256, 320, 320),
        kernels=((3, 3, 3),) * 6,
        strides=((1, 1, 1), *((2, 2, 2),) * 5),
        blocks=(2,) * 6,
        decoder_blocks=(2,) * 5,
    )
    assert parameters(plain) == 31_195_594
    residual = dataclasses.replace(
        plain, blocks=(1, 3, 4, 6, 6, 6), decoder_blocks=(1,) * 5, residual=True
    )
    assert parameters(residual) == 102_349_770


def test_it_starts_as_nnunet_starts():
    """He's variance everywhere, no bias, and residual blocks that do nothing yet."""
    config = CONFIGS["residual"]
    net = NNUNet(config)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 12, 2)), "float32")
    params = jax.jit(net.init)(jax.random.key(0), image)["params"]
    scales = params["encoder_1"]["block_1"]["conv_1"]["norm"]["scale"]
    np.testing.assert_array_equal(scales, 0)
    kernel = np.asarray(params["encoder_1"]["block_1"]["conv_0"]["conv"]["kernel"])
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 6)), rel=0.15)
    assert not any(
        np.any(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "bias"
    )


def test_half_precision_gives_float32_near_the_float32_result(case):
    config, x, variables, (full, *_) = case
    if config.rank == 3:
        pytest.skip("one rank is enough")
    half = jax.jit(NNUNet(config, jnp.bfloat16).apply)(variables, jnp.asarray(x))
    assert half.dtype == jnp.float32
    assert float(jnp.linalg.norm(half - full) / jnp.linalg.norm(full)) < 0.05


def test_bad_shapes_are_named():
    net = NNUNet(CONFIGS["flat"])
    with pytest.raises(ValueError, match=r"\(7, 8\), expected multiples of \(2, 2\)"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 7, 8, 1)))
    with pytest.raises(ValueError, match="as many of each"):
        NNUNetConfig(2, (4, 8), ((3, 3),), ((1, 1), (2, 2)), (2, 2), (2,))
    with pytest.raises(ValueError, match="odd kernels"):
        NNUNetConfig(2, (4, 8), ((2, 2), (3, 3)), ((1, 1), (2, 2)), (2, 2), (2,))
