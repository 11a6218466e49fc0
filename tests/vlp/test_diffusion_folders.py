"""Latent diffusion: folders of diffusers, and the films that are made with them."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medjax.data.ledger import Ledger
from medjax.nn.bert import BertConfig
from medjax.nn.diffusion.autoencoder import AutoencoderConfig
from medjax.nn.diffusion.unet import UNetConfig
from medjax.train.collectives import read_collectives
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.sharding import fsdp
from medjax.vlp.datasets import PrepareConfig, Study, open_prepared, prepare
from medjax.vlp.diffusion.folder import load_pipeline, save_pipeline
from medjax.vlp.diffusion.generator import DiffusionGenerator
from medjax.vlp.diffusion.networks import Networks
from medjax.vlp.diffusion.schedule import SamplingConfig
from medjax.vlp.reports import CleanConfig
from tests.vlp.clip_files import clip_tokenizer
from tests.vlp.diffusion_arrays import config, stored, weights
from tests.vlp.hub_files import hub

prepare_module = importlib.import_module("medjax.vlp.datasets.prepare")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return stored()


def pipeline_of(golden: dict[str, np.ndarray], folder: Path) -> Path:
    """A folder as torch diffusers writes them, from the stored arrays."""
    for part, name, stem in (
        ("unet", "unet one", "diffusion_pytorch_model"),
        ("vae", "autoencoder", "diffusion_pytorch_model"),
        ("text_encoder", "text quick_gelu", "model"),
    ):
        (folder / part).mkdir(parents=True)
        content = json.dumps(config(golden, name))
        (folder / part / "config.json").write_text(content)
        save_file(weights(golden, name), folder / part / f"{stem}.safetensors")
    (folder / "scheduler").mkdir()
    said = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1}
    said |= {"beta_schedule": "scaled_linear", "beta_start": 0.00085}
    said |= {"beta_end": 0.012, "clip_sample": False, "trained_betas": None}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    clip_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory) -> Path:
    return pipeline_of(golden, tmp_path_factory.mktemp("diffusion") / "theirs")


REPORTS = ["a b c", "IMPRESSION: d e.", "f", "g h", "k l m n"]


@pytest.fixture(scope="module")
def generator(folder) -> DiffusionGenerator:
    return DiffusionGenerator(
        load_pipeline(folder), sampling=SamplingConfig(steps=3, group=2)
    )


@pytest.fixture(scope="module")
def films(generator) -> np.ndarray:
    return generator(REPORTS, seed=5)


def test_a_film_is_of_report_seed_and_row(generator, films):
    assert films.shape == (5, 8, 8) and films.dtype == np.uint8
    np.testing.assert_array_equal(generator(REPORTS[:2], seed=5), films[:2])
    changed = generator(["x", *REPORTS[1:]], seed=5)
    np.testing.assert_array_equal(changed[1:], films[1:])
    assert not np.array_equal(changed[0], films[0])
    assert not np.array_equal(generator(REPORTS[:2], seed=6), films[:2])
    assert not np.array_equal(*generator(["a", "a"], seed=5))
    assert generator([], seed=0).shape == (0, 8, 8)


def test_an_untrained_generator_differs_in_its_weights_alone(generator, films):
    bare = generator.untrained()
    said = generator.described() | {"weights_sha256": ""}
    assert bare.described() == said and bare.prompt("a") == "a"
    grey = bare(REPORTS[:2], seed=5)
    assert grey.shape == (2, 8, 8) and not np.array_equal(grey, films[:2])


def test_eight_devices_make_the_films_of_one(folder, films):
    one = DiffusionGenerator(
        load_pipeline(folder),
        sampling=SamplingConfig(steps=3, group=2),
        mesh=make_mesh(MeshConfig(), devices=jax.devices()[:1]),
    )
    np.testing.assert_array_equal(one(REPORTS, seed=5), films)


def test_eight_devices_with_a_part_of_the_weights_make_the_films_of_one(folder, films):
    """Weights travel, and nothing else: no latent, no film, no text."""
    mesh = make_mesh(MeshConfig(fsdp=4))
    sampling = SamplingConfig(steps=3, group=2, fsdp=4)
    rules = ((".*", fsdp(min_size=64)),)
    pipeline = load_pipeline(folder)
    eight = DiffusionGenerator(pipeline, sampling=sampling, mesh=mesh, rules=rules)
    said = eight.described()
    assert "fsdp" not in said and "negative" not in said
    np.testing.assert_array_equal(eight(REPORTS, seed=5), films)
    parts = jax.tree.leaves(eight._params)
    split = [leaf for leaf in parts if not leaf.sharding.is_fully_replicated]
    assert sum(x.nbytes for x in split) > 0.8 * sum(x.nbytes for x in parts)
    assert all(x.addressable_shards[0].data.size == x.size // 4 for x in split)
    ids = np.zeros((16, pipeline.networks.max_length), np.int32)
    rows = np.arange(16, dtype=np.int32)
    given = eight._params, jax.random.key(0), ids, rows, ids[:1]
    text = eight._run.lower(*given).compile().as_text()
    assert text is not None
    travels = read_collectives(text)
    assert {one.kind for one in travels} == {"all-gather"}
    assert {one.bytes for one in travels} <= {leaf.nbytes for leaf in split}
    used = [
        leaf
        for name in ("text", "unet")
        for leaf in jax.tree.leaves(eight._params[name])
        if not leaf.sharding.is_fully_replicated
    ]
    assert sum(one.bytes for one in travels) >= sum(leaf.nbytes for leaf in used)


def test_films_are_led_away_from_a_negative_text(folder, generator, films):
    pipeline = load_pipeline(folder)

    def films_of(negative: str, guidance: float = 3.0) -> np.ndarray:
        sampling = SamplingConfig(
            steps=3, group=2, guidance=guidance, negative=negative
        )
        make = DiffusionGenerator(pipeline, sampling=sampling)
        assert make.described().get("negative", "") == negative
        return make(REPORTS[:2], seed=5)

    np.testing.assert_array_equal(films_of(""), films[:2])
    led = films_of("d e")
    assert not np.array_equal(led, films[:2])
    # Away from the very text that is asked for there is nowhere to go.
    own, told = films_of(REPORTS[0]), films_of("", guidance=1.0)
    np.testing.assert_allclose(own[0].astype(int), told[0].astype(int), atol=1)
    assert not np.array_equal(own[1], told[1])
    with pytest.raises(ValueError, match="negative: guidance 1 leads away"):
        SamplingConfig(negative="a", guidance=1.0)


def test_what_is_written_is_what_was_read(folder, generator, films, tmp_path):
    before = load_pipeline(folder)
    written = save_pipeline(tmp_path / "ours", before)
    after = load_pipeline(written)
    assert after.networks == dataclasses.replace(
        before.networks,
        schedule=dataclasses.replace(
            before.networks.schedule, timestep_spacing="leading"
        ),
    )
    assert after.section == before.section == "impression"
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    for part in ("unet", "vae"):
        name = "diffusion_pytorch_model.safetensors"
        ours, theirs = (load_file(f / part / name) for f in (written, folder))
        assert ours.keys() == theirs.keys()


def test_prompts_are_the_section_that_a_folder_says(generator):
    report = "FINDINGS: There is a nodule.\n\nIMPRESSION: Nodule."
    assert generator.prompt(report) == "Nodule."
    assert generator.prompt("A nodule. No effusion.") == "A nodule. No effusion."
    assert generator.prompt("FINDINGS: There is a nodule.") == "There is a nodule."


class Notes:
    """A data set of a few notes without films."""

    name, has_text = "notes", True

    def read(self, ledger: Ledger) -> list[Study]:
        notes = ("a b c d", "e f g h", "i j k l", "m n o p", "a c e g", "b d f h")
        return [
            Study(id=str(i), patient=str(i), findings=note, split=split)
            for i, (note, split) in enumerate(
                zip(notes, ("train", "valid", "test") * 2, strict=True)
            )
        ]


def test_films_of_a_prepared_set_are_those_of_its_generator(
    folder, tmp_path, monkeypatch
):
    """And hours of work are not lost: what was made is found by the next start."""
    config = PrepareConfig(
        image_size=8,
        render=f"diffusion:{folder}",
        sampling=SamplingConfig(steps=3, group=2),
        clean=CleanConfig(min_words=1),
    )
    reader: Any = dataclasses.dataclass(frozen=True)(Notes)()
    with pytest.raises(ValueError, match="films of 8 pixels"):
        prepare(reader, tmp_path / "x", dataclasses.replace(config, image_size=16))
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "row_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(reader, tmp_path / "set", config)
    kept = list(tmp_path.glob("set.films-*/*.npy"))
    assert len(kept) == 1
    marked = np.full_like(np.load(kept[0]), 7)
    np.save(kept[0], marked)
    prepare(reader, tmp_path / "set", config)
    assert not list(tmp_path.glob("set.films-*"))
    source = open_prepared(tmp_path / "set", "train", fields=["image"])
    assert (source[0]["image"] == 7).all()
    said = source.metadata["generator"]
    assert said["name"] == "diffusion" and len(said["weights_sha256"]) == 64
    assert said["steps"] == 3 and said["section"] == "impression"


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "damage, told",
    [
        ("pickle", "Pickled"),
        ("lora", "fuse_lora"),
        ("lora inside", "fuse_lora"),
        ("single", "from_single_file"),
        ("single in folder", "from_single_file"),
        ("tensor", "nothing for"),
        ("text width", "cross_attention_dim"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(folder, tmp_path, damage, told):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    source = copy
    if damage == "pickle":
        weights.rename(weights.with_suffix(".bin"))
    elif damage == "lora":
        (copy / "model_index.json").unlink()
        weights.rename(copy / "pytorch_lora_weights.safetensors")
    elif damage == "lora inside":
        save_file({"unet.lora_A.weight": np.zeros(2, np.float32)}, weights)
    elif damage == "single":
        source = weights
    elif damage == "single in folder":
        (copy / "model_index.json").unlink()
        weights.rename(copy / "v1-5-pruned.safetensors")
    elif damage == "tensor":
        tensors = load_file(weights)
        del tensors["conv_out.bias"]
        save_file(tensors, weights)
    else:
        content = json.loads((copy / "unet" / "config.json").read_text())
        content["cross_attention_dim"] = 16
        (copy / "unet" / "config.json").write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        load_pipeline(source)


def test_shards_and_half_precision_are_found(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    names = sorted(tensors)
    places = {}
    for i, part in enumerate((names[::2], names[1::2])):
        name = f"diffusion_pytorch_model-{i}.safetensors"
        save_file({k: tensors[k] for k in part}, weights.with_name(name))
        places |= dict.fromkeys(part, name)
    index = weights.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": places}))
    whole = load_pipeline(folder).params["unet"]
    jax.tree.map(
        np.testing.assert_array_equal, load_pipeline(copy).params["unet"], whole
    )
    vae = copy / "vae" / "diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name("diffusion_pytorch_model.fp16.safetensors"))
    load_pipeline(copy)


def test_a_folder_on_a_hub_opens_as_it_does_on_disk(folder, tmp_path, monkeypatch):
    """Of either layout of a tokenizer; what is written here has none but the newer."""
    there = load_pipeline(folder)
    ours = save_pipeline(tmp_path / "ours", there)
    assert not (ours / "tokenizer" / "vocab.json").exists()
    unmapped = shutil.copytree(folder, tmp_path / "unmapped")
    (unmapped / "tokenizer" / "special_tokens_map.json").unlink()
    halved = shutil.copytree(folder, tmp_path / "halved")
    (halved / "tokenizer" / "merges.txt").unlink()
    emptied = shutil.copytree(ours, tmp_path / "emptied")
    (emptied / "tokenizer" / "tokenizer.json").unlink()
    read = {"ours": ours, "unmapped": unmapped}
    refused = {"halved": halved, "emptied": emptied}
    held = {f"clinic/{name}": place for name, place in (read | refused).items()}
    hub(monkeypatch, held, tmp_path / "cache")
    for name in read:
        here = load_pipeline(f"clinic/{name}@main")
        np.testing.assert_array_equal(here.tokenize(REPORTS), there.tokenize(REPORTS))
    for name, place in refused.items():
        for source in (f"clinic/{name}", place):
            with pytest.raises(FileNotFoundError, match=r"vocab.json and merges.txt"):
                load_pipeline(source)


def test_networks_that_do_not_fit_are_refused(golden):
    text = BertConfig(hidden_size=16)
    c = UNetConfig.from_dict(config(golden, "unet one"))
    with pytest.raises(ValueError, match="cross_attention_dim: expected 16"):
        Networks(c, AutoencoderConfig(), text)
