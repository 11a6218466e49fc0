"""The committed measurements as Markdown, for the page of results."""

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
NAMES = {
    "ours": "ours",
    "ours, remat": "ours, cascades computed anew in the backward pass",
    "torch eager": "PyTorch, eager",
    "torch.compile": "PyTorch, `torch.compile`",
}
"""Contestants as a table calls them."""
TRAINED = {"trainable": "both towers trained", "frozen": "report tower frozen"}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _span(values: Mapping[str, float], form: str) -> str:
    median, low, high = (format(values[k], form) for k in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _contestants(result: Result) -> list[list[str]]:
    """One row each: examples/s, how much faster ours is, peak memory."""
    rows = []
    for name, measured in result["contestants"].items():
        ratio = result["ours_times_faster"].get(name)
        size = measured["peak_memory_bytes"] / 2**20
        rows.append(
            [
                NAMES[name],
                _span(measured["examples_per_s"], ".2f"),
                _span(ratio, ".2f") if ratio else "",
                f"{size / 1024:.1f} GiB" if size > 1024 else f"{size:.0f} MiB",
            ]
        )
    return rows


HEAD = ["examples/s", "ours is times faster", "peak memory"]


def steps(*results: Result) -> str:
    """The whole training step, one group of rows per run of ``bench step``."""
    rows = []
    for result in results:
        config = result["config"]
        about = TRAINED[config["text_kind"]]
        if not config["compile"]:
            about += ", `--no-compile`"
        rows += [[about, *row] for row in _contestants(result)]
    return markdown(["", "", *HEAD], rows)


def unrolled(result: Result) -> str:
    """The training step of an unrolled network."""
    return markdown(["", *HEAD], _contestants(result))


def maps(result: Result) -> str:
    """Fits of whole series."""
    names = {
        "t1 signed": "T1 of signed values, one fit",
        "t1 polarity": "T1 of magnitudes, best polarity",
        "t2": "T2",
    }
    rows = [
        [
            f"{names[name]}, {'x'.join(map(str, task['shape']))}",
            f"{task['ours_s']:.3f}",
            f"{task['scipy_s_extrapolated']:.1f}",
            f"{task['times_faster']:.0f}",
            f"{task['times_fewer_cpu_s']:.0f}",
            f"{task['within_one_percent']:.0%}",
            f"{task['ours_fits_no_worse']:.0%}",
        ]
        for name, task in result["tasks"].items()
    ]
    head = ["whole series", "ours (s)", "scipy (s)", "times faster"]
    head += ["times less processor time", "within 1 %", "ours fits no worse"]
    return markdown(head, rows)


def input(result: Result) -> str:
    """Reading, by number of workers."""
    rows = []
    for workers, ratio in result["ours_times_faster"].items():
        ours, theirs = (
            f"{result['pairs_per_s'][f'{side}, {workers}']['median']:.0f}"
            for side in ("ours", "torch")
        )
        rows.append([workers.split()[0], ours, theirs, _span(ratio, ".2f")])
    head = ["workers", "ours (grain)", "torch `DataLoader`", "ours is times faster"]
    return markdown(head, rows)
