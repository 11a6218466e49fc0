"""MGCA: its losses and gradients against PyTorch, its switches, laws of its parts.

PyTorch's numbers are stored beside the live comparison, for machines without it.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.train.mesh import MeshConfig, make_mesh
from medjax.vlp.contrastive import normalise
from medjax.vlp.mgca import (
    CONFIGS,
    Compared,
    Mgca,
    MgcaConfig,
    mgca_loss,
    standing,
)
from medjax.vlp.prototypes import sinkhorn, swapped_prediction
from medjax.vlp.token_contrast import attention_weights, token_contrast
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig
from medjax.vlp.words import word_segments
from tests.vlp.pairs import SIZE

B, R, T, D, K = 8, 6, 5, 4, 3
KINDS = {"repo": True, "paper": False}
"""Preset to whether its patches come from a ViT: the code differs there."""
STORED = {
    "repo": {
        "instances": 21.253904316090207,
        "tokens": 2.616044127390392,
        "prototypes": 2.1509438270932413,
        "image": 8.471529155726298,
        "text": 5.919933196443119,
        "patches": 0.6405519563347889,
        "words": 0.7073295259367434,
        "directions": 0.7321023781690658,
    },
    "paper": {
        "instances": 21.253904316090207,
        "tokens": 2.6329692935922093,
        "prototypes": 2.1509438270932413,
        "image": 8.471529155726298,
        "text": 5.919933196443119,
        "patches": 0.8623975317018816,
        "words": 0.7628664771783024,
        "directions": 0.7321023781690658,
    },
}
"""Three losses and the norm of the total's gradient by each input, PyTorch 2, fp64."""


def inputs():
    """Features in float64, not normalised; and mask and attention."""
    rng = np.random.default_rng(0)
    sizes = {
        "image": (B, D),
        "text": (B, D),
        "patches": (B, R, D),
        "words": (B, T, D),
        "directions": (K, D),
    }
    features = {name: rng.normal(size=size) for name, size in sizes.items()}
    mask = np.arange(T) < np.asarray([5, 1, 3, 2, 4, 5, 2, 3])[:, None]
    given = {
        "mask": mask,
        "word_looks": rng.uniform(0.01, 1.0, (B, T)) * mask,
        "patch_looks": rng.uniform(0.01, 1.0, (B, R)),
    }
    return features, given


def ours(features, given, preset):
    """Total, terms, and the gradient by each feature."""
    config = CONFIGS[preset]
    looks = given["patch_looks"] if KINDS[preset] else None

    def loss(features):
        unit = {k: normalise(x) for k, x in features.items() if k != "directions"}
        compared = Compared(**unit, **{**given, "patch_looks": looks})
        return mgca_loss(compared, features["directions"], config=config)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(features)


@pytest.fixture(scope="module")
def exact():
    """Ours in float64, by preset."""
    with jax.enable_x64(True):
        features, given = jax.tree.map(jnp.asarray, inputs())
        found = {preset: ours(features, given, preset) for preset in KINDS}
        return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("preset", KINDS)
