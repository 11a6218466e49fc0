"""Does temporal attention help? Reconstructions and their T1 and T2 maps, side by side.

``python -m experiments.compare.reconstruction`` trains VarNet as published (it finds
its coil maps; ``varnet_given`` is given them, as the others are), the multi-coil Latent
Transformer, the same without temporal attention and the same of real and imaginary
parts on heart phantoms, for T1 and for T2, with every seed; equal data, batches, masks,
schedule and updates. One model serves all accelerations: every training example takes
one of them at random. Zero filling, CG-SENSE and L+S stand beside them, their
regularisation chosen on training phantoms by NMSE, per series and acceleration, on
grids that grow until no choice is at an edge; so are the learning rates of VarNet and
of the Latent Transformer, by short runs of three seeds of their own that are judged on
hearts of others. All are judged on the same held-out phantoms; a seed is that of the
weights, the training phantoms and the masks.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished; results.json is written after
each. ``--publish`` also writes ``experiments/results/compare_reconstruction.json`` and
the tables of the pages beside it; ``--finished`` takes the runs there are.
"""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bench.tables import markdown
from experiments.compare.publishing import (
    at_least_one,
    cell,
    command,
    difference,
    finished,
    interval,
    keep,
    machine,
    spread,
)
from experiments.compare.reconstruction_runs import (
    ARMS,
    DATA,
    TUNED,
    Arm,
    chosen_rate,
    classical_scores,
    data_told,
    scores_of,
    trained_system,
)
from medjax.mri.reconstruction_scores import FULL, IMAGE_SCORES, MAP_SCORES
from medjax.mri.scans import Contrast, ScansConfig, open_scans
from medjax.train.launch import LaunchConfig

CLASSICAL = ("zero-filled", "CG-SENSE", "L+S")
SCORES = dict(zip(IMAGE_SCORES + MAP_SCORES, (4, 2, 4, 1, 1, 1, 1), strict=True))
"""What is compared, and the decimals that tables show."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which systems, how many seeds, how much training."""

    systems: tuple[Arm, ...] = tuple(arm for arm in ARMS if arm != "varnet_given")
    """Learned systems to compare."""
    series: tuple[Contrast, ...] = ("t1", "t2")
    """T1, T2."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each system and series per seed."""
    steps: int = 1200
    """Updates of each run."""
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """Peak learning rates to choose from; they fall along a cosine."""
    tuning_steps: int = 600
    """Updates of the runs that a rate is chosen by, with T2 phantoms."""
    data: ScansConfig = DATA
    """The phantoms; series and seed are set by the comparison."""
    workdir: Path = Path("runs/compare-reconstruction")
    """One folder per run in it; the same command goes on."""
    finished: bool = False
    """Take the runs that are finished, and start none."""
    publish: bool = False
    """Write the committed results and the tables of their pages as well."""
    launch: LaunchConfig = LaunchConfig()
    """How this process starts."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet; the first seed of everything comes first.

    Args:
      config: What to compare.

    Returns:
      ``budget``, ``runs`` (a row per series, method, seed and acceleration; classical
      methods have no seed), ``summary`` and ``differences``.

    Raises:
      ValueError: A folder holds a run of another budget, or nothing is asked for or
        finished.
    """
    at_least_one(config, "series")
    rows: list[dict[str, Any]] = []
    chosen: dict[str, Any] = {}
    rates: dict[str, float] = {}
    tried: dict[str, dict[str, float]] = {}
    results: dict[str, Any] = {}
    plan: list[tuple[Any, Contrast, int | None]] = []
    for contrast in config.series:
        plan.append(("classical", contrast, None))
    for seed in config.seeds:
        for contrast in config.series:
            for name in config.systems:
                plan.append((name, contrast, seed))
    for name, contrast, seed in plan:
        if seed is not None and TUNED[name] not in rates:
            found = chosen_rate(TUNED[name], config)
            rates[TUNED[name]], tried[TUNED[name]] = found["rate"], found["nmse"]
        run = _finished_run(name, contrast, seed, config, rates)
        if run is None:
            continue
        rows += run["rows"]
        if "chosen" in run:
            chosen[contrast] = run["chosen"]
        results = {
            "budget": budget(config),
            "classical_weights": chosen,
            "rates": rates,
            "rates_tried": tried,
            "runs": rows,
            "summary": summarise(rows),
            "differences": differences(rows),
        }
        keep(config.workdir / "results.json", results)
    if not results:
        raise ValueError(f"workdir: nothing is finished in {config.workdir}")
    return results


