"""Augmentation of radiographs on the device: uint8 in, network input out.

The input pipeline ships only stored uint8 films; crops, flips, rotations, perspective,
contrast and normalisation happen inside the jitted step. All
geometry is composed into a single homography from output to source pixels, so a film
is resampled once, with one bilinear gather, however many transforms are on. Then come
the intensity transforms, and the grey channel is repeated last of all.

Against torchvision's chains, which the papers used: geometry here is in float and
resampled once (theirs rounds to uint8 after every transform, and IMITATE's perspective
is bicubic); what one transform pushes out of the frame a later one may bring back;
nothing is low-pass filtered when a crop is shrunk, so store films near the size they
are used at. Random grayscale is left out: it does nothing to a grey film.

Several published recipes are anatomically odd. A horizontal flip moves the heart to the
right and makes "left effusion" false, a vertical flip or 90 degrees of rotation shows
no chest that anyone has seen. They are kept for fidelity to the papers; for a model
whose reports speak of sides, set `flip_horizontal` to 0.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from medjax.nn.blur import gaussian_blur
from medjax.nn.warp import warp
from medjax.typing import Key

Range = tuple[float, float]
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True)
class AugmentConfig:
    """What may happen to a film, in the order in which it happens."""

    size: int = 224
    """Side of the output in pixels."""
    upsample: int | None = None
    """Side that the output is brought to last of all, corners on corners: released code
    of GLoRIA and MGCA crops 224 pixels and shows them to a ResNet at 299."""
    pad: int = 0
    """Zeros that a crop may reach into on each side, in source pixels."""
    crop_area: Range = (1.0, 1.0)
    """Share of the film's area that the crop covers."""
    crop_aspect: Range = (1.0, 1.0)
    """Width over height of the crop, log-uniform."""
    centre: bool = False
    """Crop the middle rather than a random place."""
    flip_horizontal: float = 0.0
    """Probability. Swaps the patient's sides."""
    flip_vertical: float = 0.0
    """Probability. Turns the patient upside down."""
    rotation: Range = (0.0, 0.0)
    """Degrees, counter-clockwise as seen."""
    translation: float = 0.0
    """Largest shift along each axis, as a share of the output side."""
    zoom: Range = (1.0, 1.0)
    """Magnification about the centre."""
    perspective: float = 0.0
    """How far corners may move inwards, as a share of half the side."""
    perspective_probability: float = 0.5
    autocontrast: float = 0.0
    """Probability of stretching to the full range."""
    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    """Factors; contrast is about the film's mean."""
    blur: Range = (0.0, 0.0)
    """Standard deviation of a Gaussian in output pixels."""
    blur_probability: float = 1.0
    normalise: Literal["imagenet", "half", "none"] = "imagenet"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: expected a positive number, got {self.size}")
        if self.upsample is not None and min(self.upsample, self.size) < 2:
            raise ValueError(
                f"upsample: expected two pixels at least on both sides of it, got "
                f"{self.size} to {self.upsample}"
            )
        if not 0.0 < self.crop_area[0] <= self.crop_area[1] <= 1.0:
            raise ValueError(
                f"crop_area: expected 0 < a <= b <= 1, got {self.crop_area}"
            )
        if not 0.0 <= self.perspective < 1.0:
            raise ValueError(f"perspective: expected [0, 1), got {self.perspective}")
        for name in (
            "crop_aspect",
            "rotation",
            "zoom",
            "brightness",
            "contrast",
            "blur",
        ):
            low, high = getattr(self, name)
            if low > high or (name != "rotation" and low < 0):
                raise ValueError(f"{name}: expected low <= high, got {(low, high)}")


# Numbers from [0, 1) that a film uses up.
GEOMETRY_DRAWS = 19
INTENSITY_DRAWS = 5

_CROP_224_OF_256 = ((224 / 256) ** 2, (224 / 256) ** 2)

