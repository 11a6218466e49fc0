"""A generator from embedded films to films of reports, and on from its own folder."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import medjax
from experiments.generator import PRESETS
from medjax.data.boundary import DataError
from medjax.nn.bert import BertConfig
from medjax.nn.diffusion.autoencoder import AutoencoderConfig
from medjax.nn.diffusion.unet import UNetConfig
from medjax.train.checkpoint import saved_steps
from medjax.train.experiment import command
from medjax.train.settings import TrainConfig
from medjax.vlp.corpus import CorpusConfig
from medjax.vlp.diffusion import run as running
from medjax.vlp.diffusion.folder import FOLDERS, load_pipeline
from medjax.vlp.diffusion.networks import Networks, parameter_shapes
from medjax.vlp.diffusion.run import AutoencoderTraining, run
from medjax.vlp.diffusion.schedule import SamplingConfig, ScheduleConfig
from medjax.vlp.diffusion.scores import ScoresConfig
from medjax.vlp.diffusion.sizes import (
    GeneratorConfig,
    autoencoder_sizes,
    network_sizes,
)
from medjax.vlp.diffusion.training import autoencoder_system, diffusion_system
from medjax.vlp.rendering import Generator, generator
from medjax.vlp.report_tower import LanguageConfig
from tests.experiments.interrupted import asked_to_stop, same_files, stopped
from tests.vlp.hub_files import hub

change = dataclasses.replace


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two updates of everything, on films of 16 pixels."""
    folder = tmp_path_factory.mktemp("generator")
    config = change(
        PRESETS["tiny"],
        system=GeneratorConfig(
            autoencoder=(4,), widths=(8,), groups=2, heads=2, latents=2
        ),
        autoencoder=AutoencoderTraining(steps=2, batch_size=8),
        data=CorpusConfig(image_size=16, patients=60, batch_size=8),
        language=LanguageConfig(steps=2, batch_size=8),
        train=TrainConfig(steps=2, checkpoint_every=1, ema=0.5),
        sampling=SamplingConfig(steps=2, group=1),
        evaluation=ScoresConfig(films=8, shown=2),
        workdir=folder,
    )
    return config, run(config)


def test_a_run_ends_with_scores_a_page_and_a_generator(trained):
    config, results = trained
    said = json.loads((config.workdir / "evaluation.json").read_text())
    assert said == results
    distances, errors = said["frechet_distance"], said["denoising_error"]
    assert set(distances) == {"other real films", "generated", "decoded noise"}
    # Two updates draw nothing yet: other real films are far nearer than what they make.
    floor = distances.pop("other real films")
    assert 0 < floor < min(distances.values()) / 2
    assert all(0 < error < 10 for error in errors.values())
    page = (config.workdir / "report.html").read_text()
    assert "Films of held-out reports" in page
    make = medjax.load(config.workdir)
    assert isinstance(make, Generator)
    record = json.loads((config.workdir / "system.json").read_text())
    assert [said["name"] for said in record["generators"]] == ["drawn"]
    assert make.size == 16 and make.section == "report"
    assert make.described()["weights_sha256"] == said["generator"]["weights_sha256"]
    with pytest.raises(ValueError, match="films of 16 pixels"):
        generator(f"run:{config.workdir}", size=64)


def test_the_folder_of_a_run_says_what_it_is(trained):
    """What its folder says of it is what `diffusers` would build of it."""
    config, _ = trained
    unet = medjax.load(config.workdir)
    settings = json.loads(
        (config.workdir / "generator" / "unet" / "config.json").read_text()
    )
    assert settings["down_block_types"] == ["DownBlock2D"]
    assert settings["cross_attention_dim"] == 128 == unet.networks.text.hidden_size
    assert unet.networks.schedule.prediction_type == "v_prediction"


def test_what_a_run_has_learnt_opens_from_a_hub(trained, tmp_path, monkeypatch):
    config, _ = trained
    here = load_pipeline(config.workdir / "generator")
    hub(monkeypatch, {"clinic/x": config.workdir / "generator"}, tmp_path)
    there = load_pipeline("clinic/x")
    texts = ["No effusion.", "A nodule"]
    np.testing.assert_array_equal(there.tokenize(texts), here.tokenize(texts))
    assert there.identity == here.identity and there.section == "report"


def test_stopped_in_each_phase_it_leaves_the_same_weights(
    trained, tmp_path, monkeypatch
):
    whole, _ = trained
    cut = change(whole, workdir=tmp_path / "cut")
    shutil.copytree(whole.workdir / "data", cut.workdir / "data")
    monkeypatch.setattr(running, "score", lambda *of: ({}, []))
    monkeypatch.setattr(running, "show", lambda *of, title: None)
    for phase in ("autoencoder", "language", "."):
        with stopped():
            run(cut)
        assert saved_steps(cut.workdir / phase) == [1]
    # Nothing takes its first step once more.
    with asked_to_stop():
        run(cut)
    for name in FOLDERS.values():
        (file,) = (whole.workdir / "generator" / name).glob("*.safetensors")
        same_files(file, cut.workdir / "generator" / name / file.name)


