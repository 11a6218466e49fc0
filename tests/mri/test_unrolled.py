"""MoDL, D5C5 and the multi-coil Latent Transformer: their algebra and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.mri.fourier import fft2c, ifft2c
from medjax.mri.latent_transformer import LatentTransformerConfig
from medjax.mri.sense import adjoint, combine, forward, normalise_maps
from medjax.mri.series import distance, fully_sampled
from medjax.mri.unrolled import ConvolutionalResidual, UnrolledConfig, unrolled_system

# Compiling is what these tests wait for.
HASTE = {"xla_backend_optimization_level": 0}
MODL = UnrolledConfig("modl", features=4, depth=3, unrolls=2, domain="image")
D5C5 = UnrolledConfig(
    "d5c5",
    features=4,
    depth=3,
    unrolls=2,
    shared=False,
    consistency="step",
    domain="image",
)
LATENT = UnrolledConfig(
    network=LatentTransformerConfig(
        widths=(4, 4), denoiser_widths=(4, 4, 4), heads=1, layers=1
    ),
    unrolls=2,
    refine_maps=True,
)


def complex_normal(*shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return jnp.asarray(x, jnp.complex64)


@pytest.fixture(scope="module")
def batch():
    """Random images behind random maps of unit norm; frames sampled differently."""
    b, t, c, h, w = 2, 3, 3, 10, 8
    maps = normalise_maps(complex_normal(b, c, h, w, seed=1))
    image = complex_normal(b, t, h, w)
    row, frame = np.arange(h)[None, :, None], np.arange(t)[:, None, None]
    mask = jnp.asarray((row % 2 == frame % 2) | (abs(row - 5) < 2))
    return {
        "kspace": fft2c(maps[:, None] * image[:, :, None]),
        "mask": jnp.broadcast_to(mask[None], (b, t, h, 1)),
        "sensitivities": maps,
    }


def random_variables(system, batch, *, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)

    def leaf(path, s):
        name = path[-1].key
        if name == "raw_lambda":
            return jnp.full(s.shape, -1.0)
        if name == "var":
            return jnp.ones(s.shape)
        fan_in = np.prod(s.shape[:-1]) if len(s.shape) > 1 else 4
        return jnp.asarray(scale * rng.normal(size=s.shape) / fan_in**0.5, s.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def reconstruct(config, batch, variables):
    system = unrolled_system(config)
    return jax.jit(system.reconstruct, compiler_options=HASTE)(variables, batch)


def test_modl_solves_its_normal_equations(batch):
    config = dataclasses.replace(MODL, unrolls=1, cg_iterations=40)
    variables = random_variables(unrolled_system(config), batch, scale=0.0)
    x = reconstruct(config, batch, variables)  # D = identity
    maps, mask = batch["sensitivities"][:, None], batch["mask"]
    start = adjoint(batch["kspace"], maps, mask)
    lam = jax.nn.softplus(-1.0)
    left = adjoint(forward(x, maps, mask), maps, mask) + lam * x
    np.testing.assert_allclose(left, (1 + lam) * start, atol=2e-5)


def test_readouts_solved_alone_and_lines_counted_are_the_same_solution(batch):
    """Options of data consistency that a run may set: the numbers do not change."""
    config = dataclasses.replace(MODL, unrolls=1, cg_iterations=30)
    variables = random_variables(unrolled_system(config), batch)
    plain = reconstruct(config, batch, variables)
    for change in (
        {"cg_per_readout": True},
        {"implementation": "xla_dft", "lines": 8},
        {"cg_tolerance": 1e-6},
    ):
        other = dataclasses.replace(config, **change)
        got = reconstruct(other, batch, variables)
        np.testing.assert_allclose(got, plain, atol=2e-5, err_msg=str(change))
    fewer = dataclasses.replace(config, implementation="xla_dft", lines=3)
    assert np.isnan(reconstruct(fewer, batch, variables)).all(), "lines is a promise"


@pytest.mark.parametrize("config", [MODL, D5C5], ids=["modl", "d5c5"])
def test_full_sampling_gives_the_truth_whatever_lambda(config, batch):
    full = {**batch, "mask": jnp.ones_like(batch["mask"])}
    variables = random_variables(unrolled_system(config), full, scale=0.0)
    x = reconstruct(config, full, variables)
    np.testing.assert_allclose(x, fully_sampled(full), atol=1e-5)


def test_d5c5_equals_its_definition_in_torch(batch):
    """One coil: cascades of convolutions and soft replacement in k-space."""
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    image = complex_normal(2, 3, 1, 10, 8, seed=3)
    single = {
        "kspace": fft2c(image),
        "mask": batch["mask"],
        "sensitivities": jnp.ones((2, 1, 10, 8), jnp.complex64),
    }
    variables = random_variables(unrolled_system(D5C5), single)
    ours = reconstruct(D5C5, single, variables)

    def tensor(a):
        return torch.tensor(np.asarray(a))

    def transform(z, inverse):
        fft = torch.fft.ifft2 if inverse else torch.fft.fft2
        return torch.fft.fftshift(
            fft(torch.fft.ifftshift(z, dim=(-2, -1)), norm="ortho"), dim=(-2, -1)
        )

    measured = tensor(single["kspace"]).reshape(6, 10, 8)
    mask = tensor(single["mask"]).reshape(6, 10, 1).float()
    x = transform(measured * mask, inverse=True)
    lam = float(jax.nn.softplus(-1.0))
    for cascade in (0, 1):
        p = variables["params"][f"denoisers_{cascade}"]["network"]
        y = torch.stack([x.real, x.imag], 1)
        for i in range(3):
            kernel = tensor(p[f"conv_{i}"]["kernel"]).permute(3, 2, 0, 1)
            bias = tensor(p[f"conv_{i}"]["bias"])
            y = torch.nn.functional.conv2d(y, kernel, bias, padding=1)
            if i < 2:
                y = torch.nn.functional.leaky_relu(y, 0.01)
        k = transform(x + torch.complex(y[:, 0], y[:, 1]), inverse=False)
        x = transform(k + mask / (1 + lam) * (measured - k), inverse=True)
    np.testing.assert_allclose(ours.reshape(6, 10, 8), x, atol=1e-4)


@pytest.mark.parametrize(
    "config", [MODL, D5C5, LATENT], ids=["modl", "d5c5", "latent_transformer"]
)
def test_every_parameter_gets_a_finite_gradient(config, batch):
    system = unrolled_system(config)
    variables = random_variables(system, batch)

    def loss(params):
        return system.loss({**variables, "params": params}, batch, jax.random.key(0))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=HASTE)
    (value, (metrics, updated)), grads = step(variables["params"])
    assert np.isfinite(value) and np.isfinite(metrics["nmse"])
    assert set(updated) == set(variables) - {"params"}
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(g).all(), name
        # A bias before a norm has, up to rounding, no gradient.
        assert np.any(g != 0) or name.endswith("['bias']"), name


def test_gradient_of_lambda_is_that_of_finite_differences(batch):
    """Through the conjugate gradients, whose gradient is implicit."""
    config = dataclasses.replace(MODL, unrolls=1, cg_iterations=40)
    system = unrolled_system(config)
    variables = random_variables(system, batch)

    @jax.jit
    def loss(raw):
        params = {**variables["params"], "raw_lambda": raw}
        return system.loss({**variables, "params": params}, batch, jax.random.key(0))[0]

    raw = jnp.array([-1.0])
    numeric = (loss(raw + 0.05) - loss(raw - 0.05)) / 0.1
    np.testing.assert_allclose(jax.grad(loss)(raw)[0], numeric, rtol=0.01)


def test_lambda_starts_where_it_is_told_and_denoisers_as_identity(batch):
    config = dataclasses.replace(MODL, initial_lambda=0.05)
    system = unrolled_system(config)
    variables = jax.jit(system.init, compiler_options=HASTE)(jax.random.key(0), batch)
    lam = jax.nn.softplus(variables["params"]["raw_lambda"])
    np.testing.assert_allclose(lam, [0.05], rtol=1e-5)
    net = ConvolutionalResidual(4, 2, norm=False, slope=0.0)
    x = jnp.ones((1, 4, 4, 2))
    out, _ = net.init_with_output(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(out, x)


def test_loss_domains_agree_where_they_must(batch):
    """An exact reconstruction has no loss in any domain."""
    truth = fully_sampled(batch)
    for domain in ("magnitude", "image", "kspace"):
        assert distance(truth, batch, domain=domain) < 1e-5
        assert distance(1.1 * truth, batch, domain=domain) > 1e-2
    coils = ifft2c(batch["kspace"])
    np.testing.assert_allclose(
        truth, combine(coils, batch["sensitivities"][:, None]), atol=1e-6
    )


def test_wrong_use_is_refused(batch):
    with pytest.raises(ValueError, match="unrolls is 0"):
        unrolled_system(dataclasses.replace(MODL, unrolls=0))
    system = unrolled_system(MODL)
    wrong = {**batch, "sensitivities": batch["sensitivities"][:, :2]}
    with pytest.raises(ValueError, match="sensitivities has shape"):
        system.reconstruct({}, wrong)
    with pytest.raises(ValueError, match="'sensitivities' too"):
        system.reconstruct({}, {k: batch[k] for k in ("kspace", "mask")})
