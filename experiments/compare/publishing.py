"""What comparisons have alike: their command, finished runs, spreads, differences."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
import tyro
from jaxtyping import Float

from experiments.bench.tables import markdown
from medjax.data.boundary import reading
from medjax.data.whole import whole
from medjax.metrics.cases import EMPTY
from medjax.metrics.statistics import paired_bootstrap
from medjax.progress import say
from medjax.train.agree import on_first
from medjax.train.ending import ends_in_words
from medjax.train.launch import LaunchConfig, launch
from medjax.train.lock import hold


class Asked(Protocol):
    """The flags that every comparison has."""

    @property
    def workdir(self) -> Path:
        """One folder per run in it."""
        ...

    @property
    def publish(self) -> bool:
        """Write the committed results as well."""
        ...

    @property
    def launch(self) -> LaunchConfig:
        """How the process starts."""
        ...


C = TypeVar("C", bound=Asked)


@ends_in_words
def command(
    name: str,
    flags: type[C],
    compare: Callable[[C], Mapping[str, Any]],
    table: Callable[[Mapping[str, Any]], str],
    about: str | None,
) -> None:
    """The command of a comparison: compares, prints the table, keeps the numbers.

    Args:
      name: Of the comparison's committed file.
      flags: What can be asked for.
      compare: Runs what is not finished yet, and returns all numbers.
      table: Those in Markdown.
      about: What ``--help`` says.

    Returns:
      The status of the process.
    """
    config = tyro.cli(flags, description=about)
    launch(config.launch)
    with hold(config.workdir):
        results = compare(config)
        shown = table(results)
        conclude(name, results, shown, config.workdir, publish=config.publish)


def machine() -> dict[str, str]:
    """What ran the comparison, for the record."""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {"jax": jax.__version__, "device": device}


def asked_for(config: Any, names: Sequence[str]) -> list[Any]:
    """The values of some flags as JSON gives them back: a run's budget."""
    values = [getattr(config, name) for name in names]
    return [list(v) if isinstance(v, tuple) else v for v in values]


def at_least_one(config: Any, *names: str) -> None:
    """Refuses, before anything is run, flags that leave nothing to compare.

    Args:
      config: Of the comparison.
      names: Of fields that hold several values.

    Raises:
      ValueError: One of them is empty.
    """
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"{name} is empty, expected one at least")


def finished(folder: Path, budget: Sequence[Any], what: str) -> dict[str, Any] | None:
    """What a finished run left in its folder; None where it is not finished.

    One process looks, and all follow: whether a run is trained is a matter of them all.

    Args:
      folder: of the run.
      budget: what it has to have been run with.
      what: the meaning of that, as a message says it.

    Raises:
      DataError: what it left is damaged.
      ValueError: it was run with another budget.
    """
    kept = folder / "result.json"

    def look() -> dict[str, Any] | None:
        if not kept.exists():
            return None
        with reading(kept, "result of a finished run"):
            result = json.loads(kept.read_text())
            found = result["budget"]
        if found != list(budget):
            raise ValueError(
                f"workdir: {folder} was run with {what} = {found}, now "
                f"{list(budget)}: use another workdir"
            )
        return result

    return on_first(look, what=f"finished run {folder.name}")


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1) over seeds; no deviation of one seed."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd}


def cell(value: Mapping[str, float | None], *, places: int = 3) -> str:
    """A `spread` as ``mean ± sd``."""
    text = f"{value['mean']:.{places}f}"
    return text if value["sd"] is None else f"{text} ± {value['sd']:.{places}f}"


def difference(
    first: Sequence[float], second: Sequence[float]
) -> dict[str, float | int]:
    """The paired difference of two methods over their common seeds.

    Args:
      first: one number per seed.
      second: of the same seeds.

    Returns:
      Mean with the 95 % interval of `medjax.metrics.statistics.paired_bootstrap`.
    """
    a, b = (np.asarray(values, np.float64)[:, None] for values in (first, second))
    found = paired_bootstrap(a, b, seed=0)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def judged(
    first: Float[np.ndarray, "seeds subjects"],
    second: Float[np.ndarray, "seeds subjects"],
    *,
    margin: float,
    lower_is_better: bool,
) -> dict[str, Any]:
    """The paired difference of two methods with its ``verdict``.

    Args:
      first: the endpoint of the one that is judged.
      second: of the same seeds and subjects.
      margin: the largest difference that does not matter.
      lower_is_better: whether the endpoint is an error.

    Returns:
      What `medjax.metrics.statistics.paired_bootstrap` finds, and the verdict.
    """
    found = paired_bootstrap(first, second, seed=0)
    verdict = found.verdict(margin=margin, lower_is_better=lower_is_better)
    return {"verdict": verdict, **dataclasses.asdict(found)}


