"""What a run writes about itself: rows, when, how they are read again, and peaks."""

import dataclasses
import json
import shutil
import sys

import jax
import pytest

from medjax import train
from medjax.train.log import Writer, truncate
from medjax.train.shapes import CompiledSteps
from medjax.train.speed import peak_flops
from tests.train.short import run


def test_rows_are_one_step_late_and_take_one_transfer(tmp_path, monkeypatch):
    """The device has its next step before the host reads what the last one gave."""
    happened = []
    of, write, get = CompiledSteps.of, Writer.write, jax.device_get

    def watched(*arguments):
        found = of(*arguments)

        def step(*given):
            happened.append("step")
            return found.run(*given)

        step.memory_analysis = found.run.memory_analysis
        return dataclasses.replace(found, run=step)

    def written(writer, n, scalars):
        happened.append(f"row {n}")
        write(writer, n, scalars)

    def fetched(tree):
        if "finite" in tree:
            happened.append(f"{len(tree)} numbers")
        return get(tree)

    monkeypatch.setattr(CompiledSteps, "of", watched)
    monkeypatch.setattr(Writer, "write", written)
    monkeypatch.setattr(jax, "device_get", fetched)
    run(tmp_path, 4, checkpoint_every=9, log_every=2)
    row = [word for word in happened if word.endswith("numbers")][0]
    guard = "1 numbers"
    assert happened == [
        *("step", "step", row, "row 1"),
        *("step", row, "row 2"),
        *("step", guard, row, "row 4"),
    ]
    assert row != guard


def test_a_resumed_log_drops_later_rows_and_a_torn_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": n, "loss": 1.0 / n}) for n in (1, 2, 3)]
    path.write_text("\n".join([*rows, '{"step": 2, "lo']))
    truncate(path, 2)
    assert [row["step"] for row in train.read_metrics(tmp_path)] == [1, 2]
    with Writer(tmp_path, step=2) as writer:
        writer.write(3, {"loss": float("inf"), "mfu": None})
    assert train.read_metrics(tmp_path)[-1] == {"step": 3, "loss": None, "mfu": None}


def test_a_folder_that_vanished_is_not_made_again_by_its_log(tmp_path):
    (tmp_path / "run").mkdir()
    with Writer(tmp_path / "run") as w:
        w.write(1, {"loss": 1.0})
        shutil.rmtree(tmp_path / "run")
        for step in range(2, 20):  # more than wait in the queue of events
            w.write(step, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("row", ["{}", "[1]", '{"step": 1, "loss": "x"}', "{"])
def test_a_damaged_row_of_metrics_is_named(tmp_path, row):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 1.0}}\n{row}\n{{"step": 2, "loss": 1.0}}\n')
    with pytest.raises(ValueError, match="metrics.jsonl: line 2"):
        train.read_metrics(tmp_path)
    with pytest.raises(ValueError, match="metrics.jsonl: line 2"):
        truncate(path, 2)


def test_metrics_in_no_text_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n{"step": 2, "\xff": 1.0}\n')
    for read in (lambda: train.read_metrics(tmp_path), lambda: truncate(path, 2)):
        with pytest.raises(ValueError, match=r"metrics\.jsonl: not an intact record"):
            read()


def test_wandb_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"medjax\[track\]"):
        Writer(tmp_path, wandb="project")


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L40S", None),
        ("TPU v5 lite", 197e12),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_the_longest_name(kind, peak):
    class Device:
        device_kind = kind

    assert peak_flops(Device()) == peak
