"""Arrays as pictures of a page: checked, coloured, outlined, moving.

A picture is ``[h, w]`` or ``[h, w, 3]``, uint8 or float in [0, 1]; an
:class:`Animation` is several in time. Both become a data URI, PNG or WebP, without
loss: what a reader measures on the screen is what was in the array.
"""

import base64
import html
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped, UInt8
from PIL import Image

HEAT = np.array(
    [[8, 8, 40], [64, 30, 120], [160, 50, 110], [230, 110, 60], [250, 240, 150]]
)
"""Colours of a map from low to high."""
SIGNED = np.array([[40, 80, 190], [250, 250, 250], [190, 50, 40]])
"""Colours of an error: too low, right, too high."""
LABELS = np.array(
    [[15, 111, 198], [217, 98, 43], [29, 154, 108], [184, 134, 11], [162, 63, 176]]
)
"""Colours of labels 1, 2, ...; they repeat."""


@dataclass(frozen=True)
class Animation:
    """Pictures that follow each other, for ever.

    Attributes:
        frames: Pictures of one size, ``[t, h, w]`` or ``[t, h, w, 3]``.
        rate: Pictures a second.
    """

    frames: Shaped[np.ndarray, "t h w *rgb"]
    rate: float = 12.0


def image_tag(picture: np.ndarray | Animation, alternative: str) -> str:
    """An ``<img>`` element with the picture in it.

    Args:
        picture: Still or moving.
        alternative: What a reader without pictures is told.

    Raises:
        ValueError: If the array is not a picture.
    """
    buffer = io.BytesIO()
    if isinstance(picture, Animation):
        if not (len(picture.frames) and picture.rate > 0):
            raise ValueError(
                f"animation: expected a frame at least and a positive rate, got "
                f"{len(picture.frames)} frames at {picture.rate}"
            )
        frames = [Image.fromarray(eight_bits(frame)) for frame in picture.frames]
        kind, (width, height) = "webp", frames[0].size
        frames[0].save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / picture.rate),
            loop=0,
            lossless=True,
        )
    else:
        still = Image.fromarray(eight_bits(picture))
        kind, (width, height) = "png", still.size
        still.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img src="data:image/{kind};base64,{data}" width="{width}" '
        f'height="{height}" alt="{html.escape(alternative)}">'
    )


def eight_bits(picture: np.ndarray) -> UInt8[np.ndarray, "h w *rgb"]:
    """A picture as uint8.

    Raises:
        ValueError: If the array is not a picture.
    """
    picture = np.asarray(picture)
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise ValueError(f"picture: expected [h, w] or [h, w, 3], got {picture.shape}")
    if picture.dtype == np.uint8:
        return picture
    if not np.issubdtype(picture.dtype, np.floating):
        raise ValueError(f"picture: expected uint8 or float, got {picture.dtype}")
    if not (picture.min() >= 0 and picture.max() <= 1):
        raise ValueError(
            "picture: expected floats in [0, 1], "
            f"got {picture.min():.3g} to {picture.max():.3g}"
        )
    return np.round(255 * picture).astype(np.uint8)


def grey(
    values: Float[np.ndarray, "*t h w"], low: float = 0.0, high: float = 1.0
) -> UInt8[np.ndarray, "*t h w"]:
    """Values as grey, black at ``low`` and below, white at ``high`` and above."""
    unit = (values - low) / max(high - low, 1e-12)
    return np.round(255 * np.clip(np.nan_to_num(unit), 0, 1)).astype(np.uint8)


def coloured(
    values: Float[np.ndarray, "*t h w"],
    colours: Integer[np.ndarray, "n 3"],
    inside: Bool[np.ndarray, "*t h w"] | None = None,
) -> UInt8[np.ndarray, "*t h w 3"]:
    """Values as colours interpolated along 0..1.

    Args:
        values: Any numbers; cut to [0, 1], NaN as 0.
        colours: From low to high, such as :data:`HEAT`.
        inside: Where to show them; black elsewhere.

    Returns:
        The picture.
    """
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(colours) - 1)
    steps = np.arange(len(colours))
    picture = np.stack([np.interp(place, steps, c) for c in colours.T], axis=-1)
    if inside is not None:
        picture = picture * inside[..., None]
    return np.round(picture).astype(np.uint8)


def overlay(
    image: UInt8[np.ndarray, "h w"],
    values: Float[np.ndarray, "h w"],
    colours: Integer[np.ndarray, "n 3"] = HEAT,
    *,
    strength: float = 0.6,
) -> UInt8[np.ndarray, "h w 3"]:
    """A map over a grey image: the higher a value, the less of the image shows.

    Args:
        image: Grey.
        values: In [0, 1], such as an uncertainty; NaN shows the image alone.
        colours: Of the map.
        strength: Share of the map where its value is 1.

    Returns:
        The picture.
    """
    share = strength * np.clip(np.nan_to_num(values), 0, 1)[..., None]
    mixed = (1 - share) * image[..., None] + share * coloured(values, colours)
    return np.round(mixed).astype(np.uint8)


def outlined(
    picture: UInt8[np.ndarray, "h w *rgb"],
    labels: Integer[np.ndarray, "h w"],
    colours: Integer[np.ndarray, "n 3"] = LABELS,
) -> UInt8[np.ndarray, "h w 3"]:
    """Borders of labels drawn into a picture, one pixel wide, inside the label.

    Args:
        picture: Grey or coloured.
        labels: 0 is background.
        colours: Of labels 1, 2, ...; repeated where there are more labels.

    Returns:
        The picture.
    """
    drawn = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)
    around = np.pad(labels, 1, mode="edge")
    neighbours = (
        around[:-2, 1:-1],
        around[2:, 1:-1],
        around[1:-1, :-2],
        around[1:-1, 2:],
    )
    border = np.any([side != labels for side in neighbours], axis=0) & (labels != 0)
    palette = colours[(labels[border] - 1) % len(colours)]
    drawn = drawn.copy()
    drawn[border] = palette
    return drawn


def enlarged(
    picture: Shaped[np.ndarray, "h w *rgb"], side: int = 192
) -> Shaped[np.ndarray, "y x *rgb"]:
    """Whole multiples of pixels until the shorter side has ``side`` at least."""
    times = -(-side // min(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
