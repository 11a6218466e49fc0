"""Batches cut to what they need: the same rows, on any number of processes."""

import dataclasses

import numpy as np
import pytest

from medjax.data.lengths import Lengths
from medjax.data.pipeline import (
    ArraySource,
    JoinedSource,
    PipelineConfig,
    Share,
    Source,
    build_pipeline,
)

ROWS, SIZE, FULL = 43, 4, 16
CONFIG = PipelineConfig(batch_size=SIZE, seed=5, epochs=2)
KNOWN = np.random.default_rng(0).integers(2, FULL + 1, ROWS)


def padded(rows):
    """Of row i, as many times i + 1 as it is long."""
    return np.where(np.arange(FULL) < KNOWN[rows, None], rows[:, None] + 1, 0)


SOURCE = ArraySource({"ids": padded(np.arange(ROWS))})


def lengths(window, sizes=(6, 11, FULL)):
    return Lengths(KNOWN, ("ids",), sizes, window)


def noisy(row, rng):
    return {**row, "noise": rng.integers(2**40)}


def batches(window=None, config=CONFIG, source: Source = SOURCE, **options):
    known = None if window is None else lengths(window)
    return list(
        build_pipeline(source, config, transform=noisy, lengths=known, **options)
    )


def test_with_a_window_of_one_the_batches_are_what_they_were_but_shorter():
    for plain, cut in zip(batches(), batches(1), strict=True):
        assert cut["index"].tolist() == plain["index"].tolist()
        assert cut["noise"].tolist() == plain["noise"].tolist()
        width = cut["ids"].shape[1]
        np.testing.assert_array_equal(cut["ids"], plain["ids"][:, :width])
        longest = KNOWN[cut["index"]].max()
        # A place to spare: what fills its batch is what fills the column.
        assert width == min(n for n in (6, 11, FULL) if n > longest or n == FULL)


def test_a_window_brings_equal_lengths_together_and_keeps_the_epoch():
    plain, grouped = batches(), batches(5)
    half = len(plain) // 2  # an epoch
    for epoch in (slice(0, half), slice(half, None)):
        drawn = {}
        for found in (plain[epoch], grouped[epoch]):
            rows = [int(i) for batch in found for i in batch["index"]]
            noise = [int(n) for batch in found for n in batch["noise"]]
            drawn[len(drawn)] = dict(zip(rows, noise, strict=True))
            assert len(set(rows)) == half * SIZE
        # No row is another, nor is what is random in it.
        assert drawn[0] == drawn[1]
        first = {int(i) for batch in plain[epoch][:5] for i in batch["index"]}
        assert first == {int(i) for b in grouped[epoch][:5] for i in b["index"]}
    for batch in grouped:
        np.testing.assert_array_equal(
            batch["ids"], padded(batch["index"])[:, : batch["ids"].shape[1]]
        )
    widths = [batch["ids"].shape[1] for batch in grouped]
    assert sum(widths) < sum(b["ids"].shape[1] for b in batches(1)) < FULL * len(plain)
    assert widths[:half] != widths[half:] and widths[:5] != sorted(widths[:5])


def test_every_process_cuts_alike_and_a_saved_place_is_gone_on_from():
    whole = batches(3)
    config = dataclasses.replace(CONFIG, epochs=None)
    shares = [
        build_pipeline(
            SOURCE,
            config,
            transform=noisy,
            lengths=lengths(3),
            process_index=process,
            process_count=2,
        )
        for process in range(2)
    ]
    readers = [iter(share) for share in shares]
    for step, batch in enumerate(whole):
        if step == 7:  # anew, from what process 0 kept
            state = readers[0].get_state()
            readers = [iter(share) for share in shares]
            for reader in readers:
                reader.set_state(state)
        both = [next(reader) for reader in readers]
        for name in ("ids", "index", "noise"):
            together = np.concatenate([one[name] for one in both])
            np.testing.assert_array_equal(together, batch[name])
    told = [share.identity() for share in shares if isinstance(share, Share)]
    assert told[0] == told[1] and told[0]["lengths"]["window"] == 3


def test_what_is_padded_or_joined_is_cut_as_well():
    config = dataclasses.replace(CONFIG, shuffle=False, epochs=1, remainder="pad")
    found = batches(2, config)
    index = [int(i) for batch in found for i in batch["index"]]
    assert sorted(index) == [-1, *range(ROWS)]
    halves = [
        ArraySource({"ids": padded(np.arange(*ends))}) for ends in ((0, 20), (20, ROWS))
    ]
    for batch in batches(2, source=JoinedSource(halves)):
        width = batch["ids"].shape[1]
        np.testing.assert_array_equal(batch["ids"], padded(batch["index"])[:, :width])
        assert not padded(batch["index"])[:, width:].any()


def test_lengths_that_fit_nothing_are_refused():
    with pytest.raises(ValueError, match="lengths: of 43 rows, expected 3"):
        batches(1, source=ArraySource({"ids": np.zeros((3, FULL))}))
    with pytest.raises(ValueError, match="sizes: expected ascending"):
        lengths(1, sizes=(8, 4))
    with pytest.raises(ValueError, match="window: expected at least 1, got 0"):
        lengths(0)
