"""ConVIRT: every preset's loss against PyTorch, what is frozen, which sentence is read.

The towers are proven in tests/nn; here their features are taken as given, and heads,
contrast and weights are computed anew by PyTorch from the same parameters.
"""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.bert import BERTS
from medjax.train.sharding import flatten
from medjax.train.state import partition
from medjax.vlp.augment import AugmentConfig, evaluate
from medjax.vlp.convirt import CONFIGS, ConvirtConfig, convirt
from medjax.vlp.datasets.prepared import DrawSentence
from medjax.vlp.towers import ImageTower, ImageTowerConfig, TextTower, TextTowerConfig

N, SIZE, TOKENS = 6, 16, 8
IMAGE = ImageTowerConfig("vit_tiny")
# Nothing random, so that both sides see the same input.
STILL = AugmentConfig(size=SIZE, normalise="half")


@pytest.fixture(scope="module")
def still_bert(tmp_path_factory):
    """Sizes of a report tower without dropout, whose draws no two frameworks share."""
    folder = tmp_path_factory.mktemp("bert")
    sizes = dataclasses.replace(
        BERTS["tiny"],
        vocab_size=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    kept = {
        k: v for k, v in dataclasses.asdict(sizes).items() if not k.endswith("dtype")
    }
    (folder / "config.json").write_text(json.dumps({**kept, "model_type": "bert"}))
    return str(folder)


def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 40, (N, TOKENS)).astype(np.int32)
    ids[:, 0] = 2
    for row, length in enumerate(rng.integers(3, TOKENS, N)):
        ids[row, length:] = 0
    image = rng.integers(0, 256, (N, SIZE, SIZE), dtype=np.uint8)
    other = np.where(ids > 4, 44 - ids, ids).astype(np.int32)
    rows = {"image": image, "sentence": ids, "report": other}
    return {name: jnp.asarray(values) for name, values in rows.items()}


def filled(shapes):
    """Random variables of these shapes, without compiling what initialises each."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0.0, 0.2, s.shape), s.dtype), shapes
    )


def torch_head(params, x, torch):
    """The head that these parameters belong to, in training, written in torch."""
    weight = {
        name: torch.tensor(np.asarray(layer["kernel"], np.float64)).T
        for name, layer in params.items()
        if "kernel" in layer
    }
    bias = {
        name: torch.tensor(np.asarray(layer["bias"], np.float64))
        for name, layer in params.items()
        if "bias" in layer
    }
    linear = torch.nn.functional.linear
    if "bn1" not in params:
        hidden = torch.relu(linear(x, weight["linear1"], bias["linear1"]))
        return linear(hidden, weight["linear2"], bias["linear2"])

    def standardised(x):
        return torch.nn.functional.batch_norm(x, None, None, training=True)

    scale = torch.tensor(np.asarray(params["bn1"]["scale"], np.float64))
    hidden = standardised(linear(x, weight["linear1"])) * scale + bias["bn1"]
    return standardised(linear(torch.relu(hidden), weight["linear2"]))


@pytest.mark.parametrize(
    ("preset", "pool", "reads"),
    [
        ("paper", "max", "sentence"),
        ("repo", "mean", "report"),
        ("mgca", "cls", "report"),
    ],
)
def test_loss_is_that_of_pytorch(preset, pool, reads, still_bert):
    torch = pytest.importorskip("torch", reason="side by side needs the extra: parity")
    config = dataclasses.replace(CONFIGS[preset], augment=STILL)
    text = TextTowerConfig(checkpoint=still_bert, pool=pool, max_length=TOKENS)
    system = convirt(config, IMAGE, text)
    data = batch()
    variables = filled(jax.eval_shape(system.init, jax.random.key(0), data))
    assert system.tokens == (reads,)

    params = variables["params"]
    see = jax.jit(functools.partial(ImageTower(IMAGE).apply, train=True))
    image: Any = see({"params": params["image"]}, evaluate(data["image"], STILL))
    read = jax.jit(functools.partial(TextTower(text).apply, train=False))
    words: Any = read({"params": params["text"]}, data[reads])
    x, y = (
        torch.tensor(np.asarray(features, np.float64))
        for features in (image.pooled, words)
    )
    x = torch.nn.functional.normalize(torch_head(params["image_head"], x, torch))
    y = torch.nn.functional.normalize(torch_head(params["text_head"], y, torch))
    scores, own = x @ y.T / config.temperature, torch.arange(N)
    to_text = torch.nn.functional.cross_entropy(scores, own)
    to_image = torch.nn.functional.cross_entropy(scores.T, own)
    expected = config.image_to_text * to_text + config.text_to_image * to_image

    got, (metrics, _) = jax.jit(system.loss)(variables, data, jax.random.key(1))
    np.testing.assert_allclose(got, expected, rtol=2e-4)
    np.testing.assert_allclose(metrics["image_to_text"], to_text, rtol=2e-4)
    np.testing.assert_allclose(metrics["text_to_image"], to_image, rtol=2e-4)


@pytest.fixture(scope="module")
def parameters():
    """Shapes of ConVIRT's parameters with a report tower of twelve layers."""
    system = convirt(ConvirtConfig(), IMAGE, TextTowerConfig(max_length=TOKENS))
    return jax.eval_shape(system.init, jax.random.key(0), batch())["params"]


def trained(preset, parameters) -> set[str]:
    """Which parts of the network a preset trains."""
    system = convirt(CONFIGS[preset], IMAGE, TextTowerConfig(max_length=TOKENS))
    names = flatten(partition(parameters, system.frozen)[0])
    return {
        name.split("/")[2] if name.startswith("text/") else name.split("/")[0]
        for name in names
    }


HEADS = {"image", "image_head", "text_head"}


def test_the_lower_six_layers_and_the_embeddings_stay(parameters):
    assert trained("paper", parameters) == HEADS | {f"layer_{i}" for i in range(6, 12)}


def test_the_baseline_of_later_papers_trains_everything(parameters):
    layers = {f"layer_{i}" for i in range(12)} | {"embeddings"}
    assert trained("mgca", parameters) == HEADS | layers


def test_a_report_head_without_gradient_hides_the_loss_from_its_tower(parameters):
    assert trained("repo", parameters) == {"image", "image_head"}


def test_a_batchnorm_head_needs_a_width():
    config = ConvirtConfig(head="batchnorm")
    with pytest.raises(ValueError, match="system.hidden: head 'batchnorm' needs"):
        system = convirt(config, IMAGE, TextTowerConfig("tiny", max_length=TOKENS))
        jax.eval_shape(system.init, jax.random.key(0), batch())


def test_every_sentence_is_drawn_as_often_and_whole():
    sentences = [[2, 10, 3], [2, 11, 12, 3], [2, *range(20, 30), 3]]
    row = {
        "image": 0,
        "sentences": np.concatenate(sentences).astype(np.int32),
        "sentence_ends": np.cumsum([len(s) for s in sentences]).astype(np.int32),
    }
    rng, draws = np.random.default_rng(0), 900
    drawn = [DrawSentence(TOKENS)(dict(row), rng) for _ in range(draws)]
    assert all(set(d) == {"image", "sentence"} for d in drawn)
    counts = {
        ids: sum(d["sentence"].tolist() == list(ids) for d in drawn)
        for ids in (
            (2, 10, 3, 0, 0, 0, 0, 0),
            (2, 11, 12, 3, 0, 0, 0, 0),
            (2, *range(20, 26), 3),  # cut, but closed
        )
    }
    assert sum(counts.values()) == draws
    # Four standard deviations of a binomial around a third.
    assert all(abs(n - draws / 3) < 57 for n in counts.values()), counts
