"""The benchmark command: what it counts, writes, draws and admits."""

import dataclasses
import json
import time
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from medjax_kernels.bench import contest, peers, record, roofline, targets
from medjax_kernels.bench.__main__ import absence, main, ratio_lines, refuses
from medjax_kernels.bench.case import (
    Case,
    Contestant,
    exact_outputs,
    relative_error,
)
from medjax_kernels.contrastive import bench_cases as contrastive_cases
from medjax_kernels.contrastive.shapes import SHAPES as CONTRASTIVE_SHAPES
from medjax_kernels.data_consistency import bench_cases as dc_cases


@pytest.fixture
def quick(monkeypatch):
    """Turns of one call, on the least number of input sets; no large ceilings."""
    monkeypatch.setattr(contest, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(contest, "MOST_SETS", 2)
    monkeypatch.setattr("medjax_kernels.bench.ceilings.COPY_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr("medjax_kernels.bench.ceilings.SIZE", {"cpu": 64})


def run(tmp_path, *arguments: str) -> dict:
    assert main([*arguments, "--repeat", "2", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    return json.loads(path.read_text())


def test_the_command_measures_writes_and_draws(quick, tmp_path, capsys):
    options = ("data_consistency", "--shape", "tiny", "--vs", "xla")
    contents = run(tmp_path, *options, "--case", "along w")
    (entry,) = contents["runs"].values()
    rows = {row["contestant"]: row for row in entry["rows"]}
    assert list(rows)[0] == "ours"
    assert {"xla_fft", "xla_dft thin", "xla_dft dense", "xla 2-D FFT"} < set(rows)
    for row in rows.values():
        assert row["errors"]["x"][""] < 5e-6
        assert 0 < row["us_low"] <= row["us"] <= row["us_high"]
        assert row["temporary_mb"] >= 0
    # A second run of another case joins the first; one of the same replaces it.
    contents = run(tmp_path, *options, "--case", "cascade")
    assert list(contents["runs"]) == [
        "data_consistency/tiny/cascade",
        "data_consistency/tiny/normal, mask along w",
    ]
    (cascade,) = (r for k, r in contents["runs"].items() if k.endswith("cascade"))
    assert cascade["absent"]["torch.fft"] == "not asked for"
    (picture,) = tmp_path.glob("*.svg")
    tree = ElementTree.fromstring(picture.read_text())
    circles = [e for e in tree.iter() if e.tag.endswith("circle")]
    assert len(circles) == sum(len(r["rows"]) for r in contents["runs"].values())
    printed = capsys.readouterr().out
    assert "xla 2-D FFT" in printed
    assert "torch.fft: not asked for" in printed


def test_contrastive_errors_at_three_scales(quick, tmp_path, monkeypatch):
    small = dataclasses.replace(CONTRASTIVE_SHAPES["imitate"], n=32, d=16, p=8)
    monkeypatch.setitem(CONTRASTIVE_SHAPES, "imitate", small)
    arguments = ("contrastive", "--shape", "imitate", "--vs", "xla", "--case", "soft")
    (entry,) = run(tmp_path, *arguments)["runs"].values()
    for row in entry["rows"]:
        for output in ("loss", "x", "y", "scale"):
            errors = row["errors"][output]
            assert list(errors) == ["scale 14", "scale 50", "scale 100"]
            assert max(errors.values()) < 2e-5


@pytest.mark.parametrize("name", ["normal", "gradient", "solve", "cascade"])
def test_pytorchs_blocks_compute_the_same(name):
    pytest.importorskip("torch")
    (case,) = (c for c in dc_cases.cases("tiny", "cpu") if c.name == name)
    check_torch(case)


@pytest.mark.parametrize("name", ["forward", "step", "sigmoid step"])
def test_pytorchs_losses_compute_the_same(name, monkeypatch):
    pytest.importorskip("torch")
    small = dataclasses.replace(CONTRASTIVE_SHAPES["imitate"], n=32, d=16, p=0)
    monkeypatch.setitem(CONTRASTIVE_SHAPES, "imitate", small)
    (case,) = (c for c in contrastive_cases.cases("imitate", "cpu") if c.name == name)
    check_torch(case)


def check_torch(case: Case) -> None:
    arrays = case.inputs(0)
    exact = exact_outputs(case, arrays)
    (contestant,) = (
        c for c in case.contestants if c.torch and peers.missing(c.peer, "cpu") is None
    )
    ready = contest.make_run(contestant, [arrays], "cpu")
    for output, value in ready.outputs(arrays).items():
        assert relative_error(value, exact[output]) < 5e-6


def test_counts_are_those_of_the_specification():
    """8 images, 16 coils, 256 x 256, 64 lines; 32768 pairs of width 512, bfloat16."""
    cases = {c.name: c for c in dc_cases.cases("square", "gpu")}
    by_name = {c.name: c for c in cases["normal"].contestants}
    assert cases["normal"].bytes == pytest.approx(75.5e6, rel=1e-3)
    assert cases["cascade"].bytes == pytest.approx(272e6, rel=0.02)
    assert by_name["gpu default"].flops == pytest.approx(8.6e9, rel=2e-3)
    assert by_name["gpu highest"].flops == 3 * by_name["gpu default"].flops
    cases = {c.name: c for c in contrastive_cases.cases("clip_32k", "gpu")}
    logits = 2 * 32768**2 * 512
    assert {c.name: c.flops / logits for c in cases["step"].contestants} == {
        "ours": 4,
        "xla": 3,
        "xla_chunked": 4,
        "gpu": 4,
        "open_clip": 3,
        "xla naive": 3,
        "xla checkpointed": 4,
        "Inf-CL": 10,
        "Liger": 6,
        "tokamax": 6,
    }
    assert all(
        c.unit == "bfloat16" for c in cases["step"].contestants if c.name == "gpu"
    )


def test_targets_name_contestants_that_exist():
    modules = {"data_consistency": dc_cases, "contrastive": contrastive_cases}
    keys = [*targets.TARGETS, *(k for r in targets.RATIOS for k in (r.fast, r.slow))]
    for key in keys:
        cases = {c.name: c for c in modules[key.op].cases(key.shape, "gpu")}
        assert key.contestant in {c.name for c in cases[key.case].contestants}
    for target in targets.TARGETS.values():
        assert target.floor < target.seconds


def test_ratio_goals_are_read_from_the_file():
    def entry(key: targets.Key, us: float) -> dict:
        named = {"op": key.op, "shape": key.shape, "case": key.case}
        return named | {"rows": [{"contestant": key.contestant, "us": us}]}

    goal = targets.RATIOS[0]
    runs = {"a": entry(goal.fast, 10.0), "b": entry(goal.slow, 85.0)}
    (line,) = ratio_lines({"runs": runs})
    assert "8.50 times as fast" in line
    assert "(target 7.00)" in line


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.missing("torch_fft", "cpu") == "not installed (torch)"
    assert peers.missing("liger", "cpu") == "runs on gpu only"
    liger = Contestant("Liger", dict, 1, peer="liger", modules=("torch",))
    assert absence(liger, "gpu", None) == (
        "not installed (torch, triton, liger_kernel)"
    )
    assert absence(liger, "gpu", ["xla"]) == "not asked for"
    assert absence(Contestant("ours", dict, 1), "cpu", []) is None
    assert peers.missing("xla", "cpu") is None


def test_a_refusal_is_told_from_a_failure():
    assert refuses(NotImplementedError("no"))
    assert refuses(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"))
    assert not refuses(RuntimeError("bad shape"))


def test_turns_are_timed_per_call_and_ratios_turn_by_turn(monkeypatch):
    class Sleeper:
        temporary_bytes = None
        started = 0

        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def start(self, turn: int) -> None:
            self.started += 1
            time.sleep(self.seconds)

        def wait(self, handle: None) -> None: ...

        def outputs(self, arrays) -> dict:
            return {}

    monkeypatch.setattr(contest, "TURN_SECONDS", 0.02)
    runs = {"fast": Sleeper(0.002), "slow": Sleeper(0.01)}
    timings = contest.take_turns(runs, 3)
    fast, slow = timings["fast"], timings["slow"]
    assert fast.calls > slow.calls
    # Three calls that calibrate, and each turn one that is not timed.
    assert runs["slow"].started == 3 + 3 * (1 + slow.calls)
    assert 0.002 <= fast.spread[0] <= fast.median <= fast.spread[1]
    assert fast.times_faster(slow) > 1


def test_error_is_relative_and_shapes_are_held():
    exact = np.asarray([3.0, 4.0])
    assert relative_error(np.asarray([3.0, 4.5]), exact) == pytest.approx(0.1)
    assert np.isnan(relative_error(np.asarray([np.nan, 4.0]), exact))
    with pytest.raises(ValueError, match=r"shape \(1,\), expected \(2,\)"):
        relative_error(jnp.ones(1), exact)


def test_names_of_chips_and_a_picture_of_nothing():
    assert record.file_name("NVIDIA H200") == "nvidia_h200"
    assert record.file_name("Intel(R) Xeon(R), 2 cores") == "intel_xeon_2_cores"
    with pytest.raises(ValueError, match="no runs"):
        roofline.draw({"chip": "none", "runs": {}})
