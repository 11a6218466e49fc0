"""Any trained run as an object of its domain, which is what it says of itself."""

from pathlib import Path
from typing import Any

from medjax.data.boundary import DataError
from medjax.train.record import RECORD, read_family


def load(run: str | Path) -> Any:
    """Opens the folder of a run: weights, settings, preparation of its input.

    Args:
        run: Folder that ``python -m experiments.imitate`` and the like leave.

    Returns:
        A `medjax.vlp.pretrained.Pretrained` (``embed_images``, ``embed_texts``,
        ``zero_shot``, ``nearest``), a `medjax.vlp.finetuned.Finetuned` (``predict``),
        a `medjax.vlp.placed_run.Places` (``masks``, ``boxes``),
        a `medjax.vlp.diffusion.generator.DiffusionGenerator` (called with reports),
        a `medjax.mri.learned.Learned` (``reconstruct``), a
        `medjax.segmentation.pretrained.Segmenter` (``predict``, ``samples``,
        ``uncertainty``), a
        `medjax.segmentation.cmrxmotion.grader.TrainedGrader` (``grade``), a
        `medjax.heart.systems.Generator` (``complete``, ``generate``) or a
        `medjax.heart.tracker.Tracker` (``track``).

    Raises:
        FileNotFoundError: Where the folder is not a run's.
        DataError: Where what it says of itself is damaged or unknown.
        ValueError: Where it has no checkpoint yet.
    """
    run = Path(run)
    family = read_family(run)
    # Imported in turn: a domain costs a second, and its own libraries.
    from medjax.vlp.systems import FAMILIES as PAIRS

    if family in PAIRS:
        from medjax.vlp.pretrained import open_pair

        return open_pair(run)
    from medjax.vlp.finetuned import FAMILY as CLASSIFIER

    if family == CLASSIFIER:
        from medjax.vlp.finetuned import open_classifier

        return open_classifier(run)
    from medjax.vlp.placed_run import FAMILIES as PLACES

    if family in PLACES:
        from medjax.vlp.placed_run import open_places

        return open_places(run)
    from medjax.vlp.rendering.drawing import FAMILY as GENERATOR
    from medjax.vlp.rendering.drawing import TRAINED

    if family == GENERATOR:
        from medjax.vlp.diffusion.generator import DiffusionGenerator

        return DiffusionGenerator.load(run / TRAINED)
    from medjax.mri.systems import FAMILIES as RECONSTRUCTIONS

    if family in RECONSTRUCTIONS:
        from medjax.mri.learned import open_run

        return open_run(run)
    from medjax.segmentation.systems import FAMILIES as SEGMENTATIONS

    if family in SEGMENTATIONS:
        from medjax.segmentation.pretrained import open_run as open_segmenter

        return open_segmenter(run)
    from medjax.segmentation.cmrxmotion.grader import FAMILIES as GRADERS

    if family in GRADERS:
        from medjax.segmentation.cmrxmotion.grader import open_grader

        return open_grader(run)
    from medjax.heart.systems import FAMILIES as HEARTS

    if family in HEARTS:
        from medjax.heart.systems import open_run as open_heart

        return open_heart(run)
    from medjax.heart.motion_systems import FAMILIES as TRACKERS

    if family in TRACKERS:
        from medjax.heart.tracker import open_run as open_tracker

        return open_tracker(run)
    hearts = (*HEARTS, *TRACKERS)
    masks = (*SEGMENTATIONS, *GRADERS)
    films = (*PAIRS, CLASSIFIER, *PLACES, GENERATOR)
    known = ", ".join([*films, *RECONSTRUCTIONS, *masks, *hearts])
    raise DataError(
        f"{run / RECORD}: a run of {family!r}, which this version does not know; it "
        f"knows {known}"
    )
