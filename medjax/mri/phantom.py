"""A cardiac phantom whose T1, T2, coils, motion and noise are known.

A short-axis slice of a chest made of ellipses: left-ventricular blood in a ring of
myocardium, the right ventricle's crescent beside it, liver, lungs, and a chest wall of
muscle and fat. Each tissue has the T1, T2 and proton density of the literature at 3 T,
varied from subject to subject, and a sector of the myocardium is diseased. The series
come from the Bloch simulation (:mod:`medjax.mri.bloch`), are shifted by breathing from
frame to frame, seen through smooth complex coil maps, Fourier transformed and noised.

So a reconstruction can be judged against the image, and a map in ms against the truth
(or, without the sequence's own bias, against the map fitted to the noise-free series).
Every array follows from ``config`` and ``key`` alone. Relaxation times at 3 T: blood,
heart, liver and muscle from Stanisz et al. 2005 (MRM 54:507), fat from Gold et al. 2004
(AJR 183:343); lung is nominal.
"""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int

from medjax.mri import bloch
from medjax.mri.fourier import fft2c
from medjax.typing import Key

# Name: T1 ms, T2 ms, proton density relative to blood.
TISSUES = {
    "air": (1000.0, 50.0, 0.0),
    "fat": (371.0, 133.0, 0.9),
    "muscle": (1412.0, 50.0, 0.8),
    "lung": (1200.0, 35.0, 0.15),
    "liver": (812.0, 42.0, 0.75),
    "rv_blood": (1932.0, 180.0, 0.95),
    "myocardium": (1471.0, 47.0, 0.8),
    "lv_blood": (1932.0, 275.0, 1.0),
}
TISSUE_INDEX = {name: i for i, name in enumerate(TISSUES)}
HEART = (0.02, 0.12)
"""Row and column of the mean heart's centre, from -1 to 1 across the chest."""
LABELS = {"lv_blood": 1, "myocardium": 2, "rv_blood": 3}
"""CMRxRecon's labels of a mapping slice; everything else is 0."""


@dataclass(frozen=True)
class PhantomConfig:
    """What is scanned, and how.

    Attributes:
        sequence: A T1 (MOLLI) or T2 (T2-prepared) series.
        height: Rows: phase encoding.
        width: Columns: readout.
        readout_oversampling: How many times wider than the chest's the columns' field
            of view is (2 in CMRxRecon).
        field_of_view: What part of the chest's height and width is scanned; less than
            all of it is centred on the heart.
        coils: Receivers around the chest.
        scheme: Images and beats of rest per MOLLI inversion.
        first_inversion_times: One per inversion, ms.
        inversion_efficiency: 1 is perfect.
        echo_times: Of the T2 preparations, ms.
        t2_rest: Beats of rest between T2-prepared images.
        readout: Of every image.
        heart_rate: Mean beats per minute; subjects vary by 10 %.
        tissue_spread: Relative standard deviation of T1, T2 and M0 between subjects.
        lesion: Relative rise of T1 and T2 in the diseased sector.
        breathing: Standard deviation of the heart's shift between frames, in rows.
        noise: Standard deviation of real and imaginary part in every coil's k-space,
            relative to the largest magnitude of the noise-free series.
    """

    sequence: Literal["t1", "t2"] = "t1"
    height: int = 64
    width: int = 64
    readout_oversampling: float = 1.0
    field_of_view: float = 1.0
    coils: int = 4
    scheme: tuple[tuple[int, int], ...] = ((4, 1), (3, 1), (2, 0))
    first_inversion_times: tuple[float, ...] = (100.0, 180.0, 260.0)
    inversion_efficiency: float = 0.96
    echo_times: tuple[float, ...] = (0.0, 35.0, 55.0)
    t2_rest: int = 3
    readout: bloch.Readout = bloch.Readout()
    heart_rate: float = 60.0
    tissue_spread: float = 0.04
    lesion: float = 0.15
    breathing: float = 0.0
    noise: float = 0.0


class Phantom(NamedTuple):
    """One series and everything there is to know about it.

    Attributes:
        kspace: Fully sampled k-space of every coil, noise included.
        sensitivities: Coil maps, unit root sum of squares everywhere.
        image: The noise-free series behind the coils, in motion.
        signed: The same without phase; its sign is the polarity.
        times: Inversion or echo times, ms, ascending.
        t1: Truth at rest, ms.
        t2: Truth at rest, ms.
        m0: Proton density at rest; 0 in air.
        label: 1 LV, 2 myocardium, 3 RV, 0 elsewhere, at rest.
        shift: Rows by which the heart lies off its resting place.
    """

    kspace: Complex[Array, "t c h w"]
    sensitivities: Complex[Array, "c h w"]
    image: Complex[Array, "t h w"]
    signed: Float[Array, "t h w"]
    times: Float[Array, " t"]
    t1: Float[Array, "h w"]
    t2: Float[Array, "h w"]
    m0: Float[Array, "h w"]
    label: Int[Array, "h w"]
    shift: Float[Array, " t"]


