"""The tables of the front page: what is reached, in a few rows per domain."""

from collections.abc import Mapping
from typing import Any

from experiments.bench.tables import markdown
from experiments.compare.pretraining import ARMS as PAIRS
from experiments.compare.publishing import cell
from experiments.compare.reconstruction import ARMS as RECONSTRUCTIONS
from experiments.compare.reconstruction import FULL

Result = Mapping[str, Any]


def vlp(pretraining: Result) -> str:
    """Systems that ran with several seeds: probe, zero-shot, retrieval."""
    shown = {
        "probe 10 %": "linear probe, 10 % of labels (AUC)",
        "zero-shot": "zero-shot (AUC)",
        "R@10 text to image": "R@10, text to film",
    }
    rows = [
        [PAIRS[entry["system"]][0], *(cell(entry[name]) for name in shown)]
        for entry in pretraining["summary"]
        if entry["seeds"] > 1
    ]
    return markdown(["system", *shown.values()], rows)


def mri(reconstruction: Result) -> str:
    """The highest acceleration of T1: images, and the map of the myocardium."""
    entries = [e for e in reconstruction["summary"] if e["series"] == "t1"]
    most = max(entry["acceleration"] for entry in entries)
    rows = []
    for entry in entries:
        name = entry["method"]
        if entry["acceleration"] != most or name == FULL:
            continue
        label = RECONSTRUCTIONS[name][0] if name in RECONSTRUCTIONS else name
        scores = [("ssim", 4), ("psnr", 2), ("myocardium_reference", 1)]
        rows.append([label, *(cell(entry[key], places=n) for key, n in scores)])
    head = [f"T1, R = {most}", "SSIM", "PSNR (dB)", "T1 error of myocardium (ms)"]
    return markdown(head, rows)


def speed(
    trained: Result,
    compiled: Result,
    frozen: Result,
    unrolled: Result,
    maps: Result,
    reading: Result,
) -> str:
    """How many times faster ours is than the best peer of each run, by part."""
    rows = []
    for about, result in {
        "training step, both towers trained": trained,
        "the same, beside `torch.compile`": compiled,
        "training step, report tower frozen": frozen,
        "training step of VarNet": unrolled,
    }.items():
        peer, ratio = min(
            result["ours_times_faster"].items(), key=lambda item: item[1]["median"]
        )
        rows.append([about, f"PyTorch, {peer.removeprefix('torch ')}", _times(ratio)])
    most = min(task["times_faster"] for task in maps["tasks"].values())
    fitted = f"{most:.0f} and more"
    rows.append(["T1 and T2 maps", "`scipy.optimize.curve_fit`", fitted])
    ratio = reading["ours_times_faster"]["0 workers"]
    rows.append(["input, one process", "torch `DataLoader`", _times(ratio)])
    return markdown(["on two cores of a CPU", "peer", "ours is times faster"], rows)


def _times(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f}"
