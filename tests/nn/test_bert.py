"""BERT agrees with Hugging Face's: any configuration, values, gradients, both ways."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.attention import MultiHeadAttention
from medjax.nn.bert import BERTS, Bert, BertConfig, MlmHead
from medjax.nn.vit import ViTConfig
from medjax.vlp.towers import (
    ImageTowerConfig,
    TextTowerConfig,
    bert_config,
    network_config,
)
from medjax.weights import from_torch, to_torch
from tests.nn.variables import random_variables

SMALL = BertConfig(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=50,
    max_position_embeddings=24,
    type_vocab_size=3,
    pad_token_id=1,
    layer_norm_eps=1e-6,
)
WIDE = dataclasses.replace(BERTS["base"], num_hidden_layers=2)
IDS = jnp.array([[2, 17, 5, 98, 3, 1, 1], [2, 4, 44, 8, 21, 7, 3]])
TYPES = jnp.array([[0, 0, 1, 1, 2, 0, 0], [0, 1, 2, 0, 1, 2, 0]])


class MaskedLm(nn.Module):
    """BERT and its head, the parts under the names that the weights expect."""

    config: BertConfig

    def setup(self):
        self.bert, self.head = Bert(self.config), MlmHead(self.config)

    def __call__(self, ids):
        return self.head(self.bert(ids).last, self.bert.word_embeddings)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")


@pytest.fixture(scope="module")
def parity(torch):
    from tests.nn import torch_parity

    return torch_parity


def hugging_face(torch, config, kind="BertModel"):
    import transformers

    torch.manual_seed(0)
    theirs = transformers.BertConfig(**config.to_dict())
    options = {"add_pooling_layer": False} if kind == "BertModel" else {}
    net = getattr(transformers, kind)(theirs, **options).eval()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape))
    return net


def imported(parity, config, net):
    template = jax.eval_shape(Bert(config).init, jax.random.key(0), IDS)
    return from_torch(parity.state(net), "bert", template)


def run_theirs(torch, net, ids, **options):
    ids, options = np.asarray(ids), {k: np.asarray(v) for k, v in options.items()}
    options.setdefault("attention_mask", ids != net.config.pad_token_id)
    tensors = {k: torch.tensor(v).long() for k, v in options.items()}
    return net(torch.tensor(ids), output_hidden_states=True, **tensors)


def real(values, ids, config):
    """What lies at padded positions means nothing, here and there."""
    return np.asarray(values)[np.asarray(ids) != config.pad_token_id]


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_all_hidden_states_agree(torch, parity, activation):
    config = dataclasses.replace(SMALL, hidden_act=activation)
    net = hugging_face(torch, config)
    variables = imported(parity, config, net)
    ours = jax.jit(Bert(config).apply)(variables, IDS, token_types=TYPES)
    with torch.no_grad():
        theirs = run_theirs(torch, net, IDS, token_type_ids=TYPES)
    assert len(ours.hidden) == len(theirs.hidden_states) == 3
    for a, b in zip(ours.hidden, theirs.hidden_states, strict=True):
        assert parity.close(real(a, IDS, config), real(b, IDS, config))
    np.testing.assert_array_equal(ours.last, ours.hidden[-1])


def test_two_layers_of_the_base_width_agree(torch, parity):
    ids = jax.random.randint(jax.random.key(0), (2, 128), 5, 30000)
    ids = ids.at[0, 100:].set(0)
    net = hugging_face(torch, WIDE)
    ours = jax.jit(Bert(WIDE).apply)(imported(parity, WIDE, net), ids)
    with torch.no_grad():
        theirs = run_theirs(torch, net, ids).last_hidden_state
    assert parity.close(real(ours.last, ids, WIDE), real(theirs, ids, WIDE))


def test_an_exported_tower_loads_strictly_and_agrees(torch, parity):
    variables = random_variables(Bert(SMALL), IDS)
    net = hugging_face(torch, SMALL)
    parity.load_strict(net, to_torch("bert", variables))
    ours = jax.jit(Bert(SMALL).apply)(variables, IDS)
    with torch.no_grad():
        theirs = run_theirs(torch, net, IDS).last_hidden_state
    assert parity.close(real(ours.last, IDS, SMALL), real(theirs, IDS, SMALL))


def test_gradients_agree(torch, parity):
    net = hugging_face(torch, SMALL)
    variables = imported(parity, SMALL, net)
    weight = jax.random.normal(jax.random.key(1), (2, 32))

    @jax.jit
    @jax.grad
    def gradient(variables):
        return jnp.sum(Bert(SMALL).apply(variables, IDS).last[:, 0] * weight)

    out = run_theirs(torch, net, IDS).last_hidden_state[:, 0]
    (out * torch.tensor(np.asarray(weight))).sum().backward()
    named = to_torch("bert", gradient(variables))
    scale = max(float(p.grad.abs().max()) for p in net.parameters())
    for name, parameter in net.named_parameters():
        # The gradient of a key's bias is exactly zero: a constant moves no softmax.
        difference = np.abs(named[name] - parameter.grad.numpy()).max()
        bound = 1e-6 * scale + 1e-4 * float(parameter.grad.abs().max())
        assert difference < bound, name


def test_the_masked_language_model_agrees_both_ways(torch, parity):
    net = hugging_face(torch, SMALL, "BertForMaskedLM")
    template = jax.eval_shape(MaskedLm(SMALL).init, jax.random.key(0), IDS)
    variables = from_torch(parity.state(net), "bert_mlm", template)
    ours = jax.jit(MaskedLm(SMALL).apply)(variables, IDS)
    with torch.no_grad():
        theirs = run_theirs(torch, net, IDS).logits
    assert ours.dtype == jnp.float32
    assert parity.close(real(ours, IDS, SMALL), real(theirs, IDS, SMALL))
    other = hugging_face(torch, SMALL, "BertForMaskedLM")
    parity.load_strict(other, to_torch("bert_mlm", variables))
    with torch.no_grad():
        again = run_theirs(torch, other, IDS).logits
    np.testing.assert_array_equal(again, theirs)


def test_padding_and_explicit_masks_hide_tokens():
    variables = random_variables(Bert(SMALL), IDS)
    run = jax.jit(Bert(SMALL).apply)
    alone = run(variables, IDS[:1, :5]).last
    padded = run(variables, IDS[:1]).last[:, :5]
    np.testing.assert_allclose(padded, alone, atol=1e-5)
    mask = jnp.array([[True] * 3 + [False] * 4])
    masked = run(variables, IDS[:1], mask).last[:, :3]
    other = run(variables, IDS[:1].at[:, 3:].set(7), mask).last[:, :3]
    np.testing.assert_array_equal(masked, other)
    nothing = run(variables, jnp.full((1, 7), SMALL.pad_token_id)).last
    assert bool(jnp.all(jnp.isfinite(nothing)))


def test_truncation_ends_the_network_early():
    variables = random_variables(Bert(SMALL), IDS)
    full = jax.jit(Bert(SMALL).apply)(variables, IDS)
    short = jax.jit(Bert(SMALL.truncated(1)).apply)(variables, IDS)
    np.testing.assert_allclose(short.last, full.hidden[1], atol=1e-6)
    assert SMALL.truncated(None) == SMALL
    with pytest.raises(ValueError, match="expected 1 to 2, got 3"):
        SMALL.truncated(3)


def test_dropout_of_attention_keeps_the_mean_and_spares_hidden_tokens():
    draws = 2000
    x = jnp.tile(jax.random.normal(jax.random.key(0), (1, 5, 8)), (draws, 1, 1))
    mask = jnp.tile(jnp.array([[True, True, True, True, False]]), (draws, 1))
    net = MultiHeadAttention(heads=2, dropout=0.5)
    variables = random_variables(net, x)

    @jax.jit
    def drop(x):
        rngs = {"dropout": jax.random.key(1)}
        return net.apply(variables, x, mask, False, rngs=rngs)

    many = drop(x)
    exact = net.apply(variables, x[:1], mask[:1])[0]
    error = jnp.std(many, axis=0) / draws**0.5
    assert float(error.min()) > 0
    assert float((jnp.abs(jnp.mean(many, axis=0) - exact) / error).max()) < 5
    hidden = drop(x.at[:, 4].add(1.0))
    np.testing.assert_array_equal(hidden[:, :4], many[:, :4])


def test_dropout_belongs_to_training():
    variables = random_variables(Bert(SMALL), IDS)
    run = jax.jit(
        lambda key, still: (
            Bert(SMALL)
            .apply(variables, IDS, deterministic=still, rngs={"dropout": key})
            .last
        ),
        static_argnums=1,
    )
    one, two = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(run(one, True), run(two, True))
    assert float(jnp.abs(run(one, False) - run(two, False)).max()) > 0.1


def test_remat_and_bfloat16_are_the_same_network():
    variables = random_variables(Bert(SMALL), IDS)

    def gradient(config):
        def loss(v):
            return jnp.sum(
                Bert(config).apply(v, IDS).last.astype(jnp.float32)[:, 0, :5]
            )

        return jax.jit(jax.value_and_grad(loss))(variables)

    plain = gradient(SMALL)
    again = gradient(dataclasses.replace(SMALL, remat=True))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    half = dataclasses.replace(SMALL, dtype="bfloat16")
    out = jax.jit(Bert(half).apply)(variables, IDS)
    assert out.last.dtype == jnp.bfloat16
    full = jax.jit(Bert(SMALL).apply)(variables, IDS).last
    np.testing.assert_allclose(out.last.astype(jnp.float32), full, atol=0.1)


def test_configurations_are_those_of_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.BertConfig(hidden_size=64, num_attention_heads=2).save_pretrained(
        tmp_path
    )
    config = BertConfig.from_json(tmp_path / "config.json", dtype="bfloat16")
    assert (config.hidden_size, config.num_attention_heads) == (64, 2)
    assert config.vocab_size == 30522 and config.dtype == "bfloat16"
    assert BertConfig.from_dict(SMALL.to_dict()) == SMALL


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"model_type": "roberta"}, "model_type.*got 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_act": "swish9"}, "hidden_act.*got 'swish9'"),
    ],
)
def test_networks_that_are_not_this_one_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        BertConfig.from_dict(sizes)


def test_sequences_longer_than_the_positions_are_refused():
    ids = jnp.ones((1, 25), jnp.int32)
    with pytest.raises(ValueError, match="at most 24 tokens"):
        Bert(SMALL).init(jax.random.key(0), ids)


def test_the_fused_kernel_is_not_asked_for_dropout():
    net = MultiHeadAttention(heads=2, dropout=0.1, implementation="cudnn")
    x, key = jnp.zeros((1, 3, 8)), jax.random.key(0)
    with pytest.raises(ValueError, match="no dropout of attention weights, got 0.1"):
        jax.eval_shape(lambda k: net.init(k, x, deterministic=False), key)


def test_towers_pass_the_attention_on():
    text = TextTowerConfig("tiny", attention="cudnn", attention_dropout=0.0)
    sizes = bert_config(text)
    assert (sizes.attention, sizes.attention_probs_dropout_prob) == ("cudnn", 0.0)
    image = network_config(ImageTowerConfig("vit_tiny", attention="cudnn"))
    assert isinstance(image, ViTConfig) and image.attention == "cudnn"
