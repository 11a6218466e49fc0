"""What the compilers of absent chips say about our kernels, held to budgets."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from medjax_kernels import aot, compat


def compiled(*arguments: str) -> dict[str, aot.Report]:
    """The command's reports by program, from a process of its own.

    Compilers for other chips are loaded once per process and read their settings then.
    """
    command = [sys.executable, "-m", "medjax_kernels.aot", *arguments, "--json"]
    source = str(Path(aot.__file__).parents[1])
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=900,
        # The tests' own programs are compiled with less effort; these are not.
        env=os.environ | {"PYTHONPATH": source, "XLA_FLAGS": ""},
    )
    assert run.returncode == 0, run.stderr[-4000:]
    rows = json.loads(run.stdout.splitlines()[-1])
    return {row["case"]: aot.Report(**row) for row in rows}


@pytest.fixture
def chip(request: pytest.FixtureRequest) -> str:
    """The chip's name; a skip that says which wheels are missing."""
    try:
        aot.require(request.param)
    except aot.MissingCompilerError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def every_program(request: pytest.FixtureRequest) -> bool:
    """Whether what repeats on a chip or at a shape what another shows is compiled too.

    Without the flag every kernel is compiled for every chip, and what XLA makes of the
    same for one, as the plan that moves least. XLA's programs take longer than all the
    kernels, on a v6e sixty times as long, where they are never asked for.
    """
    return request.config.getoption("--every-program")


@pytest.mark.aot
@pytest.mark.parametrize("chip", ["h200"], indirect=True)
@pytest.mark.parametrize("shape", ["square", "cmr"])
def test_data_consistency_keeps_its_budget_on_an_h200(chip, shape, every_program):
    if shape == "cmr" and not every_program:
        pytest.skip("a second shape for the H200: pytest --every-program")
    reports = compiled("data_consistency", "--shape", shape, "--chip", chip)
    # Planes of maps and image, padded, and partial sums, or a factor: no coil images.
    temporary = {"gpu highest": 1.6, "gpu default": 1.6, "gpu solve default": 1.7}
    for name, most in temporary.items():
        report = reports[name]
        assert report.kernels == 1
        # By JAX 0.12 one of the three is a register short.
        short = name == "gpu default" and jax.__version_info__ >= (0, 11)
        assert report.spilled_bytes <= 8 * short
        assert report.shared_bytes <= compat.H200_SHARED_MEMORY
        # Two blocks' worth of threads, 256 in all, share the register file.
        assert report.registers <= 255
        assert report.temporary_mb < most * report.arguments_mb
    assert reports["gpu gradient"].spilled_bytes == 0
    fft = reports["xla_fft"]
    assert fft.kernels == 0
    assert fft.launches <= 8


@pytest.mark.aot
@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"], indirect=True)
def test_data_consistency_compiles_for_a_tpu(chip, every_program):
    of_chip = {"v5e": ("xla_dft",)}
    if every_program:
        of_chip["v5p"] = ("xla_fft", "xla_dft")
    plans = of_chip.get(chip, ())
    arguments = ("--shape", "cmr", "--chip", chip, "--case", "tpu")
    reports = compiled("data_consistency", *arguments, *plans)
    for name in ("tpu highest", "tpu default"):
        assert reports[name].kernels == 1
        # XLA's plans write and read every coil image; the kernel only makes planes.
        # Where those are not compiled beside it, a bound above what it has (3.7).
        assert reports[name].traffic_mb < 4 * reports[name].arguments_mb
        for plan in plans:
            assert reports[name].traffic_mb < 0.6 * reports[plan].traffic_mb
    for precision in ("highest", "default"):
        solve = reports[f"tpu solve {precision}"]
        assert solve.kernels == 1
        # All ten iterations read the maps once: less than two applications do.
        assert solve.traffic_mb < 2 * reports[f"tpu {precision}"].traffic_mb


