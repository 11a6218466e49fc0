"""A segmentation from a data set to an evaluated checkpoint: plan, fit, score, show."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.metrics.cases import in_words
from medjax.segmentation.augment import AugmentConfig, source_extent
from medjax.segmentation.datasets import Case
from medjax.segmentation.evaluate import ScoringConfig, evaluate
from medjax.segmentation.fingerprint import PlanConfig, shape_of
from medjax.segmentation.inference import WindowConfig
from medjax.segmentation.lesionmix.augmentation import (
    COLLECTION,
    Mixer,
    MixingConfig,
    make_mixing,
)
from medjax.segmentation.losses import LossConfig
from medjax.segmentation.prepared import SegmentationData
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.sampling import PatchConfig, Patches
from medjax.segmentation.sets import SegmentationDataConfig, prepared_set
from medjax.segmentation.show import before_and_after, show
from medjax.segmentation.system import (
    SegmentationConfig,
    SegmentationSystem,
)
from medjax.segmentation.systems import SegmentationRecord
from medjax.train.agree import on_first
from medjax.train.checkpoint import saved_steps
from medjax.train.experiment import Experiment
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.mesh import make_mesh
from medjax.typing import Variables

PREDICT = """
To segment images of your own (NIfTI files, folders, patterns):

    python -m experiments.predict {run} IMAGES --out predicted

