"""The pipeline: a batch depends on seed and step, not on processes or threads."""

import dataclasses
import json

import numpy as np
import pytest

from medjax.data.pipeline import (
    ArraySource,
    JoinedSource,
    PipelineConfig,
    Share,
    batches_per_epoch,
    build_pipeline,
)
from medjax.data.record_writer import write_records
from medjax.data.records import Field, RecordSource

ROWS = 22
CONFIG = PipelineConfig(batch_size=4, seed=3, epochs=2)


@pytest.fixture
def source():
    return ArraySource({"x": np.arange(ROWS, dtype=np.int32) * 10})


def noisy(row, rng):
    return row | {"noise": np.float32(rng.random())}


def rows(stream) -> list[list[int]]:
    return [batch["index"].tolist() for batch in stream]


def test_each_epoch_is_a_new_order_without_repeats(source):
    batches = rows(build_pipeline(source, CONFIG))
    assert len(batches) == 2 * batches_per_epoch(ROWS, CONFIG) == 10
    for epoch in (batches[:5], batches[5:]):
        seen = [i for batch in epoch for i in batch]
        assert len(set(seen)) == 20  # two rows did not fill a batch
    assert batches[:5] != batches[5:]
    assert batches == rows(build_pipeline(source, CONFIG))
    other = dataclasses.replace(CONFIG, seed=4)
    assert batches != rows(build_pipeline(source, other))


def test_rows_and_index_belong_together(source):
    for batch in build_pipeline(source, CONFIG):
        assert batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["x"], batch["index"] * 10)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_processes_together_read_what_one_reads(source, processes, remainder):
    config = dataclasses.replace(CONFIG, remainder=remainder)
    whole = list(build_pipeline(source, config, transform=noisy))
    shares = [
        list(
            build_pipeline(
                source,
                config,
                transform=noisy,
                process_index=p,
                process_count=processes,
            )
        )
        for p in range(processes)
    ]
    assert [len(share) for share in shares] == [len(whole)] * processes
    for step, batch in enumerate(whole):
        for name in ("x", "index", "noise"):
            together = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(together, batch[name])


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_change_nothing(source, threads):
    config = dataclasses.replace(CONFIG, threads=threads)
    a = list(build_pipeline(source, CONFIG, transform=noisy))
    b = list(build_pipeline(source, config, transform=noisy))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one["noise"], other["noise"])


def test_a_random_map_draws_anew_each_epoch(source):
    config = dataclasses.replace(CONFIG, shuffle=False, batch_size=ROWS)
    first, second = build_pipeline(source, config, transform=noisy)
    assert first["index"].tolist() == second["index"].tolist() == list(range(ROWS))
    assert not np.any(first["noise"] == second["noise"])


