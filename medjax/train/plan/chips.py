"""What chips can do, one source per figure; what no source was read for is assumed.

Rates are of one *device*, as JAX counts devices: a TensorCore of a v4 or TPU7x, a chip
of the others. Links are per device and direction.

A figure that is told was read in the source that stands beside it, Google's pages in
November 2026. One that is assumed was read nowhere: it is remembered, guessed, or
derived from one that was.
"""

import dataclasses
from typing import Literal

from medjax.train.speed import PEAK_FLOPS


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number and where it comes from."""

    value: float
    source: str
    assumed: bool = False
    """Remembered or guessed; a plan shows it as that."""


def told(value: float, source: str) -> Figure:
    """A figure that a source has."""
    return Figure(value, source)


def assumed(value: float, why: str = "remembered") -> Figure:
    """A figure that no source was read for."""
    return Figure(value, why, assumed=True)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a kind.

    Attributes:
      kind: JAX's device kind.
      platform: Of the device.
      peak: bfloat16 FLOP/s, dense.
      peak_float32: float32 FLOP/s of matrix products.
      memory: Bytes.
      bandwidth: Of the memory, bytes/s.
      link: Of the fast network, bytes/s, over all links of the device.
      links: How many those are: neighbours are joined by one.
      latency: Of one hop or step on it, s.
      far_link: Of the network between slices or hosts, bytes/s.
      far_latency: Of one step on that, s.
      efficiency: Share of the peak that a class of work is taken to reach.
      launch: From the end of a step's program to the start of the next, s.
      hidden: Bytes that the compiler's count leaves out.
    """

    kind: str
    platform: Literal["tpu", "gpu", "cpu"]
    peak: Figure
    peak_float32: Figure
    memory: Figure
    bandwidth: Figure
    link: Figure
    links: Figure
    latency: Figure
    far_link: Figure
    far_latency: Figure
    efficiency: dict[str, Figure]
    launch: Figure
    hidden: Figure = Figure(0.0, "none")

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures by name."""
        own = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), Figure)
        }
        return own | {f"efficiency, {k}": v for k, v in self.efficiency.items()}


GOOGLE = "docs.cloud.google.com/tpu/docs"
XLA = "openxla/xla, gpu/target_config/specs/h200.txtpb"
SAME_DIE = "as the H200, which has the same die"
ON_TPU = {
    "convolution": assumed(0.30),
    "matmul": assumed(0.45),
    "fft": assumed(0.02),
}
ON_GPU = {
    # 2470 img/s of ResNet-50 on an A100 x 24.6 GFLOP / 312 TFLOP/s.
    "convolution": told(0.20, "NVIDIA DeepLearningExamples, ResNet-50 on A100"),
    "matmul": assumed(0.45),
    "fft": assumed(0.05),
}
AHEAD = "guessed: the next step's program is queued while one runs"
SIX = "the peak over the six bfloat16 passes of Precision.HIGHEST"
"""Of every float32 product: those at default precision, one pass, take less time than a
plan says."""


def _tpu(
    kind: str,
    peak: Figure,
    memory: Figure,
    bandwidth: Figure,
    link: Figure,
    links: Figure,
    far_link: Figure,
) -> Chip:
    return Chip(
        kind=kind,
        platform="tpu",
        peak=peak,
        peak_float32=assumed(peak.value / 6, SIX),
        memory=memory,
        bandwidth=bandwidth,
        link=link,
        links=links,
        latency=assumed(1e-6),
        far_link=far_link,
        far_latency=assumed(25e-6),
        efficiency=ON_TPU,
        launch=assumed(50e-6, AHEAD),
    )


def _hopper(
    kind: str, peak: Figure, peak_float32: Figure, memory: Figure, bandwidth: Figure
) -> Chip:
    return Chip(
        kind=kind,
        platform="gpu",
        peak=peak,
        peak_float32=peak_float32,
        memory=memory,
        bandwidth=bandwidth,
        link=assumed(450e9),
        # A switch: any two have all of it.
        links=assumed(1, "remembered: NVSwitch"),
        latency=assumed(10e-6),
        far_link=assumed(50e9, "remembered: eight 400 Gb/s cards a node"),
        far_latency=assumed(25e-6),
        efficiency=ON_GPU,
        launch=assumed(100e-6, AHEAD),
        # cuDNN's workspaces are not among the compiler's temporaries.
        hidden=assumed(1e9, "workspace of cuDNN"),
    )


GIB = 2**30
V5E, V5P, V6E, TPU7X = (f"{GOOGLE}/{kind}" for kind in ("v5e", "v5p", "v6e", "tpu7x"))
CHIPS = {
    "v4": _tpu(
        "TPU v4",
        assumed(PEAK_FLOPS["TPU v4"] / 2, "remembered: 275 TFLOP/s of two cores"),
        assumed(16 * GIB),
        assumed(614e9),
        assumed(150e9),
        assumed(6, "remembered: a torus in space"),
        assumed(3.1e9),
    ),
    "v5e": _tpu(
        "TPU v5e",
        told(PEAK_FLOPS["TPU v5e"], V5E),
        told(16e9, V5E),
        told(819e9, V5E),
        told(200e9, f"{V5E}: 400 GB/s in both directions"),
        told(4, V5E),
        told(3.125e9, f"{V5E}: two 100 Gb/s cards for eight chips"),
    ),
    "v5p": _tpu(
        "TPU v5p",
        told(PEAK_FLOPS["TPU v5p"], V5P),
        told(95e9, V5P),
        told(2765e9, V5P),
        told(600e9, f"{V5P}: 1200 GB/s in both directions"),
        assumed(6, "two for each axis of the torus in space"),
        told(6.25e9, f"{V5P}: 50 Gb/s"),
    ),
    "v6e": _tpu(
        "TPU v6e",
        told(PEAK_FLOPS["TPU v6e"], V6E),
        told(32e9, V6E),
        told(1600e9, V6E),
        told(400e9, f"{V6E}: 800 GB/s in both directions"),
        told(4, V6E),
        told(12.5e9, f"{V6E}: four 200 Gb/s cards for eight chips"),
    ),
    "tpu7x": _tpu(
        "TPU7x",
        told(PEAK_FLOPS["TPU7x"], f"{TPU7X}: 2307 TFLOP/s of two cores"),
        told(96 * GIB, f"{TPU7X}: 192 GiB of two cores"),
        assumed(3690e9, "remembered: 7380 GB/s of two cores"),
        assumed(300e9, "remembered: 1200 GB/s in both directions, of two cores"),
        assumed(6, "two for each axis of the torus in space"),
        assumed(6.25e9, "remembered: 100 Gb/s of two cores"),
    ),
    "h100": _hopper(
        "NVIDIA H100",
        assumed(PEAK_FLOPS["NVIDIA H100"], SAME_DIE),
        assumed(67e12, SAME_DIE),
        assumed(80 * GIB),
        assumed(3352e9),
    ),
    "h200": _hopper(
        "NVIDIA H200",
        told(PEAK_FLOPS["NVIDIA H200"], XLA),
        told(67e12, XLA),
        told(141e9, "NVIDIA's data sheet"),
        told(4800e9, XLA),
    ),
    # A host device stands for a core; only what is calibrated here means anything.
    "cpu": Chip(
        kind="cpu",
        platform="cpu",
        peak=assumed(50e9),
        peak_float32=assumed(50e9),
        memory=assumed(8e9),
        bandwidth=assumed(10e9),
        link=assumed(5e9),
        links=assumed(1),
        latency=assumed(50e-6),
        far_link=assumed(1e9),
        far_latency=assumed(200e-6),
        efficiency={
            "convolution": assumed(0.5),
            "matmul": assumed(0.5),
            "fft": assumed(0.1),
        },
        launch=assumed(0.0, "part of what is calibrated"),
    ),
}
"""By the first part of a topology's name."""
