"""Latent diffusion beside torch ``diffusers``, where that is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.vlp.diffusion.folder import load_pipeline, save_pipeline
from medjax.vlp.diffusion.samplers import ddim_table, guided, sample, solver_table
from medjax.vlp.diffusion.schedule import ScheduleConfig

torch = pytest.importorskip("torch", reason="parity needs PyTorch (extra: parity)")
pytest.importorskip("diffusers", reason="optional peer: pip install diffusers")
theirs = pytest.importorskip("tests.vlp.torch_diffusion")
# Their use of NumPy is not of this year.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

REPORTS = ["a b c", "d e."]


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_in_float64_equals_theirs_for_all_numbers_of_steps(spacing, prediction):
    """Of their schedule the sums are taken in float64, which they take in float32."""
    said = {**theirs.SCHEDULE, "prediction_type": prediction}
    said["timestep_spacing"] = spacing
    solver = theirs.DDIMScheduler(**said)
    schedule = ScheduleConfig.from_dict(said)
    solver.alphas_cumprod = torch.tensor(schedule.alphas() ** 2)
    solver.final_alpha_cumprod = solver.alphas_cumprod[0]
    latent = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for steps in range(1, 76):
        solver.set_timesteps(steps)
        if len(solver.timesteps) != steps:
            assert spacing == "trailing", "their rounding finds one too many"
            continue
        table = ddim_table(schedule, steps)
        np.testing.assert_array_equal(solver.timesteps, table["time"])
        for i in range(steps):
            alpha, sigma, to, left = (
                table[k][i] for k in ("alpha", "sigma", "next_alpha", "next_sigma")
            )
            answer = theirs.answer(latent, table["time"][i], torch)
            found = solver.step(answer, int(table["time"][i]), latent).prev_sample
            if prediction == "epsilon":
                clean, noise = (latent - sigma * answer) / alpha, answer
            else:
                clean = alpha * latent - sigma * answer
                noise = sigma * latent + alpha * answer
            torch.testing.assert_close(
                to * clean + left * noise, found, rtol=0, atol=1e-10
            )


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_the_solver_takes_their_steps_for_all_numbers_of_them(spacing):
    """To the seventh digit, which is how they keep their schedule."""
    said = {**theirs.SCHEDULE, "timestep_spacing": spacing}
    del said["clip_sample"], said["set_alpha_to_one"]
    solver = theirs.DPMSolverMultistepScheduler(**said)
    for steps in range(1, 76):
        solver.set_timesteps(steps)
        if len(solver.timesteps) != steps:
            assert spacing == "trailing", "their rounding finds one too many"
            continue
        table = solver_table(ScheduleConfig.from_dict(said), steps)
        np.testing.assert_array_equal(solver.timesteps, table["time"])
        latent, before = torch.full((1,), 0.7, dtype=torch.float64), 0.0
        other = latent.clone()
        for i in range(steps):
            answer = theirs.answer(latent, table["time"][i], torch)
            clean = (latent - table["sigma"][i] * answer) / table["alpha"][i]
            latent = table["keep"][i] * latent + table["now"][i] * clean
            latent, before = latent + table["before"][i] * before, clean
            answer = theirs.answer(other, table["time"][i], torch)
            other = solver.step(answer, int(table["time"][i]), other).prev_sample
        torch.testing.assert_close(latent, other.double(), rtol=2e-4, atol=2e-5)


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
