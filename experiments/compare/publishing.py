"""Where a comparison's results go: a committed file, and a table of the README.

The table stands between two marks, ``<!-- name -->`` and ``<!-- /name -->``, so that
the text around it is written by hand and the numbers never are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.data.boundary import reading

HERE = Path(__file__).parents[1]


def finished(folder: Path, budget: Sequence[Any], what: str) -> dict[str, Any] | None:
    """What a finished run left in its folder; None where it is not finished.

    Args:
      folder: of the run.
      budget: what it has to have been run with.
      what: the meaning of that, as a message says it.

    Raises:
      DataError: what it left is damaged.
      ValueError: it was run with another budget.
    """
    kept = folder / "result.json"
    if not kept.exists():
        return None
    with reading(kept, "result of a finished run"):
        result = json.loads(kept.read_text())
        found = result["budget"]
    if found != list(budget):
        raise ValueError(
            f"workdir: {folder} was run with {what} = {found}, now {list(budget)}: use "
            "another workdir"
        )
    return result


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1) over seeds; no deviation of one seed."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd}


def cell(value: Mapping[str, float | None], *, places: int = 3, sign: str = "") -> str:
    """A `spread` as ``mean ± sd``."""
    text = f"{value['mean']:{sign}.{places}f}"
    return text if value["sd"] is None else f"{text} ± {value['sd']:.{places}f}"


def publish(
    name: str, results: Mapping[str, Any], table: str, *, folder: Path = HERE
) -> None:
    """Writes ``results/<name>.json``, and the table between its marks in the README.

    Args:
      name: of the comparison.
      results: anything JSON can hold.
      table: in Markdown.
      folder: where ``README.md`` and ``results`` are.

    Raises:
      ValueError: the README lacks the marks; nothing is written.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    readme = folder / "README.md"
    text = readme.read_text()
    if begin not in text or end not in text:
        raise ValueError(f"{readme}: the table goes between {begin} and {end}")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    path = folder / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    readme.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}")
