"""Systems with several answers: one signature, and what each of them draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.metrics.calibration import nll
from medjax.nn.nnunet import NNUNetConfig
from medjax.segmentation.dropout import DropoutConfig, Dropped, dropout_system, dropped
from medjax.segmentation.hierarchical import HierarchicalConfig, hierarchical_system
from medjax.segmentation.phiseg import (
    PHiSegConfig,
    Pyramid,
    between,
    finest,
    phiseg_system,
)
from medjax.segmentation.probunet import ProbUNet, ProbUNetConfig, probunet_system
from medjax.segmentation.sampled import every_draw
from medjax.segmentation.several import (
    EnsembleConfig,
    Jitter,
    ViewsConfig,
    ensemble_system,
    views_system,
)
from medjax.segmentation.ssn import (
    LogitNormal,
    LowRank,
    SSNConfig,
    monte_carlo_loss,
    ssn_system,
)
from medjax.segmentation.system import segmentation_system
from medjax.segmentation.uncertainty import entropy
from medjax.train.ensemble import member_of
from tests.segmentation.drawing import (
    BATCH,
    IMAGES,
    LABELS,
    NETWORK,
    quick_to_compile,
    small,
)

__all__ = ["quick_to_compile"]

SYSTEMS = {
    "hierarchical": hierarchical_system(small(HierarchicalConfig)),
    "probunet": probunet_system(small(ProbUNetConfig)),
    "phiseg": phiseg_system(small(PHiSegConfig)),
    "ssn": ssn_system(small(SSNConfig, covariance=LowRank(rank=2, draws=4))),
    "dropout": dropout_system(small(DropoutConfig)),
    "tta": views_system(small(ViewsConfig)),
    "ensemble": ensemble_system(small(EnsembleConfig, members=3)),
}
TRUTH = LABELS.truth(BATCH["label"])


@pytest.fixture(scope="module")
def all_variables():
    """Of every system, as initialised."""
    return {
        name: jax.jit(system.init)(jax.random.key(0), BATCH)
        for name, system in SYSTEMS.items()
    }


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_signature_for_all(name, all_variables):
    system, variables = SYSTEMS[name], all_variables[name]
    key = jax.random.key(1)

    @jax.jit
    def ask(variables, key):
        p = system.sample(variables, IMAGES, key, 3)
        return (
            p,
            system.sample(variables, IMAGES, key, 0),
            system.sample(variables, IMAGES, key, 2),
            system.tile(variables, IMAGES, key),
            every_draw(system.sample, 3)(variables, IMAGES, key)["draw"],
        )

    p, bare, fewer, averages, in_one = ask(variables, key)
    assert p.shape == (3, *IMAGES.shape[:3], 2) and bare.shape == (1, *p.shape[1:])
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
    assert float(jnp.std(p, axis=0).max()) > 1e-6  # not one answer thrice
    np.testing.assert_allclose(fewer, p[:2], atol=1e-6)
    np.testing.assert_array_equal(in_one[..., 2:4], p[1])
    maps = system.finish(averages)
    assert set(maps) == {"probability", "entropy", "mi", "variance"}
    mean = p.mean(0)
    np.testing.assert_allclose(maps["probability"], mean, atol=1e-6)
    apart = entropy(mean, LABELS) - jax.vmap(lambda q: entropy(q, LABELS))(p).mean(0)
    np.testing.assert_allclose(maps["mi"], apart, atol=1e-5)
    spread = jnp.var(p, axis=0).sum(-1, keepdims=True)
    np.testing.assert_allclose(maps["variance"], spread, atol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_down_the_gradient_lowers_the_loss(name, all_variables):
    """Of the same draw; the counters, where there are some, go on by one."""
    system, variables = SYSTEMS[name], dict(all_variables[name])
    # Behind all warm-ups, so that every term is in the loss.
    if "counters" in variables:
        variables["counters"] = {"step": jnp.int32(8)}

    @jax.jit
    def both(variables, key):
        def at(params):
            return system.loss({**variables, "params": params}, BATCH, key)

        params = variables["params"]
        (before, (metrics, updated)), g = jax.value_and_grad(at, has_aux=True)(params)
        norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g))
        step = 0.002 / jnp.sqrt(norm)
        after, _ = at(jax.tree.map(lambda p, d: p - step * d, params, g))
        return before, after, norm, metrics, updated

    before, after, norm, metrics, updated = both(variables, jax.random.key(2))
    assert np.isfinite(norm) and after < before
    assert all(np.isfinite(value) for value in metrics.values())
    if "counters" in variables:
        assert updated["counters"]["step"] == 9


def test_without_covariance_the_likelihood_is_cross_entropy():
    rng = np.random.default_rng(0)
    mean = jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)
    found = LogitNormal(mean, jnp.zeros((2, 8, 8, 2, 1)), jnp.zeros_like(mean))
    value = monte_carlo_loss(found, BATCH["label"], LABELS, jax.random.key(0), 4)
    assert value == pytest.approx(float(nll(jax.nn.softmax(mean), TRUTH)), rel=1e-5)


def test_the_likelihood_is_the_integral_over_the_common_factor():
    """Two voxels that share one normal factor, by quadrature."""
    mean = np.array([[0.3, -0.2], [0.1, 0.4]])
    factor = np.array([[1.2, -0.8], [0.9, 0.5]])
    said = np.array([1, 0])
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    logits = mean + factor * nodes[:, None, None]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    likelihood = p[:, 0, said[0]] * p[:, 1, said[1]]
    expected = -np.log((likelihood * weights).sum() / weights.sum()) / 2
    found = LogitNormal(
        jnp.asarray(mean, jnp.float32)[None],
        jnp.asarray(factor, jnp.float32)[None, ..., None],
        jnp.zeros((1, 2, 2)),
    )
    value = monte_carlo_loss(
        found, jnp.asarray(said[None]), LABELS, jax.random.key(0), 20_000
    )
    assert value == pytest.approx(expected, rel=0.01)


def test_draws_have_the_covariance():
    """Of low rank plus a diagonal, and antithetic draws have the opposite departure."""
    rng = np.random.default_rng(0)
    mean, factor = rng.normal(size=(3, 2)), rng.normal(size=(3, 2, 2))
    diagonal = rng.uniform(0.1, 1.0, (3, 2))
    found = LogitNormal(
        *(jnp.asarray(x, jnp.float32)[None] for x in (mean, factor, diagonal**0.5))
    )
    keys = jax.random.split(jax.random.key(0), 40_000)
    drawn = np.asarray(jax.jit(jax.vmap(found.at))(keys)).reshape(-1, 6)
    flat = factor.reshape(6, 2)
    covariance = flat @ flat.T + np.diag(diagonal.ravel())
    np.testing.assert_allclose(drawn.mean(0), mean.ravel(), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.12)
    both = found.at(keys[0]) + found.at(keys[0], sign=-1.0)
    np.testing.assert_allclose(both, 2 * found.mean, atol=1e-5)


def test_a_covariance_cannot_blow_up(all_variables):
    """Weights a million times too large: finite, and none where the image is zero."""
    system = SYSTEMS["ssn"]
    huge = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 1e6 if "factor" in str(path) or "diag" in str(path) else x,
        all_variables["ssn"],
    )
    huge["counters"] = {"step": jnp.int32(9)}
    half = IMAGES.at[:, :4].set(0.0)
    batch, key = BATCH | {"image": half}, jax.random.key(0)

    def loss(params):
        return system.loss({**huge, "params": params}, batch, key)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(huge["params"])
    leaves = jax.tree.leaves(gradient)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in leaves)
    p = jax.jit(lambda v: system.sample(v, half, jax.random.key(1), 3))(huge)
    assert np.isfinite(p).all()
    assert float(jnp.std(p[:, :, :4], axis=0).max()) < 1e-6
    assert float(jnp.std(p[:, :, 4:], axis=0).max()) > 0.1


def test_the_global_latent_says_the_same_everywhere(all_variables):
    """Combining is voxel by voxel, and only the posterior sees the annotation."""
    params = {"params": all_variables["probunet"]["params"]}
    net = ProbUNet(NETWORK, 6)
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
    z = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
    combine = jax.jit(lambda p, x: net.apply(p, x, z, method="combine"))
    turned = combine(params, features[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(turned, combine(params, features), atol=1e-6)
    both = jax.jit(lambda p, truth: net.apply(p, IMAGES, truth, method="both"))
    prior, posterior = both(params, TRUTH)
    other_prior, other = both(params, 1 - TRUTH)
    np.testing.assert_array_equal(prior.mean, other_prior.mean)
    assert float(jnp.abs(posterior.mean - other.mean).max()) > 1e-3


def test_the_bound_weighs_the_divergence_of_an_image_against_all_its_voxels(
    all_variables,
):
    value, (metrics, _) = jax.jit(SYSTEMS["probunet"].loss)(
        all_variables["probunet"], BATCH, jax.random.key(3)
    )
    assert metrics["kl"] > 0
    expected = metrics["cross_entropy"] + metrics["kl"] / 64
    assert value == pytest.approx(float(expected), rel=1e-6)


def test_a_pyramid_lies_on_the_lowest_levels():
    seven = NNUNetConfig(
        2, (4,) * 7, ((3, 3),) * 7, ((1, 1), *((2, 2),) * 6), (1,) * 7, (1,) * 6
    )
    assert finest(seven, Pyramid()) == 2 and finest(NETWORK, Pyramid()) == 0
    assert between(seven, 2, 4) == (4, 4) and between(seven, -1, 3) == (8, 8)


def test_a_pyramid_weighs_levels_by_their_voxels(all_variables):
    value, (metrics, _) = jax.jit(SYSTEMS["phiseg"].loss)(
        all_variables["phiseg"], BATCH, jax.random.key(3)
    )
    apart = sum(4**i * metrics[f"kl_level{i}"] for i in range(3)) / 64
    # The rest is three cross-entropies, of which the finished one is logged.
    rest = float(value - apart)
    assert 0 < float(metrics["cross_entropy"]) < rest
    no_weight = phiseg_system(small(PHiSegConfig, pyramid=Pyramid(beta=0.0)))
    alone, _ = jax.jit(no_weight.loss)(
        all_variables["phiseg"], BATCH, jax.random.key(3)
    )
    assert rest == pytest.approx(float(alone), rel=1e-4)


def test_units_are_dropped_at_the_lowest_levels():
    features = [jnp.ones((1, n, n, 4)) for n in (16, 8, 64)]
    config = Dropped(rate=0.25, levels=2)
    found = dropped(features, jax.random.key(0), config)
    assert (found[0] == 1).all()
    for one in found[1:]:
        assert set(np.unique(one)) == {0.0, np.float32(1 / 0.75)}
    assert float(found[2].mean()) == pytest.approx(1, abs=0.02)
    same = dropped(features, None, config)
    assert all((one == 1).all() for one in same)


def test_views_without_jitter_of_a_network_without_neighbours_are_one():
    """What sees single voxels does not notice that the image is turned."""
    blind = NNUNetConfig(2, (3, 4), ((1, 1),) * 2, ((1, 1),) * 2, (1, 1), (1,))
    still = Jitter(brightness=0.0, shift=0.0, noise=0.0)
    system = views_system(small(ViewsConfig, network=blind, jitter=still))

    @jax.jit
    def ask(key):
        variables = system.init(key, BATCH)
        return system.sample(variables, IMAGES, key, 4)

    p = np.asarray(ask(jax.random.key(0)))
    np.testing.assert_allclose(p, np.broadcast_to(p[:1], p.shape), atol=1e-5)


def test_a_draw_of_an_ensemble_is_a_member(all_variables):
    plain = segmentation_system(small(EnsembleConfig))

    @jax.jit
    def ask(variables):
        one = member_of(variables, 1)
        every = SYSTEMS["ensemble"].sample(variables, IMAGES, jax.random.key(0), 16)
        return every, plain.apply["probability"](one, IMAGES)

    every, alone = ask(all_variables["ensemble"])
    assert len(every) == 3
    np.testing.assert_allclose(every[1], alone, atol=1e-6)
