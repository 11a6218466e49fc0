"""Compile for chips that are not here, and print what the compilers say.

    python -m medjax_kernels.aot                            # every op, every chip
    python -m medjax_kernels.aot data_consistency --shape square --chip h200

XLA and Mosaic compile for a described chip as for a present one. For a TPU that takes
the ``libtpu`` wheel; for an H200 the CUDA plugin's, with NVIDIA's assembler (``pip
install jax-cuda13-plugin jax-cuda13-pjrt nvidia-cuda-nvcc nvidia-nvvm``, the first two
of jaxlib's version). What comes back is what a slow kernel is usually explained by:
spilled registers, shared memory, temporary memory, the number of launches. What does
not come back is a time.

An operation takes part by a module ``aot_cases`` with ``cases(shape, platform)``.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax

from medjax_kernels import compat
from medjax_kernels.chips import H200


class Case(NamedTuple):
    """A program to compile.

    Attributes:
        name: what it is called in the table.
        function: to be jitted.
        arguments: abstract arrays.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[jax.ShapeDtypeStruct, ...]


class Chip(NamedTuple):
    """A target.

    Attributes:
        platform: as :func:`.compat.target` names it.
        topology: what the TPU compiler calls a host of it; empty for a GPU.
        kind: JAX's device kind.
    """

    platform: str
    topology: str
    kind: str


CHIPS = {
    "v5e": Chip("tpu", "v5e:2x2", "TPU v5 lite"),
    "v5p": Chip("tpu", "v5p:2x2x1", "TPU v5"),
    "v6e": Chip("tpu", "v6e:2x2", "TPU v6 lite"),
    "h200": Chip("gpu", "", "NVIDIA H200"),
}
OPS = ("data_consistency", "contrastive", "word_region")


class MissingCompilerError(RuntimeError):
    """The wheels that compile for a chip are not installed."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compilers said about one program on one chip.

    Attributes:
        op: operation.
        shape: name of its shape.
        chip: name of the chip.
        case: name of the program.
        kernels: hand-written kernels in it.
        launches: everything else that XLA runs: fusions, FFTs, copies, matrix products.
        arguments_mb: memory of arguments and results, in MB.
        traffic_mb: what its parts read and write, by XLA's count, in MB (TPU).
        temporary_mb: memory beyond those, in MB (GPU; TPU compilers report none).
        registers: of the hungriest hand-written kernel, per thread (GPU).
        spilled_bytes: registers' worth that it stores to memory, per thread (GPU).
        shared_bytes: its shared memory (GPU).
    """

    op: str
    shape: str
    chip: str
    case: str
    kernels: int
    launches: int
    arguments_mb: float
    traffic_mb: float | None = None
    temporary_mb: float | None = None
    registers: int | None = None
    spilled_bytes: int | None = None
    shared_bytes: int | None = None


def require(chip: str) -> None:
    """Raise :class:`MissingCompilerError` unless ``chip`` can be compiled for."""
    wheels = {
        "tpu": ("libtpu",),
        "gpu": ("jax_plugins.xla_cuda13", "nvidia.cu13", "absl"),
    }[CHIPS[chip].platform]
    missing = [name for name in wheels if not _installed(name)]
    if missing:
        raise MissingCompilerError(
            f"compiling for {chip} needs the wheels of {', '.join(missing)}"
        )


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@functools.cache
def _device(chip: str) -> Any:
    """A device of ``chip`` that compiles and does nothing else."""
    from jax.experimental import topologies

    require(chip)
    if CHIPS[chip].platform == "tpu":
        # Ask no metadata server, and share libtpu with whoever else compiles here.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        described = topologies.get_topology_desc(CHIPS[chip].topology, platform="tpu")
    else:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=H200, topology="1x1x1"
        )
    return described.devices[0]


@contextlib.contextmanager
def _assembler_log() -> Iterator[Path]:
    """A folder into which Mosaic GPU writes what it gave to and heard from ptxas."""
    names = ("MOSAIC_GPU_DUMP_TO", "MOSAIC_GPU_DUMP_PTXAS")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({name: "1" for name in names} | {names[0]: folder})
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _largest(pattern: str, text: str) -> int | None:
    return max((int(n) for n in re.findall(pattern, text)), default=None)


