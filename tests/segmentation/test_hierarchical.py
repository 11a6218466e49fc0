"""Hierarchical uncertainty: its sizes, what it is tied to, and which level is drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.gaussian import Gaussian
from medjax.nn.nnunet import NNUNet, NNUNetConfig
from medjax.segmentation.hierarchical import (
    HierarchicalConfig,
    HierarchicalUNet,
    Hierarchy,
    hierarchical_system,
    latent_levels,
    level_divergence,
)
from medjax.segmentation.latents import apart, beside, partly_common
from medjax.segmentation.losses import LossConfig
from medjax.segmentation.sampled import rise
from tests.segmentation.drawing import (
    BATCH,
    DEEPER,
    IMAGES,
    drawn_variables,
    quick_to_compile,
    small,
)

__all__ = ["quick_to_compile"]

PAPER = NNUNetConfig(
    out_channels=2,
    widths=(32, 64, 128, 256, 512),
    kernels=((3, 3),) * 5,
    strides=((1, 1), *((2, 2),) * 4),
    blocks=(2,) * 5,
    decoder_blocks=(2,) * 4,
)
SILENT = LossConfig(cross_entropy=0.0, dice=0.0)


def size(module, network):
    x = jnp.zeros((1, *network.divisor, 1))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("kl", ["none", "standard", "learned_prior", "noise_floor"])
def test_latents_cost_two_convolutions_each(kl):
    plain = size(NNUNet(PAPER), PAPER)
    skips = PAPER.widths[:-1]
    added = sum(2 * (w * w + w) for w in skips)
    if kl == "learned_prior":
        added += sum(2 * w for w in skips)
    assert size(HierarchicalUNet(PAPER, Hierarchy(kl)), PAPER) == plain + added
    one = Hierarchy(kl, levels=(3,))
    with_one = 2 * (256 * 256 + 256) + (2 * 256 if kl == "learned_prior" else 0)
    assert size(HierarchicalUNet(PAPER, one), PAPER) == plain + with_one


@pytest.fixture(scope="module")
def system():
    return hierarchical_system(small(HierarchicalConfig, network=DEEPER))


@pytest.fixture(scope="module")
def found(system):
    """As initialised."""
    return jax.jit(system.init)(jax.random.key(0), BATCH)


def test_a_trained_network_drops_in(system, found):
    @jax.jit
    def ask(found):
        key = jax.random.key(1)
        plain = NNUNet(DEEPER).apply({"params": found["params"]["unet"]}, IMAGES)
        bare = system.sample(found, IMAGES, key, 0)
        return plain, bare[0], system.sample(found, IMAGES, key, 2)

    plain, bare, drawn = ask(found)
    np.testing.assert_allclose(bare, jax.nn.softmax(plain), atol=1e-6)
    # And draws begin close to it.
    assert 0 < np.abs(np.asarray(drawn) - np.asarray(bare)).max() < 0.5


def convolutions(jaxpr, inside=False):
    """How many are outside and how many inside of a loop."""
    found = np.zeros(2, int)
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        found[int(inside)] += name == "conv_general_dilated"
        for part in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            if hasattr(part, "jaxpr"):
                found += convolutions(part.jaxpr, inside or name == "scan")
    return found


def test_many_draws_encode_once(system, found):
    """Three convolutions of the encoder and two of every latent, before the loop; two
    upwards, two of the decoder and two heads in it."""
    key = jax.random.key(0)
    traced = jax.make_jaxpr(lambda v: system.sample(v, IMAGES, key, 4))(found)
    np.testing.assert_array_equal(convolutions(traced.jaxpr), [3 + 2 * 2, 6])


def test_the_divergences_are_their_formulas():
    mean, s = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    found = Gaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(s, jnp.float32))
    standard = 0.5 * (mean**2 + np.exp(s) - 1 - s).mean()
    assert level_divergence(found, Hierarchy("standard")) == pytest.approx(
        standard, rel=1e-5
    )
    floor = 0.3
    tied = 0.5 * (np.exp(s) / floor**2 - 1 - s + np.log(floor**2)).mean()
    hierarchy = Hierarchy("noise_floor", floor=floor)
    assert level_divergence(found, hierarchy) == pytest.approx(tied, rel=1e-5)
    m, t = np.random.default_rng(1).normal(size=(2, 3))
    learned = 0.5 * (np.exp(s - t) + (mean - m) ** 2 / np.exp(t) - 1 - s + t).mean()
    prior = Gaussian(jnp.asarray(m, jnp.float32), jnp.asarray(t, jnp.float32))
    assert level_divergence(found, Hierarchy("learned_prior"), prior) == pytest.approx(
        learned, rel=1e-5
    )


def pulled(kl):
    """A loss that asks nothing of the answer, after two of four rising updates."""
    hierarchy = Hierarchy(kl, beta=0.5, weights=(1.0, 4.0), warmup=0.4)
    system = hierarchical_system(
        small(HierarchicalConfig, network=DEEPER, hierarchy=hierarchy, loss=SILENT)
    )
    found = drawn_variables(system)

    def at(step):
        here = {**found, "counters": {"step": step}}
        return system.loss(here, BATCH, jax.random.key(1))

    return at


def test_each_level_is_pulled_with_its_weight():
    """What is left is the weighed divergence."""
    value, (metrics, updated) = jax.jit(pulled("learned_prior"))(jnp.int32(2))
    assert updated["counters"]["step"] == 3
    each = metrics["kl_level0"] + 4 * metrics["kl_level1"]
    assert value == pytest.approx(0.5 * (2 / 4) * float(each), rel=1e-5)
    assert min(metrics["kl_level0"], metrics["kl_level1"]) > 0


def test_what_is_tied_to_nothing_has_no_divergence():
    step = jax.ShapeDtypeStruct((), jnp.int32)
    for kl, number in (("none", 0), ("standard", 2)):
        _, (metrics, _) = jax.eval_shape(pulled(kl), step)
        assert sum(name.startswith("kl_") for name in metrics) == number


def test_the_weight_rises_over_its_share_of_the_run():
    steps = jnp.arange(12)
    found = jax.vmap(lambda step: rise(step, 0.3, 20))(steps)
    np.testing.assert_allclose(found, np.minimum(np.arange(12) / 6, 1), atol=1e-6)
    assert rise(jnp.int32(0), 0.0, 20) == 1


def test_a_level_alone_is_what_is_left_when_others_stay(system, found):
    """Level 0 alone: as in a network whose other skip connection has no latent, since
    means are features until they are trained."""
    loud = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0 if "log_variances" in str(path) else x, found
    )  # deviations of 1
    hierarchy = Hierarchy(levels=(0,))
    alone = hierarchical_system(
        small(HierarchicalConfig, network=DEEPER, hierarchy=hierarchy)
    )

    @jax.jit
    def ask(variables):
        key = jax.random.key(5)
        one = alone.init(key, BATCH)
        params = {k: variables["params"][k] for k in one["params"]}
        maps = {
            name: system.finish(system.tile({**variables, **part}, IMAGES, key))["mi"]
            for name, part in system.parts.items()
        }
        expected = alone.tile({**one, "params": params}, IMAGES, key)
        return maps, alone.finish(expected)["mi"]

    maps, expected = ask(loud)
    assert list(maps) == ["level0", "level1"]
    np.testing.assert_allclose(maps["level0"], expected, atol=1e-6)
    assert expected.mean() > 1e-4
    assert np.abs(np.asarray(maps["level1"]) - np.asarray(expected)).max() > 1e-3


@pytest.mark.parametrize("together", [0.0, 0.3, 1.0])
def test_noise_that_pixels_share_correlates_them(together):
    """Unit variance, and the share as the correlation of any two pixels of an image."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    noise = jax.vmap(lambda key: partly_common(key, (2, 2, 1, 1), together))(keys)
    found = np.corrcoef(np.asarray(noise).reshape(len(keys), 4).T)
    expected = np.eye(4)
    expected[[0, 1, 2, 3], [1, 0, 3, 2]] = together  # not between two images
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(partly_common(None, (1, 2, 2, 1), together), 0)


