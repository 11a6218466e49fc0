"""Errors of T1 and T2 maps in ms, per tissue and per AHA segment.

Segments follow the American Heart Association's 17-segment model (Cerqueira et al.
2002) without the apex: six sectors of 60 degrees in basal (1-6) and mid-cavity slices
(7-12), four of 90 degrees in apical ones (13-16). They are laid out around the centre
of the left ventricle from the direction of the right ventricle, which is the middle of
the septum: anteroseptal and inferoseptal sectors meet there, the apical septal one is
centred on it. Labels are CMRxRecon's: 1 LV blood, 2 myocardium, 3 RV blood.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

REGIONS = {"lv": 1, "myocardium": 2, "rv": 3}

# First segment number, and how many follow.
LEVELS = {"basal": (1, 6), "mid": (7, 6), "apical": (13, 4)}

# Places along the model's own numbering (anterior first, then counter-clockwise) of the
# sectors met counter-clockwise from the middle of the septum.
_FROM_SEPTUM = {6: (2, 3, 4, 5, 0, 1), 4: (1, 2, 3, 0)}


def aha_segments(
    label: Int[Array, "h w"],
    *,
    level: str,
    mirrored: bool = False,
) -> Int[Array, "h w"]:
    """The AHA segment of every myocardial pixel of a short-axis slice.

    Args:
        label: 1 LV, 2 myocardium, 3 RV, 0 elsewhere; all three must be present, else
            nothing is assigned.
        level: ``basal``, ``mid`` or ``apical``.
        mirrored: the usual display has the right ventricle on the left and the anterior
            wall on top; true for images that are its mirror image.

    Returns:
        Segment numbers 1-16, 0 outside the myocardium.

    Raises:
        ValueError: for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r} is none of {sorted(LEVELS)}")
    first, count = LEVELS[level]
    y, x = jnp.meshgrid(
        jnp.arange(label.shape[0], dtype=jnp.float32),
        jnp.arange(label.shape[1], dtype=jnp.float32),
        indexing="ij",
    )

    def centre(inside: Bool[Array, "h w"]) -> tuple[Array, Array]:
        weight = inside.astype(jnp.float32)
        total = jnp.maximum(jnp.sum(weight), 1.0)
        return jnp.sum(weight * y) / total, jnp.sum(weight * x) / total

    left = centre((label == 1) | (label == 2))
    right = centre(label == 3)
    # Rows grow downwards, angles counter-clockwise as seen.
    septum = jnp.arctan2(left[0] - right[0], right[1] - left[1])
    angle = jnp.arctan2(left[0] - y, x - left[1]) - septum
    angle = -angle if mirrored else angle
    sector = 2 * math.pi / count
    start = 0.0 if count == 6 else sector / 2
    place = jnp.floor(jnp.mod(angle + start, 2 * math.pi) / sector).astype(jnp.int32)
    order = jnp.asarray(_FROM_SEPTUM[count], jnp.int32)
    segment = first + order[jnp.clip(place, 0, count - 1)]
    complete = jnp.any(label == 1) & jnp.any(label == 2) & jnp.any(label == 3)
    return jnp.where((label == 2) & complete, segment, 0)


def masked_rmse(
    estimate: Float[Array, "h w"],
    truth: Float[Array, "h w"],
    inside: Bool[Array, "h w"],
) -> Float[Array, ""]:
    """Root mean squared error over a region; pixels without a fit (NaN) are left out.

    Args:
        estimate: map in ms, NaN where the fit failed.
        truth: map in ms.
        inside: the region.

    Returns:
        ms; NaN for a region without valid pixels.
    """
    valid = inside & jnp.isfinite(estimate) & jnp.isfinite(truth)
    error = jnp.where(valid, estimate - truth, 0.0)
    count = jnp.sum(valid).astype(estimate.dtype)
    return jnp.sqrt(jnp.sum(error**2) / count)


def map_errors(
    estimate: Float[Array, "h w"],
    truth: Float[Array, "h w"],
    label: Int[Array, "h w"],
    *,
    level: str | None = None,
    mirrored: bool = False,
) -> dict[str, Float[Array, ""]]:
    """RMSE in ms of a map, per region and, where a level is given, per segment.

    Args:
        estimate: map in ms, NaN where the fit failed.
        truth: map in ms.
        label: 1 LV, 2 myocardium, 3 RV, 0 elsewhere.
        level: where the slice lies; ``None`` leaves segments out.
        mirrored: as in :func:`aha_segments`.

    Returns:
        ``lv``, ``myocardium``, ``rv``, ``heart`` (all three) and ``aha_01`` and so on;
        NaN for what the slice does not show.
    """
    errors = {
        name: masked_rmse(estimate, truth, label == number)
        for name, number in REGIONS.items()
    }
    errors["heart"] = masked_rmse(estimate, truth, label > 0)
    if level is not None:
        segments = aha_segments(label, level=level, mirrored=mirrored)
        first, count = LEVELS[level]
        for number in range(first, first + count):
            inside = segments == number
            errors[f"aha_{number:02d}"] = masked_rmse(estimate, truth, inside)
    return errors
