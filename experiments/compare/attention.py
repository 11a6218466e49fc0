"""Does attention over frames help? Two by two, with controls and a margin.

``python -m experiments.compare.attention`` answers for T1 maps from one coil, eight
times fewer lines, on hearts whose wall is five pixels thick or more. Two things let one
frame know of another: attention, whose control attends to neighbours of one frame with
as many parameters, and the denoiser, with or without a part that sees all frames. All
four arms of a seed go on from one network that knows each frame alone, and attention
and the added part are silent at first: they start equal, to the last weight.

Two controls say whether the design could have seen an effect, and whether it makes one
up. Where masks move on from frame to frame, a frame's missing lines were sampled in
another, and attention has to win. That is so at every fourth line: of every eighth, one
coil's nine frames hold too little for anybody, as the first table says, where frames
are combinations of two known ones. Where every series is put together of frames of
different hearts, there is nothing to learn from another frame, and it must not.
A network that knows each frame alone cannot tell that condition from whole series, so
both go on from the same one.

The network is the published one but for what it sees: real and imaginary parts, not
magnitudes and phases (``--parts polar``). Frames that are aliased differently add up to
one that is not, in complex numbers alone.

One endpoint, named before anything is trained: the RMSE in ms of the T1 map against the
map of the noise-free series, in the myocardium without its outermost pixel, per
held-out heart. Differences are paired by heart and seed; the verdict is *better*,
*worse*, *equivalent* within the margin or *undecided*, and nothing else is said; but
nothing is called equivalent where the positive control would be. How flat a run's curve
was at its end is told beside it: by how much the endpoint fell over its last fifth, on
hearts that are neither trained on nor held out.

Every run has a folder of its own, and the same command goes on where it was stopped.
"""

import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from experiments.compare.attention_effects import (
    ARMS,
    IN_CONTROLS,
    Arm,
    effects,
    fell,
    table,
)
from experiments.compare.attention_hearts import CONDITIONS, Condition, Hearts
from experiments.compare.publishing import (
    asked_for,
    at_least_one,
    command,
    finished,
    keep,
    machine,
)
from medjax.mri.latent_transformer import LatentTransformerConfig, SingleCoilConfig
from medjax.mri.reconstruction import Reconstruction, train
from medjax.mri.reconstruction_scores import Method
from medjax.mri.scans import ScansConfig
from medjax.mri.series import ReconstructionSystem
from medjax.mri.systems import ReconstructionKernels, build
from medjax.train.launch import LaunchConfig
from medjax.train.log import read_metrics
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig
from medjax.typing import Variables

NETWORK = LatentTransformerConfig(
    widths=(8, 16),
    denoiser_widths=(8, 8, 8),
    heads=2,
    layers=1,
    attention=False,
    mixing="apart",
    silent=True,
)
"""What all arms go on from: every frame by itself."""
START: Mapping[Condition, Condition] = {
    "shared": "shared",
    "shifted": "shifted",
    "exchanged": "shared",
}
"""Where the network was trained that the arms of a condition go on from."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How many seeds and hearts, how much training, which margin."""

    conditions: tuple[Condition, ...] = tuple(CONDITIONS)
    """Which of the three; the controls have the arms without mixing only."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, training hearts and masks."""
    warm_steps: int = 300
    """Updates of the network that all arms of a seed go on from."""
    steps: int = 1000
    """Updates of every arm after that."""
    parts: Literal["cartesian", "polar"] = "cartesian"
    """What the network sees of a complex image: real and imaginary part, or magnitude
    and phase, as published."""
    lr: float = 3e-3
    """Peak learning rate; it falls to nothing along a cosine."""
    margin: float = 10.0
    """ms: a difference of the endpoint below this does not matter."""
    size: int = 64
    """Rows and columns."""
    acceleration: int = 8
    """Spacing of the sampled lines."""
    moving_acceleration: int = 4
    """The same where masks move on, so that there is something to win."""
    acs: int = 8
    """Central lines."""
    patients: int = 96
    """Hearts to train on."""
    watched: int = 8
    """Hearts that only tell whether a curve is flat."""
    held_out: int = 24
    """Hearts that are judged."""
    batch_size: int = 2
    """Series of an update."""
    workdir: Path = Path("runs/compare-attention")
    """One folder per run in it; the same command goes on."""
    publish: bool = False
    """Write the committed results as well."""
    launch: LaunchConfig = LaunchConfig()
    """How this process starts."""

    def data(self, condition: Condition, seed: int) -> ScansConfig:
        """What is scanned: half of the chest, around the heart, by one coil."""
        moving = condition == "shifted"
        return ScansConfig(
            height=self.size,
            width=self.size,
            field_of_view=0.5,
            coils=1,
            acceleration=(self.moving_acceleration if moving else self.acceleration,),
            acs=self.acs,
            # Odd, so that four frames sample every line where one of four is taken.
            shift=3 if moving else 0,
            random_offset=False,
            patients=self.patients,
            test_patients=self.held_out,
            batch_size=self.batch_size,
            seed=seed,
        )


BUDGET = [
    f.name
    for f in dataclasses.fields(Comparison)
    if f.name not in ("conditions", "seeds", "margin", "workdir", "publish", "launch")
]


