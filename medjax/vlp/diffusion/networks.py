"""The three networks of latent diffusion as pure functions of one tree of parameters.

The text model is CLIP's, as Stable Diffusion has it, or a BERT, as the systems of this
library have: reports of hundreds of tokens do not fit CLIP's 77. CLIP's padding is read
like any other token; states of a BERT at padding are zeros, which attention of the
U-Net then finds neutral.

Films are grey. A network of three channels sees them three times, and the mean of what
it makes is the film.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from medjax.nn.bert import Bert, BertConfig
from medjax.nn.diffusion.autoencoder import Autoencoder, AutoencoderConfig
from medjax.nn.diffusion.clip_text import ClipText, ClipTextConfig
from medjax.nn.diffusion.unet import UNet, UNetConfig
from medjax.typing import Key
from medjax.vlp.diffusion.schedule import ScheduleConfig

Params = Any
"""``{"unet": …, "autoencoder": …, "text": …}``."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """Sizes of all three, and what they were trained on.

    Raises:
      ValueError: text or latents of one that another does not take.
    """

    unet: UNetConfig
    autoencoder: AutoencoderConfig
    text: ClipTextConfig | BertConfig
    schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self) -> None:
        latents = self.autoencoder.latent_channels
        if (self.unet.in_channels, self.unet.out_channels) != (latents, latents):
            raise ValueError(
                f"unet: expected {latents} channels in and out, as latents have, got "
                f"{self.unet.in_channels} and {self.unet.out_channels}"
            )
        if self.unet.cross_attention_dim != self.text.hidden_size:
            raise ValueError(
                f"unet.cross_attention_dim: expected {self.text.hidden_size}, the "
                f"width of the text model, got {self.unet.cross_attention_dim}"
            )

    @property
    def image_size(self) -> int:
        """Side of the films."""
        return self.unet.sample_size * self.autoencoder.factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Of one film."""
        side = self.unet.sample_size
        return side, side, self.unet.in_channels

    @property
    def max_length(self) -> int:
        """Tokens of a text."""
        return self.text.max_position_embeddings

    def with_dtype(self, dtype: Literal["float32", "bfloat16"]) -> "Networks":
        """The same, computed in another type."""
        parts = ("unet", "autoencoder", "text")
        changed = {
            part: dataclasses.replace(getattr(self, part), dtype=dtype)
            for part in parts
        }
        return dataclasses.replace(self, **changed)

    def init(self, key: Key) -> Params:
        """Random parameters of all three."""
        keys = jax.random.split(key, 3)
        side, channels = self.image_size, self.autoencoder.in_channels
        ids = jnp.zeros((1, 2), jnp.int32)
        text = jnp.zeros((1, 2, self.text.hidden_size))
        unet = UNet(self.unet).init(
            keys[0], jnp.zeros((1, *self.latent_shape)), jnp.zeros((1,)), text
        )
        image = jnp.zeros((1, side, side, channels))
        autoencoder = Autoencoder(self.autoencoder).init(keys[1], image)
        return {
            "unet": unet["params"],
            "autoencoder": autoencoder["params"],
            "text": self._reader().init(keys[2], ids)["params"],
        }

    def read(self, params: Params, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """One vector per token."""
        variables = {"params": params["text"]}
        if isinstance(self.text, BertConfig):
            states = Bert(self.text).apply(variables, ids).last  # pyright: ignore[reportAttributeAccessIssue]
            real = (ids != self.text.pad_token_id)[..., None]
            return jnp.where(real, states, jnp.zeros((), states.dtype))
        return ClipText(self.text).apply(variables, ids)  # pyright: ignore[reportReturnType]

    def _reader(self) -> Bert | ClipText:
        if isinstance(self.text, BertConfig):
            return Bert(self.text)
        return ClipText(self.text)

    def encode(
        self, params: Params, films: UInt8[Array, "b h w"] | Float[Array, "b h w"]
    ) -> tuple[Float[Array, "b i j d"], Float[Array, "b i j d"]]:
        """Mean and log-variance of the latents, *not* scaled, of films of 0 to 255."""
        return encode_films(self.autoencoder, params["autoencoder"], films)

    def scaled(
        self,
        mean: Float[Array, "b i j d"],
        logvar: Float[Array, "b i j d"],
        key: Key,
    ) -> Float[Array, "b i j d"]:
        """Latents as the U-Net knows them, drawn from their distribution."""
        drawn = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        return self.autoencoder.scaling_factor * drawn

    def decode(
        self, params: Params, latent: Float[Array, "b i j d"]
    ) -> Float[Array, "b h w"]:
        """Films of scaled latents, grey values of about 0 to 255, not rounded."""
        image = Autoencoder(self.autoencoder).apply(
            {"params": params["autoencoder"]},
            latent / self.autoencoder.scaling_factor,
            method="decode",
        )
        grey = jnp.mean(image, axis=-1)  # pyright: ignore[reportArgumentType]
        return 127.5 * (grey + 1.0)

    def predict(
        self,
        params: Params,
        latent: Float[Array, "b i j d"],
        steps: Int[Array, " b"],
        text: Float[Array, "b n e"],
    ) -> Float[Array, "b i j d"]:
        """What the U-Net says of noisy latents."""
        return UNet(self.unet).apply({"params": params["unet"]}, latent, steps, text)  # pyright: ignore[reportReturnType]


def as_image(
    films: UInt8[Array, "b h w"] | Float[Array, "b h w"], channels: int
) -> Float[Array, "b h w c"]:
    """Films of 0 to 255 as an autoencoder sees them: in [-1, 1], all channels alike."""
    grey = films.astype(jnp.float32)[..., None] / 127.5 - 1.0
    return jnp.repeat(grey, channels, axis=-1)


def encode_films(
    config: AutoencoderConfig,
    params: Params,
    films: UInt8[Array, "b h w"] | Float[Array, "b h w"],
) -> tuple[Float[Array, "b i j d"], Float[Array, "b i j d"]]:
    """As `Networks.encode`, of an autoencoder alone."""
    image = as_image(films, config.in_channels)
    return Autoencoder(config).apply({"params": params}, image, method="encode")  # pyright: ignore[reportReturnType]


@functools.lru_cache(maxsize=4)
def parameter_shapes(networks: Networks) -> Params:
    """Shapes of all parameters; tracing the networks takes seconds."""
    return jax.eval_shape(networks.init, jax.random.key(0))
