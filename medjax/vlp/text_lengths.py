"""How long the texts of a run are, and how long its batches of them."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Int

from medjax.data.lengths import Lengths
from medjax.train.agree import on_first
from medjax.vlp.corpus import Corpus
from medjax.vlp.system import PretrainingSystem

SAMPLED = 2000
"""Texts whose lengths are looked at."""


@dataclasses.dataclass(frozen=True)
class LengthsConfig:
    """How long batches of texts are; all are text.max-length if nothing is said."""

    buckets: tuple[int, ...] = ()
    """Lengths in tokens below text.max-length that a batch may have, the smallest that
    holds all its texts with a place to spare. Each takes a compilation of the step.
    Where padding counts (MGCA with no-mask-pads) shorter batches are other losses."""
    window: int = 16
    """Batches among which studies of equally long texts are brought together, so that
    short batches come to be; which reports a contrast sees as negatives then depends on
    their lengths. 1: batches hold what they hold without buckets."""


def sizes_of(config: LengthsConfig, *, limit: int, shapes: int) -> tuple[int, ...]:
    """Lengths that a batch may have, ascending.

    Args:
      config: what is asked for.
      limit: tokens of a text, ``text.max-length``; the last of them.
      shapes: that the step may be compiled for, ``train.shapes``.

    Raises:
      ValueError: buckets that are none, or too many; no window.
    """
    sizes = tuple(sorted({*config.buckets, limit}))
    if sizes[0] < 2 or sizes[-1] > limit:
        raise ValueError(
            f"lengths.buckets: expected numbers of tokens from 2 to text.max-length, "
            f"{limit}, got {config.buckets}"
        )
    if len(sizes) > shapes:
        raise ValueError(
            f"lengths.buckets: with text.max-length these are {len(sizes)} lengths, "
            f"and so many shapes of batches; train.shapes allows {shapes}"
        )
    if config.window < 1:
        raise ValueError(f"lengths.window: expected at least 1, got {config.window}")
    return sizes


def lengths_of(
    config: LengthsConfig,
    corpus: Corpus,
    system: PretrainingSystem,
    *,
    limit: int,
    shapes: int,
    rows: Int[np.ndarray, " m"] | None = None,
) -> Lengths | None:
    """What the pipeline has to know of the texts; None: one length is enough.

    Reads the tokens of all training studies once, in one process.

    Args:
      config: what is asked for.
      corpus: the reports.
      system: names the token fields that it reads.
      limit: tokens of a text, ``text.max-length``.
      shapes: that the step may be compiled for, ``train.shapes``.
      rows: numbers of the studies that are trained on; None: all, in order.

    Raises:
      ValueError: buckets that are none, or too many.
    """
    if not config.buckets:
        return None
    sizes = sizes_of(config, limit=limit, shapes=shapes)
    known = np.asarray(
        on_first(
            lambda: corpus.longest_texts(system.tokens).tolist(),
            what="lengths of texts",
        )
    )
    lengths = Lengths(
        known if rows is None else known[rows], system.tokens, sizes, config.window
    )
    if jax.process_index() == 0:
        counts = np.bincount(lengths.needed, minlength=len(sizes))
        told = [f"{n} within {size}" for size, n in zip(sizes, counts, strict=True)]
        print(f"studies by the length of their texts: {', '.join(told)}")
    return lengths


def say_lengths(corpus: Corpus, system: PretrainingSystem, limit: int) -> None:
    """Prints how long the texts are that are padded, or cut, to one length.

    Args:
      corpus: the reports; the first of its training split are looked at.
      system: names the token fields that it reads.
      limit: tokens of a text in a batch.
    """
    for field in system.tokens if jax.process_index() == 0 else ():
        lengths = corpus.text_lengths(field, most=SAMPLED)
        print(
            f"{field}, train split: 95 % within {np.quantile(lengths, 0.95):.0f} "
            f"tokens, the longest has {lengths.max()}; text.max-length {limit} cuts "
            f"{(lengths > limit).mean():.1%}"
        )
