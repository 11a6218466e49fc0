"""The Latent Transformer: its attention from the definition, its laws, its system."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.saved import channels_last
from medjax.mri import latent_transformer as lt
from medjax.mri import temporal_attention as ta
from medjax.mri.fourier import fft2c
from medjax.train.sharding import load_into

UNET = lt.LatentTransformerConfig(
    widths=(4, 6), denoiser_widths=(4, 4, 4), heads=2, layers=2
)
RESTORMER = lt.LatentTransformerConfig(
    backbone="restormer",
    widths=(2, 4, 8, 16),
    denoiser_widths=(2, 4, 8, 16),
    blocks=(1, 1, 1, 1),
    refinement=1,
    heads=1,
    layers=1,
    negative_frames=1,
)


# Compiling is what these tests wait for.
HASTE = {"xla_backend_optimization_level": 0}


def random_variables(shapes, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(path, s):
        if path[-1].key == "var":
            return jnp.asarray(rng.uniform(0.5, 2.0, s.shape), s.dtype)
        return jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def complex_normal(*shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return jnp.asarray(x, jnp.complex64)


def single_coil_batch(b=2, t=3, h=12, w=10):
    """Random series; every second line is sampled."""
    image = complex_normal(b, t, 1, h, w)
    mask = jnp.broadcast_to((jnp.arange(h) % 2 == 0)[None, None, :, None], (b, 1, h, 1))
    return {
        "kspace": fft2c(image),
        "mask": mask,
        "sensitivities": jnp.ones((b, 1, h, w), jnp.complex64),
    }


def test_attention_is_the_published_contraction():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 2, 3, 5)).astype(np.float32)
    layer = ta.TemporalAttention(heads=3)
    pixels = jnp.moveaxis(jnp.asarray(x).reshape(2, 4, 6, 5), 3, 2)
    variables = random_variables(jax.eval_shape(layer.init, jax.random.key(0), pixels))
    kernel, bias = (np.asarray(variables["params"][n]) for n in ("kernel", "bias"))
    assert kernel.shape == (3, 3, 5, 5) and bias.shape == (3, 3, 5)
    total = np.zeros_like(x)
    for n in range(3):
        k, q, v = (x @ kernel[s, n] + bias[s, n] for s in range(3))
        score = np.einsum("bihwc,bjhwc->bijhw", k, q)  # keys ask, no 1/sqrt(d)
        weight = np.exp(score) / np.exp(score).sum(2, keepdims=True)
        total += np.einsum("bijhw,bjhwc->bihwc", weight, v) + x
    ours = np.moveaxis(jax.jit(layer.apply)(variables, pixels), 2, 3)
    np.testing.assert_allclose(ours.reshape(x.shape), total / 3, atol=2e-6)


@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_where_the_pixels_lie_changes_no_number(platform, monkeypatch):
    """As a CPU computes it, and as all else does."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, **forms: forms[platform](*args)
    )
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 4, 5, 6)), jnp.float32)
    level = ta.LevelTransformer(heads=2, layers=2)
    params = random_variables(jax.eval_shape(level.init, jax.random.key(0), x))

    def weighed(form):
        def total(params, x):
            out = form(params, x)
            return jnp.sum(jnp.sin(out)) / out.size, out

        run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
        (_, out), gradients = run(params["params"], x)
        return out, gradients

    ours = weighed(lambda params, x: level.apply({"params": params}, x))
    before = weighed(channels_last)
    for one, other in zip(*map(jax.tree.leaves, (ours, before)), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, atol=1e-6)


def test_permuting_frames_permutes_the_output_until_frames_are_numbered():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 5, 2, 2, 4)), jnp.float32)
    order = np.array([3, 0, 4, 1, 2])
    for module, shape, commutes in (
        (ta.TemporalAttention(2), (1, 5, 4, 4), True),
        (ta.LevelTransformer(2, 2), x.shape, False),
    ):
        x = x.reshape(shape)
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)
        apply = jax.jit(module.apply)
        variables = random_variables(shapes)
        permuted = apply(variables, x[:, order])
        gap = jnp.max(jnp.abs(permuted - apply(variables, x)[:, order]))
        assert (gap < 1e-5) == commutes


