"""What the kernels are meant to reach on one H200: goals, not results.

Floors are arithmetic: compulsory bytes at 4.3 TB/s or FLOPs at 790 TFLOP/s (float16 and
bfloat16 as an H200 reaches them on random data), whichever takes longer.
"""

from typing import NamedTuple

CHIP = "NVIDIA H200"


class Key(NamedTuple):
    """Which measurement."""

    op: str
    shape: str
    case: str
    contestant: str


class Target(NamedTuple):
    """Seconds to reach, and seconds that cannot be beaten."""

    seconds: float
    floor: float
    temporary_bytes: float | None = None


class Ratio(NamedTuple):
    """``fast`` is to be at least ``times`` as fast as ``slow``."""

    fast: Key
    slow: Key
    times: float


DC, CL = "data_consistency", "contrastive"

TARGETS = {
    Key(DC, "square", "normal", "gpu default"): Target(25e-6, 17.6e-6),
    Key(DC, "square", "normal", "gpu highest"): Target(45e-6, 32.6e-6),
    Key(DC, "square", "solve per readout", "gpu default"): Target(180e-6, 109e-6),
    Key(DC, "square", "cascade", "gpu default"): Target(90e-6, 63e-6),
    Key(CL, "clip_32k", "forward", "gpu"): Target(1.65e-3, 1.39e-3),
    Key(CL, "clip_32k", "step", "gpu"): Target(6.6e-3, 5.57e-3, 0.3e9),
}

RATIOS = [
    Ratio(
        Key(DC, "square", "normal", "gpu default"),
        Key(DC, "square", "normal", "xla 2-D FFT"),
        7,
    ),
    Ratio(Key(CL, "clip_32k", "step", "gpu"), Key(CL, "clip_32k", "step", "xla"), 2),
    Ratio(
        Key(CL, "clip_32k", "step", "gpu"),
        Key(CL, "clip_32k", "step", "xla_chunked"),
        2,
    ),
    Ratio(
        Key(CL, "soft_32k", "soft step", "gpu"),
        Key(CL, "soft_32k", "step", "gpu"),
        1 / 1.25,
    ),
]
