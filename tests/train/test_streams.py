"""What the loop is fed with: several shapes, streams that end or change, the feed."""

import json

import grain
import numpy as np
import pytest

from medjax import train
from medjax.train.feed import Feed
from tests.train.short import OPTIMIZER, assert_equal, curve, run
from tests.train.tiny import Stream, init, loss


class Bucketed(Stream):
    """Every second batch has three frames instead of two."""

    def __next__(self):
        batch = super().__next__()
        frames = 2 + self.position % 2
        return {**batch, "x": np.stack([batch["x"]] * frames, axis=1)}


def test_a_stream_of_two_shapes_compiles_twice_and_resumes_bit_equal(tmp_path):
    def frames(function):
        def mean(first, second, *key):
            if key:
                second = {**second, "x": second["x"].mean(1)}
                return function(first, second, *key)
            return function(first, {**second, "x": second["x"].mean(1)})

        return mean

    def fit(workdir, steps, **options):
        return train.fit(
            frames(init),
            frames(loss),
            Bucketed(),
            workdir=workdir,
            optimizer=OPTIMIZER,
            train=train.TrainConfig(steps=steps, log_every=1, **options),
        )

    whole = fit(tmp_path / "whole", 5)
    assert curve(tmp_path / "whole", "compiled_shapes") == [1, 2, 2, 2, 2]
    fit(tmp_path / "cut", 2)
    assert_equal(fit(tmp_path / "cut", 5), whole)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"batches of 1 shapes \(train.shapes\)"):
        fit(tmp_path / "few", 3, shapes=1)


class Ragged(Stream):
    """Its third batch is shorter."""

    def __next__(self):
        batch = super().__next__()
        return {k: v[:8] for k, v in batch.items()} if self.position == 3 else batch


class Short(Stream):
    """Ends after two batches."""

    def __next__(self):
        if self.position == 2:
            raise StopIteration
        return super().__next__()


@pytest.mark.parametrize(
    "data, message",
    [
        (Ragged(), "compiled for batches"),
        (Short(), "ended before the last step"),
        (iter([]), "get_state and set_state"),
        (Stream(batch=4), "global batch of 4"),
    ],
)
def test_data_that_do_not_fit_are_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, data=data)


def test_the_feed_tells_the_place_of_the_batch_consumed_not_read():
    data = (
        grain.MapDataset.range(64)
        .shuffle(seed=1)
        .map(lambda i: {"x": np.full(2, i, np.float32)})
        .repeat()
        .batch(8)
        .to_iter_dataset()
    )
    want = [batch["x"] for batch, _ in zip(iter(data), range(12), strict=False)]
    with Feed(data, train.make_mesh()) as feed:
        feed.start()
        for i in range(9):  # past the end of an epoch
            fed = feed.next()
            np.testing.assert_array_equal(fed.device["x"], want[i])
        for place, batch in ((fed.before, want[8]), (fed.after, want[9])):
            iterator = iter(data)
            iterator.set_state(json.loads(json.dumps(place)))
            np.testing.assert_array_equal(next(iterator)["x"], batch)
