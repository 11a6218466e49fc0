"""Taking turns with a clock, and what has to be known beside a number."""

import ctypes
import dataclasses
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of every turn of one contestant, in order."""

    seconds: tuple[float, ...]
    """On the wall."""
    cpu_seconds: tuple[float, ...] = ()
    """Of all threads of this process together: what a crowded machine changes least."""

    @property
    def median(self) -> float:
        """Seconds; half of the turns took less."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Seconds of the fastest and of the slowest turn."""
        return min(self.seconds), max(self.seconds)

    def rate(self, count: int) -> dict[str, float]:
        """``count`` things per turn as things per second: median, low, high."""
        fast, slow = self.spread
        return {
            "median": count / self.median,
            "low": count / slow,
            "high": count / fast,
        }

    def faster_than(self, other: "Timing") -> dict[str, float]:
        """How many times faster than another, turn by turn: median, low, high."""
        pairs = zip(other.seconds, self.seconds, strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        return {
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        }


def take_turns(
    contestants: Mapping[str, Callable[[], Any]], *, turns: int, warmup: int
) -> dict[str, Timing]:
    """Times contestants one after the other, again and again.

    Args:
      contestants: By name; each call does one turn's work and waits for its end.
      turns: Timed calls of each.
      warmup: Calls of each before that, not timed (compilation, caches, clocks).

    Returns:
      One `Timing` per contestant.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + turns):
        for name, work in contestants.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            work()
            took, cpu_took = (
                time.perf_counter() - began,
                time.process_time() - cpu_began,
            )
            if turn >= warmup:
                seconds[name].append(took)
                cpu_seconds[name].append(cpu_took)
    return {n: Timing(tuple(seconds[n]), tuple(cpu_seconds[n])) for n in contestants}


def growth(work: Callable[[], Any]) -> int | None:
    """Bytes by which this process grew at its most while ``work`` ran.

    Of programs on a CPU, where no allocator keeps count: the kernel's high-water mark
    of resident memory, set back just before (Linux; None elsewhere). What the C library
    holds in reserve is returned first, or it would hide what comes to lie there.
    """
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return None
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)

    def kibibytes(name: str) -> int:
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    reset.write_text("5")
    before = kibibytes("VmRSS:")
    work()
    return 1024 * max(kibibytes("VmHWM:") - before, 0)


def compiled_memory(compiled: Any) -> int | None:
    """Bytes a compiled program needs: arguments, results, temporaries, less aliases."""
    need = compiled.memory_analysis()
    if need is None:
        return None
    held = need.argument_size_in_bytes + need.output_size_in_bytes
    return int(held + need.temp_size_in_bytes - need.alias_size_in_bytes)


def mebibytes(size: int | None) -> str:
    """A size to print."""
    return "unknown" if size is None else f"{size / 2**20:,.0f} MiB"


def need_torch(module: str) -> ModuleType:
    """Imports a file of this package that needs PyTorch.

    Raises:
      ModuleNotFoundError: PyTorch is not there; says how to get it.
    """
    try:
        importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the comparison needs PyTorch: install the extra `parity` "
            "(pip install 'medjax[parity]'), or a CUDA build of torch on a GPU"
        ) from error
    return importlib.import_module(f"experiments.bench.{module}")


def settings(config: Any) -> dict[str, Any]:
    """A configuration as plain data, without where things lie on this machine."""
    values = dataclasses.asdict(config)
    return {k: v for k, v in values.items() if not isinstance(v, Path)}


def facts() -> dict[str, Any]:
    """Chip, cores, load and versions: without them a number means nothing."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "versions": versions,
    }


def _cpu_model() -> str:
    """Name of the processor; the kernel knows more than `platform` does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def describe(known: Mapping[str, Any]) -> str:
    """`facts` in two lines."""
    versions = ", ".join(f"{k} {v}" for k, v in known["versions"].items())
    return (
        f"{known['time']}  {known['device']} x {known['devices']}, {known['cpu']}, "
        f"{known['cores']} cores, load {known['load']}\n{versions}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text; the first to the left, all others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


def span(values: Mapping[str, float], form: str) -> str:
    """``median (low-high)`` of `Timing.rate` or `Timing.faster_than`."""
    median, low, high = (format(values[k], form) for k in ("median", "low", "high"))
    return f"{median} ({low}-{high})"


def write(out: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Writes a result as ``<out>/<name>.json`` and says where."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwrote {path}")
    return path