def interval(value: Mapping[str, float], *, places: int = 3) -> str:
    """A `difference` as ``+0.010 [-0.002, +0.022]``."""
    mean, low, high = (f"{value[k]:+.{places}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def compared(
    about: str,
    arms: Mapping[Any, tuple[Any, ...]],
    entries: Sequence[Mapping[str, Any]],
    scores: Mapping[str, str],
    tell: Callable[[Any], str],
) -> str:
    """A row per system in Markdown.

    Args:
      about: Head of the column of systems.
      arms: Systems by name, of each first what it is called.
      entries: Of `summarise` or `differences`.
      scores: The columns, by the name of the number.
      tell: `cell` or `interval`.
    """
    rows = [
        [arms[e["system"]][0], *(tell(e[name]) for name in scores)] for e in entries
    ]
    return markdown([about, *scores.values()], rows)


def emptiness(
    about: str,
    arms: Mapping[Any, tuple[Any, ...]],
    summary: Sequence[Mapping[str, Any]],
    parts: Mapping[str, str],
) -> list[str]:
    """A table of how many structures were empty; none of runs that did not count them.

    Args:
      about: Head of the column of systems.
      arms: Systems by name, of each first what it is called.
      summary: Of `summarise`.
      parts: What is behind the names of the counts in it, and what is told of that.
    """
    names = {
        f"{name}{part}": f"{text}{told}"
        for part, told in parts.items()
        for name, text in EMPTY.items()
    }
    if not all(name in entry for entry in summary for name in names):
        return []
    tell = functools.partial(cell, places=1)
    return [compared(about, arms, summary, names, tell)]


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1) over the seeds of each system.

    Args:
      rows: one per run: ``system``, ``seed``, ``seconds`` and numbers; those are told
        that all runs of a system have.
    """
    summary = []
    for system in dict.fromkeys(row["system"] for row in rows):
        of_system = [row for row in rows if row["system"] == system]
        entry: dict[str, Any] = {"system": system, "seeds": len(of_system)}
        for name in _numbers(of_system):
            entry[name] = spread([row[name] for row in of_system])
        summary.append(entry)
    return summary


def differences(
    rows: Sequence[Mapping[str, Any]], reference: str
) -> list[dict[str, Any]]:
    """Each system minus one of them, seed by seed, with intervals.

    Args:
      rows: as in `summarise`.
      reference: the one; systems with less than two common seeds are left out.
    """
    runs = {(row["system"], row["seed"]): row for row in rows}
    found = []
    for system in dict.fromkeys(system for system, _ in runs if system != reference):
        seeds = [s for s in {r["seed"] for r in rows} if (system, s) in runs]
        seeds = sorted(seed for seed in seeds if (reference, seed) in runs)
        if len(seeds) < 2:
            continue
        ours, theirs = (
            [runs[name, seed] for seed in seeds] for name in (system, reference)
        )
        found.append(
            {
                "system": system,
                "seeds": len(seeds),
                **{
                    name: difference(
                        [row[name] for row in ours], [row[name] for row in theirs]
                    )
                    for name in _numbers([*ours, *theirs])
                },
            }
        )
    return found


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the numbers that every row has."""
    names = [name for name in rows[0] if name not in ("system", "seed", "seconds")]
    return [name for name in names if all(name in row for row in rows)]


def keep(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result where the next start looks for it; one process of many writes."""

    def write() -> None:
        with whole(path) as draft:
            draft.write_text(json.dumps(result, indent=1) + "\n")

    on_first(write, what=f"result {path.name}")


def conclude(
    name: str, results: Mapping[str, Any], table: str, workdir: Path, *, publish: bool
) -> None:
    """How a comparison ends: its numbers in a file, its table on the screen.

    Args:
      name: of the comparison's committed file.
      results: all numbers.
      table: in Markdown.
      workdir: of the comparison.
      publish: commit the numbers to `experiments/results` and its pages as well.
    """
    keep(workdir / "results.json", results)

    def tell() -> None:
        say(f"\n{table}\n\nwritten:\n  {workdir / 'results.json'}")
        if publish:
            for path in write_pages(name, results):
                say(f"  {path}")

    on_first(tell, what="table")


def write_pages(name: str, results: Mapping[str, Any]) -> list[Path]:
    """Writes a comparison's committed numbers, and the pages that show them."""
    # Here, since the pages are made of the comparisons' tables.
    from experiments.results.pages import EXPERIMENTS, changed

    path = EXPERIMENTS / "results" / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    pages = changed()
    for page, text in pages.items():
        page.write_text(text)
    return [path, *pages]