AUGMENTATIONS = {
    # IMITATE, ext_data.py of the released code; each view draws its own.
    "imitate": AugmentConfig(
        crop_area=_CROP_224_OF_256,
        flip_horizontal=0.5,
        flip_vertical=0.5,
        rotation=(-30.0, 30.0),
        perspective=0.5,
        autocontrast=0.5,
    ),
    # M-FLAG, released code: torchvision's RandomRotation got (0, 90), not +-90.
    "mflag": AugmentConfig(
        crop_area=_CROP_224_OF_256,
        rotation=(0.0, 90.0),
        perspective=0.5,
        autocontrast=0.5,
        normalise="half",
    ),
    # ConVIRT (Zhang et al., arXiv 2010.00747), section 4.
    "convirt": AugmentConfig(
        crop_area=(0.6, 1.0),
        crop_aspect=(3 / 4, 4 / 3),
        flip_horizontal=0.5,
        rotation=(-20.0, 20.0),
        translation=0.1,
        zoom=(0.95, 1.05),
        brightness=(0.6, 1.4),
        contrast=(0.6, 1.4),
        blur=(0.1, 3.0),
    ),
    # MGCA and GLoRIA, released code: a crop and nothing else.
    "mgca": AugmentConfig(crop_area=_CROP_224_OF_256, normalise="half"),
    # Small films with known sides: no flips.
    "tiny": AugmentConfig(
        size=64,
        crop_area=(0.75, 1.0),
        rotation=(-8.0, 8.0),
        brightness=(0.8, 1.2),
        contrast=(0.8, 1.2),
        normalise="half",
    ),
    # The middle 224 of 256, as the papers evaluate.
    "eval": AugmentConfig(crop_area=_CROP_224_OF_256, centre=True),
}


def evaluation(config: AugmentConfig) -> AugmentConfig:
    """The same output size and normalisation with nothing random.

    A recipe that crops a fixed share of the film (224 of 256) is evaluated on the
    middle of that share, one that crops a varying share on the whole film.
    """
    low, high = config.crop_area
    return AugmentConfig(
        size=config.size,
        upsample=config.upsample,
        crop_area=(low, high) if low == high else (1.0, 1.0),
        centre=True,
        normalise=config.normalise,
    )


def evaluate(
    image: UInt8[Array, "b h w"], config: AugmentConfig
) -> Float[Array, "b size size 3"]:
    """Network input without randomness: `augment` under `evaluation(config)`."""
    return augment(image, evaluation(config), key=jax.random.key(0))


@partial(jax.jit, static_argnames="config")
def augment(
    image: UInt8[Array, "b h w"], config: AugmentConfig, *, key: Key
) -> Float[Array, "b size size 3"]:
    """Augments a batch of films.

    Args:
        image: grey films, 0 black to 255 white; square.
        config: what to do.
        key: one per batch; what happens to a film depends on it and the row.

    Returns:
        float32 network input; the three channels differ by normalisation only.

    Raises:
        ValueError: if the films are not square.
    """
    return augment_by(image, config, draws(key, len(image)))


def draws(key: Key, films: int) -> Float[Array, "b n"]:
    """All that is random in the augmentation of a batch, a row for each film."""
    # In one call: twenty small ones cost more than the warp.
    return jax.random.uniform(key, (films, GEOMETRY_DRAWS + INTENSITY_DRAWS))


def augment_by(
    image: UInt8[Array, "b h w"], config: AugmentConfig, drawn: Float[Array, "b n"]
) -> Float[Array, "b size size 3"]:
    """`augment` by what was drawn before, of a batch or of a part of one."""
    h, w = image.shape[1:]
    if h != w:
        raise ValueError(f"image: expected square films, got {h} x {w} pixels")
    if config.normalise not in NORMALISATIONS:
        raise ValueError(
            f"normalise: expected one of {list(NORMALISATIONS)}, "
            f"got {config.normalise!r}"
        )

    def one(film: UInt8[Array, "h w"], u: Float[Array, " n"]) -> Array:
        where, how = u[:GEOMETRY_DRAWS], u[GEOMETRY_DRAWS:]
        warped = _warp(film, *_geometry(config, h, where), size=config.size)
        return _intensity(warped, config, how)

    grey = jax.vmap(one)(image, drawn)
    if config.upsample is not None:
        wide = jnp.asarray(interpolation_matrix(config.size, config.upsample))
        grey = jnp.einsum("ah,bhw,cw->bac", wide, grey, wide, precision="highest")
    mean, std = (jnp.asarray(v, jnp.float32) for v in NORMALISATIONS[config.normalise])
    return (grey[..., None] - mean[None, None, None]) / std[None, None, None]


