"""The networks of DeepMesh: one encoder for all views, a field for each stage."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.nn.halving import Double, Halve, Keep
from medjax.nn.normalization import BatchNorm
from medjax.nn.unet import upsample_bilinear

Present = list[Float[Array, " b"] | None] | None
"""Of each image: 1 for the examples that have it; None: all."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Widths; the defaults are the published ones."""

    levels: tuple[tuple[int, ...], ...] = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )
    """Convolutions of the encoder per level; each level but the first halves."""
    stem: int = 32
    """Of long-axis images before they have as many channels as there are slices."""
    neck: int = 1024
    """Of the three views together, before the field at ED."""
    up: tuple[int, ...] = (512, 256, 128, 64)
    """On the way up to the field at ED; the last one is its number of slices."""
    fuse: int = 64
    """Of a level's comparison of ED and t; the number of slices of the motion field."""
    volume: tuple[int, ...] = (32, 64, 128, 256)
    """Of the volume network behind it, halving from each to the next."""
    still: bool = True
    """Fields begin at zero, so that the first meshes are the given ones. Weights that
    are drawn, as released, tear them, and the first steps go to smoothing noise."""
    dtype: DTypeLike = "float32"
    """Of convolutions; norms and fields are float32."""


class Block(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; in two or three dimensions."""

    width: int
    rank: int = 2
    size: Literal[1, 3] = 3
    """Of the kernel, where sizes stay; 3 where they change."""
    stride: Literal[1, 2] = 1
    up: bool = False
    """Twice as large, as PyTorch's transposed convolution with output padding 1."""
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *views_space c"],
        *,
        train: bool,
        present: Present = None,
    ) -> Float[Array, "b *_views_space w"]:
        """Features of one image of every example, or of several.

        Args:
          x: ``b *space c``, or ``b v *space c``: images that share the weights, read as
            one batch and normalised each by itself, one after the other.
          train: whether BatchNorm takes the batch's statistics.
          present: of each of several images, 1 for the examples that have it; None:
            all of them.
        """
        options: dict[str, Any] = {"use_bias": False, "dtype": self.dtype}
        options |= {"kernel_init": nn.linear.default_kernel_init, "name": "conv"}
        if self.up:
            conv = Double(self.width, 3, **options)
        elif self.stride == 2:
            conv = Halve(self.width, 3, **options)
        elif self.rank == 3:
            keep = {k: v for k, v in options.items() if k != "use_bias"}
            conv = Keep(self.width, **keep)
        else:
            kernel = (self.size,) * self.rank
            conv = nn.Conv(self.width, kernel, padding=self.size // 2, **options)
        norm = BatchNorm(name="norm")
        if x.ndim == self.rank + 2:
            return nn.relu(norm(conv(x), train=train))
        # Once for all images: what one alone would add to the weights' gradient, and
        # devices tell each other, is added up before.
        y = conv(x.reshape(-1, *x.shape[2:]))
        y = y.reshape(*x.shape[:2], *y.shape[1:])
        given = present or [None] * x.shape[1]
        each = [
            norm(y[:, i], train=train, present=there)
            for i, there in zip(range(x.shape[1]), given, strict=True)
        ]
        return nn.relu(jnp.stack(each, axis=1))


class Encoder(nn.Module):
    """Features of images on every level."""

    config: NetworkConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b v h w c"], *, train: bool, present: Present = None
    ) -> list[Float[Array, "b v _ _ _"]]:
        found = []
        for i, widths in enumerate(self.config.levels):
            for j, width in enumerate(widths):
                stride = 2 if i and not j else 1
                block = Block(
                    width,
                    stride=stride,
                    dtype=self.config.dtype,
                    name=f"level_{i}_{j}",
                )
                x = block(x, train=train, present=present)
            found.append(x)
        return found


def _field(x: Array, config: NetworkConfig) -> Array:
    """The last layer of a network: three numbers a voxel, between -1 and 1."""
    default = nn.linear.default_kernel_init
    init = nn.initializers.zeros if config.still else default
    return jnp.tanh(nn.Conv(3, (1, 1, 1), kernel_init=init, name="field")(x))


