"""What a run keeps for later is only used for what it was computed from."""

import dataclasses
import shutil
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from medjax.data.ledger import DataError
from medjax.nn.bert import BERTS, Bert
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.vlp import report_tower
from medjax.vlp.corpus import Corpus
from medjax.vlp.features import features_key
from medjax.vlp.report_tower import LanguageConfig, train_language_model
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.towers import TextTowerConfig
from medjax.weights import save
from tests.nn.variables import random_variables


def corpus(reports="a", words=("yes", "no")):
    tokenizer = Mock(vocab_size=len(words))
    tokenizer.inner.get_vocab.return_value = {w: i for i, w in enumerate(words)}
    return Mock(
        spec=Corpus,
        metadata={"source_hash": reports, "splits": {}},
        tokenizer=tokenizer,
    )


def test_features_of_a_report_tower_are_kept_by_content_and_settings(tmp_path):
    sizes = dataclasses.replace(BERTS["tiny"], vocab_size=20, hidden_size=16)
    variables = random_variables(Bert(sizes), jnp.ones((1, 3), jnp.int32))
    save(tmp_path / "tower", "bert", variables, sizes)
    system = Mock(spec=PretrainingSystem, cached_tokens=("report",))
    text = TextTowerConfig(checkpoint=str(tmp_path / "tower"))

    def key(reports="a", **changes):
        asked = dataclasses.replace(text, **changes)
        return features_key(system, corpus(reports), asked)

    first = key()
    shutil.copytree(tmp_path / "tower", tmp_path / "moved")
    assert key(checkpoint=str(tmp_path / "moved")) == first == key(remat=True)
    others = {
        key(reports="b"),
        key(dtype="bfloat16"),
        key(max_length=7),
        key(pool="mean"),
        key(layers=1),
    }
    assert len(others | {first}) == 6
    # Trained anew, into the same folder.
    other = jax.tree.map(lambda x: x + 1, variables)
    save(tmp_path / "tower", "bert", other, sizes)
    assert key() not in others | {first}


def test_a_report_tower_of_other_settings_or_reports_is_not_taken(
    tmp_path, monkeypatch
):
    class Trained(Exception):
        """Instead of training."""

    def fit(*_, **__):
        raise Trained

    monkeypatch.setattr(report_tower, "fit", fit)
    monkeypatch.setattr(report_tower, "build_pipeline", Mock())
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    usual = {
        "corpus": corpus(),
        "text": TextTowerConfig("tiny", max_length=8),
        "config": LanguageConfig(steps=2),
        "seed": 0,
    }

    def train(**changes):
        asked = {**usual, **changes}
        return train_language_model(
            asked["corpus"],
            asked["text"],
            asked["config"],
            workdir=tmp_path,
            mesh=mesh,
            seed=asked["seed"],
        )

    with pytest.raises(Trained):
        train()
    (tmp_path / "checkpoint").mkdir()
    assert train() == tmp_path / "checkpoint"
    for changed, name in (
        ({"seed": 1}, r"\{'train.seed': 0\}, now \{'train.seed': 1\}"),
        ({"config": LanguageConfig(steps=3)}, "language.steps"),
        ({"config": LanguageConfig(steps=2, batch_size=7)}, "language.batch_size"),
        ({"config": LanguageConfig(steps=2, lr=1.0)}, "language.lr"),
        ({"text": TextTowerConfig("base", max_length=8)}, "text.architecture"),
        ({"text": TextTowerConfig("tiny", max_length=9)}, "text.max_length"),
        ({"text": TextTowerConfig("tiny", None, 8, 1)}, "text"),
        ({"corpus": corpus("b")}, "reports"),
        ({"corpus": corpus(words=("yes", "perhaps"))}, "vocabulary"),
    ):
        with pytest.raises(DataError, match=name):
            train(**changed)
    (tmp_path / "asked.json").unlink()
    with pytest.raises(DataError, match="without asked.json"):
        train()
