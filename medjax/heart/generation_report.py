"""What a generator's run leaves: tables in lines, a page with cycles and histograms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer, UInt8

from medjax.heart.appearance import LABELS
from medjax.heart.clinical import FEATURES
from medjax.report import Card, Report
from medjax.report.picture import LABELS as COLOURS
from medjax.report.picture import Animation, enlarged
from medjax.report.run import save_evaluation, training_section
from medjax.train.log import read_metrics

if TYPE_CHECKING:
    from medjax.heart.generation import Shown

PALETTE = np.concatenate([[[20, 20, 24]], COLOURS[: len(LABELS)]]).astype(np.uint8)
FRAMES = 6
"""Of a cycle, side by side."""
COMPLETION = {
    "method": "method",
    "dice": "Dice, later frames",
    "dice_first": "Dice, first frame",
    "hd_mm": "HD at ES, mm",
    "assd_mm": "ASSD at ES, mm",
    "undefined": "without a distance",
    "lv_mae_ml": "LV volume, mL",
    "ef_mae": "EF error, points",
    "ef_bias": "EF bias, points",
    "ef_rmse": "EF RMSE, points",
    "ef_undefined": "without an EF",
}
HISTOGRAMS = ("LVEDV", "LVM", "LVEF", "RVEDV")


def show(
    workdir: Path, results: Mapping[str, Any], shown: "Shown", *, title: str
) -> Path:
    """Prints the scores, and writes ``evaluation.json`` and ``report.html``.

    Args:
        workdir: folder of the run.
        results: all scores.
        shown: cycles, features and the age sweep.
        title: of the page.

    Returns:
        Path of the page.
    """
    save_evaluation(workdir, results)
    print(f"\n{results['people']['test']} held-out people of {results['data']}")
    print(lines(results["completion"], COMPLETION))
    kept = {"group": "group", "js": "JS", "wasserstein": "Wasserstein, sd"}
    print(lines(results["generation"], kept | {"energy": "energy", "n": "n"}))
    page = report(workdir, results, shown, title=title)
    return page.save(workdir / "report.html")


def lines(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A table of some columns as text."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    cells = [list(columns.values())]
    cells += [[cell(row.get(key, "")) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    told = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in told)


def report(
    workdir: Path, results: Mapping[str, Any], shown: "Shown", *, title: str
) -> Report:
    """The page: headline, training, completed cycles, generated people."""
    rows = read_metrics(workdir) if (workdir / "metrics.jsonl").exists() else []
    steps = f"{rows[-1]['step']} steps, " if rows else ""
    count = results["people"]["test"]
    page = Report(title, f"{steps}{count} people of {results['data']}")
    page.numbers(_headline(results))
    if results["conditions_filled"]:
        told = ", ".join(f"{k} of {n}" for k, n in results["conditions_filled"].items())
        page.notice(f"Conditions that nobody told are the mean: {told} people.")
    if results["left_out"]:
        names = ", ".join(results["left_out"])
        page.notice(
            f"Not compared: {names}. So many label maps of this size do not fit in "
            "memory as distances."
        )
    if rows:
        training_section(page, rows, log=True)
    _completion(page, results, shown)
    _generation(page, results, shown)
    return page


def _headline(results: Mapping[str, Any]) -> dict[str, tuple[float | str, str]]:
    ours = next(r for r in results["completion"] if r["method"] == "CHeart")
    groups = {row["group"]: row for row in results["generation"]}
    best = max(
        (r for r in results["completion"] if r is not ours), key=lambda r: r["dice"]
    )
    spread = results["ef_deviation"]
    remark = (
        f"phantoms of one sex deviate by {spread:g}" if spread else "held-out people"
    )
    distance = groups["CHeart"].get("wasserstein", float("nan"))
    real = groups["floor"].get("wasserstein", float("nan"))
    copied, unseen = (results["memorisation"][k] for k in ("drawn", "unseen"))
    return {
        "completion, Dice": (ours["dice"], f"{best['method']}: {best['dice']:.3f}"),
        "EF, RMSE in points": (ours["ef_rmse"], remark),
        "Wasserstein, sd": (distance, f"real against real: {real:.3f}"),
        "nearest training heart": (copied, f"of unseen people: {unseen:.3f}"),
    }


def _completion(page: Report, results: Mapping[str, Any], shown: "Shown") -> None:
    page.section("Completion")
    page.text(
        "All frames from the first one and the conditions. Dice is the mean over left "
        "ventricle, muscle and right ventricle of the frames that were not given. "
        "Distances are at end-systole; a structure that a method missed has none, and "
        "is counted. So is a heart without a left ventricle, which has no ejection "
        "fraction."
    )
    if spread := results["ef_deviation"]:
        page.text(
            "How much a phantom ejects is drawn by its sex, with a deviation of "
            f"{spread:g} points, and its first frame tells hardly more. So over many "
            "people no method's error is much below that; over few it may be."
        )
    rows = [
        {text: row.get(key) for key, text in COMPLETION.items()}
        for row in results["completion"]
    ]
    page.table(rows)
    cards = [Card(_row(cycle), name) for name, cycle in shown.cycles.items()]
    page.gallery(cards, caption=f"{FRAMES} frames: short axis above, long axis below")
    real, drawn = shown.cycles["real"], shown.cycles["generated"]
    moving = np.concatenate([_moving(real), _moving(drawn)], axis=2)
    page.picture(Animation(moving, rate=8.0), "a real and a generated heart")
    frames = len(real)
    curves = [
        {"frame": t}
        | {
            name: float((cycle[t] == LABELS["lv"]).sum())
            for name, cycle in shown.cycles.items()
        }
        for t in range(frames)
    ]
    page.curves("left ventricle, voxels", curves, x="frame")


def _generation(page: Report, results: Mapping[str, Any], shown: "Shown") -> None:
    page.section("Generation")
    page.text(
        "Distances of twelve clinical features to those of held-out people, mean over "
        "features. Floor: training people. Copy: the training person whose conditions "
        "are nearest. Unconditional: random training people. A generator that copies "
        "reaches the floor, so distances alone prove nothing.\n\n"
        f"{_memory(results)}"
    )
    page.table(results["generation"])
    page.table(
        results["samples"],
        caption="generated hearts beside the person's own: means over people of the "
        "best, the mean and the worst of their samples",
    )
    names = ("real", "CHeart", "copy", "unconditional")
    for feature in HISTOGRAMS:
        i = FEATURES.index(feature)
        groups = {name: shown.features[name][:, i] for name in names}
        if any(np.isfinite(values).any() for values in groups.values()):
            page.histogram(feature, groups, x=feature, bins=16)
    page.table(
        results["adherence"], caption="slopes on conditions, with 95 % intervals"
    )
    spread = [
        {"feature": k, "generated / real": v} for k, v in results["spread"].items()
    ]
    page.table(spread, caption="deviation of features given the conditions")
    rows = []
    for j, age in enumerate(shown.ages):
        row: dict[str, Any] = {"age": int(age)}
        for sex, values in shown.sweep.items():
            volume = float(values[j, FEATURES.index("LVEDV")])
            row |= {f"LVEDV of {sex}, mL": volume if np.isfinite(volume) else None}
        rows.append(row)
    if any(v is not None for row in rows for k, v in row.items() if k != "age"):
        page.curves("age sweep, all else fixed", rows, x="age")


def _memory(results: Mapping[str, Any]) -> str:
    copied, unseen = (results["memorisation"][k] for k in ("drawn", "unseen"))
    gap = results["closing_gap_ml"]
    return (
        f"The nearest training heart has a Dice of {copied:.3f} with a generated one, "
        f"and {unseen:.3f} with an unseen person's. From the last frame to the first "
        f"the left ventricle's volume jumps by {gap['drawn']:.1f} mL in generated "
        f"hearts, {gap['real']:.1f} mL in real ones."
    )


def _views(cycle: Integer[np.ndarray, "t d h w"]) -> Integer[np.ndarray, "t y w"]:
    """A short-axis slice in the middle above a long-axis one, the base on top."""
    depth, height = cycle.shape[1:3]
    short, long = cycle[:, depth // 2], cycle[:, ::-1, height // 2]
    # Slices are thicker than pixels are wide.
    long = np.repeat(long, max(1, round(height / depth)), axis=1)
    return np.concatenate([short, long], axis=1)


def _row(cycle: Integer[np.ndarray, "t d h w"]) -> UInt8[np.ndarray, "y x 3"]:
    chosen = np.unique(np.linspace(0, len(cycle) - 1, FRAMES).astype(int))
    picture = np.concatenate(list(_views(cycle[chosen])), axis=1)
    return enlarged(PALETTE[picture], 128)


def _moving(cycle: Integer[np.ndarray, "t d h w"]) -> UInt8[np.ndarray, "t y x 3"]:
    return np.stack([enlarged(PALETTE[frame], 128) for frame in _views(cycle)])