def interpolation_matrix(size: int, wanted: int) -> Float[np.ndarray, "m n"]:
    """Linear interpolation along one axis that keeps the middles of its end pixels."""
    at = np.arange(wanted) * (size - 1) / (wanted - 1)
    apart = np.abs(at[:, None] - np.arange(size))
    return np.maximum(1.0 - apart, 0.0).astype(np.float32)


def augment_masks(
    mask: Bool[Array, "b h w"], config: AugmentConfig, drawn: Float[Array, "b n"]
) -> Bool[Array, "b size size"]:
    """Where masks go as `augment_by` moves their films: more in than out is in."""

    def one(mask: Bool[Array, "h w"], u: Float[Array, " n"]) -> Array:
        where = _geometry(config, len(mask), u[:GEOMETRY_DRAWS])
        return _warp(mask.astype(jnp.uint8) * 255, *where, size=config.size) > 0.5

    return jax.vmap(one)(mask, drawn)


def _between(u: Array, low_high: Range) -> Array:
    """Stretches draws from [0, 1); exact where the range is a point."""
    low, high = low_high
    return low + u * (high - low)


def _geometry(
    config: AugmentConfig, side: int, u: Float[Array, "19"]
) -> tuple[Float[Array, "3 3"], Float[Array, "4"]]:
    """Homography from output to source pixels, and the crop (x, y, width, height).

    Output coordinates are pixels from the centre, so the identity is exact in float.
    """
    for_crop, for_flip, for_turn, for_tilt = jnp.split(u, (4, 6, 10))
    crop = _crop(config, side, for_crop)
    x, y, width, height = crop
    out = float(config.size)
    to_source = jnp.array(
        [
            [width / out, 0.0, x + (width - 1.0) / 2.0],
            [0.0, height / out, y + (height - 1.0) / 2.0],
            [0.0, 0.0, 1.0],
        ]
    )
    flips = for_flip < jnp.array([config.flip_horizontal, config.flip_vertical])
    flip = jnp.diag(jnp.append(jnp.where(flips, -1.0, 1.0), 1.0))
    # Transforms happen from left to right; points travel back from right to left.
    chain = (to_source, flip, _turn(config, for_turn), _tilt(config, for_tilt))
    return jnp.linalg.multi_dot(chain, precision="highest"), crop


def _crop(config: AugmentConfig, side: int, u: Float[Array, "4"]) -> Float[Array, "4"]:
    """Whole source pixels, as torchvision cuts them."""
    area = side**2 * _between(u[0], config.crop_area)
    low, high = config.crop_aspect
    aspect = jnp.exp(_between(u[1], (math.log(low), math.log(high))))
    full = side + 2.0 * config.pad
    extent = jnp.round(jnp.sqrt(area * jnp.stack([aspect, 1.0 / aspect])))
    extent = jnp.clip(extent, 1.0, full)
    room = full - extent
    # floor(u (room + 1)): every whole offset from 0 to room is equally likely.
    corner = jnp.floor(0.5 * room if config.centre else u[2:] * (room + 1.0))
    return jnp.concatenate([jnp.minimum(corner, room) - config.pad, extent])


def _turn(config: AugmentConfig, u: Float[Array, "4"]) -> Float[Array, "3 3"]:
    """Rotation, translation and zoom about the centre, as the inverse map."""
    angle = jnp.deg2rad(_between(u[0], config.rotation))
    reach = config.translation * config.size
    dx, dy = _between(u[1:3], (-reach, reach))
    zoom = _between(u[3], config.zoom)
    c, s = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    # Rows point down, so a counter-clockwise turn reads clockwise in (x, y).
    return jnp.array(
        [[c, -s, s * dy - c * dx], [s, c, -s * dx - c * dy], [0.0, 0.0, 1.0]]
    )


