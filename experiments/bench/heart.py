"""Parts of the heart's steps, value and gradient, beside what is usually done.

Each part with the same inputs in every form; by how much values and gradients differ
is told beside the times:

* ``one plane``: coverage of pixels in its local form, and dense: every segment in every
  pixel. ``planes``: eleven of them against the winding number of the mesh at the
  pixels' centres (dipoles of vertices, as differentiable slicers have it), in PyTorch
  over a sample of pixels, extrapolated.
* ``nearest``: keeping indices, against differentiating the minimum over all pairs, and
  against ``torch.cdist`` in chunks with a gather.
* ``sampling``: 48 channels at vertices, against ``torch.nn.functional.grid_sample``.
* ``message``: a step of messages by tables, by gathers and sums over segments (scatters
  in its gradient; their number is printed), and in PyTorch by ``index_add_``.
* ``DeepMesh step``, ``CHeart step``: loss and gradient of whole systems (the preset
  ``repo``, of DeepMesh the stage that moves a mesh, with the widths of ``tiny``), and
  their published graphs in PyTorch from the same weights. What differs is the gradient
  by all parameters.

Temporary memory is what the compiled program asks for; of PyTorch, by how much the
process grows. The winding number is another function than coverage: it is compared by
the areas that both find.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.bench import measure
from experiments.bench.goals import judging
from experiments.bench.heart_parts import Contestant, HeartConfig, parts

TARGETS = {
    ("nearest 4096 x 4096", "minimum over all pairs"): 5.0,
    ("nearest 4096 x 4096", "torch"): 1.0,
    ("planes", "torch"): 20.0,
    ("sampling", "torch"): 0.8,
    ("message", "torch"): 1.0,
    ("DeepMesh step", "torch"): 0.8,
    ("CHeart step", "torch"): 0.8,
}
"""How many times faster ours is to be on two cores of a CPU."""


def run(config: HeartConfig) -> dict[str, Any]:
    """Measures, compares, prints and writes.

    Args:
      config: Sizes.

    Returns:
      What the JSON file holds.

    Raises:
      AssertionError: Our step of messages has a scatter in its gradient.
    """
    found = {name: _measured(part, config) for name, part in parts(config).items()}
    steps = found.get("message")
    if steps is not None and steps["contestants"]["ours"]["scatters"]:
        raise AssertionError("message: the gradient of our step has a scatter")
    result = {
        "benchmark": "heart",
        "config": measure.settings(config),
        "dtype": "float32",
        "facts": measure.facts(),
        "parts": found,
    }
    print("\nheart\n" + measure.describe(result["facts"]) + "\n\n" + lines(result))
    measure.write(config.out, "heart", result)
    return result


def _measured(
    contestants: Mapping[str, Contestant], config: HeartConfig
) -> dict[str, Any]:
    timings = measure.take_turns(
        {name: c.work for name, c in contestants.items()}, turns=config.turns, warmup=1
    )
    ours = contestants["ours"]
    return {
        "contestants": {
            name: {
                "ms": [
                    1e3 * s / c.share
                    for s in (timings[name].median, *timings[name].spread)
                ],
                "temporary_bytes": c.temporary,
                "scatters": c.scatters,
                "extrapolated": c.share != 1.0,
                "differs_by": [
                    float(np.linalg.norm(a - b) / np.linalg.norm(b))
                    for a, b in zip(c.values, ours.values, strict=False)
                ],
            }
            for name, c in contestants.items()
        },
        "ours_times_faster": {
            name: {
                k: v / contestants[name].share
                for k, v in timings["ours"].faster_than(timings[name]).items()
            }
            for name in contestants
            if name != "ours"
        },
    }


def lines(result: Mapping[str, Any]) -> str:
    """All parts as one table, and what they say of the targets."""
    rows, judged = [], []
    for part, measured in result["parts"].items():
        for name, c in measured["contestants"].items():
            ratio = measured["ours_times_faster"].get(name)
            rows.append(
                [
                    part,
                    name + " (extrapolated)" * c["extrapolated"],
                    "{:.1f} ({:.1f}-{:.1f})".format(*c["ms"]),
                    measure.span(ratio, ".2f") if ratio else "",
                    measure.mebibytes(c["temporary_bytes"]),
                    "" if c["scatters"] is None else str(c["scatters"]),
                    ", ".join(f"{d:.0e}" for d in c["differs_by"]) if ratio else "",
                ]
            )
            target = TARGETS.get((part, name))
            if target is not None and ratio is not None:
                met = "met" if ratio["median"] >= target else "NOT met"
                if judging(device := result["facts"]["device"]) != "cpu":
                    met = f"of a CPU, not judged here (this is {device})"
                judged.append(f"target {target:g}x {name}, {part}: {met}")
    head = ["", "", "ms", "ours is times faster", "temporary", "scatters"]
    head += ["value, gradient differ by"]
    return "\n".join([measure.table(head, rows), "", *judged])
