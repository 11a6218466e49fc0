"""Latent diffusion beside torch ``diffusers``, where that is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.vlp.diffusion.folder import load_pipeline, save_pipeline
from medjax.vlp.diffusion.samplers import guided, sample
from tests.vlp.diffusion_arrays import SCHEDULES, STEPS, moves, schedule

torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
pytest.importorskip("diffusers", reason="parity needs diffusers (extra: peers)")
theirs = pytest.importorskip("tests.vlp.torch_diffusion")
# Their use of NumPy is not of this year.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

REPORTS = ["a b c", "d e."]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp2m"])
def test_every_step_is_theirs_in_float64_for_all_numbers_of_steps(sampler, name):
    """Their own code, of which nothing is changed but the width of its numbers."""
    settings, kept = SCHEDULES[name], schedule(name)
    for steps in STEPS:
        found = theirs.moves(sampler, steps, **settings)
        if len(found) != steps:
            assert settings["timestep_spacing"] == "trailing" and steps == 61
            continue
        ours = moves(sampler, steps, kept)
        np.testing.assert_array_equal(ours[:, 0], found[:, 0])
        np.testing.assert_allclose(ours, found, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "kind, prediction", [("one", "epsilon"), ("two", "v_prediction")]
)
def test_a_folder_goes_there_and_back_with_equal_films(kind, prediction, tmp_path):
    """Their folder read here, ours read there: the same latents and pictures."""
    pipe = theirs.pipeline(tmp_path / "tokenizer", kind, prediction)
    pipe.save_pretrained(tmp_path / "theirs")
    ours = load_pipeline(tmp_path / "theirs")
    written = save_pipeline(tmp_path / "ours", ours)
    pipe = type(pipe).from_pretrained(
        written, safety_checker=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    with torch.no_grad():
        picture = pipe(
            REPORTS,
            latents=theirs.first(noise),
            num_inference_steps=6,
            guidance_scale=3.0,
            output_type="np",
        ).images

    @jax.jit
    def make(noise, ids, empty):
        networks, params = ours.networks, ours.params
        text = networks.read(params, ids)
        without = jnp.broadcast_to(networks.read(params, empty), text.shape)

        def predict(latent, steps, text):
            return networks.predict(params, latent, steps, text)

        denoise = guided(predict, text, without, 3.0)
        latent = sample(denoise, noise, networks.schedule, steps=6, sampler="ddim")
        return networks.decode(params, latent)

    films = make(
        jnp.asarray(noise), ours.tokenize(REPORTS), jnp.asarray(ours.tokenize([""]))
    )
    # Theirs is cut to what a picture can show before anyone sees it.
    known = (picture > 0).all(-1) & (picture < 1).all(-1)
    assert known.mean() > 0.1
    np.testing.assert_allclose(
        np.asarray(films)[known] / 255, picture.mean(-1)[known], atol=1e-3
    )
