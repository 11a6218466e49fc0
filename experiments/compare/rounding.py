"""How far apart is the same run on other devices? Rounding, amplified by training.

``python -m experiments.compare.rounding`` trains the ``tiny`` IMITATE on one, four and
eight host devices, at two learning rates, from the same weights and on the same
batches, and compares the losses step by step with those of one device. Sums over a
batch that is split are rounded in another order; what follows from that is training's
doing, not the devices'. ``--publish`` writes
``experiments/results/compare_rounding.json`` and the table of its page.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments import imitate
from experiments.bench.tables import markdown
from experiments.compare.publishing import command
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.train.launch import LaunchConfig
from medjax.train.log import read_metrics
from medjax.train.loop import fit
from medjax.train.mesh import make_mesh
from medjax.train.settings import TrainConfig
from medjax.vlp.corpus import open_corpus
from medjax.vlp.system import PretrainingSystem

PRESET = imitate.PRESETS["tiny"]


@dataclasses.dataclass(frozen=True)
class Rounding:
    """Which devices, which rates, how many steps."""

    devices: tuple[int, ...] = (1, 4, 8)
    """Devices of each run; all are compared with the first."""
    rates: tuple[float, ...] = (2e-5, 2e-3)
    """Learning rates, constant: a hundredth of the preset's, and the preset's."""
    steps: int = 8
    """Updates of each run."""
    batch_size: int = 32
    """Studies in a batch."""
    image_size: int = 32
    """Pixels of a film's side."""
    workdir: Path = Path("runs/compare-rounding")
    """One folder per run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results and the table of their page as well."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=8)
    """How this process starts."""


def compare(config: Rounding) -> dict[str, Any]:
    """Trains what is not trained yet.

    Args:
      config: What to compare.

    Returns:
      ``budget`` and ``runs``: a row per rate and number of devices, with its losses.
    """
    data = dataclasses.replace(
        PRESET.data,
        patients=200,
        batch_size=config.batch_size,
        image_size=config.image_size,
    )
    corpus = open_corpus(
        data, config.workdir / "data", tokenizer=None, max_tokens=PRESET.text.max_length
    )
    text = dataclasses.replace(PRESET.text, vocab_size=corpus.tokenizer.vocab_size)
    system = imitate.imitate(PRESET.system, PRESET.image, text, PRESET.loss)
    rows = []
    for rate in config.rates:
        for count in config.devices:
            source = corpus.source("train", ("image", *system.tokens))
            stream = build_pipeline(
                source,
                PipelineConfig(batch_size=config.batch_size, seed=0),
                transform=source.transform,
            )
            losses = _losses(system, stream, rate, count, config)
            rows.append({"rate": rate, "devices": count, "losses": losses})
    budget = {
        "system": PRESET.about,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "dtype": "float32",
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    return {"budget": budget, "runs": rows}


def _losses(
    system: PretrainingSystem, stream: Any, rate: float, count: int, config: Rounding
) -> list[float]:
    """The losses of one run, from its folder where it is finished."""
    workdir = config.workdir / f"{count}-{rate:g}"
    fit(
        system.init,
        system.loss,
        stream,
        workdir=workdir,
        optimizer=dataclasses.replace(
            PRESET.optimizer, lr=rate, schedule="constant", frozen=system.frozen
        ),
        train=TrainConfig(steps=config.steps, log_every=1, seed=0),
        mesh=make_mesh(devices=jax.devices()[:count]),
        phase=f"{count} devices, rate {rate:g}",
    )
    return [row["loss"] for row in read_metrics(workdir)]


def apart(results: Mapping[str, Any]) -> dict[tuple[float, int], list[float]]:
    """Relative differences of the losses from the first run's of each rate, by step."""
    first: dict[float, list[float]] = {}
    found = {}
    for run in results["runs"]:
        reference = first.setdefault(run["rate"], run["losses"])
        if run["losses"] is not reference:
            pairs = zip(run["losses"], reference, strict=True)
            differences = [abs(a - b) / abs(b) for a, b in pairs]
            found[run["rate"], run["devices"]] = differences
    return found


def table(results: Mapping[str, Any]) -> str:
    """The differences in Markdown, a row per step."""
    columns = apart(results)
    heads = [f"{devices} devices, rate {rate:g}" for rate, devices in columns]
    rows = [
        [str(step), *(f"{value:.1e}" for value in values)]
        for step, values in enumerate(zip(*columns.values(), strict=True), 1)
    ]
    return markdown(["step", *heads], rows)


def main() -> int:
    """Compares, prints the table, keeps the numbers."""
    return command("compare_rounding", Rounding, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
