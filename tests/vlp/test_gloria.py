"""GLoRIA: losses and gradients against PyTorch, over devices, and a run that opens.

The towers are proven in tests/nn, the kernel in tests/kernels; PyTorch's numbers are
stored beside the live comparison, for machines without it.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.train.mesh import MeshConfig, make_mesh
from medjax.vlp.contrastive import normalise
from medjax.vlp.gloria import (
    CONFIGS,
    Compared,
    Gloria,
    GloriaConfig,
    equal_cost,
    gloria,
    gloria_loss,
)
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig
from medjax.vlp.word_contrast import (
    WordContrastConfig,
    local_contrast,
    word_attention,
)
from medjax.vlp.words import word_segments
from medjax_kernels.word_region import word_region_similarity
from tests.vlp.pairs import SIZE

B, R, T, D = 8, 5, 4, 6
CONFIG = CONFIGS["repo"]
STORED = {
    "local": 32.187105774053,
    "global": 11.896948635961365,
    "image": 4.432242478727992,
    "text": 3.0958248089869507,
    "regions": 11.32219184601291,
    "words": 12.592610149910186,
}
"""Both losses and the norm of the total's gradient by each input, PyTorch 2, fp64."""


def inputs():
    """Both sides of a batch in float64, not normalised, and which words are there."""
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.normal(size=(B, D)),
        "text": rng.normal(size=(B, D)),
        "regions": rng.normal(size=(B, R, D)),
        "words": rng.normal(size=(B, T, D)),
    }
    lengths = np.asarray([4, 1, 3, 2, 4, 2, 1, 3])
    return arrays, np.arange(T) < lengths[:, None]


def ours(arrays, mask, **options):
    """Total, terms, and the gradient by each input."""

    def loss(arrays):
        wholes = {name: normalise(arrays[name]) for name in ("image", "text")}
        compared = Compared(
            **wholes, regions=arrays["regions"], words=arrays["words"], mask=mask
        )
        return gloria_loss(compared, config=CONFIG, **options)

    (total, terms), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
    return total, terms, gradients


@pytest.fixture(scope="module")
def exact():
    """Ours in float64."""
    with jax.enable_x64(True):
        arrays, mask = inputs()
        found = ours(jax.tree.map(jnp.asarray, arrays), jnp.asarray(mask))
        return jax.tree.map(np.asarray, found)


def test_losses_and_gradients_have_the_stored_numbers(exact):
    total, terms, gradients = exact
    assert total.dtype == np.float64
    np.testing.assert_allclose(total, STORED["local"] + STORED["global"], rtol=1e-9)
    sizes = {name: np.linalg.norm(g) for name, g in gradients.items()}
    for name, value in (terms | sizes).items():
        np.testing.assert_allclose(value, STORED[name], rtol=1e-9, err_msg=name)


def test_losses_and_gradients_are_those_of_pytorch(exact):
    torch = pytest.importorskip("torch", reason="side by side needs the extra: parity")
    from tests.vlp.torch_gloria import losses

    arrays, mask = inputs()
    leaves = {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()}
    temps = (CONFIG.temp1, CONFIG.temp2, CONFIG.temp3)
    theirs = losses(**leaves, mask=torch.tensor(mask), temps=temps)
    sum(theirs.values()).backward()
    _, terms, gradients = exact
    for name, value in theirs.items():
        np.testing.assert_allclose(terms[name], value.item(), rtol=1e-10)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(gradients[name], leaf.grad, atol=1e-11)


def test_what_a_word_is_shown_to_look_at_is_what_the_loss_uses():
    arrays, mask = inputs()
    words, regions = (jnp.asarray(arrays[s], jnp.float32) for s in ("words", "regions"))
    shares = word_attention(words, jnp.asarray(mask), regions, temp1=CONFIG.temp1)
    np.testing.assert_allclose(shares.sum(axis=2), 1.0, rtol=1e-6)
    gathered = normalise(jnp.einsum("btr,brd->btd", shares, regions))
    cosines = np.asarray(jnp.sum(normalise(words) * gathered, axis=2))
    expected = np.log((np.exp(CONFIG.temp2 * cosines) * mask).sum(axis=1))
    found = word_region_similarity(words, regions, mask=jnp.asarray(mask))
    np.testing.assert_allclose(jnp.diagonal(found), expected, rtol=1e-5)


