"""The loop in one process: resume, topology, accumulation, guards, records."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from medjax import train
from medjax.report.run import MEASURED
from medjax.train import preemption
from medjax.train.checkpoint import saved_steps
from medjax.train.mesh import make_mesh
from medjax.train.preemption import PreemptionGuard
from medjax.train.program import describe
from tests.train.short import OPTIMIZER, assert_equal, curve, run
from tests.train.tiny import Stream, init, loss, quiet_loss


def leave(workdir, at, how, **options):
    """Runs until a hook at step `at` interrupts it."""

    def hook(state, step):
        del state
        if step == at:
            how()
        return {}

    return run(workdir, evals=[hook], eval_every=1, **options)


def crash():
    raise OSError("the disk is gone")


def test_a_crashed_run_resumes_bit_equal(tmp_path):
    options = dict(steps=9, checkpoint_every=2, ema=0.9)
    whole = run(tmp_path / "whole", **options)
    with pytest.raises(OSError, match="disk"):
        leave(tmp_path / "cut", 5, crash, **options)
    resumed = run(tmp_path / "cut", **options)
    assert_equal(whole, resumed)
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")
    # A finished run is given back as it is.
    assert_equal(whole, run(tmp_path / "cut", **options))
    kept = {p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()}
    assert {"8", "9"} <= kept and "2" not in kept


def test_sigterm_saves_exactly_there_and_leaves_with_its_status(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(train.Preempted) as stopped:
        leave(tmp_path, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    # The signal came in the hook, so the step after it is the last.
    assert stopped.value.step == 4 and stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "checkpoints" / "4" / "variables").is_dir()
    run(tmp_path)
    assert len(curve(tmp_path)) == 6


def test_a_signal_too_late_to_stop_for_is_passed_on():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: heard.append(signum))
    try:
        with PreemptionGuard():
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_fsdp_follows_the_replicated_curve(tmp_path):
    small = [(".*", train.fsdp(min_size=0))]
    mesh = train.MeshConfig(data=2, fsdp=4)
    split = run(tmp_path / "fsdp", mesh=mesh, rules=small)
    copied = run(tmp_path / "data")
    kernel = split.params["encoder"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp")
    np.testing.assert_allclose(
        curve(tmp_path / "fsdp"), curve(tmp_path / "data"), rtol=1e-5
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        jax.device_get(split.params),
        jax.device_get(copied.params),
    )


def test_a_run_moves_from_8_devices_to_4_to_1(tmp_path):
    rules = [(".*", train.fsdp(min_size=0))]
    options = dict(rules=rules, loss=quiet_loss)
    run(tmp_path / "whole", 9, mesh=train.MeshConfig(fsdp=8), **options)
    for count, steps in ((8, 3), (4, 6), (1, 9)):
        devices = jax.devices()[:count]
        mesh = train.make_mesh(train.MeshConfig(fsdp=count), devices=devices)
        state = run(tmp_path / "moved", steps, mesh=mesh, **options)
        assert state.params["head"]["kernel"].sharding.device_set == set(devices)
    np.testing.assert_allclose(
        curve(tmp_path / "moved"), curve(tmp_path / "whole"), rtol=1e-5
    )


def test_accumulated_microbatches_equal_the_full_batch(tmp_path):
    for parts in (1, 2):
        mesh = train.MeshConfig(data=4, model=2)
        run(tmp_path / str(parts), mesh=mesh, accumulate=parts, loss=quiet_loss)
    for name in ("loss", "grad_norm", "update_norm"):
        np.testing.assert_allclose(
            curve(tmp_path / "1", name), curve(tmp_path / "2", name), rtol=1e-5
        )


def test_a_row_that_is_refused_ends_the_run_behind_its_last_checkpoint(tmp_path):
    seen = []

    def refuse(step, metrics):
        seen.append(step)
        if step == 3:
            raise ValueError(f"step 3: an error of {metrics['error']:.3f}")

    with pytest.raises(ValueError, match=r"step 3: an error of 0\."):
        run(tmp_path, refuse=refuse, checkpoint_every=2)
    assert seen == [1, 2, 3]
    # What was refused is in the log, and in no checkpoint.
    assert [row["step"] for row in train.read_metrics(tmp_path)] == [1, 2, 3]
    assert saved_steps(tmp_path) == [2]
    assert int(run(tmp_path, 4, checkpoint_every=2).step) == 4


def test_a_non_finite_loss_stops_and_nothing_is_lost(tmp_path):
    bad = Stream(bad=3)
    with pytest.raises(train.NonFiniteError, match="step 4") as stopped:
        run(tmp_path / "bad", data=bad)
    # The state saved is that of a run which never saw the bad batch.
    good = run(tmp_path / "good", 3)
    saved = train.load_variables(tmp_path / "bad", step=3)
    assert_equal(jax.device_get(saved), jax.device_get(good.variables))
    with np.load(stopped.value.folder / "batch_process_0.npz") as batch:
        assert stopped.value.index == batch["index"].tolist()
        assert np.isnan(batch["x"]).sum() == 1
    told = json.loads((stopped.value.folder / "metrics.json").read_text())
    assert told["step"] == 4 and told["metrics"]["loss"] == "nan"
    # The same command meets the same batch; asked to skip, it passes over it.
    with pytest.raises(train.NonFiniteError, match="step 4"):
        run(tmp_path / "bad", data=Stream(bad=3))
    state = run(tmp_path / "bad", data=Stream(bad=3), on_nonfinite="skip")
    assert int(state.step) == 6
    assert curve(tmp_path / "bad", "loss")[3] is None  # NaN is null in JSON
    assert np.isfinite(jax.tree.reduce(lambda s, x: s + x.sum(), state.params, 0.0))


def test_frozen_parameters_never_change(tmp_path):
    optimizer = train.OptimizerConfig(
        lr=1e-2, weight_decay=0.5, frozen=("^encoder/kernel",)
    )
    start = run(tmp_path / "start", 1, optimizer=optimizer)
    end = run(tmp_path / "end", 6, optimizer=optimizer)
    assert_equal(start.params["encoder"]["kernel"], end.params["encoder"]["kernel"])
    for name, part in (("encoder", "bias"), ("head", "kernel")):
        assert (start.params[name][part] != end.params[name][part]).all()


def test_the_average_is_the_exponential_one_and_loads_alone(tmp_path):
    seen = []

    def hook(state, step):
        seen.append(jax.device_get((state.params["head"], state.ema["head"])))
        return {}

    run(tmp_path, evals=[hook], eval_every=1, ema=0.75)
    for (_, before), (params, after) in zip(seen, seen[1:], strict=False):
        want = 0.75 * before["kernel"] + 0.25 * params["kernel"]
        np.testing.assert_allclose(after["kernel"], want, rtol=1e-5, atol=1e-7)
    params, average = seen[-1]
    for averaged, want in ((True, average), (False, params)):
        loaded = train.load_variables(tmp_path, averaged=averaged)
        assert set(loaded) == {"params", "batch_stats"}
        assert_equal(jax.device_get(loaded["params"]["head"]), want)
    with pytest.raises(ValueError, match="no checkpoint 5"):
        train.load_variables(tmp_path, step=5)


def test_the_step_is_traced_once_and_leaves_its_records(tmp_path):
    traces = []

    def counted(variables, batch, key):
        traces.append(1)
        # What a contrastive loss does: a collective over the mesh it runs under.
        mesh = jax.sharding.get_abstract_mesh()
        spec = PartitionSpec(("data", "fsdp"))
        total = jax.shard_map(
            lambda x: jax.lax.psum(x.sum(), ("data", "fsdp")),
            mesh=mesh,
            in_specs=spec,
            out_specs=PartitionSpec(),
        )(batch["x"])
        value, (metrics, updated) = loss(variables, batch, key)
        return value, ({**metrics, "total": total}, updated)

    state = run(
        tmp_path,
        loss=counted,
        profile="2:3",
        evals=[lambda state, step: {"score": step}],
        eval_every=3,
        config={"preset": "tiny"},
    )
    assert len(traces) == 1
    assert (state.extra["batch_stats"]["mean"] != 0).all()
    stream = Stream()
    totals = [next(stream)["x"].sum() for _ in range(6)]
    np.testing.assert_allclose(curve(tmp_path, "total"), totals, rtol=1e-4, atol=1e-4)
    scores = [r for r in train.read_metrics(tmp_path) if "eval/score" in r]
    assert [row["step"] for row in scores] == [3, 6]
    row = train.read_metrics(tmp_path)[0]
    for name in ("grad_norm", "param_norm", "update_norm", "lr", "examples_per_s"):
        assert row[name] > 0
    assert row["peak_memory_bytes"] > 0 and row["mfu"] is None
    # What the loop itself measures is no term of the loss on a run's page.
    assert row.keys() - MEASURED <= {"error", "total"}
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert list(tmp_path.glob("events.out.tfevents.*"))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["experiment"] == {"preset": "tiny"}
    assert written["mesh"] == {"data": 8, "fsdp": 1, "model": 1}


def test_resuming_with_settings_that_matter_is_refused(tmp_path):
    run(tmp_path, 2)
    faster = train.OptimizerConfig(lr=2e-2)
    with pytest.raises(ValueError, match=r"optimizer.lr: was 0.01, now 0.02"):
        run(tmp_path, 4, optimizer=faster)
    run(tmp_path, 3, keep=1, eval_every=1)  # these change nothing that is computed
    with pytest.raises(ValueError, match="batch_size: was 16, now 32"):
        run(tmp_path, 4, data=Stream(batch=32))
    state = run(tmp_path, 4, optimizer=faster, allow_config_change=True)
    assert int(state.step) == 4


def test_another_experiment_in_the_same_workdir_is_warned_of(tmp_path, caplog):
    run(tmp_path, 1, config={"data": {"root": "a"}})
    run(tmp_path, 1, config={"data": {"root": "b"}})
    assert "data.root: was 'a', now 'b'" in caplog.text


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train.log_every"):
        train.TrainConfig(log_every=0)
    with pytest.raises(ValueError, match="3 microbatches over 8 devices"):
        run(tmp_path, accumulate=3)


def test_resuming_another_model_is_refused(tmp_path):
    run(tmp_path, 2)

    def wider(key, batch):
        variables = init(key, batch)
        head = {"kernel": np.zeros((32, 5), np.float32)}
        return {**variables, "params": {**variables["params"], "head": head}}

    with pytest.raises(ValueError, match="params/head/kernel has shape"):
        train.fit(wider, loss, Stream(), workdir=tmp_path, optimizer=OPTIMIZER)


def test_a_metric_that_is_no_scalar_is_refused(tmp_path):
    def vector(variables, batch, key):
        value, (_, updated) = loss(variables, batch, key)
        return value, ({"per_example": batch["y"]}, updated)

    with pytest.raises(ValueError, match="per_example"):
        run(tmp_path, loss=vector)


@pytest.mark.parametrize("window", ["9:3", "0:4", "5", ":5", "a:b"])
def test_a_profile_window_that_is_none_is_refused_at_once(window):
    with pytest.raises(ValueError, match=f"train.profile: .* got '{window}'"):
        train.TrainConfig(profile=window)


class Notes:
    """The store of the coordination service, as far as notes need it."""

    def __init__(self):
        self.notes, self.asked = [], 0

    def key_value_dir_get(self, folder):
        self.asked += 1
        return self.notes

    def key_value_set(self, key, value):
        if self.notes:
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
        self.notes.append((key, value))


def test_processes_stop_together_though_they_ask_every_few_steps(monkeypatch):
    """Two processes, one of which is two steps ahead, as far as it can get."""
    store = Notes()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(preemption, "coordination_client", lambda: store)
    for every, noticed, stop in [(1, 5, 8), (4, 5, 8), (4, 6, 12), (10, 1, 10)]:
        store.notes, store.asked = [], 0
        behind, ahead = PreemptionGuard(every), PreemptionGuard(every)
        left = {}
        for step in range(1, 30):
            for name, guard, at in (
                ("ahead", ahead, step + 2),
                ("behind", behind, step),
            ):
                if name == "behind" and at == noticed:
                    behind._signum = signal.SIGTERM
                if name not in left and guard.requested(at) is not None:
                    left[name] = at
        assert left == {"ahead": stop, "behind": stop}, every


def test_weights_are_drawn_at_the_level_that_xla_is_asked_for(monkeypatch):
    """Without one, at little effort, since that program runs once."""
    batch = jax.tree.map(jax.numpy.asarray, next(Stream()))
    program = describe(
        init,
        loss,
        batch,
        optimizer=OPTIMIZER,
        train=train.TrainConfig(steps=1),
        mesh=make_mesh(devices=jax.devices()[:1]),
    )
    asked = []
    jit = jax.jit

    def spy(*args, **options):
        if "compiler_options" in options:
            asked.append(options["compiler_options"])
        return jit(*args, **options)

    monkeypatch.setattr(jax, "jit", spy)
    level = "xla_backend_optimization_level"
    for flags in ("", f"--{level}=3"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        program.initialise(jax.random.key(0), batch)
    assert asked == [{level: 1}, None]
