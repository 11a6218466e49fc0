"""The reading of a prepared set: grain and ArrayRecord against a torch ``DataLoader``.

Both read the same rows of the same files with the same decoder and give the same
fields; what differs is who asks, shuffles, stacks and hands over. Files are in the
page cache after the first turn, so this times processors, not disks.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import measure
from experiments.bench.measure import Timing
from medjax.data.pipeline import PipelineConfig, Source, build_pipeline
from medjax.data.record_writer import write_records
from medjax.data.records import Field
from medjax.vlp.datasets import PreparedSource, open_prepared

TARGET, TARGET_CORES = 2000, 16
"""Pairs per second, and the cores of the host that is to read them."""
AHEAD = 8
"""Batches that either side may have waiting."""


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """What is read, by whom, and for how long."""

    data: Path | None = None
    """A prepared set; None: one of noise, written for the occasion."""
    split: str = "train"
    """Of the prepared set."""
    fields: tuple[str, ...] = ("image", "report")
    """Columns that are read."""
    rows: int = 2048
    """Of the set of noise."""
    image_size: int = 256
    """Of the set of noise."""
    tokens: int = 128
    """Of a report in a batch."""
    batch_size: int = 64
    """Pairs."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Processes that read, beside this one; each number is a contestant."""
    threads: int = PipelineConfig.threads
    """Of ours, in every process that reads."""
    torch: bool = True
    """Measure PyTorch beside; without, ours alone."""
    batches: int = 64
    """Of a turn."""
    turns: int = 5
    """Timed turns of each."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""


def run(config: InputConfig) -> dict[str, Any]:
    """Times both sides for every number of workers, prints and writes.

    Args:
      config: What to read.

    Returns:
      What the JSON file holds.

    Raises:
      ModuleNotFoundError: PyTorch is wanted and not there.
      ValueError: The set has no such split or field, or fewer rows than a batch.
    """
    with contextlib.ExitStack() as stack:
        folder = config.data
        if folder is None:
            parent = stack.enter_context(tempfile.TemporaryDirectory())
            folder = invent_set(Path(parent) / "noise", config)
        source = open_prepared(
            folder, config.split, fields=config.fields, max_tokens=config.tokens
        )
        size = sum(np.asarray(v).nbytes for v in source[0].values())
        contestants: dict[str, Callable[[], Iterator[Any]]] = {}
        for workers in config.workers:
            contestants[f"ours, {workers} workers"] = _ours(source, config, workers)
            if config.torch:
                contestants[f"torch, {workers} workers"] = _torch(
                    source, config, workers
                )
        timings = read_in_turns(contestants, config)
    count = config.batches * config.batch_size
    best = {
        side: max(t.rate(count)["median"] for n, t in timings.items() if side in n)
        for side in (("ours", "torch") if config.torch else ("ours",))
    }
    result = {
        "benchmark": "input",
        "config": measure.settings(config),
        "facts": measure.facts(),
        "bytes_per_pair": size,
        "pairs_per_s": {n: t.rate(count) for n, t in timings.items()},
        "pairs_per_cpu_s": {
            n: count / sum(t.cpu_seconds) * len(t.cpu_seconds)
            for n, t in timings.items()
            if " 0 workers" in n
        },
        "ours_times_faster": {
            f"{workers} workers": timings[f"ours, {workers} workers"].faster_than(
                timings[f"torch, {workers} workers"]
            )
            for workers in config.workers
            if config.torch
        },
        "best_pairs_per_s": best,
    }
    _print(config, result)
    measure.write(config.out, "input", result)
    return result


def invent_set(folder: Path, config: InputConfig) -> Path:
    """Writes a prepared set of noise with the columns that pre-training reads."""
    rng = np.random.default_rng(0)
    side = config.image_size
    fields = {
        "image": Field(shape=(side, side), dtype="uint8"),
        "report": Field(shape=(None,), dtype="int32"),
    }
    with write_records(folder, name="noise", fields=fields) as writer:
        for _ in range(config.rows):
            length = rng.integers(config.tokens // 2, config.tokens + 1)
            row = {
                "image": rng.integers(0, 256, (side, side), dtype=np.uint8),
                "report": rng.integers(5, 30000, length, dtype=np.int32),
            }
            writer.add(config.split, row)
        writer.metadata |= {"finding_names": [], "tokenizer": None}
    return folder


def read_in_turns(
    contestants: dict[str, Callable[[], Iterator[Any]]], config: InputConfig
) -> dict[str, Timing]:
    """Like `measure.take_turns`, with one reader alive at a time.

    A reader works ahead. One that waits for its turn would do so at the other's
    expense, and then have batches for nothing: every turn opens its reader, takes what
    lies ready untimed, and closes it.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(config.turns):
        for name, open_reader in contestants.items():
            reader = open_reader()
            for _ in range(2 * AHEAD):
                next(reader)
            began, cpu_began = time.perf_counter(), time.process_time()
            for _ in range(config.batches):
                next(reader)
            seconds[name].append(
                (time.perf_counter() - began, time.process_time() - cpu_began)
            )
            if hasattr(reader, "close"):
                reader.close()  # pyright: ignore[reportAttributeAccessIssue]
            del reader
    return {
        name: Timing(*(tuple(column) for column in zip(*taken, strict=True)))
        for name, taken in seconds.items()
    }


def _ours(
    source: PreparedSource, config: InputConfig, workers: int
) -> Callable[[], Iterator[Any]]:
    pipeline = PipelineConfig(
        batch_size=config.batch_size,
        threads=config.threads,
        workers=workers,
        prefetch=AHEAD,
    )
    return lambda: iter(build_pipeline(source, pipeline))


def _torch(
    source: Source, config: InputConfig, workers: int
) -> Callable[[], Iterator[Any]]:
    module = measure.need_torch("torch_input")
    # Twice: DataLoader's workers read two batches ahead each.
    count = config.batches + 4 * AHEAD
    return lambda: module.batches(source, config.batch_size, workers, count)


def _print(config: InputConfig, result: dict[str, Any]) -> None:
    print(
        f"\ninput, {', '.join(config.fields)}, {result['bytes_per_pair']:,} bytes a "
        f"pair, batch {config.batch_size}"
    )
    print(measure.describe(result["facts"]) + "\n")
    rows = []
    for name, rate in result["pairs_per_s"].items():
        side, workers = name.split(", ")
        alone = result["pairs_per_cpu_s"].get(name)
        ratio = result["ours_times_faster"].get(workers) if side == "ours" else None
        rows.append(
            [
                name,
                measure.span(rate, ",.0f"),
                f"{alone:,.0f}" if alone else "",
                measure.span(ratio, ".2f") if ratio else "",
            ]
        )
    head = ["", "pairs/s", "pairs per CPU second", "times faster than torch"]
    print(measure.table(head, rows))
    need = TARGET / TARGET_CORES
    alone = result["pairs_per_cpu_s"].get("ours, 0 workers")
    if alone:
        met = "met" if alone >= need else "NOT met"
        print(
            f"\ntarget: {TARGET} pairs/s on {TARGET_CORES} cores, so {need:.0f} a "
            f"core; {met}: {alone:,.0f} per CPU second"
        )