def pair_scores(arrays, mask, aggregation):
    """Images by reports, word by word in loops of NumPy, times both factors."""
    scores = np.zeros((B, B))
    for j, (words, there) in enumerate(zip(arrays["words"], mask, strict=True)):
        own = words[there]
        for i, regions in enumerate(arrays["regions"]):
            share = np.exp(regions @ own.T)
            share /= share.sum(1, keepdims=True)
            weight = np.exp(CONFIG.temp1 * share)
            weight /= weight.sum(0)
            cosines = []
            for word, column in zip(own, weight.T, strict=True):
                gathered = column @ regions
                sizes = np.linalg.norm(word) * np.linalg.norm(gathered)
                cosines.append(CONFIG.temp2 * word @ gathered / sizes)
            each = np.exp(cosines)
            made = {"sum": each.sum(), "mean": each.mean(), "max": each.max()}
            scores[i, j] = CONFIG.temp3 * np.log(made[aggregation])
    return scores


def loop_entropy(scores, met):
    """Cross-entropy of the diagonal, each row among the columns that it meets."""
    each = [
        np.log(np.exp(row[where]).sum()) - row[i]
        for i, (row, where) in enumerate(zip(scores, met, strict=True))
    ]
    return np.mean(each)


@pytest.mark.parametrize("aggregation", ["sum", "mean", "max"])
def test_words_make_one_number_as_a_loop_makes_it(aggregation):
    arrays, mask = inputs()
    with jax.enable_x64(True):
        rows, columns = local_contrast(
            *(jnp.asarray(a) for a in (arrays["words"], mask, arrays["regions"])),
            config=WordContrastConfig(aggregation=aggregation),
        )
    scores, everyone = pair_scores(arrays, mask, aggregation), np.ones((B, B), bool)
    np.testing.assert_allclose(rows, loop_entropy(scores, everyone), rtol=1e-9)
    np.testing.assert_allclose(columns, loop_entropy(scores.T, everyone), rtol=1e-9)


DRAWN = WordContrastConfig(aggregation="mean", local_negatives=3)


def drawn_contrast(config, key, mesh=None):
    """Both directions and gradients with reports that are drawn."""
    arrays, mask = inputs()
    given = tuple(jnp.asarray(arrays[s]) for s in ("words", "regions"))

    def loss(words, regions):
        options = {"config": config, "key": jax.random.key(key)}
        return local_contrast(words, jnp.asarray(mask), regions, **options)

    def total(*given):
        rows, columns = loss(*given)
        return 2 * rows + columns, (rows, columns)

    with jax.set_mesh(mesh or make_mesh(devices=jax.devices()[:1])):
        found = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(*given)
        return jax.tree.map(np.asarray, found)


def test_drawn_reports_are_contrasted_as_a_loop_does():
    """Three places further on, whichever they are; and all of them are the batch."""
    arrays, mask = inputs()
    scores = pair_scores(arrays, mask, "mean")
    with jax.enable_x64(True):
        (_, (rows, columns)), _ = drawn_contrast(DRAWN, key=1)
        every = dataclasses.replace(DRAWN, local_negatives=B - 1)
        (_, whole), _ = drawn_contrast(every, key=0)
    possible = {}
    for places in itertools.combinations(range(1, B), 3):
        met = np.eye(B, dtype=bool)
        for place in places:
            met |= np.roll(np.eye(B, dtype=bool), place, axis=1)
        both = loop_entropy(scores, met), loop_entropy(scores.T, met.T)
        possible[places] = np.abs(np.subtract(both, (rows, columns))).max()
    assert sorted(possible.values())[0] < 1e-9 < 1e-4 < sorted(possible.values())[1]
    everyone = np.ones((B, B), bool)
    expected = loop_entropy(scores, everyone), loop_entropy(scores.T, everyone)
    np.testing.assert_allclose(whole, expected, rtol=1e-9)
    with pytest.raises(ValueError, match="local_negatives: expected 1 at least"):
        drawn_contrast(dataclasses.replace(DRAWN, local_negatives=0), key=0)


def test_eight_devices_draw_the_reports_that_one_draws():
    with jax.enable_x64(True):
        one = drawn_contrast(DRAWN, key=1)
        eight = drawn_contrast(DRAWN, key=1, mesh=make_mesh(MeshConfig(4, 2)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), eight, one)


