"""What MOLLI and T2-prepared sequences do to magnetisation, pulse by pulse.

The Bloch equations on resonance, for every pixel at once: free recovery between events,
an imperfect inversion, a T2 preparation, and the balanced steady-state (bSSFP) readout
as the train of radio-frequency pulses that it is. So the readouts saturate the recovery
(T1* < T1), a short rest between the inversions leaves it incomplete, and maps fitted to
these signals carry the biases of the real sequences.

MOLLI (Messroghli et al. 2004) is written ``((4, 1), (3, 1), (2, 0))``: four images on
successive beats after the first inversion, one beat of rest, three images, and so on;
4(1)3(1)2 is what CMRxRecon acquired, 5(3)3 is ``((5, 3), (3, 0))``. An image is centred
on the same phase of every beat, and an inversion comes its inversion time before one.

Magnetisation is in units of equilibrium; times are in ms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scheme = Sequence[tuple[int, int]]
"""Per inversion: images on successive beats, then beats of rest."""


@dataclass(frozen=True)
class Readout:
    """A single-shot bSSFP readout.

    Attributes:
        pulses: Radio-frequency pulses; the middle one encodes the centre of k-space.
            Zero is a readout that sees the magnetisation without touching it.
        flip_angle: Degrees.
        repetition_time: Between pulses, ms.
    """

    pulses: int = 60
    flip_angle: float = 35.0
    repetition_time: float = 2.7

    @property
    def before_centre(self) -> float:
        """From the half-angle preparation pulse to the central echo, ms."""
        return (self.pulses // 2 + 1) * self.repetition_time if self.pulses else 0.0

    @property
    def after_centre(self) -> float:
        """From the central echo to the restoring pulse, ms."""
        return (
            (self.pulses - self.pulses // 2 - 0.5)
            * self.repetition_time
            * bool(self.pulses)
        )


def relax(
    mz: Float[Array, "*space"], duration: Float[Array, ""], t1: Float[Array, "*space"]
) -> Float[Array, "*space"]:
    """Longitudinal magnetisation after ``duration`` of free recovery."""
    return 1.0 - (1.0 - mz) * jnp.exp(-duration / t1)


class Response(NamedTuple):
    """What a readout does: both are affine in the magnetisation it finds along z.

    Attributes:
        signal: Offset and gain of the signed signal at the central echo.
        left: Offset and gain of the magnetisation along z afterwards.
    """

    signal: Float[Array, "2 *space"]
    left: Float[Array, "2 *space"]

    def __call__(
        self, mz: Float[Array, "*space"]
    ) -> tuple[Float[Array, "*space"], Float[Array, "*space"]]:
        """Signal, and what is left along z."""
        return self.signal[0] + self.signal[1] * mz, self.left[0] + self.left[1] * mz


def readout_response(
    t1: Float[Array, "*space"], t2: Float[Array, "*space"], readout: Readout
) -> Response:
    """Play the pulse train once, on empty and on full magnetisation.

    A half-angle pulse half a repetition time early tips the magnetisation onto the
    cone on which pulses of alternating sign keep it; in a frame that alternates with
    them every repetition is the same rotation. At the end a half-angle pulse tips back
    and the rest is spoiled. Nothing transverse enters, so the train is an affine map,
    and two runs of it tell everything about all images.
    """
    found = jnp.stack([jnp.zeros_like(t1), jnp.ones_like(t1)])
    if not readout.pulses:
        return Response(found, found)
    both = jnp.broadcast_to(t1[None], found.shape)
    angle = math.radians(readout.flip_angle)
    sine, cosine = math.sin(angle), math.cos(angle)
    half_sine, half_cosine = math.sin(angle / 2), math.cos(angle / 2)

    def decay(my: Array, mz: Array, duration: float) -> tuple[Array, Array]:
        transverse = my * jnp.exp(-duration / t2)[None]
        return transverse, relax(mz, jnp.float32(duration), both)

    def pulse(_: Array, m: tuple[Array, Array]) -> tuple[Array, Array]:
        my, mz = m
        rotated = mz * sine - my * cosine, mz * cosine + my * sine
        return decay(*rotated, readout.repetition_time)

    half = readout.repetition_time / 2
    central = readout.pulses // 2
    m = decay(found * half_sine, found * half_cosine, half)
    my, mz = jax.lax.fori_loop(0, central, pulse, m)
    # The central echo forms half a repetition time after its pulse.
    signal = (mz * sine - my * cosine) * jnp.exp(-half / t2)[None]
    my, mz = jax.lax.fori_loop(central, readout.pulses, pulse, (my, mz))
    left = mz * half_cosine + my * half_sine
    return Response(
        jnp.stack([signal[0], signal[1] - signal[0]]),
        jnp.stack([left[0], left[1] - left[0]]),
    )


def molli_times(
    scheme: Scheme, first: Sequence[float], rr: Float[Array, ""]
) -> Float[Array, " t"]:
    """Inversion times in the order of acquisition, ms."""
    _check_scheme(scheme, first)
    times = [
        ti + beat * rr
        for ti, (images, _) in zip(first, scheme, strict=True)
        for beat in range(images)
    ]
    return jnp.stack(times).astype(jnp.float32)


def molli(
    t1: Float[Array, "*space"],
    t2: Float[Array, "*space"],
    *,
    scheme: Scheme,
    first: Sequence[float],
    rr: Float[Array, ""],
    efficiency: float,
    readout: Readout,
) -> Float[Array, "t *space"]:
    """Signed MOLLI signals in units of M0, in the order of acquisition.

    Args:
        t1: ms.
        t2: ms.
        scheme: Images and beats of rest per inversion.
        first: First inversion time of each inversion, ms; longer than the readout
            before its central echo.
        rr: Time between heart beats, ms; longer than a readout.
        efficiency: Of the inversion: it turns ``Mz`` into ``-efficiency Mz``.
        readout: The readout.

    Returns:
        One signal per image. What it starts from is equilibrium.

    Raises:
        ValueError: If ``first`` does not go with ``scheme`` or is too short.
    """
    _check_scheme(scheme, first)
    if min(first) < readout.before_centre:
        raise ValueError(
            f"first is {tuple(first)}, expected at least {readout.before_centre} ms, "
            "the readout before its central echo"
        )
    busy = readout.before_centre + readout.after_centre
    respond = readout_response(t1, t2, readout)
    mz = jnp.ones_like(t1)
    signals = []
    gap = None  # from the end of the readout before to this inversion
    for ti, (images, rest) in zip(first, scheme, strict=True):
        if gap is not None:
            mz = relax(mz, gap - ti, t1)
        mz = relax(-efficiency * mz, jnp.float32(ti - readout.before_centre), t1)
        for image in range(images):
            if image:
                mz = relax(mz, rr - busy, t1)
            signal, mz = respond(mz)
            signals.append(signal)
        gap = (1 + rest) * rr - readout.after_centre
    return jnp.stack(signals)


def t2_prepared(
    t1: Float[Array, "*space"],
    t2: Float[Array, "*space"],
    *,
    echo_times: Sequence[float],
    rest: int,
    rr: Float[Array, ""],
    readout: Readout,
) -> Float[Array, "t *space"]:
    """Signed T2-prepared signals in units of M0.

    Args:
        t1: ms.
        t2: ms.
        echo_times: Of the preparations, ms; 0 prepares nothing.
        rest: Beats between one image and the next, beside its own.
        rr: Time between heart beats, ms.
        readout: The readout, right after the preparation.

    Returns:
        One signal per echo time. What it starts from is equilibrium.
    """
    respond = readout_response(t1, t2, readout)
    mz = jnp.ones_like(t1)
    signals = []
    for i, te in enumerate(echo_times):
        if i:
            busy = readout.before_centre + readout.after_centre + te
            mz = relax(mz, (1 + rest) * rr - busy, t1)
        signal, mz = respond(mz * jnp.exp(-te / t2))
        signals.append(signal)
    return jnp.stack(signals)


def _check_scheme(scheme: Scheme, first: Sequence[float]) -> None:
    if len(first) != len(scheme):
        raise ValueError(
            f"first has {len(first)} inversion times, expected one for each of the "
            f"{len(scheme)} inversions of scheme {tuple(scheme)}"
        )
