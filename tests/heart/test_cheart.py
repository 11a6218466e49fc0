"""CHeart: sizes of the published network, its parts against PyTorch's, its loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart.cheart import (
    CONFIGS,
    CHeart,
    CHeartConfig,
    cheart_system,
    divergence_cost,
    reconstruction_loss,
    use_of_latents,
)
from medjax.heart.cheart_network import _Lstm, _Mapping, _moved, pixel_norm
from medjax.nn.gaussian import Gaussian, divergence
from medjax.train.system import System

SMALL = {"shape": (16, 16, 16), "frames": 3, "latent": 6, "width": 2}


def batch(size=3):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (size, SMALL["frames"], *SMALL["shape"]))
    conditions = np.array([[62.0, 1, 175, 80, 130]]) + rng.normal(size=(size, 5))
    return {
        "labels": jnp.asarray(labels, jnp.uint8),
        "conditions": jnp.asarray(conditions, jnp.float32),
    }


def parameters(config):
    system = cheart_system(config)
    shape = (1, config.frames, *config.shape)
    like = {
        "labels": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "conditions": jax.ShapeDtypeStruct((1, 5), jnp.float32),
    }
    shapes = jax.eval_shape(system.init, jax.random.key(0), like)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_repo_has_the_released_networks_parameters():
    """Counted by hand from its layers: convolutions with biases, batch norms, two
    linear layers to the latent, one from it and the conditions, an LSTM cell."""
    for latent, wanted in ((32, 933_708), (16, 534_188), (8, 335_964)):
        found = parameters(dataclasses.replace(CONFIGS["repo"], latent=latent))
        assert found == wanted
    before = dataclasses.replace(CONFIGS["repo"], conditions_at="before")
    # The cell is as wide as what it is fed: 4 (2 * 37^2 + 2 * 37) against 32.
    assert parameters(before) - 933_708 == 4 * (2 * 37**2 + 2 * 37 - 2 * 32**2 - 2 * 32)


def test_mapped_conditions_are_64_numbers_that_a_scale_does_not_change():
    """Eight layers, of which the first has five inputs; everything that was told five
    numbers is told 64: the encoder's first convolution of 4^3 taps and 4 features, and
    the decoder's layer of 8192."""
    repo = CONFIGS["repo"]
    mapped = parameters(dataclasses.replace(repo, mapping=True))
    layers = (5 * 64 + 64) + 7 * (64 * 64 + 64)
    assert mapped - 933_708 == layers + (64 - 5) * (4 * 4**3 + 8192)
    x = jnp.asarray([[3.0, -4.0], [0.0, 0.0]])
    found = pixel_norm(x)
    np.testing.assert_allclose(found[0], x[0] / np.sqrt(12.5), rtol=1e-6)
    np.testing.assert_array_equal(found[1], 0)
    net, given = _Mapping(), batch()["conditions"]
    variables = jax.jit(net.init)(jax.random.key(0), given)
    told, wide = (
        jax.jit(net.apply)(variables, conditions) for conditions in (given, 7 * given)
    )
    np.testing.assert_allclose(told, wide, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.mean(jnp.square(told), axis=-1), 1, rtol=1e-4)
    assert (told >= 0).all() and np.abs(np.asarray(told[0] - told[1])).max() > 1e-4


@pytest.fixture(scope="module")
def ran():
    """Of every preset, small: one step with its gradient, a completion, a draw."""
    found = {}
    for name, preset in CONFIGS.items():
        config = dataclasses.replace(preset, **SMALL)
        system = cheart_system(config)

        def all_of_it(system=system):
            variables = system.init(jax.random.key(0), batch())
            rest = {k: v for k, v in variables.items() if k != "params"}

            def run(params):
                given = {"params": params, **rest}
                return system.loss(given, batch(), jax.random.key(1))

            step = jax.value_and_grad(run, has_aux=True)(variables["params"])
            told = {"conditions": batch()["conditions"]}
            first = {"labels": batch()["labels"][:, 0], **told}
            complete = system.apply["complete"](variables, first)
            noise = {"noise": jnp.zeros((3, 6)), **told}
            drawn = system.apply["generate"](variables, noise)
            return step, complete, drawn, system.judged(variables, batch())

        found[name] = jax.jit(all_of_it)()
        assert isinstance(system, System)
    return found


@pytest.mark.parametrize("name", list(CONFIGS))
def test_presets_train_complete_and_generate(ran, name):
    ((value, (metrics, updated)), gradient), completed, drawn, judged = ran[name]
    assert np.isfinite(value) and updated["counters"]["step"] == 1
    assert set(metrics) >= {"kl_mean", "kl_sum", "active_units"}
    assert metrics["kl_sum"] == pytest.approx(6 * float(metrics["kl_mean"]), rel=1e-5)
    # Weights are all reached (the learned prior's last layer starts at zero).
    silent = [
        where
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if "kernel" in (where := jax.tree_util.keystr(path))
        and not np.abs(leaf).max() > 0
    ]
    assert silent in ([], ["['prior_hidden']['kernel']"])
    # Validation judges what a cycle is completed with; what is left is KL, at its full
    # weight whatever the warm-up.
    config = dataclasses.replace(CONFIGS[name], **SMALL)
    entropy, dice = reconstruction_loss(completed, batch()["labels"], config)
    assert float(judged) > float(entropy + config.dice * dice)
    assert completed.shape == drawn.shape == (3, 3, 16, 16, 16, 4)
    assert np.abs(np.asarray(completed - drawn)).max() > 1e-6