def compare(config: Comparison) -> dict[str, Any]:
    """Runs what is not finished yet, seed by seed.

    Args:
      config: What to compare.

    Returns:
      ``budget``, ``bounds`` (per condition, of `Hearts.bounds`, with the training
      hearts of the first seed), ``runs`` (per condition, arm and seed the endpoint of
      every heart in ms, ``before`` training on, and ``fell``) and ``effects``.

    Raises:
      ValueError: There is no condition or no seed, or a folder holds a run of another
        budget.
    """
    at_least_one(config, "conditions", "seeds")
    runs: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    bounds = {condition: _bounds(config, condition) for condition in config.conditions}
    for seed, condition in itertools.product(config.seeds, config.conditions):
        for arm in ARMS if condition == "shared" else IN_CONTROLS:
            folder = config.workdir / f"{condition}-{'-'.join(arm)}-{seed}"
            known = finished(folder, asked_for(config, BUDGET), ", ".join(BUDGET))
            if known is None:
                known = _run(config, condition, arm, seed, folder)
            runs.append({"condition": condition, "arm": list(arm), **known["run"]})
            results = {
                "budget": {**dict(zip(BUDGET, asked_for(config, BUDGET), strict=True))},
                "machine": machine(),
                "margin": config.margin,
                "bounds": bounds,
                "runs": runs,
                "effects": effects(runs, margin=config.margin),
            }
            keep(config.workdir / "results.json", results)
    return results


def _bounds(config: Comparison, condition: Condition) -> dict[str, float]:
    """What nothing learned and a known subspace come to; from its folder if there."""
    folder, budget = config.workdir / f"{condition}-bounds", asked_for(config, BUDGET)
    known = finished(folder, budget, ", ".join(BUDGET))
    if known is None:
        data = config.data(condition, config.seeds[0])
        found = _hearts(config, data, condition).bounds()
        known = {"budget": budget, "bounds": found}
        keep(folder / "result.json", known)
    return known["bounds"]


def _run(
    config: Comparison, condition: Condition, arm: Arm, seed: int, folder: Path
) -> dict[str, Any]:
    """One arm: trained on from the common start, judged before and after."""
    began = time.monotonic()
    warmed = START[condition]
    alone = dataclasses.replace(NETWORK, parts=config.parts)
    start = _trained(
        config,
        _hearts(config, config.data(warmed, seed), warmed),
        alone,
        seed,
        config.workdir / f"{warmed}-warm-{seed}",
        config.warm_steps,
    )
    hearts = _hearts(config, config.data(condition, seed), condition)
    before = hearts.errors(_method(alone, start))
    attends, mixing = arm
    network = dataclasses.replace(
        alone,
        attention=True,
        attends=attends,  # pyright: ignore[reportArgumentType]
        mixing=mixing,  # pyright: ignore[reportArgumentType]
    )
    variables = _trained(
        config, hearts, network, seed, folder, config.steps, pretrained=start
    )
    run = {
        "seed": seed,
        "before": before.tolist(),
        "errors": hearts.errors(_method(network, variables)).tolist(),
        "fell": fell(read_metrics(folder)),
        "seconds": round(time.monotonic() - began),
    }
    result = {"budget": asked_for(config, BUDGET), "run": run}
    keep(folder / "result.json", result)
    return result


@functools.lru_cache(maxsize=2)
def _hearts(config: Comparison, data: ScansConfig, condition: Condition) -> Hearts:
    """Scanned once for all arms; two, since a condition may begin in another."""
    return Hearts(data, condition, config.watched)


def _trained(
    config: Comparison,
    hearts: Hearts,
    network: LatentTransformerConfig,
    seed: int,
    folder: Path,
    steps: int,
    **options: Any,
) -> Variables:
    """The variables of a run that is finished, or is now."""
    run = Reconstruction(
        about=folder.name,
        system=SingleCoilConfig(network, scale=1.0),
        data=hearts.data,
        optimizer=OptimizerConfig(lr=config.lr, clip_norm=1.0, schedule="cosine"),
        train=TrainConfig(
            steps=steps,
            log_every=max(1, steps // 20),
            eval_every=max(1, steps // 10),
            checkpoint_every=max(1, steps // 4),
            keep=1,
            seed=seed,
        ),
        workdir=folder,
    )

    def watch(state: Any, step: int) -> dict[str, float]:
        del step
        method = _method(network, state.averaged_variables)
        return {"t1": float(hearts.errors(method, "watched").mean())}

    return train(run, _system(network), hearts.scans, evals=[watch], **options)


def _system(network: LatentTransformerConfig) -> ReconstructionSystem:
    return build(SingleCoilConfig(network, scale=1.0), ReconstructionKernels())


@functools.cache
def _reconstruct(network: LatentTransformerConfig) -> Callable[..., Any]:
    """Compiled once for all that a network of these settings is asked."""
    return jax.jit(_system(network).reconstruct)


def _method(network: LatentTransformerConfig, variables: Variables) -> Method:
    return functools.partial(_reconstruct(network), variables)


def main() -> int:
    """Compares, prints the tables, keeps the numbers."""
    return command("compare_attention", Comparison, compare, table, __doc__)


if __name__ == "__main__":
    sys.exit(main())
