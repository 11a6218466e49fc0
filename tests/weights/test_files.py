"""Checkpoints on disk and on a hub: found, checked, never unpickled."""

import dataclasses
import hashlib
import json
import pickle
import shutil

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import save_file

from medjax.nn.bert import BERTS, Bert, BertConfig
from medjax.nn.resnet import ResNet, ResNetConfig
from medjax.weights import checkpoint_digest, checkpoint_file, load, save, to_torch
from medjax.weights.files import without_network
from tests.nn.variables import random_variables

CONFIG = dataclasses.replace(BERTS["tiny"], vocab_size=20, hidden_size=16)
IDS = jnp.array([[2, 5, 3]])


@pytest.fixture(scope="module")
def variables():
    return random_variables(Bert(CONFIG), IDS)


@pytest.fixture
def saved(tmp_path, variables):
    return save(tmp_path / "tower", "bert", variables, CONFIG).parent


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    return jax.tree.structure(a) == jax.tree.structure(b)


def test_a_saved_tower_loads_from_its_folder_and_its_file(saved, variables):
    template = jax.eval_shape(lambda: variables)
    assert same(load(saved, "bert", template), variables)
    assert same(load(saved / "model.safetensors", "bert", template), variables)
    assert BertConfig.from_json(checkpoint_file(saved, "config.json")) == CONFIG
    assert checkpoint_file(saved / "model.safetensors", "config.json").is_file()
    with pytest.raises(FileNotFoundError, match="vocab.txt"):
        checkpoint_file(saved, "vocab.txt")


def test_a_digest_is_of_what_a_checkpoint_holds_and_not_of_its_place(
    saved, variables, tmp_path
):
    first = checkpoint_digest(saved)
    copy = shutil.copytree(saved, tmp_path / "elsewhere")
    assert checkpoint_digest(copy) == first
    assert checkpoint_digest(copy / "model.safetensors") == first
    for change in (
        lambda: (copy / "vocab.txt").write_text("[UNK]"),
        lambda: (copy / "config.json").write_text("{}"),
        lambda: save(copy, "bert", jax.tree.map(lambda x: x + 1, variables), CONFIG),
    ):
        before = checkpoint_digest(copy)
        change()
        assert checkpoint_digest(copy) != before


def test_a_residual_network_keeps_its_running_statistics(tmp_path):
    config = ResNetConfig((1, 1, 1, 1), bottleneck=False, width=4, stem="small")
    towers = random_variables(ResNet(config), jnp.zeros((1, 32, 32, 3)))
    save(tmp_path, "resnet", towers, config)
    assert same(load(tmp_path, "resnet", towers), towers)
    assert json.loads((tmp_path / "config.json").read_text())["stem"] == "small"


def test_hugging_face_reads_a_saved_tower(saved, variables):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
    transformers = pytest.importorskip("transformers")
    net, report = transformers.AutoModel.from_pretrained(
        saved, add_pooling_layer=False, output_loading_info=True
    )
    assert not any(report.values())
    with torch.no_grad():
        theirs = net.eval()(torch.tensor(np.asarray(IDS))).last_hidden_state.numpy()
    ours = Bert(CONFIG).apply(variables, IDS).last
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def shard(folder, tensors):
    """Two files and their index, as large checkpoints are published."""
    folder.mkdir()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({n: tensors[n] for n in part}, folder / file)
    index = {"weight_map": {n: file for file, part in halves.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_read_together(tmp_path, variables):
    folder = shard(tmp_path / "shards", to_torch("bert", variables))
    assert same(load(folder, "bert", variables), variables)
    index = folder / "model.safetensors.index.json"
    assert same(load(index, "bert", variables), variables)
    (folder / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"absent: \['b.safetensors'\]"):
        load(folder, "bert", variables)
    with pytest.raises(ValueError, match="weight_map"):
        index.write_text("{}")
        load(folder, "bert", variables)


def test_the_digest_is_checked(saved, variables):
    file = saved / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert same(load(file, "bert", variables, sha256=digest), variables)
    with pytest.raises(ValueError, match=f"expected {'0' * 64}"):
        load(file, "bert", variables, sha256="0" * 64)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "best.pth", "model.pt"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, name, variables):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="is a pickle.*experiments.convert"):
        load(tmp_path / name, "bert", variables)
    with pytest.raises(FileNotFoundError, match=f"{name}.*experiments.convert"):
        load(tmp_path, "bert", variables)


