"""People set aside are asked, and the state best for them is what a run keeps."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.heart.subject import Subject
from medjax.heart.tracking import asked_examples
from medjax.heart.validation import ValidationConfig, asked, watched
from medjax.train.checkpoint import load_variables, saved_steps
from medjax.train.experiment import Experiment
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.settings import TrainConfig
from medjax.train.state import TrainState
from tests.train.tiny import Stream, init, loss

BEST = ValidationConfig(keep="best")
SCORES = {1: 0.5, 2: 0.3, 3: 0.4}


def nothing(variables, batch):
    """A loss that nobody asks."""
    raise AssertionError((variables, batch))


def test_the_mean_loss_is_of_everybody_whatever_the_batch():
    def mean(variables, batch):
        return variables["params"]["a"] * batch["x"].mean()

    mesh = make_mesh(MeshConfig())
    examples = [{"x": np.full(2, i, np.float32)} for i in range(6)]
    params = {"a": jnp.float32(2)}
    step = jnp.zeros((), jnp.int32)
    state = TrainState(step=step, params=params, extra={}, opt_state=())
    for size in (1, 4, 8):
        hook = asked(mean, examples, batch_size=size, mesh=mesh)
        assert hook(state, 1) == {"loss": pytest.approx(5.0)}


def test_nobody_is_asked_unless_the_best_state_is_to_be_kept(tmp_path):
    config = Experiment(about="x", workdir=tmp_path)
    about: Any = {"rows": 30, "batch_size": 8, "mesh": make_mesh(MeshConfig())}
    last = ValidationConfig()
    assert last.aside == 0 and BEST.aside == 2
    assert watched(config, last.rule, nothing, [], **about) == (config, {})
    with pytest.raises(ValueError, match="is 'best', and nobody is set aside"):
        watched(config, BEST.rule, nothing, [], **about)
    one = [{"x": np.zeros(1)}]
    inside, options = watched(config, BEST.rule, nothing, one, **about)
    assert inside.train.eval_every == 3 and options["stopping"] == BEST.rule
    often = Experiment(about="x", workdir=tmp_path, train=TrainConfig(eval_every=2))
    assert watched(often, BEST.rule, nothing, one, **about)[0].train.eval_every == 2
    with pytest.raises(ValueError, match=r"validation\.people is 0, expected 1"):
        ValidationConfig(people=0)


def test_a_run_gives_the_weights_that_validation_chose(tmp_path):
    config = Experiment(
        about="x", workdir=tmp_path, train=TrainConfig(steps=3, eval_every=1, keep=1)
    )
    record: Any = types.SimpleNamespace(save=lambda workdir: None)
    system: Any = types.SimpleNamespace(init=init, loss=loss, frozen=(), apply={})
    found = config.fit_recorded(
        lambda: record,
        system,
        Stream(),
        mesh=make_mesh(MeshConfig()),
        rows=64,
        batch_size=16,
        evals=[lambda state, step: {"loss": SCORES[step]}],
        stopping=BEST.rule,
    )
    assert saved_steps(tmp_path) == [2, 3]
    kept, last = (load_variables(tmp_path, step=step) for step in (2, 3))
    jax.tree.map(np.testing.assert_array_equal, found, kept)
    heads = (one["params"]["head"]["kernel"] for one in (kept, last))
    assert np.abs(np.subtract(*heads)).max() > 0


def test_people_are_asked_at_two_fifths_of_the_cycle():
    times = np.arange(10, dtype=np.float32) / 10
    arrays: Any = {name: np.zeros((10, 3, 3)) for name in Subject._fields}
    arrays |= {"times": times, "vertices": np.ones((10, 3, 3)) * times[:, None, None]}
    one = Subject(**arrays)
    (found,) = asked_examples([one], ("time", "vertices_t"), None)
    assert set(found) == {"time", "vertices_t"}
    assert found["time"] == found["vertices_t"][0, 0] == np.float32(0.4)
    start = np.full((3, 3), 7.0)
    (found,) = asked_examples([one], ("vertices_ed",), [start])
    np.testing.assert_array_equal(found["vertices_ed"], start)
