"""The one place where JAX versions differ (0.10.2, 0.11, 0.12).

Kernels are written to what all three understand; what moved or is not exported is
reached from here, so that a new JAX release is one file to look at.
"""

import jax


def platform() -> str:
    """The platform that a computation without further instructions will run on.

    Returns:
        ``"cpu"``, ``"gpu"`` or ``"tpu"``: of ``jax.default_device`` where that is set,
        else of the default backend.
    """
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None:
        return jax.default_backend()
    name = device if isinstance(device, str) else device.platform
    return "gpu" if name in {"cuda", "rocm"} else name
