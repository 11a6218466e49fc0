"""Runs of reconstructions that are compared: systems, rates, training, scores."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from jaxtyping import Array

from experiments.compare.publishing import finished, keep
from experiments.compare.tuning import tuned
from medjax.mri.latent_transformer import LatentTransformerConfig
from medjax.mri.reconstruction import Reconstruction, train
from medjax.mri.reconstruction_scores import (
    Method,
    cg_sense,
    evaluate,
    learned,
    low_rank_plus_sparse,
    zero_filled,
)
from medjax.mri.scans import Scans, ScansConfig, batch_of, open_scans
from medjax.mri.systems import build
from medjax.mri.unrolled import UnrolledConfig
from medjax.mri.varnet import VarNetConfig
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig
from medjax.typing import Batch

Arm = Literal[
    "varnet", "varnet_given", "latent_transformer", "without_attention", "cartesian"
]
NETWORK = LatentTransformerConfig(
    widths=(8, 16), denoiser_widths=(16, 16, 16), heads=2, layers=1
)
# The phantoms' coil maps are exact, so that there is nothing to refine in them.
LATENT = UnrolledConfig(network=NETWORK, scale=5.0, cg_iterations=6)
# Maps are found by a network of the published width: with two channels, not eight, some
# seeds hardly learn.
VARNET = VarNetConfig(
    cascades=2, chans=6, pools=2, sens_chans=8, sens_pools=2, remat=False
)
ARMS: Mapping[Arm, tuple[str, VarNetConfig | UnrolledConfig]] = {
    "varnet": ("VarNet", VARNET),
    "varnet_given": (
        "VarNet with the given maps",
        dataclasses.replace(VARNET, given_maps=True),
    ),
    "latent_transformer": ("Latent Transformer", LATENT),
    "without_attention": (
        "the same without temporal attention",
        dataclasses.replace(
            LATENT, network=dataclasses.replace(NETWORK, attention=False)
        ),
    ),
    "cartesian": (
        "Latent Transformer of real and imaginary parts",
        dataclasses.replace(
            LATENT, network=dataclasses.replace(NETWORK, parts="cartesian")
        ),
    ),
}
TUNED: Mapping[Arm, Arm] = {
    "varnet": "varnet",
    "varnet_given": "varnet",
    "latent_transformer": "latent_transformer",
    "without_attention": "latent_transformer",
    "cartesian": "latent_transformer",
}
"""Whose learning rate a system takes; what is ablated takes that of the whole."""
SENSE_WEIGHTS = {"lam": (0.0, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)}
SPLIT_WEIGHTS = {
    "lam_low_rank": (0.03, 0.1, 0.3, 0.6),
    "lam_sparse": (0.003, 0.01, 0.03, 0.1),
}
TUNED_ON = 4
"""Training phantoms that weights and rates are chosen on."""
RATE_SEEDS = (1000, 1002, 1004)
"""Of the runs that rates are chosen by; the next of each is that of hearts they see."""
RATES_WIDER, RATES_ALIKE = 3.0, 0.05
"""Factor from an edge of the rates to the next, and the share of an error by which two
do not differ: the smaller is taken."""
DATA = ScansConfig(
    height=48,
    width=32,
    acs=8,
    acceleration=(4, 8, 10),
    patients=64,
    test_patients=8,
    batch_size=2,
)
"""The phantoms; series and seed are set by the comparison."""


def data_told(data: ScansConfig) -> dict[str, Any]:
    """What a comparison keeps of its data: where fetched sets lie changes nothing."""
    kept = dataclasses.asdict(data) | {"root": str(data.root)}
    del kept["cache"]
    return kept


class Asked(Protocol):
    """What a learning rate is chosen by."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Peak learning rates to choose from."""
        ...

    @property
    def tuning_steps(self) -> int:
        """Updates of the runs that a rate is chosen by."""
        ...

    @property
    def data(self) -> ScansConfig:
        """The phantoms."""
        ...

    @property
    def workdir(self) -> Path:
        """One folder per run in it."""
        ...

    @property
    def finished(self) -> bool:
        """Take the runs that are finished, and start none."""
        ...


