"""E2E-VarNet: the published module's numbers, its laws, and that it learns."""

import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from medjax.mri import masks, varnet
from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.published import read_published
from medjax.mri.sense import rss
from medjax.weights import from_torch, part, to_torch
from medjax.weights.reconstruction import fastmri_unet
from medjax_kernels import compat

GOLDEN = Path(__file__).parents[1] / "golden" / "fastmri_varnet.npz"
SMALL = varnet.VarNetConfig(cascades=2, chans=2, pools=2, sens_chans=2, sens_pools=2)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as stored:
        return {name: stored[name] for name in stored.files}


def as_ours(x):
    """Swap height and width, and add what axes are missing."""
    return jnp.asarray(np.swapaxes(x, -1, -2))


def test_norm_unet_equals_the_published_module(golden):
    net = varnet.NormUNet(chans=2, pools=2)
    image = jnp.asarray(golden["norm_unet_in"][:, 0])
    shapes = jax.eval_shape(net.init, jax.random.key(0), image)
    table = fastmri_unet(pools=2, turned=False, under="unet/")
    variables = from_torch(part(golden, "norm_unet/unet."), table, shapes)
    out = jax.jit(net.apply)(variables, image)
    np.testing.assert_allclose(out, golden["norm_unet_out"][:, 0], atol=1e-4)


def test_varnet_equals_the_published_module(golden, tmp_path):
    """Its weights under its own names, as a checkpoint; sizes from their shapes."""
    published = part(golden, "varnet/")
    save_file(published, tmp_path / "varnet.safetensors")
    found = read_published(tmp_path / "varnet.safetensors")
    assert found.config == SMALL
    params = found.variables["params"]
    mask = jnp.asarray(golden["mask"])[:, None]
    kspace = as_ours(golden["kspace"])
    maps = jax.jit(varnet.SensitivityNet(SMALL).apply)(
        {"params": params["sens_net"]}, kspace, mask[None]
    )
    np.testing.assert_allclose(maps, as_ours(golden["sensitivities"]), atol=1e-4)
    batch = {"kspace": kspace[:, None], "mask": mask[None, None]}
    out = jax.jit(varnet.varnet_system(SMALL).reconstruct)(found.variables, batch)
    np.testing.assert_allclose(
        out[:, 0], as_ours(golden["varnet_out"]), rtol=1e-4, atol=1e-4
    )
    back = to_torch(found.table, found.variables)
    assert back.keys() == published.keys()
    for name, tensor in published.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    missing = "cascades.1.model.unet.conv.layers.0.weight"
    del back[missing]
    save_file(back, tmp_path / "varnet.safetensors")
    with pytest.raises(ValueError, match=f"nothing for .*{missing}"):
        read_published(tmp_path / "varnet.safetensors")


def test_ssim_loss_equals_the_published_one(golden):
    x, y = (jnp.asarray(golden[f"ssim_{n}"]) for n in "xy")
    # A coil image that is real and non-negative is its own root sum of squares.
    batch = {"kspace": fft2c(y[:, :, None].astype(jnp.complex64))}
    loss, _ = varnet.ssim_loss(x, batch)
    np.testing.assert_allclose(loss, golden["ssim_loss"], atol=2e-6)


@pytest.mark.parametrize(
    ("height", "sampled", "expected"),
    [
        (12, [4, 5, 6, 7, 8], [4, 5, 6, 7]),  # two above the centre (6), two below
        (12, [0, 5, 6, 7, 11], [5, 6]),
        (12, [0, 1, 2], [6]),
        (12, range(12), range(12)),
        (13, [0, 4, 5, 6, 7], [4, 5, 6, 7]),  # the centre is 6 again
        (13, range(13), range(12)),
    ],
)
def test_central_lines_are_the_symmetric_run_around_the_centre(
    height, sampled, expected
):
    mask = np.zeros((1, height, 1), bool)
    mask[0, list(sampled)] = True
    found = np.flatnonzero(varnet.central_lines(jnp.asarray(mask)))
    np.testing.assert_array_equal(found, list(expected))


