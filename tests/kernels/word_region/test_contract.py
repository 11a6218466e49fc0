"""What every engine promises; the fused ones interpreted, with race detection."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax_kernels.word_region import word_region_similarity
from medjax_kernels.word_region.shapes import SHAPES, Shape
from tests.kernels.word_region import oracle

XLA = ("xla", "xla_chunked")
RECOMPUTING = ("xla_chunked", "tpu")
"""Engines of fp32 features whose backward pass evaluates pairs again."""

SMALL = Shape(1, 2, 5, 6, 8)
"""For the interpreter of Mosaic GPU, which takes seconds for a pair."""

ERRORS = {
    ("xla", "float32"): (3e-7, 1e-6),
    ("xla_chunked", "float32"): (3e-7, 1e-6),
    ("tpu", "float32"): (3e-7, 1e-6),
    ("xla_chunked", "bfloat16"): (2e-3, 1e-2),
    ("tpu", "bfloat16"): (2e-3, 1e-2),
    ("gpu", "bfloat16"): (2e-3, 1e-2),
    ("xla_chunked", "float16"): (3e-7, 1e-3),
}
"""Relative errors of value and gradient, the features being exact as they are."""


@pytest.mark.parametrize(("engine", "dtype"), ERRORS)
def test_value_and_gradient_equal_float64(engine, dtype):
    """Ragged reports, an empty one, NaN where there are no words."""
    shape = SMALL if engine == "gpu" else SHAPES["tiny"]
    b = oracle.batch(shape, dtype)
    value, gradients = oracle.value_and_gradient(engine, b)
    errors = oracle.errors((value, gradients), oracle.expected(shape, dtype))
    assert all(map(operator.lt, errors, ERRORS[engine, dtype])), errors
    assert value.dtype == np.float32
    assert [g.dtype for g in gradients] == [b.words.dtype] * 2
    # An empty report has similarity zero; where there are no words, no gradient.
    assert not value[:, np.asarray(b.lengths) == 0].any()
    gone = np.arange(b.words.shape[1])[None] >= np.asarray(b.lengths)[:, None]
    assert gone.any()
    assert not gradients[0][gone].any()


@pytest.mark.parametrize("engine", RECOMPUTING)
def test_best_word_instead_of_their_sum_and_other_temperatures(engine):
    options = {"aggregation": "max", "temp1": 9.0, "temp2": 2.5}
    actual = oracle.value_and_gradient(engine, oracle.batch(), **options)
    assert max(oracle.errors(actual, oracle.expected(**options))) < 1e-6


@pytest.mark.parametrize("engine", RECOMPUTING)
def test_order_of_regions_and_words_and_padding_change_nothing(engine):
    """A mask with holes is the report of the words that are left, in any order."""
    b = oracle.batch()
    words = jnp.nan_to_num(b.words)
    order = np.random.default_rng(1).permutation(b.regions.shape[1])
    mask = np.zeros(words.shape[:2], bool)
    mask[:, [1, 4, 5]] = True
    masked = oracle.value(engine, words, b.regions[:, order], mask=jnp.asarray(mask))
    cut = oracle.value(engine, words[:, np.array([5, 1, 4])], b.regions)
    np.testing.assert_allclose(masked, cut, atol=2e-6)


@pytest.mark.parametrize("engine", oracle.ENGINES)
def test_nan_stays_in_its_image_and_report(engine):
    images = 1 if engine == "gpu" else 2
    dtype = jnp.float16 if engine == "gpu" else jnp.float32
    b = oracle.batch(Shape(images, 2, 5, 6, 8), dtype)
    words = jnp.nan_to_num(b.words).at[1, 2, 3].set(jnp.nan)
    regions = b.regions if images == 1 else b.regions.at[1, 1, 1].set(jnp.nan)
    actual = oracle.value(engine, words, regions)
    expected = np.array([[False, True], [True, True]])[:images]
    np.testing.assert_array_equal(np.isnan(actual), expected)


@pytest.mark.parametrize("engine", RECOMPUTING)
def test_features_of_length_zero_have_cosine_zero(engine):
    b = oracle.batch()._replace(lengths=jnp.full(4, 7, jnp.int32))
    b = b._replace(words=jnp.nan_to_num(b.words).at[0].set(0))
    b = b._replace(regions=b.regions.at[1].set(0))
    value, gradients = oracle.value_and_gradient(engine, b)
    np.testing.assert_allclose(value[1], np.log(7), rtol=1e-6)
    np.testing.assert_allclose(value[:, 0], np.log(7), rtol=1e-6)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("engine", XLA)
def test_almost_uniform_attention_keeps_its_accuracy(engine):
    """Regions that cancel but for a thousandth of their size: what centring is for."""
    b = oracle.batch()
    regions = b.regions - jnp.mean(b.regions, axis=1, keepdims=True)
    b = b._replace(words=1e-3 * b.words, regions=regions + 1e-3)
    actual = oracle.value(engine, b.words, b.regions, lengths=b.lengths)
    assert oracle.error(actual, oracle.in_double(b)[0]) < 1e-5


@pytest.mark.parametrize("engine", XLA)
def test_vmap(engine):
    """Fused engines are only lowered: JAX's TPU interpreter fails on mapped grids."""
    b = oracle.batch()
    words = jnp.stack([jnp.nan_to_num(b.words), b.words[::-1]])
    lengths = jnp.stack([jnp.full(4, 7, jnp.int32), b.lengths[::-1]])
    regions = jnp.stack([b.regions, b.regions + 1])

    def function(words, regions, lengths):
        return oracle.similarity(engine, lengths=lengths)(words, regions)

    together = oracle.run(engine, jax.vmap(function), words, regions, lengths)
    for i in range(2):
        alone = oracle.value("xla", words[i], regions[i], lengths=lengths[i])
        np.testing.assert_allclose(together[i], alone, atol=2e-6)


