"""The losses: definition, laws, memory, refusals."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax_kernels.contrastive import (
    Dense,
    Groups,
    Identity,
    Similarity,
    sigmoid_loss,
    softmax_loss,
)
from medjax_kernels.contrastive.shapes import SHAPES
from tests.kernels.contrastive import oracle

SCALE, BIAS = np.float32(14.0), np.float32(-3.0)


def numpy_softmax_loss(x, y, scale, target, weights) -> float:
    """The definition in loops, over the batch without its dead samples."""
    total = 0.0
    living = [i for i in range(len(x)) if weights[i] > 0]
    for i in living:
        s = np.array([scale * float(np.dot(x[i], y[j])) for j in living])
        largest = s.max()
        log_sum = largest + np.log(np.exp(s - largest).sum())
        total += weights[i] * sum(
            target[i, j] * (log_sum - s[k]) for k, j in enumerate(living)
        )
    return total / sum(weights[i] for i in living)


def test_the_reference_is_the_definition():
    x, y, weights = oracle.batch()
    values = np.random.default_rng(1).uniform(size=(12, 12))
    x64, y64, w64 = (np.asarray(a, np.float64) for a in (x, y, weights))
    expected = numpy_softmax_loss(x64, y64, 14.0, values, w64)
    expected += 0.6 * numpy_softmax_loss(y64, x64, 14.0, values.T, w64)
    targets = Dense(jnp.asarray(values, jnp.float32))
    actual, _ = oracle.in_double("softmax", x, y, SCALE, BIAS, targets, weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-7)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("softmax", "identity"),
        ("softmax", "dense"),
        ("softmax", "similarity"),
        ("sigmoid", "identity"),
        ("sigmoid", "groups"),
    ],
)
def test_a_sample_of_weight_zero_takes_no_part(loss, kind):
    x, y, weights = oracle.batch()
    targets = oracle.target(kind)
    living = np.flatnonzero(np.asarray(weights))

    def without(leaf: jax.Array) -> jax.Array:
        leaf = leaf[living]
        return leaf[:, living] if kind == "dense" else leaf

    fewer = jax.tree.map(without, targets)
    function = oracle.loss(loss)
    poisoned = x.at[3].set(jnp.nan), y.at[3].set(jnp.inf)
    value, (dx, dy, *rest) = oracle.value_and_gradient(
        function, *poisoned, SCALE, BIAS, targets, weights
    )
    expected, (ex, ey, *erest) = oracle.value_and_gradient(
        function, x[living], y[living], SCALE, BIAS, fewer, weights[living]
    )
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(dx[living], ex, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(dy[living], ey, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rest, erest, rtol=1e-4, atol=1e-5)
    dead = np.flatnonzero(np.asarray(weights) == 0)
    assert not np.any(dx[dead]) and not np.any(dy[dead])


@pytest.mark.parametrize(
    ("loss", "kind"), [("softmax", "groups"), ("sigmoid", "identity")]
)
def test_no_weight_at_all_gives_zero(loss, kind):
    x, y, weights = oracle.batch()
    problem = (x, y, SCALE, BIAS, oracle.target(kind), 0 * weights)
    for leaf in jax.tree.leaves(oracle.value_and_gradient(oracle.loss(loss), *problem)):
        assert not np.any(leaf)


@pytest.mark.parametrize("loss", oracle.LOSSES)
def test_permuting_the_pairs_changes_nothing(loss):
    x, y, weights = oracle.batch()
    order = np.random.default_rng(2).permutation(12)
    targets = oracle.target("similarity")
    function = jax.jit(oracle.loss(loss))
    moved = [jax.tree.map(lambda a: a[order], a) for a in (x, y, targets, weights)]
    np.testing.assert_allclose(
        function(x, y, SCALE, BIAS, targets, weights),
        function(moved[0], moved[1], SCALE, BIAS, *moved[2:]),
        rtol=1e-6,
    )


def test_uniform_features_give_the_logarithm_of_the_batch():
    ones = jnp.full((16, 4), 0.5)
    both = softmax_loss(ones, ones, logit_scale=100.0)
    np.testing.assert_allclose(both, np.log(16.0), rtol=1e-5)


def test_chunks_bound_the_memory_of_both_passes():
    n, d, chunk = 1024, 16, 64
    x, y, _ = oracle.batch(n, d)

    def loss(x, y, **options):
        return sum(softmax_loss(x, y, logit_scale=14.0, **options))

    def temporary_bytes(**options) -> int:
        step = jax.jit(jax.grad(functools.partial(loss, **options), (0, 1)))
        return step.lower(x, y).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(implementation="xla") >= 4 * n * n
    # A handful of tiles: logits, their exponentials, G.
    assert temporary_bytes(chunk=chunk) < 8 * 4 * chunk * n


def test_soft_targets_are_constants():
    x, y, _ = oracle.batch()

    def loss(features):
        targets = Similarity(features)
        return sum(softmax_loss(x, y, logit_scale=14.0, targets=targets))

    assert not np.any(jax.grad(loss)(oracle.target("similarity").features_x))


def test_published_batch_of_gloria_in_float32():
    shape = SHAPES["gloria"]
    x, y, weights = oracle.batch(shape.n, shape.d, shape.dtype)
    problem = (x, y, np.float32(10.0), BIAS, Identity(), weights)
    actual = oracle.value_and_gradient(oracle.loss("softmax"), *problem)
    assert max(oracle.errors(actual, oracle.in_double("softmax", *problem))) < 2e-6


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_refusals_name_the_argument(loss):
    x, y, weights = oracle.batch()
    # Without the tests' own shape checker, as users call it.
    call = functools.partial(inspect.unwrap(loss), logit_scale=14.0)
    with pytest.raises(ValueError, match=r"y is float32\[11, 8\].*\[12, 8\]"):
        call(x, y[:11])
    with pytest.raises(ValueError, match="y is bfloat16"):
        call(x, y.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match=r"weights has shape \(11,\)"):
        call(x, y, weights=weights[:11])
    with pytest.raises(ValueError, match="chunk is 0"):
        call(x, y, chunk=0)
    with pytest.raises(ValueError, match="implementation='xla' keeps the whole"):
        call(x, y, chunk=4, implementation="xla")
    with pytest.raises(ValueError, match="implementation='tpu' keeps no rows"):
        call(x, y, chunk=4, implementation="tpu")
    with pytest.raises(ValueError, match="implementation is 'cuda'"):
        call(x, y, implementation="cuda")
    with pytest.raises(ValueError, match="distributed is 'star'"):
        call(x, y, distributed="star")
    with pytest.raises(ValueError, match=r"targets.ids has shape \(3,\)"):
        call(x, y, targets=Groups(jnp.zeros(3, jnp.int32)))
    with pytest.raises(ValueError, match="targets.values has shape"):
        call(x, y, targets=Dense(jnp.zeros((12, 3))))


def test_labels_above_one_are_refused_by_the_sigmoid_loss():
    x, y, _ = oracle.batch()
    targets = Similarity(oracle.target("similarity").features_x, smoothing="sigmoid")
    with pytest.raises(ValueError, match="diagonal above 1"):
        sigmoid_loss(x, y, logit_scale=14.0, targets=targets)
