"""Runs of reconstruction as training leaves them, with weights drawn at random."""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.mri.latent_transformer import LatentTransformerConfig
from medjax.mri.systems import Trained
from medjax.mri.unrolled import UnrolledConfig
from medjax.train.checkpoint import Checkpoints
from medjax.train.state import TrainState

H, W, COILS, FRAMES = 20, 16, 3, 3
SMALL_LATENT = UnrolledConfig(
    network=LatentTransformerConfig(
        widths=(4, 4), denoiser_widths=(4, 4, 4), heads=1, layers=1
    ),
    cg_iterations=3,
    scale=100.0,
    refine_maps=True,
)


def write_run(folder, system, *, coils=COILS, series="t2"):
    """A run as training leaves it, its weights drawn at random."""
    trained = Trained(system, 0.5, "discs", series, FRAMES, coils, (4,), 8)
    batch = {
        "kspace": jax.ShapeDtypeStruct((1, FRAMES, coils, H, W), jnp.complex64),
        "mask": jax.ShapeDtypeStruct((1, 1, H, 1), jnp.bool_),
        "sensitivities": jax.ShapeDtypeStruct((1, coils, H, W), jnp.complex64),
    }
    shapes = jax.eval_shape(trained.build().init, jax.random.key(0), batch)
    rng = np.random.default_rng(0)

    def draw(shape):
        fan_in = np.prod(shape.shape[:-1], initial=1.0)
        return jnp.asarray(np.abs(rng.normal(size=shape.shape)) / fan_in, shape.dtype)

    drawn = jax.tree.map(draw, shapes)
    state = TrainState(
        jnp.asarray(7), drawn.pop("params"), drawn, {"count": jnp.zeros(())}
    )
    folder.mkdir(exist_ok=True)
    trained.save(folder)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, None, {}, wait=True)
    return folder
