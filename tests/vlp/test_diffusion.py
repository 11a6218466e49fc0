"""Latent diffusion: parity with stored arrays, samplers, noise."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.diffusion.autoencoder import Autoencoder, AutoencoderConfig
from medjax.nn.diffusion.clip_text import ClipText, ClipTextConfig
from medjax.nn.diffusion.unet import UNet, UNetConfig
from medjax.vlp.diffusion.samplers import guided, row_noise, sample
from medjax.vlp.diffusion.schedule import ScheduleConfig
from medjax.weights.convert import from_torch, to_torch
from medjax.weights.diffusion import AUTOENCODER, CLIP_TEXT, unet
from tests.vlp.diffusion_arrays import (
    GOLDEN,
    SCHEDULES,
    STEPS,
    added,
    config,
    moves,
    schedule,
    stored,
    weights,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return stored()


def imported(module: Any, table: Any, tensors: dict[str, np.ndarray], *inputs: Any):
    """Variables of a network, every one from a tensor of theirs."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return from_torch(tensors, table, shapes)


@pytest.mark.parametrize("kind", ["one", "two"])
def test_unet_equals_stored_arrays(golden, kind):
    """Heads by one number and by level, convolutions of a pixel and matrices."""
    name = f"unet {kind}"
    c = UNetConfig.from_dict(config(golden, name))
    assert c.heads == ((2, 2) if kind == "one" else (2, 4))
    assert c.use_linear_projection == (kind == "two")
    module, table = UNet(c), unet(linear=c.use_linear_projection)
    inputs = [jnp.asarray(golden[k]) for k in ("latent", "steps", "states")]
    inputs[1] = inputs[1].astype(jnp.int32)
    theirs = weights(golden, name)
    variables = imported(module, table, theirs, *inputs)
    ours = jax.jit(module.apply)(variables, *inputs)
    np.testing.assert_allclose(ours, golden[f"{name}/out"], **CLOSE)
    back = to_torch(table, variables)
    assert back.keys() == theirs.keys()
    for key, tensor in theirs.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)


@pytest.mark.parametrize("spelling", ["new", "old"])
def test_autoencoder_equals_stored_arrays(golden, spelling):
    c = AutoencoderConfig.from_dict(config(golden, "autoencoder"))
    assert c.scaling_factor == 0.18215 and c.factor == 2
    module, tensors = Autoencoder(c), weights(golden, "autoencoder")
    if spelling == "old":
        names = {"to_q": "query", "to_k": "key", "to_v": "value"}
        names["to_out.0"] = "proj_attn"
        for new, old in names.items():
            tensors = {k.replace(f".{new}.", f".{old}."): v for k, v in tensors.items()}
        assert any("proj_attn" in name for name in tensors)
    image, latent = jnp.asarray(golden["image"]), jnp.asarray(golden["latent"])
    variables = imported(module, AUTOENCODER, tensors, image)
    if spelling == "old":
        return
    mean, logvar = jax.jit(functools.partial(module.apply, method="encode"))(
        variables, image
    )
    theirs = golden["autoencoder/moments"]
    np.testing.assert_allclose(mean, theirs[..., :4], **CLOSE)
    np.testing.assert_allclose(logvar, theirs[..., 4:], **CLOSE)
    decoded = jax.jit(functools.partial(module.apply, method="decode"))(
        variables, latent
    )
    np.testing.assert_allclose(decoded, golden["autoencoder/decoded"], **CLOSE)
    assert to_torch(AUTOENCODER, variables).keys() == tensors.keys()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text_equals_stored_arrays(golden, activation):
    """With and without the prefix and the buffer of files on a hub."""
    name = f"text {activation}"
    c = ClipTextConfig.from_dict(config(golden, name))
    assert c.hidden_act == activation
    module, ids = ClipText(c), jnp.asarray(golden["ids"], jnp.int32)
    tensors = weights(golden, name)
    variables = imported(module, CLIP_TEXT, tensors, ids)
    ours = jax.jit(module.apply)(variables, ids)
    np.testing.assert_allclose(ours, golden[f"{name}/out"], **CLOSE)
    hub = {f"text_model.{key}": tensor for key, tensor in tensors.items()}
    positions = np.arange(9)[None]
    hub["text_model.embeddings.position_ids"] = positions
    again = imported(module, CLIP_TEXT, hub, ids)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    del hub["text_model.embeddings.position_ids"]
    assert to_torch(CLIP_TEXT, variables).keys() == hub.keys()


