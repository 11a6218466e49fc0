"""Word-pieces become words: laws, and the loops of both papers' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.attention import MultiHeadAttention
from medjax.vlp.heat_maps import spelled
from medjax.vlp.mgca import cut_short
from medjax.vlp.tokens import train_tokenizer
from medjax.vlp.towers import TextTower, TextTowerConfig, bert_config
from medjax.vlp.words import aggregate, continuing_pieces, word_segments

TEXTS = [
    "There is no pneumothorax.",
    "Small effusion, unchanged; heart size is normal.",
    "",
]
LENGTH, WIDTH = 40, 3


@pytest.fixture(scope="module")
def tokenizer():
    """Knows few pieces, so that long words are cut."""
    return train_tokenizer([*TEXTS, *TEXTS], vocab_size=50)


@pytest.fixture(scope="module")
def read(tokenizer):
    """Ids of the texts, and a vector per token; those at padding are not zero."""
    ids = tokenizer.encode(TEXTS, LENGTH)
    hidden = np.random.default_rng(0).normal(size=(len(TEXTS), LENGTH, WIDTH))
    return ids, hidden.astype(np.float32)


def loop(ids, hidden, tokenizer, *, closing, shifted=False):
    """Token by token, as the released code of GLoRIA and MGCA walks.

    MGCA's gives each token the attention of the one behind it (``shifted``).
    """
    pieces = tokenizer.inner.convert_ids_to_tokens(ids.tolist())
    values = hidden[1:] if shifted else hidden
    words: list[np.ndarray] = []
    for piece, vector in zip(pieces, values, strict=False):
        if piece == "[SEP]":
            return [*words, vector] if closing else words
        if piece.startswith("##"):
            words[-1] = words[-1] + vector
        else:
            words.append(vector)
    assert shifted, "a text without an end"
    return words[:-1]  # the last one was still open


@pytest.mark.parametrize("closing", [True, False])
def test_words_are_those_of_a_loop_over_pieces(closing, read, tokenizer):
    ids, hidden = read
    assert tokenizer.continues[ids].any(), "no word was cut"
    segments = word_segments(jnp.asarray(ids), tokenizer.continues, closing=closing)
    words, mask = aggregate(jnp.asarray(hidden), segments)
    for i, row in enumerate(ids):
        expected = loop(row, hidden[i], tokenizer, closing=closing)
        count = len(expected)
        np.testing.assert_array_equal(mask[i], np.arange(LENGTH) < count)
        np.testing.assert_allclose(words[i, :count], expected, atol=1e-6)
        np.testing.assert_array_equal(words[i, count:], 0.0)


def test_a_report_of_full_length_is_cut_short_as_the_code_does_it(tokenizer):
    """The text, cut where the places end, and with a place to spare."""
    text = "There is no pneumothorax."
    whole = int((tokenizer.encode([text], LENGTH) != 0).sum())
    for length in (whole - 3, whole, whole + 1):
        ids = tokenizer.encode([text], length)
        hidden = np.random.default_rng(length).normal(size=(1, length, WIDTH))
        segments = word_segments(jnp.asarray(ids), tokenizer.continues)
        kept = cut_short(jnp.asarray(ids), segments)
        ahead = jnp.asarray(np.pad(hidden[:, 1:], ((0, 0), (0, 1), (0, 0))), np.float32)
        found, mask = aggregate(ahead, kept)
        expected = loop(ids[0], hidden[0], tokenizer, closing=True, shifted=True)
        assert int(mask.sum()) == len(expected)
        if length > whole:
            np.testing.assert_array_equal(kept, segments)
        np.testing.assert_allclose(found[0, : len(expected)], expected, atol=1e-6)


def test_a_word_in_pieces_is_their_sum(tokenizer):
    ids = tokenizer.encode(["pneumothorax"], LENGTH)
    pieces = int((ids != 0).sum()) - 2
    assert pieces > 1
    hidden = jnp.asarray(np.random.default_rng(1).normal(size=(1, LENGTH, 2)))
    words, mask = aggregate(
        hidden.astype(jnp.float32), word_segments(jnp.asarray(ids), tokenizer.continues)
    )
    assert mask.sum() == 3  # [CLS], the word, [SEP]
    np.testing.assert_allclose(words[0, 1], hidden[0, 1 : 1 + pieces].sum(0), atol=1e-6)


def test_no_token_is_lost_and_padding_does_not_count(read, tokenizer):
    ids, hidden = read
    segments = word_segments(jnp.asarray(ids), tokenizer.continues)
    words, _ = aggregate(jnp.asarray(hidden), segments)
    real = (ids != 0)[..., None]
    np.testing.assert_allclose(words.sum(1), (hidden * real).sum(1), atol=1e-5)
    other = np.where(real, hidden, hidden[:, ::-1] + 7.0)
    np.testing.assert_array_equal(aggregate(jnp.asarray(other), segments)[0], words)


def test_fewer_slots_hold_the_first_words(read, tokenizer):
    ids, hidden = read
    segments = word_segments(jnp.asarray(ids), tokenizer.continues)
    every, mask = aggregate(jnp.asarray(hidden), segments)
    some, kept = aggregate(jnp.asarray(hidden), segments, words=4)
    np.testing.assert_array_equal(some, every[:, :4])
    np.testing.assert_array_equal(kept, mask[:, :4])


def test_pieces_are_those_of_the_tokenizer_that_is_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    named = TextTowerConfig("tiny", tokenizer=str(tmp_path))
    np.testing.assert_array_equal(continuing_pieces(named), tokenizer.continues)
    alone = continuing_pieces(TextTowerConfig("tiny", vocab_size=9))
    np.testing.assert_array_equal(alone, np.zeros(9, np.bool_))


def test_where_the_first_token_looks_is_what_it_gathers():
    """With values and output as they come in, the first row gathers the tokens."""
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
    mask = jnp.asarray([[True] * 5, [True, True, True, False, False]])
    net = MultiHeadAttention(heads=1)
    params = net.init(jax.random.key(0), x)["params"]
    same = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    params = {**params, "value": same, "output": same}
    y, row = net.apply({"params": params}, x, mask, look=True, method="attend")
    np.testing.assert_allclose(row.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(row[1, 3:], 0.0)
    np.testing.assert_allclose(jnp.einsum("bm,bmd->bd", row, x), y[:, 0], atol=1e-6)
    # Of several heads it is the mean.
    two = MultiHeadAttention(heads=2)
    _, both = two.apply({"params": params}, x, mask, look=True, method="attend")
    q, k = (
        x @ params[s]["kernel"] + params[s]["bias"][None, None]
        for s in ("query", "key")
    )
    rows = [
        jax.nn.softmax(
            jnp.where(
                mask, jnp.einsum("bd,bmd->bm", q[:, 0, h], k[..., h]) / 2**0.5, -1e30
            )
        )
        for h in (slice(2), slice(2, 4))
    ]
    np.testing.assert_allclose(both, (rows[0] + rows[1]) / 2, atol=1e-6)


def test_tokens_are_sums_of_the_last_layers_and_others_get_what_they_got():
    config = TextTowerConfig("tiny", vocab_size=50, max_length=8, pool="mean")
    ids = jnp.asarray([[2, 7, 9, 3, 0, 0]], jnp.int32)
    tower = TextTower(config)
    variables = tower.init(jax.random.key(0), ids)
    plain = tower.apply(variables, ids, method="features")
    np.testing.assert_array_equal(tower.apply(variables, ids), plain.pooled)
    assert plain.looked is None
    both = TextTowerConfig(
        "tiny", vocab_size=50, max_length=8, pool="mean", layers_summed=2
    )
    summed = TextTower(both, look=True).apply(variables, ids, method="features")
    first = TextTowerConfig("tiny", vocab_size=50, max_length=8, layers=1)
    shallow = {"bert": {k: v for k, v in variables["params"]["bert"].items()}}
    del shallow["bert"]["layer_1"]
    before = TextTower(first).apply({"params": shallow}, ids, method="features")
    np.testing.assert_allclose(
        summed.tokens, plain.tokens + before.tokens, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        summed.pooled[0], summed.tokens[0, :4].mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(summed.looked.sum(), 1.0, rtol=1e-5)


def test_words_are_spelled_as_they_are_counted(read, tokenizer):
    ids, _ = read
    segments = word_segments(jnp.asarray(ids), tokenizer.continues)
    for row, text, last in zip(ids, TEXTS, segments.max(axis=1), strict=True):
        words = spelled(row, tokenizer)
        assert len(words) == last + 1
        assert "".join(words[1:-1]) == text.lower().replace(" ", "")


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(ValueError, match="text.layers_summed: expected 1 to 3 "):
        bert_config(TextTowerConfig("tiny", layers_summed=4))