def test_reference_widths_have_the_published_number_of_parameters():
    total = 0
    for d in lt.REFERENCE_WIDTHS:
        x = jax.ShapeDtypeStruct((1, 9, 1, 1, d), jnp.float32)
        module = ta.LevelTransformer(heads=8, layers=6)
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)
        total += sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert total == 821_376


def test_frame_encoding_is_of_the_index():
    encoding = ta.frame_encoding(9, 8)
    np.testing.assert_allclose(encoding[:, 0], np.sin(np.arange(9)), atol=1e-12)
    np.testing.assert_allclose(encoding[2, 3], np.cos(2 / 10), atol=1e-12)
    with pytest.raises(ValueError, match="even number"):
        x = jnp.zeros((1, 3, 1, 1, 5))
        jax.eval_shape(ta.LevelTransformer(1, 1).init, jax.random.key(0), x)


ARMS = {
    (attends, mixing): dataclasses.replace(
        UNET, attends=attends, mixing=mixing, silent=True
    )
    for attends in ("frames", "neighbours")
    for mixing in ("apart", "added")
}


def applied(config, variables):
    network = lt.LatentTransformer(config)
    return jax.jit(functools.partial(network.apply, variables))


@pytest.fixture(scope="module")
def frame_wise():
    """A network of frames alone, with random weights, and a series."""
    config = dataclasses.replace(UNET, attention=False, mixing="apart")
    image = complex_normal(1, 3, 8, 16)
    init = lt.LatentTransformer(config).init
    shapes = jax.eval_shape(init, jax.random.key(0), image)
    return config, random_variables(shapes), image


@pytest.mark.parametrize("arm", ARMS, ids="-".join)
def test_every_arm_starts_as_the_network_of_frames_alone(arm, frame_wise):
    config, variables, image = frame_wise
    init = jax.jit(lt.LatentTransformer(ARMS[arm]).init)
    started = load_into(init(jax.random.key(1), image), variables)
    expected = applied(config, variables)(image)
    np.testing.assert_allclose(
        applied(ARMS[arm], started)(image), expected, rtol=1e-4, atol=1e-4
    )
    # Trained on, another frame is seen by those arms alone that are meant to.
    moved = random_variables(started, seed=3)
    see = applied(ARMS[arm], moved)
    changed = np.abs(see(image) - see(image.at[:, 0].multiply(2)))
    assert changed[:, 0].max() > 1e-2
    others = changed[:, 1:].max()
    assert others == 0 if arm == ("neighbours", "apart") else others > 1e-5


def test_real_and_imaginary_parts_have_no_angles():
    image = jax.ShapeDtypeStruct((1, 3, 8, 16), jnp.complex64)

    def program(parts):
        network = lt.LatentTransformer(dataclasses.replace(UNET, parts=parts))
        return str(jax.make_jaxpr(network.init)(jax.random.key(0), image))

    assert " atan2 " in program("polar") and " cos " in program("polar")
    assert not any(f" {name} " in program("cartesian") for name in ("atan2", "cos"))
    with pytest.raises(ValueError, match="parts is 'cartesian' with the backbone"):
        dataclasses.replace(lt.NETWORKS["tiny_restormer"], parts="cartesian")


def test_the_control_has_as_many_parameters():
    def size(attends):
        network = lt.LatentTransformer(ARMS[attends, "apart"])
        image = jax.ShapeDtypeStruct((1, 9, 16, 16), jnp.complex64)
        params = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
        return sum(x.size for x in jax.tree.leaves(params))

    assert size("frames") == size("neighbours")


def test_neighbours_are_the_pixels_of_a_block():
    x = jnp.arange(2 * 3 * 4 * 8).reshape(2, 3, 4, 8, 1).astype(jnp.float32)
    blocks = ta.to_blocks(x)
    assert blocks.shape == (6, 8, 2, 2, 1)
    np.testing.assert_array_equal(
        blocks[4, :, 1, 0, 0].reshape(ta.BLOCK), x[1, 1, 2:4, 0:4, 0]
    )
    np.testing.assert_array_equal(ta.from_blocks(blocks, like=x), x)
    with pytest.raises(ValueError, match="features are 3 x 8, expected multiples"):
        ta.to_blocks(x[:, :, :3])