@pytest.mark.aot
@pytest.mark.parametrize("chip", ["h200"], indirect=True)
@pytest.mark.parametrize(
    ("shape", "program", "temporary_mb"),
    [("clip_32k", "gpu", 300), ("soft_32k", "gpu step", 450)],
)
def test_contrastive_keeps_its_budget_on_an_h200(chip, shape, program, temporary_mb):
    arguments = ("--shape", shape, "--chip", chip, "--case", program)
    reports = compiled("contrastive", *arguments)
    assert reports
    for report in reports.values():
        # The backward pass is a loop over chunks, outside this count.
        assert report.kernels == 1
        assert report.spilled_bytes == 0
        assert report.shared_bytes <= compat.H200_SHARED_MEMORY
        # Three warpgroups share the register file, and share it out themselves.
        assert report.registers <= 65536 // 384
        # S would take 4295 MB.
        assert report.temporary_mb < temporary_mb


@pytest.mark.aot
@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"], indirect=True)
def test_contrastive_compiles_for_a_tpu(chip, every_program):
    with_xla = chip == "v5e" or (every_program and chip == "v5p")
    cases = ("tpu", "xla") if with_xla else ("tpu",)
    arguments = ("--shape", "soft_4k", "--chip", chip, "--case", *cases)
    reports = compiled("contrastive", *arguments)
    assert reports["tpu forward"].kernels == 1
    for program in ("step", "groups step", "sigmoid step"):
        assert reports[f"tpu {program}"].kernels == 3
    # XLA writes and reads the logits, the kernels features and sums.
    # Where XLA is not compiled beside them, a bound above what they have (6.2 to 6.5).
    step = reports["tpu step"]
    assert step.traffic_mb < 8 * step.arguments_mb
    if with_xla:
        assert step.traffic_mb < 0.5 * reports["xla_chunked step"].traffic_mb


@pytest.mark.aot
@pytest.mark.parametrize("chip", ["h200"], indirect=True)
def test_word_region_keeps_its_budget_on_an_h200(chip):
    arguments = "--shape", "gloria_bf16", "--chip", chip, "--case", "gpu forward"
    report = compiled("word_region", *arguments)["gpu forward"]
    assert report.kernels == 1
    assert report.spilled_bytes == 0
    assert report.shared_bytes <= compat.H200_SHARED_MEMORY
    # Three warpgroups share the register file.
    assert report.registers <= 168
    # Inner products of regions and sums per word; one attention tensor is 323 MB.
    assert report.temporary_mb < 130


@pytest.mark.aot
@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"], indirect=True)
def test_word_region_compiles_for_a_tpu(chip, every_program):
    # Once a batch that people train with, of the narrowest features: three times
    # faster to compile than GLoRIA's. Elsewhere few words and regions.
    shape = "mgca" if chip == "v5e" or every_program else "tiny"
    arguments = "--shape", shape, "--chip", chip, "--case", "tpu"
    reports = compiled("word_region", *arguments)
    assert reports["tpu forward"].kernels == 1
    assert reports["tpu step"].kernels == 3


def test_launches_are_those_of_the_entry_computation():
    hlo = """HloModule m

%inner (p: f32[2]) -> f32[2] {
  %a = f32[2] fusion(%p), kind=kLoop
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %p = f32[2] parameter(0)
  %f = f32[2]{0} fusion(%p), kind=kLoop, calls=%inner
  %t = (f32[2]{0}, s8[0]) custom-call(%f), custom_call_target="__cublas$gemm"
  %k = f32[2]{0} custom-call(%f), custom_call_target="mosaic_gpu_v2"
  ROOT %b = f32[2] bitcast(%k)
}
"""
    assert aot.count_launches(hlo) == (1, 2)


def test_table_lines_up_and_marks_what_a_chip_does_not_report():
    report = aot.Report("op", "small", "v5e", "tpu", 1, 2, 0.5)
    head, row = aot.table([report]).splitlines()
    assert head.split() == [f.name for f in dataclasses.fields(report)]
    assert row.split()[-5:] == ["-"] * 5
    assert row.index("v5e") == head.index("chip")


def test_a_missing_compiler_is_named(monkeypatch, capsys):
    monkeypatch.setattr(aot, "_installed", lambda name: False)
    with pytest.raises(
        aot.MissingCompilerError, match="v5e needs the wheels of libtpu"
    ):
        aot.require("v5e")
    assert aot.main(["--chip", "h200"]) == 2
    assert "jax_plugins.xla_cuda13" in capsys.readouterr().err
