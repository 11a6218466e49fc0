"""Training of latent diffusion: the autoencoder first, then the U-Net with its text.

Both are systems of the shared loop. The autoencoder learns to give films back, with its
latents held loosely to a normal distribution; Stable Diffusion adds a perceptual and an
adversarial loss, whose networks no one has for radiographs, and a term on differences
of neighbouring pixels stands here instead. The U-Net learns to predict what was mixed
into a film's latents, from them, the step in time and the report; some reports are left
out, so that the same network knows films of no report (guidance needs that).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax.nn.diffusion.autoencoder import Autoencoder, AutoencoderConfig
from medjax.train.state import Init
from medjax.train.step import Loss
from medjax.train.system import Apply
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp.diffusion.networks import Networks, as_image, parameter_shapes


@dataclasses.dataclass(frozen=True)
class DiffusionSystem:
    """Two pure functions for the loop; see `medjax.train.system.System`."""

    init: Init
    loss: Loss
    frozen: tuple[str, ...] = ()
    apply: Mapping[str, Apply] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the terms."""

    divergence: float = 1e-6
    """Of the Kullback-Leibler divergence of the latents from a normal distribution."""
    edges: float = 1.0
    """Of the differences of neighbouring pixels."""


def autoencoder_system(
    config: AutoencoderConfig, weights: AutoencoderLossConfig
) -> DiffusionSystem:
    """Films to latents and back.

    Args:
      config: sizes.
      weights: of the loss.

    Returns:
      A system of batches with ``image``, uint8 [b, h, w].
    """
    module = Autoencoder(config)

    def prepared(batch: Batch) -> Float[Array, "b h w c"]:
        return as_image(jnp.asarray(batch["image"]), config.in_channels)

    def init(key: Key, batch: Batch) -> Variables:
        return module.init(key, prepared(batch)[:1])

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Float[Array, ""], tuple[Metrics, Variables]]:
        image = prepared(batch)
        encoded: Any = module.apply(variables, image, method="encode")
        mean, logvar = encoded
        noise = jax.random.normal(key, mean.shape)
        drawn = mean + jnp.exp(0.5 * logvar) * noise
        back: Any = module.apply(variables, drawn, method="decode")
        metrics = {
            "pixels": jnp.mean(jnp.abs(back - image)),
            "edges": _edges(back - image),
            "divergence": 0.5
            * jnp.mean(
                jnp.sum(mean**2 + jnp.exp(logvar) - 1.0 - logvar, axis=(1, 2, 3))
            ),
        }
        total = (
            metrics["pixels"]
            + weights.edges * metrics["edges"]
            + weights.divergence * metrics["divergence"]
        )
        return total, (metrics, {})

    return DiffusionSystem(init, loss)


def _edges(difference: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Mean absolute difference of neighbours, of an image of differences."""
    down = jnp.abs(difference[:, 1:] - difference[:, :-1])
    right = jnp.abs(difference[:, :, 1:] - difference[:, :, :-1])
    return jnp.mean(down) + jnp.mean(right)


def diffusion_system(
    networks: Networks,
    empty: Int[np.ndarray, "1 n"],
    *,
    dropped: float = 0.1,
    train_text: bool = True,
    known: Sequence[str] = (),
) -> DiffusionSystem:
    """Noise, or velocity, of latents, with the report at hand.

    Args:
      networks: sizes, and what the U-Net predicts.
      empty: ids of no text, as the tokenizer pads it.
      dropped: share of reports that are left out.
      train_text: whether the text model learns, too. The autoencoder never does.
      known: parts whose weights are loaded: initialised as zeros, since drawing
        hundreds of arrays that nobody needs takes a compiler longer than a training
        step.

    Returns:
      A system of batches with ``ids`` int32 [b, n], and either ``image`` uint8
      [b, h, w] or the autoencoder's ``mean`` and ``logvar`` of it.

    Raises:
      ValueError: a share outside of [0, 1).
    """
    if not 0.0 <= dropped < 1.0:
        raise ValueError(f"dropped: expected at least 0 and below 1, got {dropped}")
    schedule = networks.schedule
    # As arrays of the host: the schedule is a constant of the program.
    alphas, sigmas = (
        a.astype(np.float32) for a in (schedule.alphas(), schedule.sigmas())
    )

    def init(key: Key, batch: Batch) -> Variables:
        del batch
        shapes = parameter_shapes(networks)
        drawn = networks.init(key)  # of what is not asked for, nothing is compiled
        zeros = {
            part: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[part])
            for part in known
        }
        return {"params": {**drawn, **zeros}}

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[Float[Array, ""], tuple[Metrics, Variables]]:
        params = variables["params"]
        frozen = jax.lax.stop_gradient(params["autoencoder"])
        params = {**params, "autoencoder": frozen}
        if not train_text:
            params["text"] = jax.lax.stop_gradient(params["text"])
        keys = jax.random.split(key, 4)
        if "mean" in batch:
            moments = batch["mean"], batch["logvar"]
        else:
            moments = networks.encode(params, batch["image"])
        latent = networks.scaled(*moments, keys[0])
        b = latent.shape[0]
        steps = jax.random.randint(keys[1], (b,), 0, schedule.num_train_timesteps)
        noise = jax.random.normal(keys[2], latent.shape)
        ids = jnp.asarray(batch["ids"])
        left_out = jax.random.bernoulli(keys[3], dropped, (b, 1))
        ids = jnp.where(left_out, jnp.broadcast_to(jnp.asarray(empty), ids.shape), ids)
        text = networks.read(params, ids)
        alpha, sigma = (
            jnp.asarray(a)[steps][:, None, None, None] for a in (alphas, sigmas)
        )
        said = networks.predict(params, alpha * latent + sigma * noise, steps, text)
        if schedule.prediction_type == "epsilon":
            wanted = noise
        else:
            wanted = alpha * noise - sigma * latent
        error = jnp.mean(jnp.square(said - wanted))
        return error, ({}, {})

    frozen = ("^autoencoder/",) if train_text else ("^autoencoder/", "^text/")
    return DiffusionSystem(init, loss, frozen)


def denoising_error(
    networks: Networks,
    variables: Variables,
    batch: Mapping[str, Any],
    key: Key,
    empty: Int[np.ndarray, "1 n"],
) -> Float[Array, ""]:
    """The loss on a batch with no report left out: lower with the right reports."""
    system = diffusion_system(networks, empty, dropped=0.0)
    return system.loss(variables, batch, key)[0]