def test_draws_of_an_update_are_likely_together():
    """The loss of a network without noise is that of one draw; with noise, that of the
    draws that it decodes."""
    hierarchy = Hierarchy("none", draws=3, together=0.5)
    system = hierarchical_system(
        small(HierarchicalConfig, network=DEEPER, hierarchy=hierarchy)
    )
    single = hierarchical_system(
        small(HierarchicalConfig, network=DEEPER, hierarchy=Hierarchy("none"))
    )
    found = drawn_variables(system)
    still = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0 - 99 if "log_variances" in str(path) else x, found
    )
    loud = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0 + 1 if "log_variances" in str(path) else x, found
    )
    key = jax.random.key(2)

    @jax.jit
    def ask(quiet, loud):
        pairs = [built.loss(quiet, BATCH, key)[0] for built in (system, single)]
        return pairs, [built.loss(loud, BATCH, key)[1][0] for built in (system, single)]

    (together, alone), (several, one) = ask(still, loud)
    # Deviations of exp(-5) are left: the least that there can be.
    assert together == pytest.approx(float(alone), abs=0.02)
    # Of several draws the likeliest counts most: less surprise than of a draw alone.
    assert several["cross_entropy"] < one["cross_entropy"]


def test_levels_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"levels: \(2,\), expected some of \[0, 1\]"):
        latent_levels(DEEPER, Hierarchy(levels=(2,)))
    with pytest.raises(ValueError, match="weights: 1 for 2 levels"):
        latent_levels(DEEPER, Hierarchy(weights=(1.0,)))
    with pytest.raises(ValueError, match=r"draws 0 and together 0\.0"):
        Hierarchy(draws=0)
    with pytest.raises(ValueError, match="floor 0"):
        dataclasses.replace(Hierarchy(), floor=0.0)


def test_draws_of_an_image_are_neighbours_and_come_apart_again():
    draws = jnp.arange(24.0).reshape(2, 3, 4)  # two draws of three images
    rows = beside(draws)
    np.testing.assert_array_equal(rows[2:4], draws[:, 1])
    np.testing.assert_array_equal(apart(rows, 2), draws)
