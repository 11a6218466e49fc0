"""Compiling a step for a machine that may not be here, and what its compiler says.

A compilation takes minutes, so what it said is kept, by the program's own text, the
machine and the versions of the compilers.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import jax

from medjax.data.whole import whole
from medjax.progress import Waiting
from medjax.train.collectives import Collective, read_collectives
from medjax.train.plan.topologies import Topology
from medjax.train.program import Program

SCHEMA = 1
"""Of what is kept."""
GPU_OPTIONS: dict[str, Any] = {
    # Autotuning needs the chip itself.
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a compiler says of a step on each device.

    Attributes:
      temporaries: Bytes while it runs, results that share no argument's memory among
        them.
      code: Bytes.
      accessed: Bytes read and written, loops counted once; None: it does not say.
      collectives: All of them.
      refused: Why it did not compile for want of memory, or None.
    """

    temporaries: int
    code: int
    accessed: float | None
    collectives: tuple[Collective, ...]
    refused: str | None = None


def traced_step(program: Program) -> Any:
    """The step as a jaxpr (``.jaxpr``), ready to be lowered."""
    with jax.set_mesh(program.mesh):
        return program.step.trace(*program.arguments)


def compiled_step(program: Program, machine: Topology, traced: Any = None) -> Any:
    """The step, compiled; on a CPU it runs.

    Args:
      program: The step and its shapes, over devices of the machine.
      machine: Which.
      traced: Of `traced_step`, where it is there already.
    """
    traced = traced_step(program) if traced is None else traced
    return _compiled(_lowered(program, machine, traced), machine)


def compiler_facts(
    program: Program, machine: Topology, traced: Any, *, cache: Path | None
) -> Facts:
    """What the compiler says of a step, kept from an earlier time or asked now.

    Args:
      program: The step and its shapes.
      machine: Which it is compiled for.
      traced: Of `traced_step`.
      cache: Folder of what is kept; None: nothing is.
    """
    lowered = _lowered(program, machine, traced)
    path = None if cache is None else cache / f"{_digest(lowered, machine)}.json"
    if path is not None and (kept := _kept(path)) is not None:
        return kept
    try:
        with Waiting(f"compile for {machine.name}"):
            found = facts_of(_compiled(lowered, machine))
    except jax.errors.JaxRuntimeError as error:
        if (refused := _out_of_memory(str(error))) is None:
            raise
        return Facts(0, 0, None, (), refused)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as draft:
            draft.write_text(json.dumps(dataclasses.asdict(found)))
    return found


def _lowered(program: Program, machine: Topology, traced: Any) -> Any:
    with jax.set_mesh(program.mesh):
        return traced.lower(lowering_platforms=(machine.lowering,))


def _compiled(lowered: Any, machine: Topology) -> Any:
    gpu = machine.platform == "gpu"
    return lowered.compile(compiler_options=GPU_OPTIONS if gpu else None)


def facts_of(compiled: Any) -> Facts:
    """What the compiler says of a step of `compiled_step`."""
    said = compiled.memory_analysis()
    beyond = said.output_size_in_bytes - said.alias_size_in_bytes
    cost: Any = compiled.cost_analysis()
    accessed = (cost or {}).get("bytes accessed")
    return Facts(
        # Not the peak, in which TPU compilers count vector memory as well.
        temporaries=int(said.temp_size_in_bytes + max(beyond, 0)),
        code=int(said.generated_code_size_in_bytes),
        accessed=None if not accessed else float(accessed),
        collectives=tuple(read_collectives(compiled.as_text())),
    )


def _out_of_memory(text: str) -> str | None:
    """What a compiler says of memory that does not suffice."""
    found = re.search(r"Used [\d.]+\w+ of [\d.]+\w+[^.\n]*", text)
    if found is None and "RESOURCE_EXHAUSTED" not in text:
        return None
    return found[0].strip() if found else " ".join(text.split())[:200]


def _digest(lowered: Any, machine: Topology) -> str:
    versions = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("jaxlib", "libtpu", "jax-cuda13-plugin")
        if _installed(name)
    ]
    where = f"{SCHEMA} {machine.generation} {machine.shape} {machine.islands}"
    text = "\n".join([where, *versions, lowered.as_text()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _kept(path: Path) -> Facts | None:
    """What was kept; None where nothing was, or it cannot be read."""
    try:
        content = json.loads(path.read_text())
        collectives = tuple(
            Collective(
                **{
                    **one,
                    "shapes": tuple((d, tuple(s)) for d, s in one["shapes"]),
                    "groups": tuple(map(tuple, one["groups"])),
                }
            )
            for one in content.pop("collectives")
        )
        return Facts(**content, collectives=collectives)
    except (OSError, ValueError, TypeError, KeyError):
        return None