def _tilt(config: AugmentConfig, u: Float[Array, "9"]) -> Float[Array, "3 3"]:
    """Perspective: the film's corners move inwards, each by its own amount."""
    if config.perspective == 0.0:
        return jnp.eye(3)
    half = config.size / 2.0
    inwards = _between(u[:8].reshape(4, 2), (0.0, config.perspective))
    corners = jnp.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    quad = corners * (1.0 - inwards)
    to_quad = _square_to_quad(quad)
    scale = jnp.diag(jnp.array([half, half, 1.0]))
    unscale = jnp.diag(jnp.array([1.0 / half, 1.0 / half, 1.0]))
    # The adjugate is the inverse up to a factor, which a homography does not feel: no
    # decomposition of thousands of small matrices.
    back = jnp.stack([jnp.cross(to_quad[i - 2], to_quad[i - 1]) for i in range(3)], 1)
    tilt = jnp.linalg.multi_dot((scale, back, unscale), precision="highest")
    applied = u[8] < config.perspective_probability
    return jnp.where(applied, tilt / tilt[2, 2], jnp.eye(3))


def _square_to_quad(quad: Float[Array, "4 2"]) -> Float[Array, "3 3"]:
    """The homography that takes the corners of [-1, 1]^2 to four points.

    Heckbert's closed form (Fundamentals of Texture Mapping, 1989, section 2.2.3) for
    the unit square, after the map of [-1, 1]^2 onto it. Corners run round the square.
    """
    p0, p1, p2, p3 = quad
    (dx1, dy1), (dx2, dy2) = p1 - p2, p3 - p2
    sx, sy = p0 - p1 + p2 - p3
    area = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - dx2 * sy) / area, (dx1 * sy - sx * dy1) / area
    row_x = jnp.stack([p1[0] - p0[0] + g * p1[0], p3[0] - p0[0] + h * p3[0], p0[0]])
    row_y = jnp.stack([p1[1] - p0[1] + g * p1[1], p3[1] - p0[1] + h * p3[1], p0[1]])
    unit = jnp.stack([row_x, row_y, jnp.stack([g, h, jnp.ones_like(g)])])
    to_unit = jnp.array([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    return jnp.matmul(unit, to_unit, precision="highest")


def _warp(
    film: UInt8[Array, "h w"],
    homography: Float[Array, "3 3"],
    crop: Float[Array, "4"],
    *,
    size: int,
) -> Float[Array, "size size"]:
    """Bilinear sampling in [0, 1]; black outside the crop and the film."""
    side = film.shape[0]
    at = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2.0
    u, v = jnp.meshgrid(at, at)
    m = homography
    depth = m[2, 0] * u + m[2, 1] * v + m[2, 2]
    x = (m[0, 0] * u + m[0, 1] * v + m[0, 2]) / depth
    y = (m[1, 0] * u + m[1, 1] * v + m[1, 2]) / depth
    left, top = jnp.maximum(crop[:2], 0.0)
    right, bottom = jnp.minimum(crop[:2] + crop[2:], float(side))
    seen = warp(film, (y, x), window=((top, bottom), (left, right)))
    # A plane seen from behind (depth <= 0) shows nothing.
    return jnp.where(depth > 0.0, seen, 0.0) / 255.0


def _intensity(
    film: Float[Array, "h w"], config: AugmentConfig, u: Float[Array, "5"]
) -> Float[Array, "h w"]:
    if config.autocontrast > 0.0:
        low, high = film.min(), film.max()
        stretched = (film - low) / jnp.where(high > low, high - low, 1.0)
        chosen = u[0] < config.autocontrast
        film = jnp.where(chosen & (high > low), stretched, film)
    if config.brightness != (1.0, 1.0):
        film = jnp.clip(film * _between(u[1], config.brightness), 0.0, 1.0)
    if config.contrast != (1.0, 1.0):
        mean = film.mean()
        factor = _between(u[2], config.contrast)
        film = jnp.clip(mean + factor * (film - mean), 0.0, 1.0)
    if config.blur[1] > 0.0:
        chosen = u[4] < config.blur_probability
        sigma = _between(u[3], config.blur)
        blurred = gaussian_blur(film, (sigma, sigma), largest=config.blur[1])
        film = jnp.where(chosen, blurred, film)
    return film