def test_losses_and_gradients_have_the_stored_numbers(preset, exact):
    (total, terms), gradients = exact[preset]
    assert total.dtype == np.float64
    np.testing.assert_allclose(total, sum(terms.values()), rtol=1e-12)
    sizes = {name: np.linalg.norm(g) for name, g in gradients.items()}
    assert STORED[preset].keys() == terms.keys() | sizes.keys()
    for name, value in (terms | sizes).items():
        np.testing.assert_allclose(value, STORED[preset][name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("preset", KINDS)
def test_losses_and_gradients_are_those_of_pytorch(preset, exact):
    torch = pytest.importorskip("torch", reason="side by side needs the extra: parity")
    from tests.vlp.torch_mgca import losses

    (_, terms), gradients = exact[preset]
    features, given = inputs()
    leaves = {k: torch.tensor(a, requires_grad=True) for k, a in features.items()}
    told = {name: torch.tensor(a) for name, a in given.items()}
    vit, config = KINDS[preset], CONFIGS[preset]
    theirs = losses(
        **leaves,
        **{**told, "patch_looks": told["patch_looks"] if vit else None},
        mask_pads=config.mask_pads,
        unit_patches=not vit or config.normalise_patches,
    )
    sum(theirs.values()).backward()
    for name, value in theirs.items():
        np.testing.assert_allclose(terms[name], value.item(), rtol=1e-10)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(gradients[name], leaf.grad, atol=1e-11)


def test_eight_devices_see_what_one_sees(exact):
    (total, _), gradients = exact["paper"]
    with jax.enable_x64(True), jax.set_mesh(make_mesh(MeshConfig(4, 2))):
        features, given = jax.tree.map(jnp.asarray, inputs())
        (found, _), slopes = ours(features, given, "paper")
    np.testing.assert_allclose(found, total, rtol=1e-12)
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, gradients[name], atol=1e-12, err_msg=name)


def test_assignments_are_the_released_loop():
    """Scaling of columns, then of rows, outside of logarithms."""
    scores = np.random.default_rng(1).uniform(-1, 1, (12, 5))
    mass = np.exp(scores / 0.05).T
    mass /= mass.sum()
    for _ in range(3):
        mass *= (1 / 5) / mass.sum(1, keepdims=True)
        mass *= (1 / 12) / mass.sum(0, keepdims=True)
    with jax.enable_x64(True):
        found = sinkhorn(jnp.asarray(scores), epsilon=0.05, iterations=3)
    np.testing.assert_allclose(found, (mass / mass.sum(0)).T, atol=1e-9)


def test_assignments_are_balanced_and_pass_no_gradient():
    scores = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (40, 5)), jnp.float32)
    found = sinkhorn(scores, epsilon=0.2, iterations=50)
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(found.sum(0), 40 / 5, atol=1e-3)
    # A hard assignment overflows nothing.
    hard = sinkhorn(scores, epsilon=1e-3, iterations=3)
    assert np.isfinite(hard).all()
    np.testing.assert_allclose(hard.sum(1), 1.0, rtol=1e-5)
    slope = jax.grad(
        lambda s: jnp.sum(sinkhorn(s, epsilon=0.2, iterations=3) * scores)
    )(scores)
    np.testing.assert_array_equal(slope, 0.0)


def test_prototypes_count_by_their_direction():
    features, _ = inputs()
    image, text = (normalise(jnp.asarray(features[s])) for s in ("image", "text"))
    prototypes = jnp.asarray(features["directions"], jnp.float32)

    def loss(prototypes):
        return swapped_prediction(
            image, text, prototypes, temperature=0.2, epsilon=0.05, iterations=3
        )

    value, slope = jax.value_and_grad(loss)(prototypes)
    np.testing.assert_allclose(loss(3.0 * prototypes), value, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(slope * prototypes, 1), 0.0, atol=1e-6)


def test_prototypes_stand_still_in_the_first_epoch():
    config, at = MgcaConfig(examples_per_epoch=100), jnp.ones((2, 3))
    slope = jax.grad(lambda p, seen: jnp.sum(standing(p, seen, config)))
    np.testing.assert_array_equal(slope(at, jnp.asarray(99)), 0.0)
    np.testing.assert_array_equal(slope(at, jnp.asarray(100)), 1.0)


def test_weights_are_clipped_attention():
    looks = np.random.default_rng(3).uniform(0.01, 1, (3, 11))
    looks[1, 6:], looks[2] = 0.0, 0.0
    found = attention_weights(jnp.asarray(looks, jnp.float32))
    for row, got in zip(looks[:2], found, strict=False):
        some = row[row > 0]
        kept = np.clip(some, *np.quantile(some, [0.1, 0.9]))
        np.testing.assert_allclose(got[: len(some)], kept / kept.sum(), rtol=1e-5)
        np.testing.assert_array_equal(got[len(some) :], 0.0)
    np.testing.assert_array_equal(found[2], 0.0)


def test_padding_tells_nothing_apart_unless_asked_to():
    """More of it changes the contrast of words in the code, and not in the method."""
    rng = np.random.default_rng(4)
    words, patches = (
        normalise(jnp.asarray(rng.normal(size=(2, n, D)), jnp.float32)) for n in (4, R)
    )
    pad = jnp.broadcast_to(words[:1, :1], (2, 3, D))
    longer = jnp.concatenate([words, pad], axis=1)
    weights = jnp.full((2, 4), 0.25)
    more = jnp.pad(weights, ((0, 0), (0, 3)))
    there = more > 0
    contrast = jax.jit(functools.partial(token_contrast, temperature=0.1))
    short = contrast(words, patches, weights)
    kept = contrast(longer, patches, more, mask=there)
    np.testing.assert_allclose(kept, short, rtol=1e-5)
    assert contrast(longer, patches, more) > short + 1e-3


def without_dropout(call, args, kwargs, context):
    """Interceptor of Flax: what is random depends on the shape."""
    return args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)