def test_the_centre_of_scattered_points_is_their_largest_full_square():
    mask = np.zeros((3, 12, 9), bool)
    mask[0, ::2], mask[0, 4:9] = True, True  # whole lines
    mask[1, 3:9, 1:7] = True  # 6 by 6, and some more points
    mask[1, 0], mask[1, :, 0] = True, True
    mask[2, 5, 4] = True  # hardly anything
    found = np.asarray(varnet.central_block(jnp.asarray(mask)))
    lines = varnet.central_lines(jnp.asarray(mask[:1]))
    np.testing.assert_array_equal(found[:1], np.broadcast_to(lines, (1, 12, 9)))
    rows, columns = np.ix_(range(3, 9), range(1, 7))
    assert found[1].sum() == 36 and found[1, rows, columns].all()
    assert found[2].sum() == 4
    given = np.asarray(varnet.central_block(jnp.asarray(mask), 4))
    assert [int(one.sum()) for one in given] == [36, 16, 16]
    lines = jnp.asarray(mask[:1, :, :1])
    np.testing.assert_array_equal(
        varnet.central_block(lines), varnet.central_lines(lines)
    )


def test_central_lines_of_a_given_number():
    found = varnet.central_lines(jnp.ones((1, 9, 1), bool), 4)
    np.testing.assert_array_equal(np.flatnonzero(found), [2, 3, 4, 5])


@pytest.mark.parametrize("height", [130, 131])
@pytest.mark.parametrize("acs", [9, 10])
def test_the_centre_is_where_masks_put_it_on_even_and_odd_heights(height, acs):
    mask = masks.equispaced(height, acceleration=4, acs=acs, offset=2)[None]
    assert not np.any(varnet.central_lines(mask, acs) & ~mask)
    np.testing.assert_array_equal(
        varnet.central_lines(mask, acs),
        masks.equispaced(height, acceleration=height, acs=acs, offset=height // 2)[
            None
        ],
    )
    assert not np.any(varnet.central_lines(mask) & ~mask)


class Convolutions(nn.Module):
    """Three cascades of one convolution each."""

    remat: bool

    @nn.compact
    def __call__(self, x):
        def body(conv, x, _):
            return jnp.tanh(conv(x)), None

        conv = nn.Conv(2, (3, 3), name="cascades")
        return varnet.scan_cascades(body, 3, remat=self.remat)(conv, x, None)[0]


@pytest.mark.parametrize("remat", [True, False])
def test_cascades_are_a_loop_on_accelerators_and_the_same_written_out(remat):
    x = jax.random.normal(jax.random.key(0), (1, 6, 5, 2))
    net = Convolutions(remat)
    variables = net.init(jax.random.key(1), x)
    assert variables["params"]["cascades"]["kernel"].shape == (3, 3, 3, 2, 2)

    def gradient():
        step = jax.jit(jax.grad(lambda v: jnp.sum(net.apply(v, x) ** 2)))
        return step.lower(variables).as_text(), step(variables)

    text, here = gradient()
    with compat.target("gpu"):
        looped_text, looped = gradient()
    assert "stablehlo.while" not in text and "stablehlo.while" in looped_text
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        here,
        looped,
    )


@pytest.fixture(scope="module")
def trained():
    """A few steps of gradient descent on smooth images, and what they did."""
    rng = np.random.default_rng(0)
    low = np.zeros((2, 2, 2, 12, 8), np.complex64)
    low[..., 4:8, 2:6] = rng.normal(size=(2, 2, 2, 4, 4))
    batch = {
        "kspace": fft2c(ifft2c(jnp.asarray(low)) * 3.0),
        "mask": jnp.tile(
            masks.cmrxrecon(12, acceleration=3, acs=4)[None, None], (2, 1, 1, 1)
        ),
    }
    config = dataclasses.replace(SMALL, pools=1, sens_pools=1)
    system = varnet.varnet_system(config)
    shapes = jax.eval_shape(system.init, jax.random.key(1), batch)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, s: (
            jnp.ones(s.shape)
            if path[-1].key == "dc_weight"
            else jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype)
        ),
        shapes,
    )
    key = jax.random.key(2)
    step = jax.jit(
        jax.value_and_grad(system.loss, has_aux=True),
        compiler_options={"xla_backend_optimization_level": 0},  # compiles sooner
    )
    losses = []
    for _ in range(8):
        (value, (metrics, updated)), grads = step(variables, batch, key)
        losses.append(float(value))
        variables = jax.tree.map(lambda p, g: p - 0.03 * g, variables, grads)
    return batch, losses, metrics, updated, grads


