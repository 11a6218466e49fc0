"""Does a generator of anatomy beat simple completion? CHeart's presets side by side.

``python -m experiments.compare.anatomy`` trains CHeart as released, as published and
improved (with an LSTM and with attention over time) with every seed, on the same people
and with the same steps; the first frame repeated, the nearest person and a linear shape
space stand beside them. Held-out cycles are completed from their first frame, and
hearts are generated for the held-out people. A seed is that of the weights, of the
noise and of the order of people; the people are the same throughout.

What is known of phantoms: the ejection fraction does not follow from the shape of the
left ventricle, but for the sex; who predicts it much better than its deviation of 4
points reads it from the right ventricle, which ejects as much. That *floor* stands
below the errors of completion. How features go with conditions in the population is
known too, and stands beside what generated and real people say of it. Twenty hearts are
generated for every held-out person, and the best, the mean and the worst of them held
against the person's own.

Expected beforehand: the released code's KL, a mean over dimensions with weight 0.01,
hardly ties the posterior to the prior, so hearts from its prior are worse than those
that it completes; the linear space may win completion; and of distances to the real
distribution alone, *copy* wins Wasserstein's.

Every run has a folder of its own. The same command goes on where it was stopped, in the
middle of a run too, and keeps the runs that are finished. ``--publish`` also writes
``experiments/results/compare_anatomy.json``.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.bench.tables import markdown
from experiments.cheart import TINY
from experiments.compare.publishing import (
    at_least_one,
    cell,
    command,
    compared,
    differences,
    finished,
    interval,
    keep,
    machine,
    spread,
)
from medjax.heart.anatomy_scores import known_slopes
from medjax.heart.cheart import CONFIGS
from medjax.heart.data import Anatomies, AnatomyConfig, open_anatomies
from medjax.heart.generation import (
    NAME,
    Generation,
    GenerationConfig,
    Peers,
    evaluate,
    peers_of,
    train,
)
from medjax.heart.systems import Generator
from medjax.train.launch import LaunchConfig

Arm = Literal["repo", "paper", "improved_lstm", "improved"]
change = dataclasses.replace


def _arm(name: str, **changes: Any) -> Generation:
    """A preset of the published size, as small as ``tiny``."""
    small = {"latent": TINY.system.latent, "width": TINY.system.width}
    system = change(CONFIGS[name], **small, **changes)
    improved = name == "improved"
    return change(
        TINY,
        system=system,
        standardise=name != "repo",
        kl_warmup=TINY.kl_warmup if improved else 0.0,
    )


ARMS: Mapping[Arm, tuple[str, Generation]] = {
    "repo": ("CHeart, as released", _arm("repo")),
    "paper": ("CHeart, as published", _arm("paper")),
    "improved_lstm": ("CHeart, improved, LSTM", _arm("improved", temporal="lstm")),
    "improved": ("CHeart, improved, attention", _arm("improved")),
}
REFERENCE: Arm = "improved"
COMPLETION = {
    "dice": ("Dice, later frames", 3),
    "hd_mm": ("HD at ES, mm", 1),
    "lv_mae_ml": ("LV volume, mL", 1),
    "ef_mae": ("EF, points", 1),
    "ef_rmse": ("EF RMSE", 1),
}
"""Scores of completed cycles: heads and decimals."""
FLOOR = "floor: drawn by sex"
"""The least error of an ejection fraction that nothing tells but the sex."""
SLOPES = {
    "LVEDV by age": ("mL a year", 2),
    "LVEDV by height": ("mL a cm", 2),
    "LVM by blood_pressure": ("g a mmHg", 2),
    "LVEF by sex": ("points, men minus women", 1),
}
"""Slopes of features on conditions: units and decimals."""
SAMPLES = {
    f"{score}_{which}": (f"{head} {which}", places)
    for score, head, places in (
        ("dice", "Dice", 3),
        ("hd_mm", "HD, mm,", 1),
        ("assd_mm", "ASSD, mm,", 1),
    )
    for which in ("best", "mean", "worst")
}
"""Scores of several hearts of a person beside their own."""
GENERATION = {
    "js": ("JS", 3),
    "wasserstein": ("Wasserstein, sd", 2),
    "energy": ("energy", 2),
}
"""Distances of generated people to held-out ones, over twelve features."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which systems, how many seeds, how much training."""

    systems: tuple[Arm, ...] = tuple(ARMS)
    """What to compare."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each system per seed."""
    steps: int = TINY.train.steps
    """Updates of each run: a fraction of them compares how fast each begins."""
    data: AnatomyConfig = TINY.data
    """The people."""
    evaluation: GenerationConfig = GenerationConfig()
    """What is scored."""
    workdir: Path = Path("runs/compare-anatomy")
    """One folder per run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results as well."""
    launch: LaunchConfig = TINY.launch
    """How this process starts."""


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet; the first seed of everything comes first.

    Args:
      config: What to compare.

    Returns:
      ``budget``, ``runs`` (one row per system and seed) and ``summary`` (mean and
      deviation over seeds, and the peers' numbers).

    Raises:
      ValueError: There is nothing to run, or a folder holds a run of another budget.
    """
    at_least_one(config, "seeds", "systems")
    anatomies = open_anatomies(config.data)
    common = change(TINY, data=config.data, evaluation=config.evaluation)
    peers = peers_of(anatomies, common)
    rows = [
        _finished_run(name, seed, config, anatomies, peers)
        for seed in config.seeds
        for name in config.systems
    ]
    return {
        "budget": {
            "steps": config.steps,
            "data": dataclasses.asdict(config.data) | {"root": str(config.data.root)},
            "optimizer": dataclasses.asdict(TINY.optimizer),
            "draws": config.evaluation.draws,
            **machine(),
        },
        "runs": rows,
        "summary": summarise(rows),
    }


def _finished_run(
    name: Arm, seed: int, config: Comparison, anatomies: Anatomies, peers: Peers
) -> dict[str, Any]:
    """The row of one system and seed: from its folder if it is there, else trained.

    Raises:
      ValueError: The folder holds a run of another budget.
    """
    label, preset = ARMS[name]
    folder = config.workdir / f"{name}-{seed}"
    budget = [config.steps, repr(config.data), repr(config.evaluation)]
    known = finished(folder, budget, "(steps, data, evaluation)")
    if known is not None:
        return known["row"]
    asked = change(
        preset,
        about=f"{label}, seed {seed}",
        data=change(config.data, seed=seed),
        train=change(preset.train, steps=config.steps, seed=seed),
        evaluation=config.evaluation,
        workdir=folder,
    )
    began = time.monotonic()
    generator = Generator(*train(asked, anatomies))
    results, _ = evaluate(generator, anatomies, asked, peers)
    row = {"system": name, "seed": seed, "results": results}
    row["seconds"] = round(time.monotonic() - began)
    keep(folder / "result.json", {"budget": budget, "row": row})
    return row


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Mean and deviation over seeds of every system, and the peers' numbers.

    Args:
      rows: Of `compare`.

    Returns:
      ``completion`` and ``generation``: a row per method, systems first; ``samples``, a
      row per system and structure, where all runs have those; ``adherence``, a row per
      slope.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for part, key, scores in (
        ("completion", "method", COMPLETION),
        ("generation", "group", GENERATION),
    ):
        table = []
        for system in dict.fromkeys(row["system"] for row in rows):
            mine = [r["results"] for r in rows if r["system"] == system]
            own = [_row(result[part], key, NAME) for result in mine]
            told = {name: spread([_score(r, name) for r in own]) for name in scores}
            entry: dict[str, Any] = {"method": ARMS[system][0], "seeds": len(own)}
            if part == "generation":
                told |= _how(mine)
            table.append(entry | told)
        for row in rows[0]["results"][part]:
            if row[key] != NAME:
                told = {name: spread([_score(row, name)]) for name in scores}
                table.append({"method": row[key], "seeds": 1, **told})
        found[part] = table
    if all("samples" in row["results"] for row in rows):
        found["samples"] = _samples(rows)
    found["adherence"] = _slopes(rows)
    return found


def _samples(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Several hearts of a person beside their own, by system and structure."""
    table = []
    for system in dict.fromkeys(row["system"] for row in rows):
        mine = [r["results"]["samples"] for r in rows if r["system"] == system]
        for each in zip(*mine, strict=True):
            entry = {"method": ARMS[system][0], "structure": each[0]["structure"]}
            told = (*SAMPLES, "undefined")
            table.append(entry | {k: spread([one[k] for one in each]) for k in told})
    return table


def _slopes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes of features on conditions: known of phantoms, of the real people with an
    interval, and of those that systems generated."""
    first = rows[0]["results"]
    known = known_slopes() if first["ef_deviation"] else [None] * len(SLOPES)
    table = []
    for i, (real, told) in enumerate(zip(first["adherence"], known, strict=True)):
        entry: dict[str, Any] = {"slope": f"{real['feature']} by {real['by']}"}
        entry |= {"known": told}
        entry |= {"mean": real["real"], "low": real["real_low"]}
        entry |= {"high": real["real_high"]}
        for system in dict.fromkeys(row["system"] for row in rows):
            mine = [r["results"] for r in rows if r["system"] == system]
            entry[system] = spread([r["adherence"][i]["drawn"] for r in mine])
        table.append(entry)
    return table


def paired(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every system minus the improved one with attention, seed by seed.

    Args:
      rows: Of `compare`.

    Returns:
      As `differences` does, of the scores that every run has.
    """
    flat = []
    for row in rows:
        entry: dict[str, Any] = {"system": row["system"], "seed": row["seed"]}
        completed = _row(row["results"]["completion"], "method", NAME)
        made = _row(row["results"]["generation"], "group", NAME)
        entry |= {name: _score(completed, name) for name in COMPLETION}
        entry |= {name: _score(made, name) for name in GENERATION}
        flat.append({k: v for k, v in entry.items() if v == v})
    return differences(flat, REFERENCE)


def _score(row: Mapping[str, Any], name: str) -> float:
    """A score; NaN of hearts without a left ventricle, whose features nobody has."""
    return float(row.get(name, "nan"))


def _row(rows: Sequence[Mapping[str, Any]], key: str, name: str) -> Mapping[str, Any]:
    return next(row for row in rows if row[key] == name)


def _how(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether generated people vary as real ones do, and whether they are copies."""
    volume = [r["spread"]["LVEDV"] for r in results]
    near = [r["memorisation"]["drawn"] - r["memorisation"]["unseen"] for r in results]
    return {"spread": spread(volume), "copied": spread(near)}


def table(results: Mapping[str, Any]) -> str:
    """The summary in Markdown: completion, then generation."""
    shown = []
    for part, scores in (("completion", COMPLETION), ("generation", GENERATION)):
        heads = [part, *(head for head, _ in scores.values())]
        extra = ("spread", "copied") if part == "generation" else ()
        heads += ["spread of LVEDV", "Dice of copies"] if extra else []
        lines = []
        for entry in results["summary"][part]:
            cells = [cell(entry[k], places=n) for k, (_, n) in scores.items()]
            cells += [cell(entry[k], places=2) if k in entry else "" for k in extra]
            lines.append([entry["method"], *cells])
        if part == "completion":
            lines += _floor(results)
        shown.append(markdown(heads, lines))
    shown += _details(results["summary"])
    heads = {name: head for name, (head, _) in {**COMPLETION, **GENERATION}.items()}
    if entries := paired(results["runs"]):
        about = f"minus {ARMS[REFERENCE][0]}, paired"
        heads = {k: head for k, head in heads.items() if all(k in e for e in entries)}
        shown.append(compared(about, ARMS, entries, heads, _interval))
    return "\n\n".join(shown)


def _floor(results: Mapping[str, Any]) -> list[list[str]]:
    """The row of what nobody can know better; none of people who are no phantoms."""
    deviation = results["runs"][0]["results"]["ef_deviation"]
    if deviation is None:
        return []
    least = {"ef_mae": deviation * math.sqrt(2 / math.pi), "ef_rmse": deviation}
    told = (
        f"{least[name]:.{places}f}" if name in least else ""
        for name, (_, places) in COMPLETION.items()
    )
    return [[FLOOR, *told]]


def _details(summary: Mapping[str, Any]) -> list[str]:
    """Tables of samples and of slopes, where there are those numbers."""
    shown = []
    if samples := summary.get("samples"):
        heads = ["generated for a person", "structure", "without a distance"]
        lines = [
            [entry["method"], entry["structure"], cell(entry["undefined"], places=0)]
            + [
                cell(entry[name], places=places)
                for name, (_, places) in SAMPLES.items()
            ]
            for entry in samples
        ]
        shown.append(markdown([*heads, *(head for head, _ in SAMPLES.values())], lines))
    if slopes := summary.get("adherence"):
        systems: list[Arm] = [name for name in ARMS if name in slopes[0]]
        lines = []
        for entry in slopes:
            unit, places = SLOPES[entry["slope"]]
            known = "" if entry["known"] is None else f"{entry['known']:.{places}f}"
            people = interval(entry, places=places)
            told = [cell(entry[name], places=places) for name in systems]
            lines.append([f"{entry['slope']}, {unit}", known, people, *told])
        heads = ["slope", "known", "real people, 95 %"]
        shown.append(markdown([*heads, *(ARMS[name][0] for name in systems)], lines))
    return shown


def _interval(value: Mapping[str, float]) -> str:
    return interval(value, places=3 if max(map(abs, value.values())) < 1 else 1)


def main() -> int:
    """Compares, prints the tables, keeps the numbers."""
    return command("compare_anatomy", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
