"""What a finished run leaves: a list of it on the screen, and how to use it, in words.

Every run's folder ends with a ``README.txt``, since whoever finds the folder in a year
has not seen the screen. It names what the system can do, as its ``system.json`` says
(the names of `System.apply`), each with the command and the lines of Python for it; the
domain has the words (`Experiment.uses`).
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import medjax
from medjax.data.boundary import reading
from medjax.data.whole import whole
from medjax.progress import say
from medjax.train.record import RECORD

README = "README.txt"
CONTENTS = {
    "config.json": "the settings it was started with",
    RECORD: "which system it is, and what its input looks like",
    "checkpoints": "weights and state; the same command goes on from there",
    "metrics.jsonl": "losses, rates and times, a row per logged step",
    "time.json": "where the time went, across all starts",
    "evaluation.json": "all scores",
    "mirror.json": "which state of its copy (--mirror) this folder goes on from",
    "profile": "a trace of some steps, for TensorBoard or Perfetto",
    "report.html": "the page of this run: open it in a browser",
    README: "how to use this run",
}
"""What the folder of any run holds, in the order in which it is told."""


FETCH = """
The whole run is on an object store; to use it, bring it to a disk:

    gcloud storage cp --recursive {store} .
""".strip()


def conclude(
    folder: Path,
    *,
    about: str,
    command: Sequence[str],
    contents: Mapping[str, str],
    uses: Mapping[str, str],
    store: str | None = None,
) -> None:
    """Writes ``README.txt`` and prints what the folder holds; for one process of many.

    Args:
      folder: Of the run.
      about: What it is, in a line.
      command: That made it.
      contents: What its domain leaves, by name.
      uses: How each ability is used, as in `Experiment.uses`.
      store: Address that has the whole run, where the folder is without checkpoints.
    """
    known = {**contents, **CONTENTS}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / README).touch()
    here = {name: why for name, why in known.items() if (folder / name).exists()}
    listed = "\n".join(
        f"  {_shown(folder, name):<18} {why}" for name, why in here.items()
    )
    used = str(folder) if store is None else folder.name
    run, path = shlex.quote(used), repr(used)
    able = abilities(folder, uses)
    told = [uses[name].format(run=run, path=path).strip() for name in able]
    parts = [
        f"{about}\n{'=' * len(about)}",
        f"Made by medjax {medjax.__version__} with\n\n    {shlex.join(command)}\n\n"
        "The same command goes on where the run was stopped.",
        *([] if store is None else [FETCH.format(store=shlex.quote(store))]),
        *told,
        f"What is here:\n\n{listed}",
    ]
    with whole(folder / README) as draft:
        draft.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    paths = {name: _shown(folder, name, full=True) for name in here}
    width = max(map(len, paths.values()))
    say("\nwritten:")
    for name, path in paths.items():
        say(f"  {path:<{width}}  {here[name]}")


def abilities(folder: Path, uses: Mapping[str, str]) -> list[str]:
    """What the run's system says it can do, as far as there are words for it.

    Raises:
      DataError: If its record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return []
    with reading(path, "record of a run"):
        able = json.loads(path.read_text()).get("can", [])
        return [name for name in uses if name in able]


def _shown(folder: Path, name: str, *, full: bool = False) -> str:
    """A file's name, or its path; folders end with a stroke."""
    stroke = "/" if (folder / name).is_dir() else ""
    return f"{folder / name if full else name}{stroke}"
