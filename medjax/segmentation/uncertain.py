"""A segmentation with several answers, from a data set to an evaluated checkpoint.

Every method trains the same network on the same patches for as many updates, and is
scored by the same function of its answers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from medjax.data.ledger import Ledger
from medjax.metrics.cases import in_words
from medjax.segmentation.answers import AnswersConfig, check, evaluate, images_of
from medjax.segmentation.datasets.case import Case
from medjax.segmentation.datasets.embedded import AmbiguousPhantoms
from medjax.segmentation.dropout import DropoutConfig, Dropped
from medjax.segmentation.fingerprint import shape_of
from medjax.segmentation.hierarchical import HierarchicalConfig, Hierarchy
from medjax.segmentation.phiseg import PHiSegConfig, Pyramid
from medjax.segmentation.prepared import SegmentationData
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.probunet import GlobalLatent, ProbUNetConfig
from medjax.segmentation.several import EnsembleConfig, Jitter, ViewsConfig
from medjax.segmentation.ssn import LowRank, SSNConfig
from medjax.segmentation.system import SegmentationConfig
from medjax.segmentation.training import (
    PREDICT,
    SegmentationTraining,
    described,
    fitted,
    opened,
    patches_of,
)
from medjax.segmentation.uncertain_report import show
from medjax.segmentation.unfamiliar import detection
from medjax.train.agree import on_first
from medjax.train.ensemble import members_apart

Method = Literal[
    "hierarchical",
    "probunet",
    "phiseg",
    "ssn",
    "dropout",
    "tta",
    "ensemble",
    "deterministic",
]
METHODS: Mapping[Method, str] = {
    "deterministic": "U-Net",
    "tta": "test-time augmentation",
    "dropout": "MC dropout",
    "ensemble": "deep ensemble",
    "probunet": "Probabilistic U-Net",
    "phiseg": "PHiSeg",
    "ssn": "stochastic segmentation network",
    "hierarchical": "hierarchical uncertainty",
}
USE = """
To draw answers and maps of uncertainty of images, in Python:

    import medjax
    run = medjax.load({path})
    (answers,) = run.samples(["a.nii.gz"], 8)        # label maps
    (maps,) = run.uncertainty(["a.nii.gz"])          # .maps: entropy, mi, ...
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uncertainty(SegmentationTraining):
    """One training run; every field is a flag."""

    uses: ClassVar[dict[str, str]] = {"predict": PREDICT, "samples": USE}

    method: Method = "hierarchical"
    """Where several answers come from."""
    samples: int = 16
    """Answers that maps are averages of; 0: one, in which nothing is drawn."""
    at_once: int = 4
    """Answers that are computed together."""
    system: Hierarchy = Hierarchy()
    """Of hierarchical: the latents."""
    probunet: GlobalLatent = GlobalLatent()
    """Of probunet: the latent."""
    phiseg: Pyramid = Pyramid()
    """Of phiseg: the latents."""
    ssn: LowRank = LowRank()
    """Of ssn: the covariance."""
    dropout: Dropped = Dropped()
    """Of dropout: what is dropped."""
    tta: Jitter = Jitter()
    """Of tta: the views."""
    members: int = 5
    """Of ensemble: how many."""
    evaluation: AnswersConfig = AnswersConfig()
    """What is scored at the end."""


def system_of(config: Uncertainty, found: SegmentationData) -> SegmentationConfig:
    """Settings of the system that the method names, with what the plan decided."""
    plain = described(config, found)
    if config.method == "deterministic":
        return plain
    rows = patches_of(config, plain, found).rows
    _, train = config.resolved(rows=rows, batch_size=found.plan.batch_size)
    kinds: Mapping[str, tuple[Callable[..., SegmentationConfig], dict[str, Any]]] = {
        "hierarchical": (HierarchicalConfig, {"hierarchy": config.system}),
        "probunet": (ProbUNetConfig, {"latent": config.probunet}),
        "phiseg": (PHiSegConfig, {"pyramid": config.phiseg}),
        "ssn": (SSNConfig, {"covariance": config.ssn}),
        "dropout": (DropoutConfig, {"dropout": config.dropout}),
        "tta": (ViewsConfig, {"jitter": config.tta}),
        "ensemble": (EnsembleConfig, {"members": config.members}),
    }
    kind, options = kinds[config.method]
    base = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    return kind(
        **base,
        samples=config.samples,
        at_once=config.at_once,
        steps=train.steps,
        **options,
    )


def run(config: Uncertainty) -> dict[str, Any]:
    """Plans, trains, scores and reports; goes on where an earlier call stopped.

    Args:
        config: The run.

    Returns:
        The evaluation, as in ``evaluation.json``.
    """
    if config.method == "ensemble":
        apart = members_apart(config.optimizer)
        config = dataclasses.replace(config, optimizer=apart)
    ledger = Ledger(config.data.on_error)
    found, held_out = opened(config, ledger)
    check(found.data)
    model = fitted(config, found, system_of(config, found))
    results, page = evaluated(config, model, found, held_out, ledger)

    def keep() -> None:
        path = page()
        if ledger.skipped:
            ledger.write_skipped(config.workdir / "skipped.csv")
            print(ledger.summary())
        for name in ("dice", "ged_squared", "ncc", "roi_ece", "ueo", "excess_nll"):
            if name in results["scores"]:
                entry = results["scores"][name]
                empty = "".join(f", {told}" for told in in_words(entry))
                print(f"{name}: {entry['mean']:.4f}{empty}")
        print(f"report: {path}")

    on_first(keep, what="report")
    return results


def evaluated(
    config: Uncertainty,
    model: Segmenter,
    found: SegmentationData,
    held_out: Sequence[Case],
    ledger: Ledger,
) -> tuple[dict[str, Any], Callable[[], Path]]:
    """All scores of a trained system.

    Args:
        config: The run.
        model: The system.
        found: What it was trained on.
        held_out: Cases that are scored.
        ledger: Takes what cannot be read.

    Returns:
        The evaluation, and what writes it and its page into the run's folder.
    """
    results, shown, calibration = evaluate(
        model, found.data, held_out, config.evaluation, ledger
    )
    network = shape_of(found.plan.network)
    about = {"method": config.method, "network": network, "step": model.step}
    results, unfamiliar = about | results, {}
    if isinstance(found.data, AmbiguousPhantoms) and config.evaluation.strengths:
        images = images_of(held_out)[: config.evaluation.images]
        numbers = [int(cases[0].patient) for cases in images]
        results["unfamiliar"], unfamiliar = detection(
            model, found.data, numbers, config.evaluation.strengths
        )

    def page() -> Path:
        return show(
            config.workdir,
            results,
            shown,
            calibration,
            unfamiliar,
            title=config.about,
            subtitle=f"{METHODS[config.method]}; {found.data.name}; {network}, "
            f"{model.step} updates",
        )

    return results, page