class DeformNet(nn.Module):
    """Codes of three views to a field at ED, tanh's."""

    config: NetworkConfig

    @nn.compact
    def __call__(
        self, codes: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b d _ _ 3"]:
        c = self.config
        x = Block(c.neck, dtype=c.dtype, name="neck")(codes, train=train)
        for i, width in enumerate(c.up):
            x = Block(width, up=True, dtype=c.dtype, name=f"up_{i}")(x, train=train)
            x = Block(width, dtype=c.dtype, name=f"conv_{i}")(x, train=train)
        x = jnp.moveaxis(x, -1, 1)[..., None]
        x = Block(3, rank=3, dtype=c.dtype, name="volume")(x, train=train)
        return _field(x, c)


class MotionNet(nn.Module):
    """Features of three views at ED and t to a field, tanh's."""

    config: NetworkConfig

    @nn.compact
    def __call__(
        self,
        at_ed: list[Float[Array, "b 3 _ _ _"]],
        at_t: list[Float[Array, "b 3 _ _ _"]],
        present: Present,
        *,
        train: bool,
    ) -> Float[Array, "b d h w 3"]:
        """The field from features of three views, level by level."""
        c = self.config
        fuse = [Block(c.fuse, dtype=c.dtype) for _ in c.levels]
        parts = []
        for i, (ed, now) in enumerate(zip(at_ed, at_t, strict=True)):
            both = jnp.concatenate([now, ed], axis=-1)
            both = fuse[i](both, train=train, present=present)
            if i:
                wide = upsample_bilinear(both.reshape(-1, *both.shape[2:]), 2**i)
                both = wide.reshape(*both.shape[:2], *wide.shape[1:])
            parts.append(both)
        # Channels view by view, and of each level by level.
        x = jnp.moveaxis(jnp.concatenate(parts, axis=-1), 1, 3)
        x = x.reshape(*x.shape[:3], -1)
        for i in range(2):
            x = Block(c.fuse, size=1, dtype=c.dtype, name=f"join_{i}")(x, train=train)
        x = jnp.moveaxis(x, -1, 1)[..., None]

        def block(width: int, name: str, **how: Any) -> Block:
            return Block(width, rank=3, dtype=c.dtype, name=name, **how)

        x = block(c.volume[0], "in")(x, train=train)
        for i, width in enumerate(c.volume[1:]):
            x = block(width, f"down_{i}", stride=2)(x, train=train)
            x = block(width, f"conv_{i}")(x, train=train)
        for i, width in enumerate(reversed(c.volume[:-1])):
            x = block(width, f"up_{i}", up=True)(x, train=train)
            x = block(width, f"up_conv_{i}")(x, train=train)
        return _field(x, c)


class DeepMesh(nn.Module):
    """The fields of one stage or of both.

    The stages share nothing: with both there are two encoders.
    """

    config: NetworkConfig
    stage: Literal["ed", "motion", "joint"]

    @nn.compact
    def __call__(
        self,
        sax: Float[Array, "b 2 d h w"],
        lax: Float[Array, "b 2 2 h w"],
        present: Float[Array, "b 2"],
        *,
        train: bool,
    ) -> dict[str, Float[Array, "b _ h w 3"]]:
        """Fields by stage.

        Args:
          sax: slices at ED and t.
          lax: two long-axis views at ED and t.
          present: 1 where there is a long-axis view. Statistics of BatchNorm, which all
            views share, are those of images: of zeros they would be nothing's.
          train: whether BatchNorm takes the batch's statistics.

        Raises:
          ValueError: If sizes cannot be halved as often as the network does.
        """
        c = self.config
        least = 2 ** (len(c.levels) - 1)
        halved = 2 ** (len(c.volume) - 1)
        h, w = sax.shape[-2:]
        if h % least or w % least or h % halved or w % halved:
            raise ValueError(
                f"sax: images of {h} x {w} pixels, expected multiples of "
                f"{max(least, halved)}"
            )
        if len(c.up) != len(c.levels) - 1 or c.fuse % halved:
            raise ValueError(
                f"network: {len(c.up)} widths up for {len(c.levels)} levels and "
                f"{c.fuse} slices; expected {len(c.levels) - 1} and a multiple of "
                f"{halved}"
            )
        found = {}
        for stage in ("ed", "motion"):
            if self.stage not in (stage, "joint"):
                continue
            encoder = Encoder(c, name=f"{stage}_encoder")
            stem = [
                Block(width, dtype=c.dtype, name=f"{stage}_stem_{i}")
                for i, width in enumerate((c.stem, sax.shape[2]))
            ]

            there = [None, present[:, 0], present[:, 1]]

            def features(
                frames: int, stem: list, encoder: Encoder, there: list
            ) -> list[Array]:
                """Of three images at ED, or at ED and t."""
                short = jnp.moveaxis(sax[:, :frames, None], 3, -1)
                x = lax[:, :frames].reshape(len(lax), 2 * frames, *lax.shape[3:], 1)
                for block in stem:
                    x = block(x, train=train, present=there[1:] * frames)
                x = x.reshape(len(lax), frames, 2, *x.shape[2:])
                x = jnp.concatenate([short.astype(x.dtype), x], axis=2)
                x = x.reshape(len(lax), 3 * frames, *x.shape[3:])
                return encoder(x, train=train, present=there * frames)

            if stage == "ed":
                views = features(1, stem, encoder, there)[-1]
                codes = jnp.moveaxis(views, 1, 3)
                codes = codes.reshape(*codes.shape[:3], -1)
                found["ed"] = DeformNet(c, name="deform")(codes, train=train)
            else:
                both = features(2, stem, encoder, there)
                net = MotionNet(c, name="motion")
                ed, now = ([x[:, k : k + 3] for x in both] for k in (0, 3))
                found["motion"] = net(ed, now, there, train=train)
        return found
