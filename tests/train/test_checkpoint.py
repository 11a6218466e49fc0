"""How a checkpoint is written."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medjax.train import checkpoint
from medjax.train.checkpoint import Checkpoints, load_variables
from medjax.train.state import TrainState


@pytest.mark.parametrize("cut", [False, True])
def test_small_arrays_are_not_cut_among_devices(cut, tmp_path, caplog, monkeypatch):
    """A program per shape was compiled, and each array written in eight parts."""
    if cut:
        monkeypatch.setattr(checkpoint, "SHARED_WRITING_FROM", 1)
    everywhere = NamedSharding(jax.make_mesh((8,), ("data",)), P())
    params = {"kernel": np.ones((16, 24), np.float32), "bias": np.ones(40, np.float32)}
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.device_put(params, everywhere),
        extra={},
        opt_state=(),
        ema=None,
    )
    folder = tmp_path / "checkpoints"
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state, None, {}, wait=True)
    programs = [r for r in caplog.messages if r.startswith("Compiling")]
    # Where they are cut all the same, this is what is seen.
    assert bool(programs) == cut
    found = load_variables(tmp_path)["params"]
    jax.tree.map(np.testing.assert_array_equal, found, params)
