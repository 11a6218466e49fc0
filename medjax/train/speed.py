"""How fast, and how full: throughput, model FLOP utilisation, memory, parameters.

Model FLOP utilisation (Chowdhery et al., PaLM, appendix B) is the rate of useful
floating-point work over the chip's peak, hardware FLOP utilisation the same with what
is computed a second time to save memory. The work is counted on the step's jaxpr
(:mod:`medjax.train.plan.flops`), loops as often as they run; the peak is the chip's
dense bfloat16 rate, whatever dtype the model computes in.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from medjax.train.sharding import flatten

PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,
}
"""Dense bfloat16 FLOP/s by prefix of `device_kind` (vendors' data sheets); of a TPU7x
each half of a chip is a device."""


TIMED = ("steps_per_s", "examples_per_s", "input_wait", "eta_s", "mfu", "hfu")
"""What `Clock` says in a row: never the same in two runs."""


def peak_flops(device: Any) -> float | None:
    """Peak dense bfloat16 FLOP/s of a device, None where it is not in the table."""
    # Whole words only: an L40S is no L4.
    name = f"{device.device_kind} "
    kinds = [kind for kind in PEAK_FLOPS if name.startswith(f"{kind} ")]
    return PEAK_FLOPS[max(kinds, key=len)] if kinds else None


def peak_memory(compiled: Any) -> int | None:
    """Most bytes in use on the first local device.

    Where the device does not keep count (CPU), what the compiled step needs: its
    arguments, results and temporaries, less what donation shares.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    need = compiled.memory_analysis()
    if need is None:
        return None
    return int(
        need.argument_size_in_bytes
        + need.output_size_in_bytes
        + need.temp_size_in_bytes
        - need.alias_size_in_bytes
    )


class Clock:
    """Rates since the last reading, without the time spent in `excluded` work."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._steps = 0
        self._waited = 0.0

    def tick(self) -> None:
        """Counts a step."""
        self._steps += 1

    def waited(self, seconds: float) -> None:
        """Counts time in which the loop had no batch."""
        self._waited += seconds

    @contextlib.contextmanager
    def excluded(self) -> Iterator[None]:
        """Leaves out what runs inside: evaluation, saving."""
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began

    def read(
        self, *, examples: int, remaining: int, flops: float, computed: float
    ) -> dict[str, float | None]:
        """Rates of the window since the last call, which it ends.

        Args:
          examples: Global batch size.
          remaining: Steps to go.
          flops: Useful FLOPs per device and step.
          computed: Those with what is computed a second time.

        Returns:
          ``steps_per_s``, ``examples_per_s``, ``input_wait`` (share of the time spent
          waiting for data), ``eta_s``, ``mfu`` and ``hfu`` (None where the peak is not
          known).
        """
        now = time.perf_counter()
        seconds = max(now - self._start, 1e-9)
        rate = self._steps / seconds
        peak = peak_flops(jax.local_devices()[0])
        reading: dict[str, float | None] = {
            "steps_per_s": rate,
            "examples_per_s": rate * examples,
            "input_wait": min(self._waited / seconds, 1.0),
            "eta_s": remaining / rate if rate else None,
            "mfu": flops * rate / peak if peak else None,
            "hfu": computed * rate / peak if peak else None,
        }
        self._start, self._steps, self._waited = now, 0, 0.0
        return reading


def parameter_table(params: Any, frozen: Any) -> str:
    """Names, shapes and sizes of all parameters, grouped by the first two names.

    Args:
      params: All parameters (arrays or shapes).
      frozen: The frozen part of the tree.

    Returns:
      A table to print: one row per group, and the totals.
    """
    still = set(flatten(frozen))
    groups: dict[str, list[int]] = {}
    trainable = 0
    for name, leaf in flatten(params).items():
        size = math.prod(np.shape(leaf))
        group = groups.setdefault("/".join(name.split("/")[:2]), [0, 0, 0])
        group[0] += 1
        group[1] += size
        group[2] += 0 if name in still else size
        trainable += 0 if name in still else size
    width = max(map(len, [*groups, "parameters"]))
    lines = [f"{'parameters':<{width}}  {'arrays':>6}  {'size':>13}  {'trained':>13}"]
    lines += [
        f"{name:<{width}}  {arrays:>6,}  {size:>13,}  {trained:>13,}"
        for name, (arrays, size, trained) in groups.items()
    ]
    count, total = (sum(g[i] for g in groups.values()) for i in (0, 1))
    lines.append(f"{'total':<{width}}  {count:>6,}  {total:>13,}  {trainable:>13,}")
    return "\n".join(lines)