def test_a_saved_state_continues_exactly_also_on_other_processes(source):
    config = dataclasses.replace(CONFIG, epochs=None)
    iterator = iter(build_pipeline(source, config, transform=noisy))
    for _ in range(7):  # past the first epoch
        next(iterator)
    state = iterator.get_state()
    ahead = [next(iterator) for _ in range(3)]
    for processes in (1, 2):
        again = iter(
            build_pipeline(source, config, transform=noisy, process_count=processes)
        )
        again.set_state(state)
        for batch in ahead:
            mine = next(again)
            for name in ("index", "noise"):
                np.testing.assert_array_equal(mine[name], batch[name][: 4 // processes])


@pytest.fixture
def joined():
    """Rows 0 to 10 of three numbers and 11 to 17 of five."""
    lengths = ((11, 3), (7, 5))
    return JoinedSource([ArraySource({"x": np.ones(shape)}) for shape in lengths])


def test_joined_sources_make_batches_of_one_shape_in_an_order_of_the_seed(joined):
    assert len(joined) == 18 and joined[-1]["x"].shape == joined[11]["x"].shape == (5,)
    assert joined[10]["x"].shape == (3,)
    with pytest.raises(IndexError):
        joined[18]
    config = dataclasses.replace(CONFIG, batch_size=2, epochs=3)
    batches = list(build_pipeline(joined, config))
    assert len(batches) == 3 * 8  # five of the first, three of the second
    orders = []
    for epoch in (batches[i : i + 8] for i in range(0, 24, 8)):
        index = [i for batch in epoch for i in batch["index"].tolist()]
        assert len(set(index)) == 16 and sum(i < 11 for i in index) == 10
        for batch in epoch:
            widths = {3 if i < 11 else 5 for i in batch["index"]}
            assert widths == {batch["x"].shape[1]}
        orders.append([batch["x"].shape[1] for batch in epoch])
    assert len(set(map(tuple, orders))) > 1
    again = rows(build_pipeline(joined, config))
    assert again == [batch["index"].tolist() for batch in batches]
    other = build_pipeline(joined, dataclasses.replace(config, seed=4))
    assert [b["x"].shape[1] for b in other] != [w for order in orders for w in order]
    plain = dataclasses.replace(config, shuffle=False, epochs=1, remainder="pad")
    index = [i for batch in build_pipeline(joined, plain) for i in batch["index"]]
    assert index == [*range(11), -1, *range(11, 18), -1]
    with pytest.raises(ValueError, match="batch_size: 8 .* 7 rows of <"):
        build_pipeline(joined, dataclasses.replace(config, batch_size=8))


def test_processes_see_equal_shapes_of_joined_sources_and_go_on(joined):
    config = dataclasses.replace(CONFIG, batch_size=2, epochs=None)
    whole = iter(build_pipeline(joined, config, transform=noisy))
    again = iter(build_pipeline(joined, config, transform=noisy))
    shares = [
        iter(
            build_pipeline(
                joined, config, transform=noisy, process_index=i, process_count=2
            )
        )
        for i in range(2)
    ]
    for step in range(12):
        if step == 5:  # one process goes on where two were
            again.set_state(shares[0].get_state())
        batch, both = next(whole), [next(share) for share in shares]
        for name in ("x", "index", "noise"):
            together = np.concatenate([one[name] for one in both])
            np.testing.assert_array_equal(together, batch[name])
        if step >= 5:
            np.testing.assert_array_equal(next(again)["noise"], batch["noise"])


def test_padding_shows_every_row_once(source):
    config = PipelineConfig(batch_size=8, shuffle=False, epochs=1, remainder="pad")
    batches = list(build_pipeline(source, config))
    assert len(batches) == batches_per_epoch(ROWS, config) == 3
    index = np.concatenate([b["index"] for b in batches])
    assert index.tolist() == [*range(ROWS), -1, -1]
    assert batches[-1]["x"].tolist()[-3:] == [210, 210, 210]  # copies of the last row


def test_texts_are_listed(tmp_path):
    fields = {"id": Field("text"), "n": Field("array", (), "int32")}
    with write_records(tmp_path / "set", name="demo", fields=fields) as writer:
        for i in range(4):
            writer.add("train", {"id": f"s{i}", "n": np.int32(i)})
    config = PipelineConfig(batch_size=2, shuffle=False, epochs=1)
    stream = build_pipeline(RecordSource(tmp_path / "set", "train"), config)
    assert [batch["id"] for batch in stream] == [["s0", "s1"], ["s2", "s3"]]


def test_workers_read_the_same(tmp_path):
    fields = {"n": Field("array", (), "int32")}
    with write_records(tmp_path / "set", name="demo", fields=fields) as writer:
        for i in range(8):
            writer.add("train", {"n": np.int32(i)})
    source = RecordSource(tmp_path / "set", "train")
    config = PipelineConfig(batch_size=2, epochs=1, threads=1)
    alone = [batch["n"].tolist() for batch in build_pipeline(source, config)]
    iterator = iter(build_pipeline(source, dataclasses.replace(config, workers=1)))
    try:
        assert [batch["n"].tolist() for batch in iterator] == alone
    finally:
        iterator.close()


def told(columns, process=0, count=2, **changes):
    """What the share of a process says that all have in common."""
    config = dataclasses.replace(CONFIG, **changes)
    share = build_pipeline(
        ArraySource(columns), config, process_index=process, process_count=count
    )
    assert isinstance(share, Share)
    return share.identity()


def test_shares_tell_settings_rows_and_exact_values_and_not_how_they_are_read(source):
    columns = {
        "x": source.arrays["x"],
        "rate": np.arange(ROWS, dtype=np.float32),
        "text": np.array([f"report {i}" for i in range(ROWS)]),
    }
    first = told(columns)
    assert first == told(columns, process=1, threads=2, prefetch=3)
    json.dumps(first)
    # What another processor rounds otherwise is no other data set.
    assert first == told({**columns, "rate": np.nextafter(columns["rate"], 1)})
    changed = {
        "seed": told(columns, seed=4),
        "batch_size": told(columns, batch_size=8),
        "rows": told({name: values[1:] for name, values in columns.items()}),
        "shares": told(columns, count=4),
    }
    for name, other in changed.items():
        assert other[name] != first[name]
    for name, values in {
        "x": np.r_[columns["x"][:-1], np.int32(1)],
        "rate": np.zeros((ROWS, 2), np.float32),
        "text": np.array(["another", *columns["text"][1:]]),
    }.items():
        other = told({**columns, name: values})["columns"]
        assert [k for k in other if other[k] != first["columns"][k]] == [name]


def test_faults_are_named(source):
    with pytest.raises(ValueError, match="batch_size: 4 .* 3 processes"):
        build_pipeline(source, CONFIG, process_count=3)
    with pytest.raises(ValueError, match="batch_size: 64 .* 22 rows"):
        build_pipeline(source, PipelineConfig(batch_size=64))
    with pytest.raises(ValueError, match="leading axes"):
        ArraySource({"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(ValueError, match="sources: expected one at least"):
        JoinedSource([])
