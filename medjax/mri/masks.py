"""Which k-space samples were measured: masks, and an honest description of them.

A mask is boolean with last axes ``h w`` (ky, kx); ``w`` is 1 where whole readout lines
are sampled, and a leading ``t`` makes it a k-t mask. Random masks draw from an explicit
``key`` alone, so one key is one mask, on every machine.

"Acceleration" has two meanings, and mixing them up makes results incomparable. The
*nominal* one is the spacing of lines outside the autocalibration block (ACS): that is
how CMRxRecon counts, whose R = 10 on 144 lines is truly 4.0. The *true* one is all
samples over measured samples. Every function here says which one it takes, and
:func:`describe` reports both.

Sources: CMRxRecon 2023 ``mySubsampling`` and 2024 ``ktUniform/ktGaussian/ktRadial``
generators. The 2024 ``ktUniform`` code shifts its pattern by half the field of view for
an odd number of frames; :func:`kt_equispaced` does not.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from medjax.typing import Key

GOLDEN_ANGLE = 111.246117975
"""Degrees between successive spokes that cover the circle evenly at any count."""


def _acs(lines: int, acs: int) -> np.ndarray:
    """The ``acs`` central lines, ``[n//2 - acs//2, n//2 + acs - acs//2)``."""
    if not 0 <= acs <= lines:
        raise ValueError(f"acs={acs} central lines do not fit in {lines} lines")
    start = lines // 2 - acs // 2
    inside = np.zeros(lines, bool)
    inside[start : start + acs] = True
    return inside


def _check_acceleration(acceleration: float) -> None:
    if acceleration < 1:
        raise ValueError(f"acceleration must be at least 1, got {acceleration}")


def equispaced(
    lines: int, *, acceleration: int, acs: int, offset: int = 0
) -> Bool[Array, "h 1"]:
    """Every ``acceleration``-th line from ``offset`` on, plus the central block.

    Args:
        lines: number of phase-encode lines.
        acceleration: nominal acceleration, i.e. line spacing (ACS not counted).
        acs: fully sampled central lines.
        offset: first sampled line, in ``[0, acceleration)``.

    Returns:
        A line mask.

    Raises:
        ValueError: where acs, acceleration or offset is out of range.
    """
    _check_acceleration(acceleration)
    if not 0 <= offset < acceleration:
        raise ValueError(f"offset={offset} is not in [0, {acceleration})")
    mask = _acs(lines, acs)
    mask[offset::acceleration] = True
    return jnp.asarray(mask[:, None])


def cmrxrecon(lines: int, *, acceleration: int, acs: int = 24) -> Bool[Array, "h 1"]:
    """The CMRxRecon mask: every R-th line from index 0, plus the central block.

    Args:
        lines: number of phase-encode lines, e.g. 144 (T1) or 116 (T2).
        acceleration: the challenge's R, 4, 8 or 10; ACS not counted in it.
        acs: 24 in the 2023 edition, 16 in 2024.

    Returns:
        A line mask; on 144 lines R = 4, 8, 10 keep 54, 39, 36 lines.
    """
    return equispaced(lines, acceleration=acceleration, acs=acs)


def random_lines(
    lines: int, *, acceleration: float, acs: int, key: Key
) -> Bool[Array, "h 1"]:
    """Uniformly random lines and the central block, with an exact *true* acceleration.

    fastMRI's random mask draws every line by a coin, so that its number of lines
    varies; this one always keeps ``round(lines / acceleration)`` (at least the ACS).

    Args:
        lines: number of phase-encode lines.
        acceleration: true acceleration, ACS counted.
        acs: fully sampled central lines.
        key: PRNG key.

    Returns:
        A line mask.
    """
    _check_acceleration(acceleration)
    centre = _acs(lines, acs)
    wanted = max(round(lines / acceleration), acs)
    # The centre gets the top ranks, so exactly the rest is drawn outside it.
    rank = jnp.where(jnp.asarray(centre), 2.0, jax.random.uniform(key, (lines,)))
    return _largest(rank, wanted)[:, None]


def kt_equispaced(
    lines: int, frames: int, *, acceleration: int, acs: int, shift: int = 1
) -> Bool[Array, "t h 1"]:
    """Equispaced lines that move by ``shift`` from frame to frame (ktUniform).

    Args:
        lines: number of phase-encode lines.
        frames: number of frames; any ``acceleration`` of them cover k-space
            where ``shift`` and ``acceleration`` are coprime.
        acceleration: nominal acceleration (ACS not counted).
        acs: fully sampled central lines of every frame.
        shift: lines by which the pattern advances per frame.

    Returns:
        A k-t line mask.
    """
    offsets = [t * shift % acceleration for t in range(frames)]
    per_frame = [
        equispaced(lines, acceleration=acceleration, acs=acs, offset=o) for o in offsets
    ]
    return jnp.stack(per_frame)


def kt_gaussian(
    lines: int,
    frames: int,
    *,
    acceleration: float,
    acs: int,
    key: Key,
    alpha: float = 0.28,
) -> Bool[Array, "t h 1"]:
    """Random lines per frame, denser at the centre (ktGaussian).

    The density is ``0.1 + alpha/(1 - alpha) * exp(-(k / (lines/5))**2)``.

    Args:
        lines: number of phase-encode lines.
        frames: number of frames.
        acceleration: nominal: ``round(lines / acceleration)`` lines are drawn per
            frame, and the central block is added to them.
        acs: fully sampled central lines of every frame.
        key: PRNG key; each frame has its own stream.
        alpha: 0 is a uniform density, towards 1 a Gaussian one.

    Returns:
        A k-t line mask.
    """
    _check_acceleration(acceleration)
    k = np.arange(lines) - lines // 2
    density = 0.1 + alpha / (1 - alpha) * np.exp(-((k / (lines / 5)) ** 2))
    log_density = jnp.asarray(np.log(density), jnp.float32)
    # Gumbel noise on log-probabilities: the top n are n draws without replacement.
    noise = jax.random.gumbel(key, (frames, lines))
    drawn = _largest(noise + log_density[None], round(lines / acceleration))
    return (drawn | jnp.asarray(_acs(lines, acs))[None])[..., None]


def kt_radial(
    lines: int,
    columns: int,
    frames: int,
    *,
    acceleration: float,
    acs: int,
    turn: float = GOLDEN_ANGLE,
) -> Bool[Array, "t h w"]:
    """Pseudo-radial spokes on the Cartesian grid, turning per frame (ktRadial).

    Args:
        lines: rows of k-space.
        columns: columns of k-space.
        frames: number of frames.
        acceleration: nominal: ``floor(180 / acceleration)`` spokes per frame.
        acs: side of the fully sampled central square.
        turn: degrees between the first spokes of successive frames.

    Returns:
        A k-t mask over the full grid.
    """
    _check_acceleration(acceleration)
    spokes = int(180 // acceleration)
    radius = np.arange(-max(lines, columns), max(lines, columns) + 1) / 2
    mask = np.zeros((frames, lines, columns), bool)
    mask[:, _acs(lines, acs)[:, None] & _acs(columns, acs)[None]] = True
    for t in range(frames):
        angles = np.deg2rad(turn * t + 180 / spokes * np.arange(spokes))
        y = np.rint(np.outer(np.sin(angles), radius)).astype(int) + lines // 2
        x = np.rint(np.outer(np.cos(angles), radius)).astype(int) + columns // 2
        inside = (0 <= y) & (y < lines) & (0 <= x) & (x < columns)
        mask[t, y[inside], x[inside]] = True
    return jnp.asarray(mask)


def variable_density(
    lines: int,
    columns: int,
    *,
    acceleration: float,
    acs: int,
    key: Key,
    sigma: float = 0.3,
) -> Bool[Array, "h w"]:
    """Random single samples, denser at the centre: a 3-D acquisition's ky-kz plane.

    Args:
        lines: rows of k-space.
        columns: columns of k-space.
        acceleration: true acceleration, the central square counted.
        acs: side of the fully sampled central square.
        key: PRNG key.
        sigma: width of the Gaussian density, in fractions of the grid.

    Returns:
        A mask with exactly ``round(lines * columns / acceleration)`` samples
        (at least the central square).
    """
    _check_acceleration(acceleration)
    y = (np.arange(lines) - lines // 2) / (sigma * lines)
    x = (np.arange(columns) - columns // 2) / (sigma * columns)
    log_density = -(y[:, None] ** 2 + x[None] ** 2) / 2
    centre = _acs(lines, acs)[:, None] & _acs(columns, acs)[None]
    log_density = np.where(centre, np.inf, log_density).ravel()
    wanted = max(round(lines * columns / acceleration), int(centre.sum()))
    noise = jax.random.gumbel(key, (lines * columns,))
    rank = noise + jnp.asarray(log_density, jnp.float32)
    return _largest(rank, wanted).reshape(lines, columns)


def _largest(rank: Array, count: int) -> Array:
    """True at the ``count`` largest entries along the last axis."""
    order = jnp.argsort(jnp.argsort(-rank, axis=-1), axis=-1)
    return order < count


@dataclasses.dataclass(frozen=True)
class MaskDescription:
    """What a mask really measures.

    Attributes:
        nominal: acceleration outside the central block: the line spacing where it is
            constant, else all samples there over the measured ones.
        true: all samples over measured samples, frames pooled.
        acs: lines (or side of the square) fully sampled around the centre in every
            frame; lines of the pattern that touch the block belong to it.
        sampled: measured lines (or samples) per frame, fewest and most.
        of: lines (or samples) per frame.
        lines: whether whole readout lines are sampled.
    """

    nominal: float
    true: float
    acs: int
    sampled: tuple[int, int]
    of: int
    lines: bool

    def __str__(self) -> str:
        """One line for a log: nominal and true acceleration, ACS and counts."""
        few, many = self.sampled
        count = f"{few}" if few == many else f"{few}-{many}"
        return (
            f"nominal R {self.nominal:.4g}, true R {self.true:.2f}, ACS {self.acs}, "
            f"{count} of {self.of} {'lines' if self.lines else 'samples'}"
        )


def describe(
    mask: Bool[Array, "*t h w"] | Bool[np.ndarray, "*t h w"],
) -> MaskDescription:
    """Nominal and true acceleration and the autocalibration block of any mask.

    Args:
        mask: a mask of this module, or one read from a file.

    Returns:
        The description; ``print`` shows it in one line.

    Raises:
        ValueError: where nothing is sampled.
    """
    every = np.asarray(mask).reshape(-1, *mask.shape[-2:])
    if not every.any():
        raise ValueError("mask samples nothing")
    if (every == every[..., :1]).all():  # whole readout lines
        every = every[..., :1]
    common = np.asarray(every.all(axis=0))
    lines = every.shape[-1] == 1
    if lines:
        run = _central_run(common[:, 0])
        acs = run.stop - run.start
    else:
        acs = _central_square(common)
    counts = every.sum(axis=(1, 2))
    return MaskDescription(
        nominal=_nominal(every[0], acs),
        true=every.size / int(every.sum()),
        acs=acs,
        sampled=(int(counts.min()), int(counts.max())),
        of=every[0].size,
        lines=lines,
    )


def calibration_region(
    mask: Bool[Array, "*t h w"] | Bool[np.ndarray, "*t h w"],
) -> tuple[slice, slice]:
    """The block around the centre of k-space that every frame samples fully.

    Args:
        mask: a mask of this module, or one read from a file.

    Returns:
        Slices of ``h`` and ``w``: all columns for line masks, else a square. Empty
        where the centre was not sampled.
    """
    every = np.asarray(mask).reshape(-1, *mask.shape[-2:])
    common = np.asarray(every.all(axis=0))
    if (common == common[:, :1]).all():
        return _central_run(common[:, 0]), slice(None)
    h, w = every.shape[1:]
    side = _central_square(common)
    top, left = h // 2 - side // 2, w // 2 - side // 2
    return slice(top, top + side), slice(left, left + side)


def _central_run(line: np.ndarray) -> slice:
    """The unbroken run of sampled lines that holds the centre."""
    middle = line.size // 2
    missing = np.flatnonzero(~line)
    before = missing[missing <= middle].max(initial=-1)
    after = missing[missing >= middle].min(initial=line.size)
    return slice(int(before) + 1, max(int(after), int(before) + 1))


def _central_square(common: np.ndarray) -> int:
    """Side of the largest sampled square around the centre."""
    h, w = common.shape
    side = 0
    while side < min(h, w):
        inside = np.ix_(_acs(h, side + 1), _acs(w, side + 1))
        if not common[inside].all():
            break
        side += 1
    return side


def _nominal(frame: np.ndarray, acs: int) -> float:
    """Line spacing outside the central block, or the density there."""
    block = acs if frame.shape[1] == 1 else acs * acs
    outside, kept = frame.size - block, int(frame.sum()) - block
    gaps = np.diff(np.flatnonzero(frame[:, 0])) if frame.shape[1] == 1 else np.ones(0)
    gaps = gaps[gaps > 1]
    if gaps.size:
        # A regular grid shows one gap everywhere, but smaller ones beside the block.
        if (gaps == gaps.max()).sum() >= gaps.size - 2:
            return float(gaps.max())
    if outside == 0:
        return 1.0
    return outside / kept if kept else float("inf")