def test_loss_falls(trained):
    _, losses, metrics, updated, _ = trained
    assert losses[-1] < 0.9 * losses[0]
    assert set(metrics) == {"nmse", "ssim"} and not updated
    assert abs(1 - metrics["ssim"] - losses[-1]) < 1e-6


def test_every_parameter_gets_a_finite_gradient(trained):
    grads = trained[-1]
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(g).all() and np.any(g != 0), path


def test_full_sampling_with_a_silent_network_returns_the_data(trained):
    batch = dict(trained[0])
    batch["mask"] = jnp.ones_like(batch["mask"])
    system = varnet.varnet_system(SMALL)
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    params = variables["params"]
    params["cascades"]["dc_weight"] = jnp.ones((2, 1))
    # Silent networks: maps of zero, so nothing but the step towards the data acts.
    out = jax.jit(system.reconstruct)(variables, batch)
    np.testing.assert_allclose(out, rss(ifft2c(batch["kspace"])), atol=2e-6)


def test_given_maps_take_the_place_of_estimated_ones(trained):
    """The maps that a network found, given to one that has no part to find them."""
    batch = {**trained[0], "kspace": trained[0]["kspace"][:, :1]}
    config = dataclasses.replace(SMALL, pools=1, sens_pools=1)
    found = jax.jit(varnet.varnet_system(config).init)(jax.random.key(0), batch)
    kspace, mask = varnet.frames_of(batch)
    maps = jax.jit(varnet.SensitivityNet(config).apply)(
        {"params": found["params"]["sens_net"]}, kspace, mask
    )
    one = {**batch, "sensitivities": maps}
    given = varnet.varnet_system(dataclasses.replace(config, given_maps=True))
    without = {"params": {"cascades": found["params"]["cascades"]}}
    shapes = jax.eval_shape(given.init, jax.random.key(0), one)
    assert jax.tree.structure(shapes) == jax.tree.structure(without)
    np.testing.assert_allclose(
        jax.jit(given.reconstruct)(without, one),
        jax.jit(varnet.varnet_system(config).reconstruct)(found, one),
        rtol=1e-4,
        atol=1e-5,
    )


def test_given_maps_count_whatever_their_scale(trained):
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(2, 2, 12, 8, 2)) @ np.array([1, 1j])
    unit = varnet.unit_norm(jnp.asarray(maps, jnp.complex64))
    batch = {**trained[0], "sensitivities": unit}
    system = varnet.varnet_system(dataclasses.replace(SMALL, given_maps=True))
    variables = jax.jit(system.init)(jax.random.key(1), batch)
    reconstruct = jax.jit(system.reconstruct)
    image = reconstruct(variables, batch)
    louder = reconstruct(variables, {**batch, "sensitivities": 3 * unit})
    np.testing.assert_allclose(louder, image, rtol=1e-4, atol=1e-5)
    others = reconstruct(variables, {**batch, "sensitivities": unit[:, ::-1]})
    assert np.max(np.abs(others - image)) > 0.1 * np.max(np.abs(image))
    with pytest.raises(ValueError, match="expected 'sensitivities' too"):
        system.reconstruct(variables, trained[0])


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="cascades is 0"):
        varnet.varnet_system(dataclasses.replace(SMALL, cascades=0))
    system = varnet.varnet_system(SMALL)
    with pytest.raises(ValueError, match="mask has shape"):
        batch = {
            "kspace": jnp.zeros((1, 2, 2, 8, 8), jnp.complex64),
            "mask": jnp.ones((1, 3, 8, 1), bool),
        }
        system.reconstruct({}, batch)
    with pytest.raises(ValueError, match="expected 'mask' too"):
        system.reconstruct({}, {"kspace": jnp.zeros((1, 2, 2, 8, 8), jnp.complex64)})
