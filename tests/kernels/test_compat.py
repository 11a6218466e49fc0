"""The version shim says what the installed JAX will do."""

import jax

from medjax_kernels import compat


def test_platform_follows_the_default_device():
    assert compat.platform() == "cpu"
    with jax.default_device(jax.devices("cpu")[3]):
        assert compat.platform() == "cpu"
    with jax.default_device("gpu"):
        assert compat.platform() == "gpu"
