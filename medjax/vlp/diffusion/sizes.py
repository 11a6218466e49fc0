"""Sizes of a generator that is trained from nothing."""

import dataclasses
from typing import Literal

from medjax.nn.bert import BertConfig
from medjax.nn.diffusion.autoencoder import AutoencoderConfig
from medjax.nn.diffusion.unet import UNetConfig
from medjax.vlp.diffusion.folder import Section
from medjax.vlp.diffusion.networks import Networks
from medjax.vlp.diffusion.schedule import ScheduleConfig
from medjax.vlp.diffusion.training import AutoencoderLossConfig


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of a generator that is trained from nothing, and how all are trained."""

    latents: int = 4
    """Channels of the latents."""
    autoencoder: tuple[int, ...] = (16, 32, 64)
    """Channels of the autoencoder's levels; each but the last halves the film."""
    widths: tuple[int, ...] = (64, 128, 128)
    """Channels of the U-Net's levels; all but the first look at the text."""
    layers: int = 1
    """Residual blocks of a level on the way down."""
    heads: int = 4
    """Of attention."""
    groups: int = 8
    """Of normalisations."""
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    """What the U-Net predicts."""
    noise: Literal["squaredcos_cap_v2", "scaled_linear"] = "squaredcos_cap_v2"
    """How noise rises; see `ScheduleConfig.beta_schedule`."""
    section: Section = "report"
    """What of a report conditions a film."""
    dropped: float = 0.1
    """Share of reports that are left out, for guidance."""
    train_text: bool = True
    """Whether the text model learns with the U-Net."""
    loss: AutoencoderLossConfig = AutoencoderLossConfig()
    """Of the autoencoder."""


def autoencoder_sizes(
    config: GeneratorConfig, dtype: Literal["float32", "bfloat16"]
) -> AutoencoderConfig:
    """The autoencoder that is trained, where nothing is fine-tuned.

    Args:
      config: of the generator.
      dtype: of the computation.
    """
    return AutoencoderConfig(
        in_channels=1,
        out_channels=1,
        block_out_channels=config.autoencoder,
        layers_per_block=1,
        latent_channels=config.latents,
        norm_num_groups=config.groups,
        dtype=dtype,
    )


def network_sizes(
    config: GeneratorConfig,
    size: int,
    autoencoder: AutoencoderConfig,
    text: BertConfig,
) -> Networks:
    """All three networks, where nothing is fine-tuned.

    Args:
      config: of the generator.
      size: of the films.
      autoencoder: of `autoencoder_sizes`, scaled or not.
      text: the report model.
    """
    levels = len(config.widths)
    return Networks(
        UNetConfig(
            sample_size=size // autoencoder.factor,
            in_channels=config.latents,
            out_channels=config.latents,
            block_out_channels=config.widths,
            down_block_types=("DownBlock2D",)
            + ("CrossAttnDownBlock2D",) * (levels - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            layers_per_block=config.layers,
            attention_head_dim=config.heads,
            cross_attention_dim=text.hidden_size,
            norm_num_groups=config.groups,
            use_linear_projection=True,
        ),
        autoencoder,
        text,
        ScheduleConfig(
            beta_schedule=config.noise,
            prediction_type=config.prediction,
            # Without it films would never start from noise alone.
            timestep_spacing="trailing",
        ),
    )