def test_the_larger_preset_fits_its_films():
    """By shapes alone: both stages take what the preset's data bring."""
    preset = PRESETS["small"]
    size, n = preset.data.image_size, 2
    sizes = autoencoder_sizes(preset.system, preset.dtype)
    text = BertConfig(50, 128, 1, 2, 128, max_position_embeddings=64)
    networks = network_sizes(preset.system, size, sizes, text)
    assert networks.image_size == size and networks.latent_shape == (16, 16, 4)
    films = {"image": jax.ShapeDtypeStruct((n, size, size), jnp.uint8)}
    first = autoencoder_system(sizes, preset.system.loss)
    second = diffusion_system(networks, np.array([[1, 2, 0]], np.int32))
    latent = jax.ShapeDtypeStruct((n, 16, 16, 4), jnp.float32)
    ids = jax.ShapeDtypeStruct((n, 3), jnp.int32)
    batches = films, {"mean": latent, "logvar": latent, "ids": ids}
    key = jax.random.key(0)
    shapes = parameter_shapes(networks)
    params = {"params": shapes["autoencoder"]}, {"params": shapes}
    for system, variables, batch in zip((first, second), params, batches, strict=True):
        error, _ = jax.eval_shape(system.loss, variables, batch, key)
        assert error.shape == ()
    for part, about in (("autoencoder", 0.68), ("unet", 6.7)):
        count = sum(x.size for x in jax.tree.leaves(shapes[part])) / 1e6
        assert 0.9 * about < count < 1.1 * about, (part, count)


def test_a_folder_is_fine_tuned_by_flags(trained, tmp_path):
    """From what the library itself wrote: the autoencoder stays, all else moves."""
    config, _ = trained
    start = config.workdir / "generator"
    line = ["finetune", "--start", str(start), "--workdir", str(tmp_path / "run")]
    line += ["--data.patients", "60", "--data.batch-size", "8", "--train.steps", "2"]
    line += ["--train.ema", "0.5", "--optimizer.lr", "1e-3", "--dtype", "float32"]
    line += ["--sampling.steps", "2", "--sampling.group", "1", "--cache-latents"]
    line += ["--evaluation.films", "8", "--evaluation.shown", "2"]
    with pytest.raises(DataError, match="films of 512 pixels, .* make films of 16"):
        run(command(PRESETS, "", line))
    assert not (tmp_path / "run" / "data").exists()
    run(command(PRESETS, "", [*line, "--data.image-size", "16"]))
    written = tmp_path / "run" / "generator"
    moved = {}
    for part, name in FOLDERS.items():
        before, after = (
            load_file(next((folder / name).glob("*.safetensors")))
            for folder in (start, written)
        )
        assert before.keys() == after.keys()
        moved[part] = max(np.abs(before[k] - after[k]).max() for k in before)
    assert moved["autoencoder"] == 0 < min(moved["unet"], moved["text"])
    make = medjax.load(tmp_path / "run")
    assert make.section == "impression", "of the preset, whatever the folder says"


NETWORKS = Networks(
    UNetConfig(
        sample_size=2,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        attention_head_dim=1,
        cross_attention_dim=4,
        norm_num_groups=1,
    ),
    AutoencoderConfig(1, 1, (2,), 1, 1, 1),
    BertConfig(
        vocab_size=9,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
    ),
    ScheduleConfig(prediction_type="v_prediction"),
)


def random_params(seed: int = 0):
    """As they are shaped; nothing is compiled for them."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.5, jnp.float32),
        parameter_shapes(NETWORKS),
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_of_a_silent_network_is_the_power_of_what_it_should_say(prediction):
    """A U-Net that says 0: noise has power 1, velocity that of its two parts."""
    schedule = ScheduleConfig(prediction_type=prediction)
    networks = change(NETWORKS, schedule=schedule)
    empty = np.array([[1, 2, 0]], np.int32)
    system = diffusion_system(networks, empty)
    variables = {"params": random_params()}
    last = variables["params"]["unet"]["conv_out"]
    last |= jax.tree.map(jnp.zeros_like, last)
    n = 4000
    batch = {
        "ids": jnp.tile(jnp.asarray([[1, 3, 2]]), (n, 1)),
        "mean": jnp.full((n, 2, 2, 1), 3.0),
        "logvar": jnp.full((n, 2, 2, 1), -30.0),
    }
    found, _ = jax.jit(system.loss)(variables, batch, jax.random.key(1))
    clean = 3.0 * networks.autoencoder.scaling_factor
    alphas, sigmas = schedule.alphas(), schedule.sigmas()
    power = {
        "epsilon": 1.0,
        "v_prediction": np.mean(alphas**2 + sigmas**2 * clean**2),
    }
    np.testing.assert_allclose(found, power[prediction], rtol=0.03)


def test_frozen_parts_get_no_gradient_and_are_named():
    empty = np.array([[1, 2, 0]], np.int32)
    batch = {
        "ids": jnp.tile(jnp.asarray([[1, 3, 2]]), (2, 1)),
        "image": jnp.zeros((2, 2, 2), jnp.uint8),
    }
    for train_text in (True, False):
        system = diffusion_system(NETWORKS, empty, dropped=0.0, train_text=train_text)
        assert ("^text/" in system.frozen) == (not train_text)
        variables = {"params": random_params()}
        slopes = jax.jit(
            jax.grad(lambda v, s=system: s.loss(v, batch, jax.random.key(1))[0])
        )(variables)["params"]
        moved = {
            part: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))
            for part, tree in slopes.items()
        }
        assert moved["autoencoder"] == 0 and moved["unet"] > 0
        assert (moved["text"] > 0) == train_text
    with pytest.raises(ValueError, match="dropped"):
        diffusion_system(NETWORKS, empty, dropped=1.0)


def test_states_at_padding_are_zeros():
    params = random_params()
    ids = jnp.asarray([[1, 3, 2, 0], [1, 2, 0, 0]])
    states = np.asarray(NETWORKS.read(params, ids))
    np.testing.assert_array_equal(states[ids == 0], 0.0)
    assert (np.abs(states[ids != 0]).sum(-1) > 0).all()
