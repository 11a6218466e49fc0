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


def heart(*results: Result) -> str:
    """Parts of the heart's steps, ours and its peers; value and gradient of each."""
    rows = []
    parts = {k: v for result in results for k, v in result["parts"].items()}
    for part, measured in parts.items():
        for name, one in measured["contestants"].items():
            ratio = measured["ours_times_faster"].get(name)
            median, low, high = (_short(v) for v in one["ms"])
            size = one["temporary_bytes"]
            about = NAMES.get(name, "PyTorch" if name == "torch" else name)
            rows.append(
                [
                    part if name == "ours" else "",
                    about + ", extrapolated" * one["extrapolated"],
                    f"{median} ({low} to {high})",
                    _short(ratio["median"]) if ratio else "",
                    "" if size is None else f"{size / 2**20:.1f}",
                    "" if one["scatters"] is None else str(one["scatters"]),
                ]
            )
    head = ["", "", "ms", "ours is times faster", "temporary, MiB", "scatters"]
    return markdown(head, rows)


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def fit(result: Result) -> str:
    """A mesh beside the label maps that it was fitted to, a row per structure."""
    ends = (result["diastole"], result["systole"])
    rows = []
    for name, both in result["volumes"].items():
        curves = (both[f"{whose}_ml"] for whose in ("labels", "mesh"))
        volumes = (", ".join(f"{curve[t]:.1f}" for t in ends) for curve in curves)
        dice = (f"{result[key][name]:.3f}" for key in ("dice", "worst_dice"))
        rows.append([name, *volumes, f"{both['mae_ml']:.2f}", *dice])
    labels, mesh = (result["ef"][whose] for whose in ("labels", "mesh"))
    fractions = [f"{labels:.1f} %", f"{mesh:.1f} %"]
    apart = f"{abs(mesh - labels):.1f} points"
    rows.append(["ejection fraction", *fractions, apart, "", ""])
    head = ["", "labels, mL", "mesh, mL", "difference, mL", "Dice", "worst frame"]
    return markdown(head, rows)


def completion(result: Result) -> str:
    """Completed cycles of a generator's run beside its baselines."""
    shown = {"dice": 3, "dice_first": 3, "hd_mm": 1, "lv_mae_ml": 1, "ef_mae": 1}
    rows = [
        [row["method"], *(f"{row[key]:.{places}f}" for key, places in shown.items())]
        for row in result["completion"]
    ]
    head = ["", "Dice, later frames", "Dice, first frame", "HD at ES, mm"]
    return markdown([*head, "LV volume, mL", "EF error, points"], rows)


def following(*results: Result) -> str:
    """Meshes that follow hearts, of runs on the same people, beside no motion."""
    shown = {"vertex": 2, "normal": 2, "circumferential": 2, "longitudinal": 2}
    shown |= {"lv_mae_ml": 1, "ef_bias": 1, "GCS endo": 1, "GLS endo": 1}
    rows: dict[str, list[str]] = {}
    for result in results:
        dice = {
            row["method"]: f"{row['dice']:.3f}"
            for row in result["contours"]
            if row["view"] == "sax"
        }
        for row in result["tracking"]:
            numbers = [f"{row[key]:.{places}f}" for key, places in shown.items()]
            rows[row["method"]] = [row["method"], *numbers, dice[row["method"]]]
    head = ["", "vertices, mm", "normal", "around", "along", "LV, mL", "EF bias"]
    head += ["GCS, points", "GLS, points", "Dice SAX, ES"]
    return markdown(head, list(rows.values()))


def segmentation(*results: Result) -> str:
    """Tasks of segmentation beside their peers, of one run or of several."""
    rows = []
    for result in results:
        for task in result["tasks"].values():
            ours = 1e3 * task["seconds"]["ours"]["median"]
            for who, ratio in task["ours_times_faster"].items():
                theirs = 1e3 * task["seconds"][who]["median"]
                gaps = task["differences"]
                apart = [f"{gaps[n]:.2g}" for n in gaps if n.split(",")[0] in who]
                rows.append(
                    [
                        task["about"],
                        who,
                        _short(ours),
                        _short(theirs),
                        _span(ratio, ".2f"),
                        "" if task["goal"] is None else f"{task['goal']:.3g}",
                        ", ".join(apart),
                    ]
                )
    head = ["", "peer", "ours, ms", "theirs, ms", "ours is times faster"]
    return markdown([*head, "goal", "differs by at most"], rows)


def answers(one: Result, several: Result) -> str:
    """Hierarchical uncertainty trained on one draw of an update, and on several."""
    shown = {
        "dice": "Dice",
        "area_sd_ratio": "spread of areas / annotators'",
        "ged_squared": "GED²",
        "ncc": "NCC",
        "excess_nll": "NLL above floor",
        "roi_ece": "ROI-ECE",
        "ueo": "UEO",
        "mi": "mutual information",
    }
    floors = {"area_sd_ratio": 1.0, "excess_nll": 0.0, **one["floors"]}
    rows = [
        [about, *(f"{result['scores'][name]['mean']:.4f}" for name in shown)]
        for about, result in (("one draw", one), ("draws together", several))
    ]
    told = [f"{floors[name]:.4f}" if name in floors else "" for name in shown]
    rows.append(["*truth, other annotators*", *told])
    return markdown(["hierarchical uncertainty", *shown.values()], rows)


def saved(result: Result) -> str:
    """What steps no longer spend."""
    rows = []
    for piece in result["pieces"].values():
        before, now = piece["before"], piece["now"]
        cells = [
            f"{before['gflop']:,.1f}, {now['gflop']:,.1f}" if now["gflop"] else "",
            f"{before['cpu_s']:.3g}, {now['cpu_s']:.3g}",
            f"{before['chip_mb']:,.0f}, {now['chip_mb']:,.0f}"
            if before["chip_mb"] is not None
            else "",
        ]
        rows.append([piece["about"], *cells])
    chip = result["config"]["chip"]
    head = ["before, now", "GFLOP", "CPU seconds", f"MB read and written, TPU {chip}"]
    return markdown(head, rows)


def saving(result: Result) -> str:
    """How long a checkpoint holds up the loop."""
    rows = [
        [str(n), f"{1e3 * waited:,.0f}", f"{whole:.1f}"]
        + [f"{waited / result['interval_s']:.2%}"]
        for n, (waited, whole) in enumerate(
            zip(result["waited_s"], result["whole_s"], strict=True), start=1
        )
    ]
    head = [f"save of {result['bytes'] / 1e6:,.0f} MB", "loop waits, ms"]
    head += ["whole after, s", f"share of {result['interval_s']:,.0f} s"]
    return markdown(head, rows)
