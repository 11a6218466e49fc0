"""The one place where JAX versions differ (0.10.2, 0.11, 0.12).

Kernels are written to what all three understand; what moved or is not exported is
reached from here, so that a new JAX release is one file to look at.
"""

import contextlib
import contextvars
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import jax

H200_SHARED_MEMORY = 232_448
"""Bytes of shared memory that one block of a Hopper GPU may ask for."""

CHIPS = {"gpu": ("NVIDIA H200", 132), "tpu": ("TPU v5 lite", 1)}
"""Device kind and core count that stand for a platform when none is named."""

_interpreting: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "interpreting", default=False
)
_target: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "target", default=None
)


def platform() -> str:
    """The platform that a computation without further instructions will run on.

    Returns:
        ``"cpu"``, ``"gpu"`` or ``"tpu"``: what :func:`target` or :func:`interpret` set,
        else of ``jax.default_device`` where that is set, else of the default backend.
    """
    if (target_platform := _target.get()) is not None:
        return target_platform
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None:
        return jax.default_backend()
    name = device if isinstance(device, str) else device.platform
    return "gpu" if name in {"cuda", "rocm"} else name


@contextlib.contextmanager
def target(name: str, kind: str | None = None) -> Iterator[None]:
    """Choose implementations for ``name``, a platform that need not be here.

    For lowering and compiling ahead of time: what is traced and lowered under this
    context may name that platform's kernels, and runs only there.

    Args:
        name: ``"cpu"``, ``"gpu"`` or ``"tpu"``.
        kind: the device kind that lowering rules ask the abstract mesh for (from 0.11
            on they insist); None for an H200 or a TPU v5e.
    """
    token = _target.set(name)
    try:
        with contextlib.ExitStack() as stack:
            if name in CHIPS:
                default, cores = CHIPS[name]
                device = jax.sharding.AbstractDevice(
                    device_kind=kind or default, platform=name, num_cores=cores
                )
                mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
                stack.enter_context(jax.sharding.use_abstract_mesh(mesh))
            yield
    finally:
        _target.reset(token)


@contextlib.contextmanager
def interpret(name: str) -> Iterator[None]:
    """Run Pallas kernels of ``name`` on the CPU, looking for data races.

    Args:
        name: ``"tpu"``, or ``"gpu"`` for Mosaic GPU.

    Raises:
        ValueError: for another platform.
    """
    if name == "tpu":
        from jax.experimental.pallas import tpu as pltpu

        params = pltpu.InterpretParams(
            detect_races=True, out_of_bounds_reads="raise", uninitialized_memory="nan"
        )
        mode = pltpu.force_tpu_interpret_mode(params)
    elif name == "gpu":
        # Not exported by any of the three versions.
        from jax._src.pallas.mosaic_gpu.interpret import params as gpu_interpret

        mode = gpu_interpret.force_gpu_interpret_mode(
            gpu_interpret.InterpretGPUParams(detect_races=True)
        )
    else:
        raise ValueError(f"name must be 'tpu' or 'gpu', got {name!r}")
    token, flag = _target.set(name), _interpreting.set(True)
    try:
        with mode:
            yield
    finally:
        _target.reset(token)
        _interpreting.reset(flag)


def races_found(name: str) -> bool:
    """Whether the kernel that was interpreted last raced for its data.

    Args:
        name: ``"tpu"`` or ``"gpu"``, as given to :func:`interpret`.
    """
    if name == "tpu":
        from jax._src.pallas.mosaic.interpret import interpret_pallas_call

        races = interpret_pallas_call.races
    else:
        from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

        races = gpu_callbacks.get_races()
    return races is not None and races.races_found


def interpreting() -> bool:
    """Whether this is traced under :func:`interpret`."""
    return _interpreting.get()


def fetch(ref: Any, layout: Any) -> jax.Array:
    """What a Hopper kernel's ref holds, from device memory straight into registers.

    Args:
        ref: in device memory.
        layout: of the registers.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    if interpreting():
        return ref[...]
    index = inspect.signature(plgpu.load).parameters.get("idx")
    required = index is not None and index.default is inspect.Parameter.empty
    options: dict[str, Any] = {"idx": None} if required else {}
    return plgpu.load(ref, layout=layout, optimized=False, **options)


def needs_devices(primitive: Any) -> None:
    """Tell JAX that lowering a primitive asks which devices will run it.

    JAX hands them to the lowering of programs with a primitive of which it knows so.

    Args:
        primitive: one whose lowering goes through ``custom_partitioning``.
    """
    # Not exported by any of the three versions.
    from jax._src import dispatch

    dispatch.prim_requires_devices_during_lowering.add(primitive)


def output(
    shape: Sequence[int], dtype: Any, *inputs: jax.Array
) -> jax.ShapeDtypeStruct:
    """A kernel's output that varies over whatever mesh axes its inputs vary over.

    Under ``shard_map`` with ``check_vma`` a kernel has to say so itself.

    Args:
        shape: of the output.
        dtype: of the output.
        *inputs: the kernel's inputs.

    Returns:
        The shape, with the union of the inputs' varying axes.
    """
    varying = frozenset().union(
        *(jax.typeof(x).manual_axis_type.varying for x in inputs)
    )
    if not varying:
        return jax.ShapeDtypeStruct(tuple(shape), dtype)
    axes = jax.typeof(inputs[0]).manual_axis_type.update(varying=varying)
    return jax.ShapeDtypeStruct(tuple(shape), dtype, manual_axis_type=axes)