Sets as training reads them, with label maps or without:

    python -m experiments.predict {run} ROOT --format nnunet --out predicted
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationTraining(Experiment):
    """What all training runs of this domain have; every field is a flag."""

    uses: ClassVar[dict[str, str]] = {"predict": PREDICT}

    data: SegmentationDataConfig = SegmentationDataConfig()
    """What is segmented."""
    plan: PlanConfig = PlanConfig()
    """What is chosen of patch and network."""
    loss: LossConfig = LossConfig()
    """Terms of the loss."""
    augment: AugmentConfig = AugmentConfig()
    """What happens to patches."""
    mixing: MixingConfig = MixingConfig()
    """Of sets with one kind of lesion: whether lesions are put in or taken away before
    that, and how."""
    blend: Literal["probability", "logits"] = "logits"
    """What overlapping tiles and mirror images are averaged in."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic."""
    window: WindowConfig = WindowConfig()
    """Tiles of whole volumes."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How processes find each other."""
    workdir: Path = Path("runs/segment")
    """Folder of the run; the same command on the same folder resumes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(SegmentationTraining):
    """One training run; every field is a flag."""

    evaluation: ScoringConfig = ScoringConfig()
    """What is scored at the end."""


def run(config: Segmentation) -> dict[str, Any]:
    """Plans, trains, scores and reports; goes on where an earlier call stopped.

    Args:
      config: The run.

    Returns:
      The evaluation, as in ``evaluation.json``.
    """
    ledger = Ledger(config.data.on_error)
    found, held_out = opened(config, ledger)
    settings = described(config, found)
    sources = sources_of(config, settings, found)
    model = fitted(config, found, settings, sources)
    results, shown = evaluate(model, found.data, held_out, config.evaluation, ledger)
    network = shape_of(settings.network)
    results = {"network": network, "step": model.step, **results}

    def keep() -> None:
        page = show(
            config.workdir,
            results,
            shown,
            before_and_after(settings, found.plan.batch_size, *sources),
            title=config.about,
            subtitle=f"{found.data.name}; {network}, {model.step} updates",
        )
        if ledger.skipped:
            ledger.write_skipped(config.workdir / "skipped.csv")
            print(ledger.summary())
        for row in results["scores"]:
            print(
                f"{row['structure']}: Dice {row['dice']:.3f}, HD95 (MONAI) "
                f"{row['hd95_monai']:.1f} mm over {row['n']} cases"
                + "".join(f", {told}" for told in in_words(row))
            )
        print(f"report: {page}")

    on_first(keep, what="report")
    return results


def opened(
    config: SegmentationTraining, ledger: Ledger
) -> tuple[SegmentationData, list[Case]]:
    """The data that the flags name, and the cases that are scored.

    Raises:
        DataError: If no case is held out.
    """
    found = open_data(config, ledger)
    held_out = found.cases("test") or found.cases("validation")
    if not held_out:
        raise DataError(f"data: {found.data.name} has no case that is held out")
    return found, held_out


def fitted(
    config: SegmentationTraining,
    found: SegmentationData,
    settings: SegmentationConfig | None = None,
    sources: "Sources | None" = None,
) -> Segmenter:
    """Trains, or goes on training, and keeps what it takes to open the run again.

    Args:
        config: The run.
        found: What on.
        settings: Of the system; None: those of the plain network.
        sources: Of patches, if they are there already.
    """
    settings = described(config, found) if settings is None else settings
    record = SegmentationRecord(
        settings, found.preparation, found.data.name, config.window
    )
    system = record.build()
    able = ("predict",) if system.sample is None else ("predict", "samples")
    record = dataclasses.replace(record, can=able)
    sources = sources or sources_of(config, settings, found)
    variables = train(config, record, system, found, sources)
    return Segmenter(record, saved_steps(config.stored)[-1], system, variables)


def open_data(config: SegmentationTraining, ledger: Ledger) -> SegmentationData:
    """The data that the flags name, planned and prepared.

    Raw sets are prepared into the run's folder once.

    Args:
      config: The run.
      ledger: Counts filters, takes what cannot be read.
    """
    return prepared_set(config.data, config.plan, config.workdir / "data", ledger)


def described(
    config: SegmentationTraining, found: SegmentationData
) -> SegmentationConfig:
    """Settings of the system, with what the plan decided."""
    return SegmentationConfig(
        network=found.plan.network,
        patch=found.plan.patch,
        channels=len(found.data.channels),
        labels=found.data.labels,
        loss=config.loss,
        augment=config.augment,
        blend=config.blend,
        dtype=config.dtype,
    )


Sources = tuple[Patches, Mixer | None]
"""The patches that a run trains on, and what mixes them."""


def patches_of(
    config: SegmentationTraining, settings: SegmentationConfig, found: SegmentationData
) -> PatchConfig:
    """Which patches a run trains on."""
    return PatchConfig(
        patch=settings.patch,
        source=source_extent(settings.augment, settings.patch),
        batch_size=found.plan.batch_size,
        foreground=config.data.foreground,
    )


def sources_of(
    config: SegmentationTraining, settings: SegmentationConfig, found: SegmentationData
) -> Sources:
    """The patches that a run trains on; with mixing, a bank of the training cases."""
    patches = patches_of(config, settings, found)
    if config.mixing.method == "none":
        return Patches(found.train, patches), None
    axes = found.preparation.order[3 - len(settings.patch) :]
    spacing = tuple(float(found.preparation.spacing[i] or 1.0) for i in axes)
    held_out = [case.id for case in found.data.cases if case.split != "train"]
    return make_mixing(
        config.mixing, found.train, patches, spacing, settings.labels, held_out=held_out
    )


def train(
    config: SegmentationTraining,
    record: SegmentationRecord,
    system: SegmentationSystem,
    found: SegmentationData,
    sources: Sources,
) -> Variables:
    """Trains, or goes on training, in the run's folder.

    Args:
      config: The run.
      record: What the run says of itself.
      system: What is trained.
      found: What on.
      sources: Its patches.

    Returns:
      Its variables (averaged, if asked for) on this process's first device.
    """
    mesh = make_mesh(config.mesh)
    (patches, mixer), size = sources, found.plan.batch_size
    trained = system if mixer is None else mixer.system(system)
    stream = build_pipeline(
        patches,
        # Patches are drawn with replacement already.
        PipelineConfig(
            batch_size=size,
            seed=config.data.seed,
            shuffle=False,
            workers=config.data.workers,
        ),
        transform=patches.cut,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    # A record of other settings stays until their checkpoints have been resumed.
    variables = config.fit_recorded(
        lambda: record,
        trained,
        stream,
        rows=len(patches),
        batch_size=size,
        mesh=mesh,
        rules=trained.rules,
        remade=() if mixer is None else mixer.collections,
    )
    return {k: v for k, v in variables.items() if k != COLLECTION}  # it did its work
