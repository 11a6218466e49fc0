"""What was measured: rows, the table, and one JSON file per chip."""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform as host
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "numpy", "torch")


@dataclasses.dataclass(frozen=True)
class Row:
    """One contestant of one case.

    Attributes:
        contestant: its name.
        peer: its name for ``--vs``; empty for this package's own.
        us: microseconds per call, the median over turns.
        us_low: the 10th percentile.
        us_high: the 90th percentile.
        cpu_us: processor time per call, of all threads of this process.
        times: how many times longer than the first contestant, turn by turn.
        cpu_times: the same of processor time.
        bytes: that the operation must move.
        flops: that the contestant's algorithm computes.
        unit: dtype whose product bounds it.
        bandwidth_share: bytes per second over those of a copy.
        rate_share: FLOP/s over those of a matrix product.
        share: the larger: which part of the time this chip could not do without.
        temporary_mb: memory beyond arguments and results, by the compiler's plan.
        errors: output to variant to relative error against float64.
        target_us: goal on this chip, where there is one.
        floor_us: arithmetic floor beside it.
    """

    contestant: str
    peer: str
    us: float
    us_low: float
    us_high: float
    cpu_us: float
    times: float
    cpu_times: float
    bytes: int
    flops: int
    unit: str
    bandwidth_share: float
    rate_share: float
    share: float
    temporary_mb: float | None
    errors: Mapping[str, Mapping[str, float]]
    target_us: float | None = None
    floor_us: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One case, measured.

    Attributes:
        op: operation.
        shape: name of its shape.
        case: name of the case.
        problem: the shape's sizes.
        date: of the measurement, UTC.
        versions: of what computed.
        repeat: turns of each contestant.
        ceilings: as :func:`.ceilings.read_ceilings` gives them.
        rows: contestants, the one others are compared with first.
        absent: contestant to why it did not take part.
    """

    op: str
    shape: str
    case: str
    problem: Mapping[str, Any]
    date: str
    versions: Mapping[str, str]
    repeat: int
    ceilings: Mapping[str, float]
    rows: Sequence[Row]
    absent: Mapping[str, str]

    @property
    def key(self) -> str:
        """Under which it is filed."""
        return f"{self.op}/{self.shape}/{self.case}"


def now() -> str:
    """The date and minute, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute and are installed."""
    found = {"python": host.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def chip() -> str:
    """What the device calls itself; for a CPU its model and the cores to use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model, info = host.machine(), Path("/proc/cpuinfo")
    if info.exists():
        named = re.search(r"model name\s*:\s*(.+)", info.read_text())
        model = named[1] if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return f"{model}, {cores or os.cpu_count()} cores"


def file_name(chip: str) -> str:
    """The chip as a file's stem."""
    plain = re.sub(r"\((r|tm)\)", "", chip.lower())
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def short(value: float | None, digits: int = 3) -> str:
    """A number for people; ``-`` for none."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def error_text(errors: Mapping[str, Mapping[str, float]]) -> str:
    """``loss 1e-07/2e-07, x 3e-07/4e-07``: an output's variants between slashes."""
    return ", ".join(
        f"{output} " + "/".join(f"{e:.0e}" for e in by_variant.values())
        for output, by_variant in errors.items()
    )


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


HEAD = [
    "contestant",
    "us",
    "p10-p90",
    "times",
    "cpu us",
    "cpu times",
    "bandwidth",
    "rate",
    "limit",
    "temporary MB",
    "error",
]


def table(run: Run) -> str:
    """A run as text: a line per contestant, then who is absent and why."""
    with_targets = any(row.target_us is not None for row in run.rows)
    rows = [[*HEAD, *(["target us", "floor us"] if with_targets else [])]]
    for r in run.rows:
        cells = [
            r.contestant,
            short(r.us),
            f"{short(r.us_low)}-{short(r.us_high)}",
            f"{r.times:.2f}",
            short(r.cpu_us),
            f"{r.cpu_times:.2f}",
            f"{r.bandwidth_share:.1%}",
            f"{r.rate_share:.1%}",
            f"{r.share:.1%}",
            short(r.temporary_mb),
            error_text(r.errors),
        ]
        if with_targets:
            cells += [short(r.target_us), short(r.floor_us)]
        rows.append(cells)
    lines = [f"{run.op} {run.shape}: {run.case}", columns(rows)]
    lines += [f"  {name}: {reason}" for name, reason in run.absent.items()]
    return "\n".join(lines)


def read(path: Path) -> dict[str, Any]:
    """The file of a chip, or an empty one."""
    return json.loads(path.read_text()) if path.exists() else {"runs": {}}


def write(path: Path, chip: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Put runs into the chip's file; runs of other cases stay as they are.

    Returns:
        What the file now holds.
    """
    contents = read(path)
    contents["chip"] = chip
    for run in runs:
        contents["runs"][run.key] = dataclasses.asdict(run)
    contents["runs"] = dict(sorted(contents["runs"].items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n")
    return contents
