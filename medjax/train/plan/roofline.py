"""How long a step takes, and what it waits for.

    t = max(t_compute, t_memory) + exposed collectives + t_launch

``t_compute`` is work over the rate that its class reaches, ``t_memory`` the bytes that
the compiler counts over the memory's rate, ``t_launch`` what devices wait for the next
step's program. All of it is a prediction from figures that
a plan shows beside it; `calibrated` replaces their efficiency by what a run measured.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from medjax.train.plan.chips import Chip, told
from medjax.train.plan.flops import Work
from medjax.train.plan.traffic import EXPOSED, Network, Traffic


@dataclasses.dataclass(frozen=True)
class Step:
    """Seconds of a step on each device.

    Attributes:
      compute: Of arithmetic.
      memory: Of moving bytes between memory and cores; None: not counted.
      exchange: Of collectives, hidden ones too.
      exposed: Of those that nothing hides.
      statistics: Of exposed ones that are of statistics.
      batch: Of exposed ones by which a contrast sees the batch of all devices.
      launch: Of waiting for the step's program.
    """

    compute: float
    memory: float | None
    exchange: float
    exposed: float
    statistics: float
    batch: float
    launch: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return max(self.compute, self.memory or 0.0) + self.exposed + self.launch

    @property
    def binds(self) -> str:
        """What takes most of it."""
        parts = {
            "compute": self.compute,
            "memory": self.memory or 0.0,
            "network": self.exposed,
            "launch": self.launch,
        }
        return max(parts, key=lambda name: parts[name])


def rate(work: Work, chip: Chip) -> float:
    """FLOP/s that a class of work reaches."""
    narrow = work.dtype in ("bfloat16", "float16")
    peak = chip.peak if narrow else chip.peak_float32
    return peak.value * chip.efficiency[work.kind].value


def predict(
    flops: dict[Work, float],
    traffic: Sequence[Traffic],
    chip: Chip,
    *,
    devices: int,
    accessed: float | None = None,
) -> Step:
    """A step's time.

    Args:
      flops: Of all devices together, by class.
      traffic: Collectives.
      chip: One device.
      devices: How many share the work.
      accessed: Bytes that a device reads and writes, where the compiler says.
    """
    compute = sum(n / devices / rate(work, chip) for work, n in flops.items())
    waited = dict.fromkeys(EXPOSED, 0.0)
    for one in traffic:
        waited[one.purpose] += one.exposed(chip)
    return Step(
        compute=compute,
        memory=None if accessed is None else accessed / chip.bandwidth.value,
        exchange=sum(one.seconds(chip) for one in traffic),
        exposed=sum(waited.values()),
        statistics=waited["statistics"],
        batch=waited["batch"],
        launch=chip.launch.value,
    )


def calibrated(chip: Chip, flops: dict[Work, float], seconds: float) -> Chip:
    """The chip, with every efficiency scaled so that one device takes so long.

    Args:
      chip: As assumed.
      flops: Of a step on one device.
      seconds: That the step was measured to take there.
    """
    factor = predict(flops, (), chip, devices=1).compute / seconds
    scaled = {
        kind: told(figure.value * factor, "measured")
        for kind, figure in chip.efficiency.items()
    }
    # What was measured had both in it.
    whole = told(0.0, "measured with the rest")
    return dataclasses.replace(chip, efficiency=scaled, launch=whole)


def rescaled(
    traffic: Sequence[Traffic], factor: Fraction, *, along: str, network: Network
) -> list[Traffic]:
    """Collectives of a run on so many times as many devices, each with as many rows.

    Gradients and statistics stay as large; what is gathered of the batch grows with it.

    Args:
      traffic: Of the run as it is.
      factor: Devices there, of devices here.
      along: Axis of the mesh that grows: the outermost, which joins all devices.
      network: That joins all devices there.
    """
    found = []
    for one in traffic:
        if along not in one.axes:
            found.append(one)
            continue
        wider: dict[str, Any] = {
            "network": network,
            "devices": round(one.devices * factor),
        }
        if one.purpose == "batch":
            wider["bytes"] = round(one.bytes * factor)
        if one.kind == "collective-permute":
            wider["count"] = round(one.count * factor)
        found.append(dataclasses.replace(one, **wider))
    return found
