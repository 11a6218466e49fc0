"""How long must reconstructions be trained? Twice the updates until the curve is flat.

``python -m experiments.compare.doubling`` trains VarNet and the Latent Transformer of
`experiments.compare.reconstruction` with the first seed, each run twice as long as the
one before and along a cosine of its own, until all accelerations together gain less
than ``--flat`` dB by it, or the next would take more than ``--most`` updates; then with
the other seeds, as long as the last of these. All runs are judged on the held-out
phantoms of that comparison, and take the rate that it chose.

Every run has a folder of its own. The same command goes on where it was stopped and
keeps the runs that are finished; results.json is written after each. ``--publish`` also
writes ``experiments/results/compare_doubling.json`` and the table of the page beside
it; ``--finished`` takes the runs there are.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.tables import markdown
from experiments.compare.publishing import (
    at_least_one,
    cell,
    command,
    finished,
    keep,
    machine,
    spread,
)
from experiments.compare.reconstruction_runs import (
    ARMS,
    DATA,
    Arm,
    data_told,
    scores_of,
    trained_system,
)
from medjax.mri.reconstruction_scores import FULL
from medjax.mri.scans import Contrast, ScansConfig, open_scans
from medjax.train.launch import LaunchConfig

SCORES = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 4),
    "myocardium_reference": ("myocardium vs reference, ms", 1),
}
"""What is shown of every acceleration, and the decimals."""


@dataclasses.dataclass(frozen=True)
class Doubling:
    """Which systems, from how many updates to how many."""

    systems: tuple[Arm, ...] = ("varnet", "latent_transformer")
    """Learned systems."""
    series: Contrast = "t2"
    """T1 or T2."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the weights, the training phantoms and the masks; the first finds the end."""
    rate: float = 1e-2
    """Peak learning rate; it falls along a cosine."""
    first: int = 1200
    """Updates of the first run."""
    most: int = 19_200
    """Updates of no run are more."""
    flat: float = 0.2
    """Gain in dB by twice the updates, mean over accelerations, that ends a curve."""
    data: ScansConfig = DATA
    """The phantoms; series and seed are set by the comparison."""
    workdir: Path = Path("runs/compare-doubling")
    """One folder per run in it; the same command goes on."""
    finished: bool = False
    """Take the runs that are finished, and start none."""
    publish: bool = False
    """Write the committed results and the table of their page as well."""
    launch: LaunchConfig = LaunchConfig()
    """How this process starts."""


def compare(config: Doubling) -> dict[str, Any]:
    """Runs what is not finished yet, one curve after the other.

    Args:
      config: What to train.

    Returns:
      ``budget``, ``runs`` (a row per run and acceleration) and ``curves``:
      of each system the gains in dB of every doubling, and whether it ended flat.

    Raises:
      ValueError: A folder holds a run of another budget, nothing is asked for or
        finished, or the first run is of no update or of more than the most.
    """
    at_least_one(config, "seeds", "systems")
    if not 0 < config.first <= config.most:
        raise ValueError(f"first is {config.first}, expected 1 to most={config.most}")
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    for name, seed, steps in _plan(config, rows):
        run = _finished_run(name, seed, steps, config)
        if run is None:
            continue
        rows += run["rows"]
        results = {
            "budget": _budget(config),
            "runs": rows,
            "curves": curves(rows, config.flat),
        }
        keep(config.workdir / "results.json", results)
    if not results:
        raise ValueError(f"workdir: nothing is finished in {config.workdir}")
    return results


def _plan(
    config: Doubling, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Arm, int, int]]:
    """System, seed and updates of all runs; `rows` are those of the runs so far."""
    first, *others = config.seeds
    longest = {}
    for name in config.systems:
        steps = config.first
        yield name, first, steps
        while 2 * steps <= config.most and not _flat(name, rows, config.flat):
            steps *= 2
            yield name, first, steps
        longest[name] = steps
    for seed in others:
        for name in config.systems:
            yield name, seed, longest[name]


def _flat(name: Arm, rows: Sequence[Mapping[str, Any]], flat: float) -> bool:
    return any(curve["flat"] for curve in curves(rows, flat) if curve["system"] == name)


def _budget(config: Doubling) -> dict[str, Any]:
    return {
        "series": config.series,
        "seeds": list(config.seeds),
        "rate": config.rate,
        "flat": config.flat,
        "data": data_told(config.data),
        **machine(),
    }


def _finished_run(
    name: Arm, seed: int, steps: int, config: Doubling
) -> dict[str, Any] | None:
    """A run from its folder if it is there, else computed and kept; None as asked."""
    folder = config.workdir / f"{name}-{seed}-{steps}"
    data = dataclasses.replace(config.data, series=config.series, seed=seed)
    asked = [config.rate, repr(data), repr(ARMS[name][1])]
    known = finished(folder, asked, "(rate, data, system)")
    if known is not None or config.finished:
        return known
    scans = open_scans(data)
    method = trained_system(name, scans, data, folder, steps, config.rate)
    rows = [
        {"system": name, "seed": seed, "steps": steps, **row}
        for row in scores_of({name: method}, scans, data)
        if row["method"] != FULL
    ]
    result = {"budget": asked, "rows": rows}
    keep(folder / "result.json", result)
    return result


def curves(rows: Sequence[Mapping[str, Any]], flat: float) -> list[dict[str, Any]]:
    """What every doubling gave, and whether the last one gave little.

    Args:
      rows: Each with ``system``, ``seed``, ``steps``, ``acceleration``, ``psnr``. The
        curve is that of a system's first seed.
      flat: Gain in dB below which a curve is flat.

    Returns:
      Per system ``gains`` in dB, mean over the accelerations, and ``flat``.
    """
    found = []
    for system in dict.fromkeys(row["system"] for row in rows):
        of_system = [row for row in rows if row["system"] == system]
        runs: dict[int, list[float]] = {}
        for row in of_system:
            if row["seed"] == of_system[0]["seed"]:
                runs.setdefault(row["steps"], []).append(row["psnr"])
        means = [np.mean(runs[steps]) for steps in sorted(runs)]
        gains = np.diff(means).tolist()
        ended = bool(gains) and gains[-1] < flat
        found.append({"system": system, "gains": gains, "flat": ended})
    return found


def table(results: Mapping[str, Any]) -> str:
    """A row per length of training in Markdown, mean and deviation of its seeds."""
    accelerations = sorted({row["acceleration"] for row in results["runs"]})
    of = ", ".join(str(acceleration) for acceleration in accelerations)
    heads = [f"system (R = {of})", "updates", "seeds"]
    heads += [head for head, _ in SCORES.values()]
    rows = []
    for curve in results["curves"]:
        of_system = [r for r in results["runs"] if r["system"] == curve["system"]]
        lengths = sorted({row["steps"] for row in of_system})
        for steps, gain in zip(lengths, [None, *curve["gains"]], strict=True):
            runs = [row for row in of_system if row["steps"] == steps]
            scores = [
                ", ".join(
                    cell(
                        spread([r[name] for r in runs if r["acceleration"] == R]),
                        places=places,
                    )
                    for R in accelerations
                )
                for name, (_, places) in SCORES.items()
            ]
            count = len({row["seed"] for row in runs})
            told = "" if gain is None else f"{gain:+.2f}"
            label = ARMS[curve["system"]][0]
            rows.append([label, str(steps), str(count), *scores, told])
    return markdown([*heads, "gain of the first seed, dB"], rows)


def main() -> int:
    """Trains, prints the table, keeps the numbers."""
    return command("compare_doubling", Doubling, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