class Anatomy(NamedTuple):
    """Where the tissues are, and what they are made of."""

    tissue: Int[Array, "h w"]
    t1: Float[Array, "h w"]
    t2: Float[Array, "h w"]
    m0: Float[Array, "h w"]


def _coordinates(
    config: PhantomConfig,
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Rows and columns, from -1 to 1 across the chest."""
    h, w, part = config.height, config.width, config.field_of_view
    y = (jnp.arange(h, dtype=jnp.float32) - h // 2) / (h / 2)
    x = (jnp.arange(w, dtype=jnp.float32) - w // 2) / (w / 2)
    x = x * config.readout_oversampling
    if part < 1:
        y, x = HEART[0] + part * y, HEART[1] + part * x
    y, x = jnp.meshgrid(y, x, indexing="ij")
    return y, x


def anatomy(config: PhantomConfig, *, key: Key) -> Anatomy:
    """Draw a subject: shapes, relaxation times, and the diseased sector.

    Args:
        config: Sizes and spreads.
        key: The subject.

    Returns:
        Tissue indices into :data:`TISSUES` and the maps of T1, T2 (ms) and M0.
    """
    shape_key, value_key = jax.random.split(key)
    y, x = _coordinates(config)
    # Uniform in [-1, 1]: how far each measure of this subject is off the average one.
    u = jax.random.uniform(shape_key, (10,), minval=-1.0, maxval=1.0)

    def ellipse(cy: Array | float, cx: Array | float, ry: Array, rx: Array) -> Array:
        return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1

    girth = 1 + 0.05 * u[0]
    cy, cx = HEART[0] + 0.05 * u[1], HEART[1] + 0.05 * u[2]
    cavity = 0.19 * (1 + 0.15 * u[3])
    wall = 0.10 * (1 + 0.15 * u[4])
    outer = cavity + wall
    regions = [
        ("fat", ellipse(0.0, 0.0, 0.86 * girth, 0.92 * girth)),
        ("muscle", ellipse(0.0, 0.0, 0.78 * girth, 0.84 * girth)),
        ("lung", ellipse(-0.02, 0.42, 0.58 * girth, 0.30 * girth)),
        ("lung", ellipse(-0.02, -0.46, 0.58 * girth, 0.28 * girth)),
        ("liver", ellipse(0.50 + 0.04 * u[5], -0.30, 0.24 * girth, 0.42 * girth)),
        ("rv_blood", ellipse(cy - 0.03, cx - 0.30, 0.30 + 0.03 * u[6], outer)),
        ("myocardium", ellipse(cy, cx, outer, outer * (1 + 0.05 * u[7]))),
        ("lv_blood", ellipse(cy, cx, cavity, cavity)),
    ]
    tissue = jnp.zeros(y.shape, jnp.int32)
    for name, region in regions:  # later ones lie on top
        tissue = jnp.where(region, TISSUE_INDEX[name], tissue)
    spread = jax.random.normal(value_key, (len(TISSUES), 3)) * config.tissue_spread
    values = jnp.asarray(list(TISSUES.values()), jnp.float32) * jnp.exp(spread)
    t1, t2, m0 = jnp.moveaxis(values[tissue], -1, 0)
    # The diseased sector: 60 degrees of the myocardium.
    bearing = jnp.arctan2(y - cy, x - cx) - jnp.pi * u[8]
    sector = jnp.cos(bearing) > jnp.cos(jnp.pi / 6)
    diseased = sector & (tissue == TISSUE_INDEX["myocardium"])
    factor = jnp.where(diseased, 1 + config.lesion, 1.0)
    return Anatomy(tissue, t1 * factor, t2 * factor, m0)


def coil_maps(config: PhantomConfig, *, key: Key) -> Complex[Array, "c h w"]:
    """Smooth complex maps of receivers on a ring around the chest, unit RSS."""
    y, x = _coordinates(config)
    angle_key, phase_key = jax.random.split(key)
    turn = jax.random.uniform(angle_key, (), maxval=2 * jnp.pi)
    angle = (
        turn + 2 * jnp.pi * jnp.arange(config.coils, dtype=jnp.float32) / config.coils
    )
    offset = jax.random.uniform(phase_key, (config.coils,), maxval=2 * jnp.pi)
    angle, offset = angle[:, None, None], offset[:, None, None]
    dy = y[None] - 1.3 * jnp.sin(angle)
    dx = x[None] - 1.3 * jnp.cos(angle)
    magnitude = jnp.exp(-(dy**2 + dx**2) / (2 * 0.9**2))
    phase = 1.5 * (dy * jnp.sin(angle) + dx * jnp.cos(angle)) + offset
    maps = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
    power = jnp.sum(magnitude**2, axis=0, keepdims=True)
    return maps * jax.lax.rsqrt(power).astype(maps.dtype)


def chest_weight(y: Float[Array, "h w"], x: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """How much of the heart's breathing motion a place shares; 0 in the chest wall.

    Args:
        y: rows from -1 to 1 across the chest's field of view.
        x: columns likewise.
    """
    inside = jnp.clip(1 - (y / 0.78) ** 2 - (x / 0.84) ** 2, 0.0, 1.0)
    return jnp.sin(jnp.pi / 2 * inside)


def breathe(
    series: Float[Array, "t h w"],
    shift: Float[Array, " t"],
    config: PhantomConfig,
) -> Float[Array, "t h w"]:
    """Move the inside of the chest down by ``shift`` rows; the chest wall stays."""
    weight = chest_weight(*_coordinates(config))
    rows, columns = jnp.indices(weight.shape, dtype=jnp.float32)

    def move(image: Array, rows_down: Array) -> Array:
        at = [rows - rows_down * weight, columns]
        return jax.scipy.ndimage.map_coordinates(image, at, order=1, mode="nearest")

    return jax.vmap(move)(series, shift)


@functools.partial(jax.jit, static_argnames="config")
def cardiac_phantom(config: PhantomConfig, *, key: Key) -> Phantom:
    """Scan a subject.

    Args:
        config: What is scanned, and how.
        key: Subject, breathing and noise.

    Returns:
        The series with its frames in ascending order of time, and the truth.

    Raises:
        ValueError: If the sequence's timing is impossible.
    """
    keys = dict(
        zip(
            ("body", "coils", "rate", "phase", "breath", "noise"),
            jax.random.split(key, 6),
            strict=True,
        )
    )
    body = anatomy(config, key=keys["body"])
    rate = config.heart_rate * jnp.exp(0.1 * jax.random.normal(keys["rate"], ()))
    rr = 60000.0 / rate
    if config.sequence == "t1":
        signal = bloch.molli(
            body.t1,
            body.t2,
            scheme=config.scheme,
            first=config.first_inversion_times,
            rr=rr,
            efficiency=config.inversion_efficiency,
            readout=config.readout,
        )
        times = bloch.molli_times(config.scheme, config.first_inversion_times, rr)
    else:
        signal = bloch.t2_prepared(
            body.t1,
            body.t2,
            echo_times=config.echo_times,
            rest=config.t2_rest,
            rr=rr,
            readout=config.readout,
        )
        times = jnp.asarray(config.echo_times, jnp.float32)
    shift = config.breathing * jax.random.normal(keys["breath"], times.shape)
    signed = breathe(signal * body.m0[None], shift, config)
    order = jnp.argsort(times)
    signed, times, shift = signed[order], times[order], shift[order]

    y, x = _coordinates(config)
    c = jax.random.normal(keys["phase"], (4,))
    phase = c[0] + 0.5 * (c[1] * y + c[2] * x + c[3] * y * x)
    phasor = jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
    image = signed.astype(jnp.complex64) * phasor[None]
    maps = coil_maps(config, key=keys["coils"])
    kspace = fft2c(image[:, None] * maps[None])
    sigma = config.noise * jnp.max(jnp.abs(signed))
    noise = sigma * jax.random.normal(keys["noise"], (2, *kspace.shape))
    return Phantom(
        kspace=kspace + jax.lax.complex(noise[0], noise[1]),
        sensitivities=maps,
        image=image,
        signed=signed,
        times=times,
        t1=body.t1,
        t2=body.t2,
        m0=body.m0,
        label=label_of(body.tissue),
        shift=shift,
    )


def label_of(tissue: Int[Array, "h w"]) -> Int[Array, "h w"]:
    """CMRxRecon's labels from tissue indices."""
    lookup = jnp.array([LABELS.get(name, 0) for name in TISSUES], jnp.int32)
    return lookup[tissue]


def phantom_batch(
    config: PhantomConfig,
    mask: Bool[Array, "*t h _w"],
    batch_size: int,
    *,
    key: Key,
) -> dict[str, Array]:
    """Several subjects as a batch of the learned reconstructions.

    Args:
        config: What is scanned, and how.
        mask: Sampled points ``h 1|w`` or ``1|t h 1|w``, shared by the subjects.
        batch_size: How many subjects.
        key: Decides on all of them.

    Returns:
        The batch of :mod:`medjax.mri.series`, and beside it ``times``, ``t1``, ``t2``,
        ``m0`` and ``label`` with a leading axis ``b``.
    """
    keys = jax.random.split(key, batch_size)
    subjects = jax.vmap(lambda k: cardiac_phantom(config, key=k))(keys)
    frames = mask if mask.ndim == 3 else mask[None]
    return {
        "mask": jnp.broadcast_to(frames[None], (batch_size, *frames.shape)),
        "kspace": subjects.kspace,
        "sensitivities": subjects.sensitivities,
        "times": subjects.times,
        "t1": subjects.t1,
        "t2": subjects.t2,
        "m0": subjects.m0,
        "label": subjects.label,
    }
