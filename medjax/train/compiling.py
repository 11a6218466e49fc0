"""How a process compiles: with how much effort, and where programs are kept."""

import os
from pathlib import Path

import jax


def compile_quickly() -> None:
    """Has XLA spend little on programs of a CPU, unless its flags say how much.

    LLVM optimises little, and JAX 0.10 is asked for the older, lighter code generator
    as well. XLA reads its flags once: call it before anything touches a device.
    """
    said = os.environ.get("XLA_FLAGS", "")
    flags = {"--xla_backend_optimization_level": "1"}
    if jax.__version_info__ < (0, 11):
        flags["--xla_cpu_use_fusion_emitters"] = "false"
    more = [f"{flag}={value}" for flag, value in flags.items() if flag not in said]
    os.environ["XLA_FLAGS"] = " ".join([said, *more]).strip()


def keep_compiled(folder: str) -> None:
    """Keeps compiled programs, for later processes too.

    Args:
      folder: Where; a path, or an address such as gs://bucket/compiled.
    """
    if "://" not in folder:
        folder = str(Path(folder).expanduser())
    jax.config.update("jax_compilation_cache_dir", folder)
    # FFTs are custom partitionings (`medjax_kernels.fft`), which stand in a program
    # as an address in this process: with it, no later process would find a program.
    jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)


def once(platform: str) -> dict[str, int] | None:
    """Options of the compiler for what runs once, such as drawing weights.

    On a CPU, LLVM takes longer to optimise the random bits of each shape of weights
    than it takes to draw them once. A level that the user asks XLA for stands.

    Args:
      platform: Of the devices.
    """
    level = "xla_backend_optimization_level"
    asked = level in os.environ.get("XLA_FLAGS", "")
    return {level: 1} if platform == "cpu" and not asked else None
