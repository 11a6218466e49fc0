"""Name tables read in both directions, and say what does not fit."""

import dataclasses
import logging

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medjax.nn.bert import BERTS, Bert, BertConfig, MlmHead
from medjax.nn.resnet import RESNETS, ResNet
from medjax.nn.vit import VITS, ViT
from medjax.vlp.heads import MlpHead
from medjax.weights import from_torch, to_torch
from medjax.weights.names import TABLES, match

TINY = dataclasses.replace(BERTS["tiny"], vocab_size=20, hidden_size=16)
IDS = jnp.zeros((1, 4), jnp.int32)
IMAGE = jnp.zeros((1, 64, 64, 3))


class MaskedLm(nn.Module):
    config: BertConfig

    def setup(self):
        self.bert, self.head = Bert(self.config), MlmHead(self.config)

    def __call__(self, ids):
        return self.head(self.bert(ids).last, self.bert.word_embeddings)


NETWORKS = {
    "resnet": (ResNet(RESNETS["resnet50"]), IMAGE),
    "vit": (ViT(VITS["vit_tiny"]), IMAGE),
    "bert": (Bert(TINY), IDS),
    "bert_mlm": (MaskedLm(TINY), IDS),
    "head": (MlpHead(hidden=8, features=4), jnp.zeros((1, 6))),
}


def template(network):
    net, x = NETWORKS[network]
    return jax.eval_shape(net.init, jax.random.key(0), x)


def random_like(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


def bert_tensors():
    return to_torch("bert", random_like(template("bert")))


@pytest.mark.parametrize("network", NETWORKS)
def test_export_then_import_changes_nothing(network):
    variables = random_like(template(network))
    again = from_torch(to_torch(network, variables), network, template(network))
    chex.assert_trees_all_equal(again, variables, strict=True)


@pytest.mark.parametrize("network", TABLES)
def test_no_name_has_two_meanings(network):
    """One rule per tensor and per variable, or the order of rules would matter."""
    rules = TABLES[network].rules
    for name in to_torch(network, random_like(template(network))):
        assert sum(match(r.torch, name) is not None for r in rules) <= 1
    paths = jax.tree_util.tree_leaves_with_path(template(network))
    for path, _ in paths:
        path = "/".join(key.key for key in path)
        assert sum(match(r.flax, path) is not None for r in rules) == 1


def test_published_names_and_layouts_come_out():
    net, _ = NETWORKS["resnet"]
    tensors = to_torch("resnet", random_like(template("resnet")))
    assert tensors["conv1.weight"].shape == (64, 3, 7, 7)
    assert tensors["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert tensors["layer4.2.bn3.running_var"].shape == (net.config.widths[-1],)
    assert tensors["bn1.num_batches_tracked"].dtype == np.int64
    # torchvision's resnet50 has 320 entries; two of them are its classifier.
    assert len(tensors) == 318
    bert = bert_tensors()
    assert bert["encoder.layer.1.intermediate.dense.weight"].shape == (512, 16)
    assert bert["embeddings.word_embeddings.weight"].shape == (20, 16)


def test_old_spellings_prefix_and_heads_are_understood(caplog):
    wanted = bert_tensors()
    old = {
        "bert."
        + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for k, v in wanted.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(256)[None]
    old["bert.pooler.dense.weight"] = np.zeros((16, 16), np.float32)
    old["cls.seq_relationship.bias"] = np.zeros(2, np.float32)
    with caplog.at_level(logging.INFO):
        got = to_torch("bert", from_torch(old, "bert", template("bert")))
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value)
    assert "bert.pooler.dense.weight, cls.seq_relationship.bias" in caplog.text
    assert "position_ids" not in caplog.text


def test_layers_beyond_a_truncated_network_are_left_aside(caplog):
    short = jax.eval_shape(Bert(TINY.truncated(1)).init, jax.random.key(0), IDS)
    with caplog.at_level(logging.INFO):
        got = from_torch(bert_tensors(), "bert", short)
    assert "layer_0" in got["params"] and "layer_1" not in got["params"]
    assert "encoder.layer.1.output.dense.weight" in caplog.text


def test_everything_that_does_not_fit_is_listed():
    tensors = bert_tensors()
    del tensors["encoder.layer.0.output.dense.bias"]
    tensors["encoder.layer.0.adapter.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError) as error:
        from_torch(tensors, "bert", template("bert"))
    assert "no place for ['encoder.layer.0.adapter.weight']" in str(error.value)
    assert "nothing for ['encoder.layer.0.output.dense.bias']" in str(error.value)

    other = bert_tensors()
    other["embeddings.word_embeddings.weight"] = np.zeros((21, 16), np.float32)
    with pytest.raises(ValueError, match=r"another shape.*\(21, 16\).*\(20, 16\)"):
        from_torch(other, "bert", template("bert"))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.module.", "module.bert."])
def test_the_prefix_of_a_training_wrapper_is_taken_away(wrapper):
    tensors = bert_tensors()
    wrapped = {f"{wrapper}{name}": tensor for name, tensor in tensors.items()}
    again = from_torch(wrapped, "bert", template("bert"))
    expected = from_torch(tensors, "bert", template("bert"))
    jax.tree.map(np.testing.assert_array_equal, again, expected)


def test_a_foreign_checkpoint_is_refused_in_a_few_words():
    tensors = {f"student.{name}": t for name, t in bert_tensors().items()}
    with pytest.raises(ValueError, match="and [0-9]+ more") as error:
        from_torch(tensors, "bert", template("bert"))
    assert len(str(error.value)) < 1000


def test_a_stray_branch_of_ours_is_not_exported():
    variables = {"params": {**random_like(template("bert"))["params"], "extra": IDS}}
    with pytest.raises(ValueError, match="params/extra"):
        to_torch("bert", variables)


def test_imported_numbers_take_dtype_and_sharding_of_the_template():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("fsdp"))
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            a.shape, jnp.float32, sharding=spread if a.shape[0] % 8 == 0 else None
        ),
        template("bert"),
    )
    half = {k: v.astype(jnp.bfloat16) for k, v in bert_tensors().items()}
    got = from_torch(half, "bert", like)
    kernel = got["params"]["layer_0"]["mlp"]["up"]["kernel"]
    assert kernel.dtype == jnp.float32
    assert kernel.sharding.is_equivalent_to(spread, 2)