def chosen_rate(name: Arm, config: Asked) -> dict[str, Any]:
    """The peak learning rate of least NMSE after few updates, at no edge of the grid.

    Runs of `RATE_SEEDS` are judged on hearts that they were not trained on and that no
    system of the comparison is judged on.

    Returns:
      ``rate``, and ``nmse``: the errors of all that were tried, summed over the hearts.

    Raises:
      ValueError: Only finished runs are asked for, and no rate was chosen.
    """
    folder = config.workdir / f"rate-{name}"
    asked: list[Any] = [config.tuning_steps, list(config.rates), list(RATE_SEEDS)]
    asked += [repr(config.data), repr(ARMS[name][1])]
    known = finished(folder, asked, "(steps, rates, seeds, data, system)")
    if known is not None:
        return {"rate": known["rate"], "nmse": known["nmse"]}
    if config.finished:
        raise ValueError(f"workdir: no rate of {name} was chosen in {config.workdir}")
    of_seeds = {
        seed: dataclasses.replace(config.data, series="t2", seed=seed)
        for pair in RATE_SEEDS
        for seed in (pair, pair + 1)
    }
    batches = [
        {"seed": seed, **batch_of(row, acceleration=acceleration, acs=config.data.acs)}
        for seed in RATE_SEEDS
        for row in _first(open_scans(of_seeds[seed + 1]), TUNED_ON)
        for acceleration in config.data.acceleration
    ]

    @functools.cache
    def trained(seed: int, lr: float) -> Method:
        data, place = of_seeds[seed], folder / f"{seed}-{lr:g}"
        scans = open_scans(data)
        return trained_system(name, scans, data, place, config.tuning_steps, lr)

    def method(batch: Batch, *, lr: float) -> Array:
        arrays = {key: value for key, value in batch.items() if key != "seed"}
        return trained(batch["seed"], lr)(arrays)

    errors: dict[tuple[float, ...], float] = {}
    best = tuned(
        method,
        {"lr": config.rates},
        batches,
        wider=RATES_WIDER,
        slack=RATES_ALIKE,
        errors=errors,
    )
    nmse = {f"{lr:g}": error for (lr,), error in sorted(errors.items())}
    chosen = {"rate": best["lr"], "nmse": nmse}
    keep(folder / "result.json", {"budget": asked, **chosen})
    return chosen


def _first(scans: Scans, count: int) -> list[Any]:
    """Some training phantoms."""
    return [scans.train[i] for i in range(min(count, len(scans.train)))]


def trained_system(
    name: Arm, scans: Scans, data: ScansConfig, folder: Path, steps: int, lr: float
) -> Method:
    """A system after its training, which goes on where it was stopped."""
    label, settings = ARMS[name]
    run = Reconstruction(
        about=f"{label}, seed {data.seed}, rate {lr:g}",
        system=settings,
        data=data,
        optimizer=OptimizerConfig(lr=lr, clip_norm=1.0, schedule="cosine"),
        train=TrainConfig(
            steps=steps, log_every=20, checkpoint_every=100, keep=1, seed=data.seed
        ),
        workdir=folder,
    )
    system = build(settings, run.kernels)
    return learned(system, train(run, system, scans))


def scores_of(
    methods: Mapping[str, Method],
    scans: Scans,
    data: ScansConfig,
    accelerations: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """What methods come to on the held-out phantoms, a row per acceleration."""
    results, _ = evaluate(
        methods,
        scans.test,
        contrast=data.series,
        accelerations=accelerations or data.acceleration,
        acs=data.acs,
    )
    return results["scores"]


def classical_scores(
    scans: Scans, data: ScansConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Scores of the methods without training, and the weights they ran with."""
    scores, chosen = [], []
    for acceleration in data.acceleration:
        batches = [
            batch_of(row, acceleration=acceleration, acs=data.acs)
            for row in _first(scans, TUNED_ON)
        ]
        for_sense = tuned(cg_sense, SENSE_WEIGHTS, batches)
        for_split = tuned(low_rank_plus_sparse, SPLIT_WEIGHTS, batches)
        methods: dict[str, Method] = {
            "zero-filled": zero_filled,
            "CG-SENSE": functools.partial(cg_sense, **for_sense),
            "L+S": functools.partial(low_rank_plus_sparse, **for_split),
        }
        scores += scores_of(methods, scans, data, (acceleration,))
        chosen.append({"acceleration": acceleration, **for_sense, **for_split})
    return scores, chosen