def test_a_network_of_another_kind_is_refused(golden):
    said = config(golden, "unet one")
    for key, value in (
        ("class_embed_type", "timestep"),
        ("resnet_time_scale_shift", "scale_shift"),
        ("a_key_of_tomorrow", 3),
        ("layers_per_block", "two"),
    ):
        with pytest.raises(ValueError, match=key):
            UNetConfig.from_dict({**said, key: value})
    with pytest.raises(ValueError, match="prediction_type"):
        ScheduleConfig.from_dict({"prediction_type": "sample"})
    with pytest.raises(ValueError, match="another shape"):
        # Matrices where convolutions of a pixel are meant, the kernels being squares.
        c = UNetConfig.from_dict({**said, "block_out_channels": [8, 24]})
        inputs = [jnp.asarray(golden[k]) for k in ("latent", "steps", "states")]
        table = unet(linear=False)
        imported(UNet(c), table, weights(golden, "unet one"), *inputs)


def stand_in(latent: jax.Array, steps: jax.Array) -> jax.Array:
    step = steps.astype(jnp.float32)[:, None, None, None]
    return jnp.tanh(0.7 * latent) * (0.4 + 0.6 * step / 1000.0)


SCHEDULE = ScheduleConfig(steps_offset=1)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp2m"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_trajectories_equal_stored_arrays(golden, sampler, prediction):
    schedule = dataclasses.replace(SCHEDULE, prediction_type=prediction)
    ours = sample(
        stand_in, jnp.asarray(golden["latent"]), schedule, steps=20, sampler=sampler
    )
    np.testing.assert_allclose(ours, golden[f"{sampler} {prediction}"], **CLOSE)


def test_steps_equal_stored_sums_for_all_numbers_of_steps():
    """Those of diffusers' own code in float64: both samplers, every schedule."""
    with np.load(GOLDEN / "diffusion_steps.npz") as arrays:
        theirs = dict(arrays)
    asked = [(s, name) for s in ("ddim", "dpmpp2m") for name in SCHEDULES]
    assert theirs.keys() == {" ".join(pair) for pair in asked}
    for sampler, name in asked:
        kept, sums = schedule(name), theirs[f"{sampler} {name}"]
        found = [added(moves(sampler, steps, kept)) for steps in STEPS]
        # Theirs takes 62 steps where 61 are asked for.
        known = np.isfinite(sums).all(1)
        trailing = kept.timestep_spacing == "trailing"
        assert np.asarray(STEPS)[~known].tolist() == [61] * trailing
        np.testing.assert_allclose(
            np.stack(found)[known], sums[known], rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp2m"])
def test_a_sampler_finds_the_distribution_it_was_told_of(sampler):
    """Data that are normal with deviation s: what a perfect network says is linear.

    The true flow then scales noise to deviation s, whatever the schedule.
    """
    deviation = 0.5
    schedule = ScheduleConfig(prediction_type="v_prediction", set_alpha_to_one=True)
    alphas, sigmas = (
        jnp.asarray(a, jnp.float32) for a in (schedule.alphas(), schedule.sigmas())
    )

    def perfect(latent: jax.Array, steps: jax.Array) -> jax.Array:
        alpha, sigma = (a[steps][:, None, None, None] for a in (alphas, sigmas))
        variance = alpha**2 * deviation**2 + sigma**2
        clean = alpha * deviation**2 / variance * latent
        noise = sigma / variance * latent
        return alpha * noise - sigma * clean

    noise = jnp.ones((1, 1, 1, 1))
    found = sample(perfect, noise, schedule, steps=200, sampler=sampler)
    # What is left of the start: at its first step the schedule still has some signal.
    np.testing.assert_allclose(found.item(), deviation, rtol=0.02)


def test_guidance_goes_beyond_the_answer_with_the_text():
    def network(latent, steps, text):
        return latent + text[:, :1, :1, None]

    text, without = jnp.full((2, 1, 1), 3.0), jnp.ones((2, 1, 1))
    latent, steps = jnp.zeros((2, 1, 1, 1)), jnp.zeros((2,), jnp.int32)
    for guidance, expected in ((1.0, 3.0), (0.0, 1.0), (3.0, 7.0)):
        denoise = guided(network, text, without, guidance)
        np.testing.assert_allclose(denoise(latent, steps), expected)


def test_noise_is_of_seed_and_row():
    rows = jnp.arange(6)
    every = row_noise(jax.random.key(3), rows, (2, 2, 1))
    np.testing.assert_array_equal(
        row_noise(jax.random.key(3), rows[4:], (2, 2, 1)), every[4:]
    )
    assert len(np.unique(every)) == every.size
    assert not np.array_equal(row_noise(jax.random.key(4), rows, (2, 2, 1)), every)
