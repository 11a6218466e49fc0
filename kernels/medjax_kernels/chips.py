"""GPUs that need not be here, as XLA's compiler wants to be told of them."""

from medjax_kernels import compat


def hopper(name: str, *, memory: int, bandwidth: int) -> str:
    """A Hopper GPU as XLA's GpuTargetConfigProto; figures of its ``h200.txtpb``.

    Args:
        name: JAX's device kind.
        memory: bytes.
        bandwidth: of the memory, bytes a second.
    """
    return f"""
gpu_device_info {{
  name: "{name}"
  core_count: 132
  clock_rate_ghz: 1.98
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: {compat.H200_SHARED_MEMORY}
  l2_cache_size: 52428800
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""


H200 = hopper("NVIDIA H200", memory=151_397_597_184, bandwidth=4_800_000_000_000)
H100 = hopper("NVIDIA H100", memory=85_899_345_920, bandwidth=3_352_000_000_000)
"""As the H200, with less and slower memory (SXM5, 80 GB; NVIDIA's data sheet)."""
