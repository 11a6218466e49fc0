"""What the arms of the comparison of attention come to: differences and verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench.tables import markdown
from experiments.compare.attention_hearts import CONDITIONS, Condition
from experiments.compare.publishing import judged

Arm = tuple[str, str]
ARMS: tuple[Arm, ...] = (
    ("frames", "apart"),
    ("neighbours", "apart"),
    ("frames", "added"),
    ("neighbours", "added"),
)
"""What attends to what, and whether the denoiser has a part that sees all frames."""
IN_CONTROLS = ARMS[:2]
EFFECTS: Mapping[str, tuple[Condition, Arm, Arm]] = {
    "attention, frames apart (the endpoint)": ("shared", ARMS[0], ARMS[1]),
    "attention, frames mixed": ("shared", ARMS[2], ARMS[3]),
    "mixing, no attention over frames": ("shared", ARMS[3], ARMS[1]),
    "mixing, with it": ("shared", ARMS[2], ARMS[0]),
    "attention, masks that move on": ("shifted", ARMS[0], ARMS[1]),
    "attention, frames of different hearts": ("exchanged", ARMS[0], ARMS[1]),
}
"""What is compared: the condition, and which arm minus which."""
CONTROL = "attention, masks that move on"
"""Where attention has to win."""
BLIND = "within the margin, as the positive control is: not decided"
"""What is said instead of *equivalent* where that would be said of the control too."""


def fell(rows: Sequence[Mapping[str, Any]]) -> float:
    """The share by which the watched endpoint fell over the last fifth of a run.

    Args:
      rows: Of its metrics.
    """
    seen = [(row["step"], row["eval/t1"]) for row in rows if "eval/t1" in row]
    last = seen[-1][0]
    then = min(seen, key=lambda pair: abs(pair[0] - 0.8 * last))[1]
    return (then - seen[-1][1]) / then


def effects(
    runs: Sequence[Mapping[str, Any]], *, margin: float
) -> list[dict[str, Any]]:
    """Every difference that the runs allow, with its interval and its verdict.

    Args:
      runs: Of `compare`.
      margin: ms.

    Returns:
      Of each the words of `medjax.metrics.statistics`, but *equivalent* nowhere where
      the positive control is: a margin that hides what has to be seen decides nothing.
    """
    of = {(r["condition"], tuple(r["arm"]), r["seed"]): r["errors"] for r in runs}
    found = []
    for name, (condition, first, second) in EFFECTS.items():
        seeds = sorted(
            seed
            for where, arm, seed in of
            if (where, arm) == (condition, first) and (condition, second, seed) in of
        )
        if not seeds:
            continue
        pair = [
            np.array([of[condition, arm, seed] for seed in seeds])
            for arm in (first, second)
        ]
        verdict = judged(*pair, margin=margin, lower_is_better=True)
        found.append({"effect": name, **verdict})
    control = [e["verdict"] for e in found if e["effect"] == CONTROL]
    for effect in found:
        # Who cannot tell what has to be seen from nothing cannot tell anything from it.
        equal = effect["verdict"] == "equivalent" and effect["effect"] != CONTROL
        if control == ["equivalent"] and equal:
            effect["verdict"] = BLIND
    return found


def table(results: Mapping[str, Any]) -> str:
    """Endpoints of the arms and the verdicts in Markdown, ms."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for run in results["runs"]:
        groups.setdefault((run["condition"], *run["arm"]), []).append(run)
    rows = [
        [
            CONDITIONS[condition],  # pyright: ignore[reportArgumentType]
            f"among {attends}",
            {"apart": "no", "added": "yes"}[mixing],
            *(
                f"{np.mean([run[k] for run in group]):.1f}"
                for k in ("before", "errors")
            ),
            f"{100 * np.mean([run['fell'] for run in group]):.1f} %",
        ]
        for (condition, attends, mixing), group in groups.items()
    ]
    heads = ["condition", "attention", "denoiser of all frames", "start", "end"]
    arms = markdown([*heads, "fell in the last fifth"], rows)
    bounds = markdown(
        ["condition", "zero-filled", "known subspace of frames"],
        [
            [
                CONDITIONS[condition],  # pyright: ignore[reportArgumentType]
                *(f"{found[k]:.1f}" for k in ("zero_filled", "subspace")),
            ]
            for condition, found in results["bounds"].items()
        ],
    )
    verdicts = [
        [
            effect["effect"],
            f"{effect['mean']:+.1f} [{effect['low']:+.1f}, {effect['high']:+.1f}]",
            f"{effect['seeds']} x {effect['subjects']}",
            effect["verdict"],
        ]
        for effect in results["effects"]
    ]
    told = ["difference", "T1 RMSE, ms, 95 %", "seeds x hearts"]
    told.append(f"verdict (margin {results['margin']:g} ms)")
    return "\n\n".join([bounds, arms, markdown(told, verdicts)])