@pytest.mark.parametrize("tile", [(1, 1), (3, 9)])
def test_any_tile_is_the_same(tile):
    b = oracle.batch()
    tiled = oracle.value_and_gradient("xla_chunked", b, tile=tile)
    assert max(oracle.errors(tiled, oracle.expected())) < 1e-6


def test_float64_features_stay_so():
    b = oracle.batch()
    with jax.enable_x64(True):
        wide = b._replace(
            words=b.words.astype(jnp.float64),
            regions=b.regions.astype(jnp.float64),
            cotangent=b.cotangent.astype(jnp.float64),
        )
        actual = oracle.value_and_gradient("xla_chunked", wide)
    assert actual[0].dtype == np.float64
    assert max(oracle.errors(actual, oracle.expected())) < 1e-12


def test_no_attention_tensor_is_held():
    n, t, r, d = 32, 32, 32, 8
    words, regions = jnp.ones((n, t, d)), jnp.ones((n, r, d))

    def temporary(engine: str, **options) -> int:
        def loss(words, regions):
            return jnp.sum(oracle.similarity(engine, **options)(words, regions))

        step = jax.jit(jax.grad(loss, (0, 1))).lower(words, regions).compile()
        return step.memory_analysis().temp_size_in_bytes

    attention = 4 * n * n * t * r
    assert temporary("xla") > attention
    assert temporary("xla_chunked", tile=(1, 4)) < attention / 4


def test_none_runs_whole_or_in_tiles():
    b = oracle.batch()
    words = jnp.nan_to_num(b.words)
    alone = jax.jit(word_region_similarity)(words, b.regions)
    chunked = oracle.value("xla_chunked", words, b.regions)
    np.testing.assert_allclose(alone, chunked, atol=2e-6)
    shapes = [jax.ShapeDtypeStruct((64, n, 32), jnp.float32) for n in (25, 361)]
    text = jax.jit(word_region_similarity).lower(*shapes).as_text()
    assert "tensor<64x64x25x361xf32>" not in text
    assert "while" in text


WORDS, REGIONS = jnp.ones((4, 7, 16)), jnp.ones((3, 10, 16))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((WORDS[0], REGIONS), {}, r"words has shape \(7, 16\), expected \[n t d\]"),
        ((WORDS, REGIONS[:0]), {}, r"regions has shape \(0, 10, 16\).*no axis empty"),
        ((WORDS, REGIONS[..., :9]), {}, "regions has width 9, expected .* 16"),
        (
            (WORDS, REGIONS.astype(jnp.bfloat16)),
            {},
            "regions has dtype bfloat16, expected .* float32",
        ),
        ((WORDS.astype(jnp.int32), REGIONS), {}, "words has dtype int32, expected"),
        ((WORDS, REGIONS), {"temp1": 0.0}, "temp1 is 0.0, expected a positive"),
        ((WORDS, REGIONS), {"temp2": float("nan")}, "temp2 is nan, expected"),
        ((WORDS, REGIONS), {"aggregation": "mean"}, "aggregation is 'mean', expected"),
        ((WORDS, REGIONS), {"implementation": "cuda"}, "implementation is 'cuda'"),
        ((WORDS, REGIONS), {"tile": (0, 1)}, r"tile is \(0, 1\), expected"),
        (
            (WORDS, REGIONS),
            {"implementation": "xla", "tile": (1, 1)},
            "'xla' takes no tile",
        ),
        (
            (WORDS, REGIONS),
            {"lengths": jnp.ones(4, jnp.int32), "mask": jnp.ones((4, 7), jnp.bool)},
            "both given",
        ),
        ((WORDS, REGIONS), {"lengths": jnp.ones(3, jnp.int32)}, "lengths is int32"),
        (
            (WORDS, REGIONS),
            {"mask": jnp.ones((4, 6), jnp.bool)},
            r"mask is bool\[4, 6\], expected bool\[4, 7\]",
        ),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    # Without the hook that checks shapes in tests: users do not run it.
    function = getattr(word_region_similarity, "__wrapped__", word_region_similarity)
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)