def budget(config: Comparison) -> dict[str, Any]:
    """What all runs have in common, for the record."""
    return {
        "steps": config.steps,
        "tuning_steps": config.tuning_steps,
        "data": data_told(config.data),
        **machine(),
    }


def _finished_run(
    name: Any,
    contrast: Contrast,
    seed: int | None,
    config: Comparison,
    rates: Mapping[str, float],
) -> dict[str, Any] | None:
    """A run from its folder if it is there, else computed and kept.

    Returns None for one that is not, if only finished ones are asked for.
    """
    parts = [name, contrast] + ([] if seed is None else [str(seed)])
    folder = config.workdir / "-".join(parts)
    asked: list[Any] = [repr(config.data)]
    if seed is not None:
        asked += [config.steps, rates[TUNED[name]], repr(ARMS[name][1])]
    known = finished(folder, asked, "(data, steps, rate, system)")
    if known is not None:
        return known
    if config.finished:
        return None
    began = time.monotonic()
    data = dataclasses.replace(config.data, series=contrast, seed=seed or 0)
    scans = open_scans(data)
    result: dict[str, Any] = {"budget": asked}
    if seed is None:
        scores, result["chosen"] = classical_scores(scans, data)
    else:
        lr = rates[TUNED[name]]
        method = trained_system(name, scans, data, folder, config.steps, lr)
        scores = scores_of({name: method}, scans, data)
        scores = [row for row in scores if row["method"] != FULL]
    result["seconds"] = round(time.monotonic() - began)
    result["rows"] = [{"series": contrast, "seed": seed, **row} for row in scores]
    keep(folder / "result.json", result)
    return result


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1) over the seeds of each method."""
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["series"], row["acceleration"], row["method"])
        groups.setdefault(key, []).append(row)
    return [
        {
            "series": contrast,
            "acceleration": acceleration,
            "method": method,
            "seeds": sum(row["seed"] is not None for row in group),
            **{name: spread([row[name] for row in group]) for name in SCORES},
        }
        for (contrast, acceleration, method), group in groups.items()
    ]


def differences(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """With minus without temporal attention, paired by seed, with intervals."""
    found: dict[tuple[str, int], dict[int, dict[str, Mapping[str, Any]]]] = {}
    for row in rows:
        if row["method"] in ("latent_transformer", "without_attention"):
            seeds = found.setdefault((row["series"], row["acceleration"]), {})
            seeds.setdefault(row["seed"], {})[row["method"]] = row
    out = []
    for (contrast, acceleration), seeds in found.items():
        pairs = [
            (pair["latent_transformer"], pair["without_attention"])
            for pair in seeds.values()
            if len(pair) == 2
        ]
        if len(pairs) > 1:
            out.append(
                {
                    "series": contrast,
                    "acceleration": acceleration,
                    "seeds": len(pairs),
                    **{
                        name: difference(
                            [a[name] for a, _ in pairs], [b[name] for _, b in pairs]
                        )
                        for name in SCORES
                    },
                }
            )
    return out


def table(results: Mapping[str, Any]) -> str:
    """The summary in Markdown, one table per series; map errors in ms."""
    tables = []
    for contrast in dict.fromkeys(entry["series"] for entry in results["summary"]):
        heads = ["R", "method", "SSIM", "PSNR (dB)", "NMSE"]
        heads += [
            f"{contrast.upper()} {name.replace('_', ' vs ')}" for name in MAP_SCORES
        ]
        entries = [e for e in results["summary"] if e["series"] == contrast]
        gains = [
            {**d, "method": "*attention: paired difference*"}
            for d in results["differences"]
            if d["series"] == contrast
        ]
        order = [FULL, *CLASSICAL, *ARMS, "*attention: paired difference*"]
        both = sorted(
            entries + gains,
            key=lambda e: (e["acceleration"], order.index(e["method"])),
        )
        rows = []
        for entry in both:
            method = entry["method"]
            label = ARMS[method][0] if method in ARMS else method
            tell = interval if method.startswith("*") else cell
            scores = (tell(entry[name], places=n) for name, n in SCORES.items())
            rows.append([str(entry["acceleration"]), label, *scores])
        tables.append(markdown(heads, rows))
    return "\n\n".join(tables)


def main() -> int:
    """Compares, prints the table, keeps the numbers."""
    return command("compare_reconstruction", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