def test_padding_enters_the_statistics_of_words_unless_it_is_masked():
    """Padding is zeros, and a layer without a bias leaves it at zero.

    So the mean over all slots is that over words, times the share of slots with a word.
    """
    config = MgcaConfig(features=8, hidden=8, prototypes=4)
    text = TextTowerConfig("tiny", vocab_size=20, max_length=8, attention_dropout=0.0)
    modules = {
        masked: Mgca(
            dataclasses.replace(config, mask_pads=masked),
            ImageTowerConfig("resnet_tiny"),
            text,
        )
        for masked in (True, False)
    }
    rng = np.random.default_rng(0)
    film = jnp.asarray(rng.normal(size=(2, SIZE, SIZE, 3)), jnp.float32)
    short = jnp.asarray([[2, 7, 8, 9, 3], [2, 5, 3, 0, 0]], jnp.int32)
    given = (jax.random.key(0), film, {"report": short})
    shapes = jax.eval_shape(modules[True].init, *given)
    variables = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0.0, 0.5, s.shape), s.dtype), shapes
    )
    # The new statistics are those of the batch, less 0.9 of these.
    variables["batch_stats"] = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

    @jax.jit
    def encode(ids):
        segments = word_segments(ids, np.zeros(20, np.bool_))
        with nn.intercept_methods(without_dropout):
            return {
                masked: module.apply(
                    variables,
                    film,
                    ids,
                    segments,
                    train=True,
                    method="encode",
                    mutable=["batch_stats"],
                )
                for masked, module in modules.items()
            }

    found = [encode(ids) for ids in (short, jnp.pad(short, ((0, 0), (0, 3))))]
    means = {
        masked: [f[masked][1]["batch_stats"]["word_head"]["bn1"]["mean"] for f in found]
        for masked in modules
    }
    words = {
        masked: [np.asarray(f[masked][0].words)[:, :4] for f in found]
        for masked in modules
    }
    there, slots = np.asarray(found[0][True][0].mask), (2 * 4, 2 * 7)
    assert there.sum() == 6 and there.shape == (2, 4)
    np.testing.assert_allclose(*means[True], atol=1e-6)
    np.testing.assert_allclose(*(w[there] for w in words[True]), atol=1e-4)
    for mean, alone, count in zip(means[False], means[True], slots, strict=True):
        np.testing.assert_allclose(mean, alone * 6 / count, atol=1e-6)
    assert np.abs(alone).max() > 1e-2
    assert np.abs(np.subtract(*(w[there] for w in words[False]))).max() > 1e-2


@pytest.mark.parametrize("architecture", ["resnet_tiny", "vit_tiny"])
def test_parts_come_from_the_towers(architecture):
    """Words without [CLS], attention of each, patches of either kind of network."""
    image = ImageTowerConfig(architecture)
    text = TextTowerConfig("tiny", vocab_size=20, max_length=6)
    config = MgcaConfig(features=8, hidden=8, prototypes=4)
    module = Mgca(config, image, text)
    shifted = Mgca(dataclasses.replace(config, word_weights="shifted"), image, text)
    rng = np.random.default_rng(0)
    film = jnp.asarray(rng.normal(size=(2, SIZE, SIZE, 3)), jnp.float32)
    ids = jnp.asarray([[2, 7, 8, 9, 3, 0], [2, 5, 3, 0, 0, 0]], jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), film, {"report": ids})
    variables = jax.tree.map(
        lambda s: jnp.asarray(rng.uniform(0.1, 0.5, s.shape), s.dtype), shapes
    )

    @jax.jit
    def compare(variables):
        given = (variables, film, ids, word_segments(ids, np.zeros(20, np.bool_)))
        one, other = (
            m.apply(*given, train=False, method="encode") for m in (module, shifted)
        )
        return one, other.word_looks

    found, behind = compare(variables)
    np.testing.assert_array_equal(found.mask.sum(1), [4, 2])
    np.testing.assert_allclose(behind[:, :-1], found.word_looks[:, 1:], rtol=1e-6)
    # What [CLS] looks at itself is missing.
    assert ((0 < found.word_looks.sum(1)) & (found.word_looks.sum(1) < 1)).all()
    places = (SIZE // 8) ** 2 if architecture == "vit_tiny" else (SIZE // 16) ** 2
    assert found.patches.shape == (2, places, 8)
    if architecture == "vit_tiny":
        assert ((0 < found.patch_looks.sum(1)) & (found.patch_looks.sum(1) < 1)).all()
    else:
        assert found.patch_looks is None
