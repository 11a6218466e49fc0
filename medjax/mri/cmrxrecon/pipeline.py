"""Batches for training from prepared sets: one shape per batch, masks drawn per row.

Each bucket of :func:`~medjax.mri.cmrxrecon.prepare.prepare` is a stream of its own
batches; the streams are interleaved in proportion to their rows, and the iterator of
the whole can be checkpointed. `medjax.train.loop.fit` compiles a step per shape.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np

from medjax.data.pipeline import PipelineConfig, build_pipeline
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
    """An endless stream of batches, each of one shape.

    Batches hold ``kspace`` ``b t c h w``, ``sensitivities`` ``b c h w``, ``mask``
    ``b 1 h 1``, ``times`` ``b t``, ``label`` ``b h w`` and ``index`` ``b`` (the row in
    its bucket): what :mod:`medjax.mri.series` asks for.

    Args:
        sets: bucket to folder, as :func:`~medjax.mri.cmrxrecon.prepare` returns.
        split: which split of the sets.
        config: batch size, seed and the like; ``epochs`` must be ``None``, because the
            interleaved stream would end with its shortest bucket.
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
        ValueError: for a finite number of epochs, or a bucket with fewer rows than a
            batch while ``config.remainder`` is ``drop``.
    """
    if config.epochs is not None:
        raise ValueError(f"epochs={config.epochs}: the training stream is endless")
    transform = undersample(
        acceleration=acceleration, acs=acs, random_offset=random_offset
    )
    streams, weights = {}, {}
    for bucket, folder in sorted(sets.items()):
        name = "x".join(map(str, bucket))
        source = RecordSource(folder, split)
        streams[name] = build_pipeline(
            source,
            config,
            transform=transform,
            process_index=process_index,
            process_count=process_count,
        )
        weights[name] = float(len(source))
    return grain.IterDataset.mix(streams, weights)


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
