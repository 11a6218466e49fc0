"""Batches for training from prepared sets: one shape per batch, masks drawn per row.

Each bucket of :func:`~medjax.mri.cmrxrecon.prepare.prepare` makes batches of its own,
which are shuffled together (:mod:`medjax.data.pipeline`), and the iterator of the whole
can be checkpointed. `medjax.train.loop.fit` compiles a step per shape.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np

from medjax.data.pipeline import JoinedSource, PipelineConfig, build_pipeline
from medjax.data.records import RecordSource

Row = dict[str, Any]


def training_stream(
    sets: Mapping[tuple[int, ...], str | Path],
    split: str,
    config: PipelineConfig,
    *,
    acceleration: int,
    acs: int = 24,
    random_offset: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """A stream of batches, each of one shape.

    Batches hold ``kspace`` ``b t c h w``, ``sensitivities`` ``b c h w``, ``mask``
    ``b 1 h 1``, ``times`` ``b t``, ``label`` ``b h w`` and ``index`` ``b`` (the row,
    counted over the sorted buckets): what :mod:`medjax.mri.series` asks for.

    Args:
        sets: bucket to folder, as :func:`~medjax.mri.cmrxrecon.prepare` returns.
        split: which split of the sets.
        config: batch size, seed and the like.
        acceleration: nominal acceleration of the masks.
        acs: central lines.
        random_offset: start the lines of each row's mask anywhere in the spacing, as
            the Latent Transformer was trained; else at line 0, as in the challenge.
        process_index: which process this is (``jax.process_index()``).
        process_count: of how many. All take their buckets in one order, so that every
            process has a batch of the same shape in the same step.

    Returns:
        A grain ``IterDataset``; its iterator has ``get_state`` and ``set_state``.

    Raises:
        ValueError: for no bucket, or one with fewer rows than a batch while
            ``config.remainder`` is ``drop``.
    """
    folders = [folder for _, folder in sorted(sets.items())]
    return build_pipeline(
        JoinedSource([RecordSource(folder, split) for folder in folders]),
        config,
        transform=undersample(
            acceleration=acceleration, acs=acs, random_offset=random_offset
        ),
        process_index=process_index,
        process_count=process_count,
    )


def undersample(
    *, acceleration: int, acs: int, random_offset: bool, shift: int = 0
) -> Callable[[Row, np.random.Generator], Row]:
    """Add a mask to a row and drop its text; k-space stays full, for the loss.

    Args:
        acceleration: nominal acceleration.
        acs: central lines.
        random_offset: draw the first line from ``[0, acceleration)``.
        shift: lines by which the mask moves on from frame to frame; 0: all share it.

    Returns:
        A transform for :func:`medjax.data.pipeline.build_pipeline`.
    """

    def transform(row: Row, generator: np.random.Generator) -> Row:
        frames, lines = row["kspace"].shape[0], row["kspace"].shape[-2]
        offset = int(generator.integers(acceleration)) if random_offset else 0
        mask = np.zeros((frames if shift else 1, lines), bool)
        for frame, sampled in enumerate(mask):
            sampled[(offset + frame * shift) % acceleration :: acceleration] = True
        mask[:, lines // 2 - acs // 2 : lines // 2 + acs - acs // 2] = True
        kept = {k: v for k, v in row.items() if k not in ("patient", "slice")}
        return {**kept, "mask": mask[..., None]}

    return transform