def test_damaged_and_missing_files_are_named(tmp_path, saved, variables):
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="model.safetensors: not an intact"):
        load(saved, "bert", variables)
    with pytest.raises(FileNotFoundError, match="no file, no folder, and not a hub id"):
        load(tmp_path / "nowhere", "bert", variables)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="found none"):
        load(tmp_path / "empty", "bert", variables)


def test_what_does_not_fit_names_the_checkpoint(saved, variables):
    other = random_variables(
        Bert(dataclasses.replace(CONFIG, num_hidden_layers=3)), IDS
    )
    with pytest.raises(ValueError, match="tower.*nothing for.*encoder.layer.2"):
        load(saved, "bert", other)


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds the folders put into it, and remembers what it was asked."""
    folders, asked = {}, []

    def download(repository, name, *, revision=None, local_files_only):
        assert not local_files_only
        asked.append((repository, name, revision))
        answer = folders[repository]
        if isinstance(answer, Exception):
            raise answer
        if not (answer / name).is_file():
            raise errors.EntryNotFoundError(name)
        return str(answer / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return folders, asked


def test_a_hub_id_is_fetched_at_its_revision(hub, saved, variables):
    folders, asked = hub
    folders["clinic/tower"] = saved
    assert same(load("clinic/tower@abc123", "bert", variables), variables)
    assert asked[-1] == ("clinic/tower", "model.safetensors", "abc123")
    load("clinic/tower", "bert", variables, revision="refs/pr/1")
    assert asked[-1][-1] == "refs/pr/1"
    assert checkpoint_file("clinic/tower", "config.json") == saved / "config.json"


def test_shards_and_pickles_on_a_hub(hub, tmp_path, variables):
    folders, _ = hub
    folders["clinic/large"] = shard(tmp_path / "s", to_torch("bert", variables))
    assert same(load("clinic/large", "bert", variables), variables)
    folders["clinic/old"] = tmp_path
    with pytest.raises(FileNotFoundError, match="clinic/old@main.*refs/pr/1"):
        load("clinic/old", "bert", variables)


@pytest.mark.parametrize(
    "failure",
    [errors.LocalEntryNotFoundError("offline"), OSError("no route to host")],
    ids=["offline", "no route"],
)
def test_a_hub_that_cannot_be_reached_says_what_was_tried(hub, failure, variables):
    folders, _ = hub
    folders["clinic/tower"] = failure
    with pytest.raises(ConnectionError) as error:
        load("clinic/tower", "bert", variables)
    for part in ("clinic/tower@main", "model.safetensors", str(failure)):
        assert part in str(error.value)


def test_what_a_hub_is_known_not_to_hold_is_absent_without_a_network_too(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    tower = tmp_path / "models--clinic--tower"
    commit = "a" * 40
    for name, content in (
        ("refs/main", commit),
        (f"snapshots/{commit}/config.json", "{}"),
        (f".no_exist/{commit}/medjax.json", ""),
    ):
        (tower / name).parent.mkdir(parents=True)
        (tower / name).write_text(content)
    with without_network():
        assert checkpoint_file("clinic/tower", "config.json").read_text() == "{}"
        with pytest.raises(FileNotFoundError, match="no medjax.json"):
            checkpoint_file("clinic/tower", "medjax.json")
        with pytest.raises(ConnectionError):
            checkpoint_file("clinic/tower", "never asked for")
