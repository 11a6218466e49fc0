"""Whole steps compiled for machines that are not here, and what compiling takes.

Each by the command that a user would give, in a process of its own, whose time and
memory are looked at as well.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medjax.progress import say

MACHINES: Mapping[str, tuple[str, ...]] = {
    "v5e-16": (),
    # Of each device as many rows as the first has. With twice as many libtpu 0.0.42.1
    # overflowed its stack, under `ulimit -s 1000000` too.
    "v6e-256": ("--data.batch-size", "1024"),
    "h200-1x8": (),
}
"""What is planned for, with the flags that it takes."""
MINUTES = 3
"""Of a processor, in which a plan is to be made."""
MEMORY = 9e9
"""Bytes with which."""


def command(name: str) -> list[str]:
    """The words behind ``python -m``."""
    words = ["experiments.plan", "imitate", "tiny", "--topology", name]
    return [*words, *MACHINES[name]]


def absent() -> list[dict[str, Any]]:
    """Plans of IMITATE's ``tiny``, and what making each of them took.

    Raises:
      ValueError: One could not be made; its own words are on the screen.
    """
    found = []
    for name in MACHINES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.json"
            words = [*command(name), "--no-cache", "--json", str(path)]
            used = taken([sys.executable, "-m", *words])
            plan = json.loads(path.read_text())
        sums: dict[str, dict[str, int]] = {}
        for one in plan["collectives"]:
            total = sums.setdefault(one["kind"], {"count": 0, "bytes": 0})
            for key in total:
                total[key] += one[key]
        found.append(
            {
                "topology": name,
                "devices": plan["topology"]["devices"],
                "batch": plan["batch"],
                "compiled": plan["compiled"],
                "need": plan["memory"]["need"],
                "fits": plan["memory"]["fits"],
                "collectives": sums,
                "step_s": plan["step"]["seconds"],
                "binds": plan["step"]["binds"],
                **used,
            }
        )
        say(f"absent: {name} is planned")
    return found


STARTER = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
found = {
    "status": os.waitstatus_to_exitcode(status),
    "cpu_s": usage.ru_utime + usage.ru_stime,
    "memory": 1024 * usage.ru_maxrss,  # Linux counts KiB
}
print(json.dumps(found))
"""
"""Starts a command: Linux counts the memory of whoever does as the command's own, so it
has to be somebody small."""


def taken(command: Sequence[str]) -> dict[str, float]:
    """Seconds of processors and bytes of memory that a command takes.

    Raises:
      ValueError: It failed.
    """
    # Not the quick and poor code that the rest of the comparison is looked at in.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    told = subprocess.run(
        [sys.executable, "-c", STARTER, *command],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(told.stdout)
    if status := found.pop("status"):
        raise ValueError(f"{' '.join(command)} ended with {status}")
    return found


def absent_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was planned for absent machines, for a reader."""
    lines = "\n".join(
        f"| {r['topology']} | {r['batch']} | {'' if r['fits'] else 'does not fit: '}"
        f"{r['need'] / 1e6:,.0f} MB | {_moved(r['collectives'])} | "
        f"{1e3 * r['step_s']:.2f}, {r['binds']} | {r['cpu_s']:.0f} | "
        f"{r['memory'] / 1e9:.1f} GB |"
        for r in rows
    )
    quick = all(r["cpu_s"] <= 60 * MINUTES and r["memory"] <= MEMORY for r in rows)
    met = "is met" if quick else "is **missed**"
    whole = all(r["compiled"] for r in rows)
    commands = "\n".join(f"python -m {' '.join(command(r['topology']))}" for r in rows)
    return f"""IMITATE's `tiny` step, {"compiled" if whole else "**not compiled**"} for
machines that are not here, by

```
{commands}
```

What a device needs, what travels on each, and the step's time, a prediction, with what
binds it. With 2048 rows the compiler for the v6e-256 (libtpu 0.0.42.1) overflows its
stack, and the command falls with it. The goal of at most {MINUTES} minutes of a
processor and {MEMORY / 1e9:.0f} GB for each plan {met}:

| machine | batch | a device needs | travels | a step, ms | CPU, s | with |
|---|---|---|---|---|---|---|
{lines}
"""


def _moved(kinds: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(
        f"{each['count']:,} x {kind}, {each['bytes'] / 1e6:,.2f} MB in all"
        for kind, each in sorted(kinds.items())
    )
