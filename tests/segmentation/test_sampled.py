"""Systems with several answers: one signature, and what each of them draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.metrics.calibration import nll
from medjax.nn.nnunet import NNUNetConfig
from medjax.segmentation.augment import NONE
from medjax.segmentation.dropout import DropoutConfig, Dropped, dropout_system, dropped
from medjax.segmentation.hierarchical import HierarchicalConfig, hierarchical_system
from medjax.segmentation.phiseg import (
    PHiSegConfig,
    Pyramid,
    between,
    finest,
    phiseg_system,
)
from medjax.segmentation.probunet import (
    GlobalLatent,
    ProbUNet,
    ProbUNetConfig,
    probunet_system,
)
from medjax.segmentation.sampled import (
    SampledConfig,
    draws,
    every_draw,
    normal,
    sampled_system,
)
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
from medjax.train.ensemble import member_of
from tests.segmentation.drawing import (
    BATCH,
    IMAGES,
    LABELS,
    NETWORK,
    drawn_variables,
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
    """Of every system, behind all warm-ups."""
    found = {name: drawn_variables(system) for name, system in SYSTEMS.items()}
    for variables in found.values():
        if "counters" in variables:
            variables["counters"] = {"step": jnp.int32(8)}
    return found


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_signature_for_all(name, all_variables):
    system = SYSTEMS[name]

    @jax.jit
    def ask(variables):
        key = jax.random.key(1)
        several = system.sample(variables, IMAGES, key, 2)
        return several, system.sample(variables, IMAGES, key, 0)

    p, bare = ask(all_variables[name])
    assert p.shape == (2, *IMAGES.shape[:3], 2) and bare.shape == (1, *p.shape[1:])
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(bare.sum(-1), 1, atol=1e-5)
    assert float(jnp.std(p, axis=0).max()) > 1e-5  # not one answer twice


def test_everything_follows_from_the_draws():
    """Of a system whose draws are numbers that are known."""
    rng = np.random.default_rng(0)
    p = jnp.asarray(rng.dirichlet([1, 2], (4, 2, 8, 8)), jnp.float32)

    def sample(variables, patches, key, count):
        return p[:count]

    system = sampled_system(
        small(SampledConfig, samples=3),
        init=lambda key, batch: {},
        loss=lambda variables, batch, key: pytest.fail("it is not trained"),
        sample=sample,
        shared_key=True,
    )
    maps = system.finish(system.tile({}, IMAGES, jax.random.key(0)))
    assert set(maps) == {"probability", "entropy", "mi", "variance"}
    q = np.asarray(p[:3], np.float64)
    mean = q.mean(0)
    np.testing.assert_allclose(maps["probability"], mean, atol=1e-6)
    total = -(mean * np.log(mean)).sum(-1)
    each = -(q * np.log(q)).sum(-1).mean(0)
    np.testing.assert_allclose(maps["entropy"][..., 0], total, atol=1e-5)
    np.testing.assert_allclose(maps["mi"][..., 0], total - each, atol=1e-5)
    np.testing.assert_allclose(maps["variance"][..., 0], q.var(0).sum(-1), atol=1e-5)
    together = every_draw(sample, 3)({}, IMAGES, jax.random.key(0))["draw"]
    assert together.shape == (2, 8, 8, 6)
    np.testing.assert_array_equal(together[..., 2:4], p[1])


def test_the_first_draws_are_the_same_however_many_there_are():
    key = jax.random.key(3)
    many = draws(lambda key: normal(key, (4,)), key, 5, 2)
    few = draws(lambda key: normal(key, (4,)), key, 2, 4)
    np.testing.assert_array_equal(few, many[:2])
    assert len(np.unique(many)) == 20
    none = draws(lambda key: normal(key, (4,)), key, 0, 2)
    np.testing.assert_array_equal(none, np.zeros((1, 4)))


@pytest.mark.parametrize("name", ["hierarchical", "probunet", "phiseg", "ssn"])
def test_every_part_is_trained(name, all_variables):
    """All kernels have a gradient; the counters, where there are some, go on."""
    system, variables = SYSTEMS[name], all_variables[name]

    @jax.jit
    def gradient(params):
        def loss(params):
            return system.loss(
                {**variables, "params": params}, BATCH, jax.random.key(2)
            )

        return jax.grad(loss, has_aux=True)(params)

    found, (metrics, updated) = gradient(variables["params"])
    assert all(np.isfinite(value) for value in metrics.values())
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.isfinite(leaf).all()
        if "kernel" in str(path[-1]):
            assert np.abs(leaf).max() > 1e-8, path
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


def test_noise_does_not_let_a_covariance_in_where_the_body_is_not(all_variables):
    """All of an image outside of the body: no draw moves its logits, in training."""
    loud = dataclasses.replace(NONE, p_noise=1.0)
    options = {"covariance": LowRank(rank=2, draws=4), "augment": loud}
    system = ssn_system(small(SSNConfig, **options))

    def variances(images):
        batch = BATCH | {"image": images}
        _, (metrics, _) = system.loss(all_variables["ssn"], batch, jax.random.key(0))
        return metrics["low_rank_variance"], metrics["diagonal_variance"]

    none, some = jax.jit(lambda: [variances(IMAGES * 0), variances(IMAGES)])()
    assert max(none) == 0 and min(some) > 0


def test_a_covariance_begins_small():
    """What is not yet learned varies logits by a tenth: by the factor, and alone."""
    system = SYSTEMS["ssn"]

    @jax.jit
    def variances(key):
        _, (metrics, _) = system.loss(system.init(key, BATCH), BATCH, key)
        return metrics["low_rank_variance"], metrics["diagonal_variance"]

    for found in variances(jax.random.key(0)):
        assert 0.001 < found < 0.03


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


def test_latents_that_there_cannot_be_are_told_in_words():
    with pytest.raises(ValueError, match="at 0 levels"):
        Pyramid(levels=0)
    with pytest.raises(ValueError, match="size 0"):
        GlobalLatent(size=0)


def test_a_pyramid_weighs_levels_by_their_voxels(all_variables):
    value, (metrics, _) = jax.jit(SYSTEMS["phiseg"].loss)(
        all_variables["phiseg"], BATCH, jax.random.key(3)
    )
    apart = sum(4**i * float(metrics[f"kl_level{i}"]) for i in range(2)) / 64
    rest = float(metrics["cross_entropy_sum"])
    # Of the finished logits and of the coarse ones.
    assert 0 < float(metrics["cross_entropy"]) < rest
    assert value == pytest.approx(rest + apart, rel=1e-5)


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