def test_frames_are_normalised_each_by_itself_in_repo_alone(ran):
    """The running average moves once per frame where the code moves it so."""
    moved = {name: ran[name][0][0][1][1]["batch_stats"] for name in ("repo", "paper")}
    both = (jax.tree.leaves(moved[name]["encoder"]) for name in moved)
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    low = {}
    for name in moved:
        leaves = jax.tree_util.tree_leaves_with_path(moved[name]["decoder"])
        named = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
        low[name] = min(leaf.min() for path, leaf in named if "var" in path)
    # Of a small variance, three moves of a tenth leave 0.729 of the 1 it began with,
    # one leaves 0.9.
    assert low["repo"] < 0.8 < 0.89 < low["paper"]


def test_the_cell_is_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity)")
    cell = torch.nn.LSTMCell(5, 5)
    z = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    states, wanted = (torch.zeros(2, 5), torch.zeros(2, 5)), []
    with torch.no_grad():
        for _ in range(3):
            states = cell(torch.from_numpy(z), states)
            wanted.append(states[0].numpy())
    weights = {k: np.asarray(v.detach()) for k, v in cell.named_parameters()}
    params = {
        name: {"kernel": weights[f"weight_{end}"].T, "bias": weights[f"bias_{end}"]}
        for name, end in (("input", "ih"), ("hidden", "hh"))
    }
    found = _Lstm(4).apply({"params": params}, jnp.asarray(z))
    np.testing.assert_array_equal(found[:, 0], z)
    np.testing.assert_allclose(found[:, 1:], np.stack(wanted, 1), atol=1e-6)


def test_a_collapsed_posterior_has_no_dimension_in_use():
    prior = Gaussian(jnp.zeros((5, 4)), jnp.zeros((5, 4)))
    told = use_of_latents(jnp.mean(divergence(prior, prior), axis=0))
    assert float(told["active_units"]) == float(told["kl_sum"]) == 0
    mean = jnp.tile(jnp.array([[2.0, 0.1, 0.0, -1.0]]), (5, 1))
    posterior = Gaussian(mean, jnp.zeros((5, 4)))
    told = use_of_latents(jnp.mean(divergence(posterior, prior), axis=0))
    # 2, 0.005, 0 and 0.5 nats: half the squares.
    assert float(told["kl_sum"]) == pytest.approx(2.505)
    assert float(told["kl_mean"]) == pytest.approx(2.505 / 4)
    assert float(told["active_units"]) == 2


def test_cross_entropy_is_weighed_by_class_and_frame():
    config = CHeartConfig(frames=20, class_weight=2.0, systole_weight=2.0)
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, 4, (2, 20, 2, 2, 2)))
    logits = jnp.asarray(rng.normal(size=(2, 20, 2, 2, 2, 4)), jnp.float32)
    logp = np.asarray(jax.nn.log_softmax(logits))
    picked = -np.take_along_axis(logp, np.asarray(labels)[..., None], -1)[..., 0]
    weight = np.where(np.asarray(labels) > 0, 2.0, 1.0)
    axes = (0, 2, 3, 4)
    frame = (picked * weight).sum(axes) / weight.sum(axes)
    of_time = np.array([2.0 if 3 <= t <= 13 else 1.0 for t in range(20)])
    found, _ = reconstruction_loss(logits, labels, config)
    assert found == pytest.approx((frame * of_time).sum() / of_time.sum(), rel=1e-5)
    sure = 50.0 * jax.nn.one_hot(labels, 4)
    entropy, dice = reconstruction_loss(sure, labels, config)
    assert entropy == pytest.approx(0, abs=1e-6) and dice == pytest.approx(0, abs=1e-5)


def test_a_flow_moves_the_first_frame():
    first = jnp.asarray(
        np.random.default_rng(0).normal(size=(1, 4, 5, 6, 2)), jnp.float32
    )
    flow = jnp.zeros((1, 2, 4, 5, 6, 3)).at[:, 1, ..., 2].set(1.0)
    moved = _moved(first, flow)
    np.testing.assert_allclose(moved[:, 0], first, atol=1e-6)
    np.testing.assert_allclose(moved[:, 1, ..., :-1, :], first[..., 1:, :], atol=1e-6)


def test_free_bits_cost_nothing_and_warm_up_rises():
    each = jnp.array([0.01, 0.2, 1.0])

    def cost(step, **changes):
        few = {"shape": (1, 2, 5), "frames": 2, "beta": 1.0, "kl": "sum"}
        config = CHeartConfig(**(few | changes))
        return float(divergence_cost(each, jnp.asarray(step), config))

    # Of a sum, a share for each of 20 voxels.
    assert cost(0) == pytest.approx(1.21 / 20)
    assert cost(0, kl="mean", beta=0.5) == pytest.approx(0.5 * 1.21 / 3)
    assert cost(4, warmup=10) == pytest.approx(0.5 * 1.21 / 20)
    assert cost(30, warmup=10) == pytest.approx(1.21 / 20)
    assert cost(0, free_bits=0.5) == pytest.approx(2.0 / 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (16, 30, 16)}, "expected multiples of 16"),
        ({"temporal": "transformer", "conditions_at": "before"}, "is the LSTM's"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cheart_system(CHeartConfig(**change))


def test_conditions_are_standardised_where_they_are_told():
    config = CHeartConfig(condition_mean=(60.0,) * 5, condition_deviation=(2.0,) * 5)
    told = CHeart(config).apply({}, jnp.full((1, 5), 64.0), method="standard")
    np.testing.assert_allclose(told, 2.0)