@pytest.mark.parametrize("config", [UNET, RESTORMER], ids=["unet", "restormer"])
def test_zero_heads_give_the_input_back(config):
    """Sizes that pool oddly or need padding; polarity must cancel."""
    image = complex_normal(1, 2, 9, 11)
    net = lt.LatentTransformer(config)
    variables = random_variables(jax.eval_shape(net.init, jax.random.key(0), image))
    for part in ("backbone", "denoiser"):
        head = variables["params"][part]["head"]
        variables["params"][part]["head"] = jax.tree.map(jnp.zeros_like, head)
    out = jax.jit(net.apply)(variables, image)
    np.testing.assert_allclose(out, image, atol=2e-6)


def test_shapes_and_dtypes_without_attention_and_in_bfloat16():
    image = jax.ShapeDtypeStruct((1, 3, 16, 12), jnp.complex64)
    for config in (UNET, RESTORMER):
        counts = {}
        for attention in (True, False):
            plan = dataclasses.replace(config, attention=attention, dtype=jnp.bfloat16)
            net = lt.LatentTransformer(plan)
            out, variables = jax.eval_shape(
                net.init_with_output, jax.random.key(0), image
            )
            assert out.shape == image.shape and out.dtype == jnp.complex64
            leaves = jax.tree.leaves(variables["params"])
            assert all(leaf.dtype == jnp.float32 for leaf in leaves)
            counts[attention] = sum(leaf.size for leaf in leaves)
        levels = 3 * config.heads * config.layers
        expected = sum(levels * (d * d + d) for d in config.widths)
        assert counts[True] - counts[False] == expected


@pytest.fixture(scope="module", params=["unet", "restormer"])
def differentiated(request):
    """Loss, gradients and reconstruction of a randomly weighted system.

    The Restormer's gradients have their own test (they are slow to compile).
    """
    unet = request.param == "unet"
    config = lt.SingleCoilConfig(
        UNET if unet else RESTORMER,
        scale=10.0,
        domain="image" if unet else "kspace",
        after_consistency=not unet,
    )
    system = lt.latent_transformer_system(config)
    batch = single_coil_batch() if unet else single_coil_batch(b=1, t=2, h=8, w=6)
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    variables = random_variables(shapes)

    def loss(params):
        whole = {**variables, "params": params}
        return system.loss(whole, batch, jax.random.key(1))

    if unet:
        step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=HASTE)
        value, grads = step(variables["params"])
    else:
        value = jax.jit(loss, compiler_options=HASTE)(variables["params"])
        grads = {}
    reconstruct = jax.jit(system.reconstruct, compiler_options=HASTE)
    image = reconstruct(variables, batch)
    return config, batch, variables, value, grads, image


def test_every_parameter_gets_a_finite_gradient(differentiated):
    _, _, variables, (loss, (metrics, updated)), grads, _ = differentiated
    assert np.isfinite(loss) and metrics["nmse"] > 0
    assert set(updated) == set(variables) - {"params"}
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(g).all(), name
        # A bias before a norm has, up to rounding, no gradient.
        assert np.any(g != 0) or name.endswith("['bias']"), name


def test_reconstruction_keeps_what_was_sampled(differentiated):
    _, batch, _, _, _, image = differentiated
    kspace, measured = fft2c(image), batch["kspace"][:, :, 0]
    sampled = np.broadcast_to(batch["mask"], kspace.shape)
    gap = np.abs(np.asarray(kspace - measured))
    scale = np.abs(np.asarray(measured)).max()
    assert gap[sampled].max() < 2e-6 * scale
    assert gap[~sampled].max() > 1e-2 * scale


def test_kspace_loss_is_the_mean_gap_of_the_scaled_reconstruction(differentiated):
    config, batch, _, (loss, _), _, image = differentiated
    if config.domain != "kspace":
        pytest.skip("batch norm: what training sees is not what evaluation does")
    gap = np.abs(np.asarray(fft2c(image) - batch["kspace"][:, :, 0]))
    np.testing.assert_allclose(loss, 10 * gap.mean(), rtol=1e-4)


def test_several_coils_are_refused():
    batch = single_coil_batch()
    batch["kspace"] = jnp.tile(batch["kspace"], (1, 1, 2, 1, 1))
    batch["sensitivities"] = jnp.tile(batch["sensitivities"], (1, 2, 1, 1))
    system = lt.latent_transformer_system(lt.SingleCoilConfig(UNET))
    with pytest.raises(ValueError, match="2 coils, expected 1"):
        jax.eval_shape(system.init, jax.random.key(0), batch)