def test_eight_devices_see_what_one_sees(exact):
    with jax.enable_x64(True), jax.set_mesh(make_mesh(MeshConfig(4, 2))):
        arrays, mask = jax.tree.map(jnp.asarray, inputs())
        total, _, gradients = ours(arrays, mask)
    np.testing.assert_allclose(total, exact[0], rtol=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, exact[2][name], atol=1e-12, err_msg=name)


@pytest.fixture(scope="module")
def small():
    """A module with a tower of each side, its variables, films and texts."""
    image = ImageTowerConfig("resnet_tiny")
    text = TextTowerConfig(
        "tiny", vocab_size=20, max_length=8, pool="mean", layers_summed=2
    )
    config = GloriaConfig(width=128, text="report")
    rng = np.random.default_rng(0)
    film = jnp.asarray(rng.normal(size=(2, SIZE, SIZE, 3)), jnp.float32)
    ids = jnp.asarray([[2, 7, 8, 9, 3, 0, 0, 0], [2, 5, 3, 0, 0, 0, 0, 0]], jnp.int32)
    module = Gloria(config, image, text)
    variables = jax.jit(module.init)(jax.random.key(0), film, {"report": ids})
    return config, image, text, variables, film, ids


def test_cls_is_a_word_of_the_code_and_not_of_the_paper(small):
    config, image, text, variables, film, ids = small
    continues = np.zeros(20, np.bool_)
    continues[8] = True  # 7 8 is one word
    segments = word_segments(ids, continues, closing=False)
    modules = {
        counted: Gloria(dataclasses.replace(config, count_cls=counted), image, text)
        for counted in (True, False)
    }

    @jax.jit
    def encode(*given):
        return {
            counted: module.apply(*given, train=False, method="encode")
            for counted, module in modules.items()
        }

    seen = encode(variables, film, ids, segments)
    np.testing.assert_array_equal(seen[True].mask.sum(1), [3, 2])
    np.testing.assert_array_equal(seen[False].mask[:, :3], [[0, 1, 1], [0, 1, 0]])
    np.testing.assert_array_equal(seen[True].words, seen[False].words)
    assert seen[True].regions.shape == (2, 4, 128)  # 32 pixels, stride 16


def test_a_text_is_as_near_as_its_word_that_is_found_best(small):
    """Of any texts, without [CLS] and [SEP], whatever training counts."""
    config, image, text, variables, film, ids = small
    continues = np.zeros(20, np.bool_)
    segments = word_segments(ids, continues, closing=False)
    module = Gloria(config, image, text)
    given = variables, film, ids, segments

    @jax.jit
    def both(variables, film, ids, segments):
        seen = module.apply(
            variables, film, ids, segments, train=False, method="encode"
        )
        given = variables, film, ids, segments
        return seen, module.apply(*given, method="word_similarity")

    seen, found = both(*given)
    words, regions = (np.asarray(x, np.float64) for x in (seen.words, seen.regions))
    for j, count in enumerate([3, 1]):
        own = words[j, 1 : 1 + count]
        for i, places in enumerate(regions):
            score = np.exp(places @ own.T - (places @ own.T).max(1, keepdims=True))
            share = score / score.sum(1, keepdims=True)
            weight = np.exp(config.temp1 * share)
            gathered = (weight / weight.sum(0)).T @ places
            sizes = np.linalg.norm(own, axis=1) * np.linalg.norm(gathered, axis=1)
            best = config.temp2 * ((own * gathered).sum(1) / sizes).max()
            np.testing.assert_allclose(found[i, j], best, rtol=1e-4)


def test_a_width_that_is_not_the_report_towers_is_refused():
    with pytest.raises(ValueError, match="system.width: .* its width, 128, got 64"):
        gloria(GloriaConfig(width=64), ImageTowerConfig(), TextTowerConfig("tiny"))


@pytest.mark.parametrize("words, pairs", [(97, 138), (25, 535)])
def test_the_local_contrast_costs_as_much_as_a_resnet_at_so_many_pairs(words, pairs):
    """Of the paper's sizes: some 14.6 GFLOP a film, 4 t r d a pair."""
    config = dataclasses.replace(CONFIGS["paper"], words=words)
    text = TextTowerConfig("base", max_length=97)
    found = equal_cost(config, ImageTowerConfig("resnet50"), text)
    assert found == pairs == pytest.approx(14.6e9 / (4 * words * 361 * 768), rel=0.03)
    if words == 97:  # as many as the tower has places for
        all_of_them = dataclasses.replace(config, words=None)
        assert equal_cost(all_of_them, ImageTowerConfig("resnet50"), text) == pairs