def count_launches(hlo: str) -> tuple[int, int]:
    """Hand-written kernels, and other things that run, in an optimised program.

    Args:
        hlo: text of the compiled module.

    Returns:
        The two counts, of its entry computation.
    """
    entry = hlo[hlo.index("\nENTRY") :]
    entry = entry[: entry.index("\n}")]
    ours = len(re.findall(r'custom_call_target="(?:tpu_custom_call|mosaic_gpu)', entry))
    running = r"= .*? (?:fusion|custom-call|fft|dot|convolution|copy|sort|while)\("
    return ours, len(re.findall(running, entry)) - ours


def compile_case(op: str, shape: str, chip: str, case: Case) -> Report:
    """Compile one program and read the reports.

    Raises:
        MissingCompilerError: if the wheels for ``chip`` are not installed.
    """
    device = _device(chip)
    sharding = jax.sharding.SingleDeviceSharding(device)
    target = CHIPS[chip]
    on_gpu = target.platform == "gpu"
    options: dict[str, Any] = {}
    if on_gpu:
        # Autotuning needs the chip itself.
        options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
    with compat.target(target.platform, target.kind), _assembler_log() as folder:
        jitted = jax.jit(case.function, in_shardings=sharding, out_shardings=sharding)
        platform = "cuda" if on_gpu else "tpu"
        lowered = jitted.trace(*case.arguments).lower(lowering_platforms=(platform,))
        compiled = lowered.compile(compiler_options=options)
        heard = "\n".join(p.read_text() for p in folder.glob("*.ptxas"))
        passes = "\n".join(p.read_text() for p in folder.glob("*.mlir-passes.log"))
    memory, program = compiled.memory_analysis(), compiled.as_text()
    traffic = (compiled.cost_analysis() or {}).get("bytes accessed")
    if memory is None or program is None:
        raise NotImplementedError(
            f"the compiler for {chip} reports no memory or program"
        )
    kernels, launches = count_launches(program)
    return Report(
        op=op,
        shape=shape,
        chip=chip,
        case=case.name,
        kernels=kernels,
        launches=launches,
        arguments_mb=round(
            (memory.argument_size_in_bytes + memory.output_size_in_bytes) / 1e6, 3
        ),
        traffic_mb=None if traffic is None else round(traffic / 1e6, 3),
        temporary_mb=round(memory.temp_size_in_bytes / 1e6, 3) if on_gpu else None,
        registers=_largest(r"Used (\d+) registers", heard),
        spilled_bytes=_largest(r"(\d+) bytes spill", heard),
        shared_bytes=_largest(r"dynamic_shared_memory_size %c(\d+)_i32", passes),
    )


def cases_of(op: str) -> ModuleType | None:
    """The module of ``op`` that lists its programs; None if it lists none."""
    name = f"medjax_kernels.{op}.aot_cases"
    return importlib.import_module(name) if _installed(name) else None


def table(reports: Sequence[Report]) -> str:
    """The reports as aligned columns."""
    names = [f.name for f in dataclasses.fields(Report)]
    rows = [names]
    for report in reports:
        values = dataclasses.astuple(report)
        rows.append(["-" if v is None else str(v) for v in values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, 2 if a compiler is missing.

    A program that its implementation refuses is named on standard error, no failure.
    """
    parser = argparse.ArgumentParser(prog="python -m medjax_kernels.aot")
    parser.add_argument("op", nargs="?", choices=OPS, help="default: all")
    parser.add_argument("--shape", help="default: the first that the op names")
    parser.add_argument("--chip", choices=sorted(CHIPS), help="default: all")
    words = "only programs whose name contains one of these"
    parser.add_argument("--case", nargs="+", help=words)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    reports, missing, refused = [], [], []
    for chip in [options.chip] if options.chip else CHIPS:
        try:
            require(chip)
        except MissingCompilerError as error:
            missing.append(str(error))
            continue
        for op in [options.op] if options.op else OPS:
            if (module := cases_of(op)) is None:
                continue
            shape = options.shape or module.DEFAULT_SHAPE
            for case in module.cases(shape, CHIPS[chip].platform):
                wanted = options.case or [case.name]
                if not any(part in case.name for part in wanted):
                    continue
                try:
                    reports.append(compile_case(op, shape, chip, case))
                except NotImplementedError as error:
                    refused.append(f"{op} {shape} {chip} {case.name}: {error}")
    if options.json:
        print(json.dumps([dataclasses.asdict(r) for r in reports]))
    elif reports:
        print(table(reports))
    for reason in missing + refused:
        print(reason, file=sys.stderr)
    return 2 if missing else 0


if __name__ == "__main__":
    # Under "python -m" this file is __main__; operations import it by its name.
    raise SystemExit(importlib.import_module("medjax_kernels.aot").main())
