"""A run's folder on an object store: no rename, no append, nothing in ``gs:/``."""

import dataclasses
import functools
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import backend, gpath

from medjax.train import checkpoint, storage
from medjax.train.checkpoint import saved_steps
from medjax.train.experiment import Experiment, main
from medjax.train.feed import Fed
from medjax.train.lock import NAME, hold
from medjax.train.log import Writer, read_metrics
from medjax.train.mesh import MeshConfig, make_mesh
from medjax.train.nonfinite import record_nonfinite
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig, write_config
from medjax.train.storage import run_folder
from tests.train.tiny import Stream, init, quiet_loss


class Bucket(backend._OsPathBackend):
    """An object store in a local folder: files appear whole; no rename, no append."""

    def __init__(self, root):
        self.root, self.opened = root, []

    def _here(self, path):
        return os.path.join(self.root, os.fspath(path).removeprefix("gs://"))

    def open(self, path, mode):
        assert "a" not in mode and "+" not in mode, f"append to {path}"
        self.opened.append((os.path.basename(path), mode))
        if "w" in mode:  # there are no folders to make first
            os.makedirs(os.path.dirname(self._here(path)), exist_ok=True)
        return super().open(self._here(path), mode)

    def exists(self, path):
        return super().exists(self._here(path))

    def isdir(self, path):
        return super().isdir(self._here(path))

    def listdir(self, path):
        return super().listdir(self._here(path))

    def glob(self, path):
        found = super().glob(self._here(path))
        return ["gs://" + os.path.relpath(name, self.root) for name in found]

    def makedirs(self, path, *, exist_ok=False, mode=None):
        super().makedirs(self._here(path), exist_ok=exist_ok, mode=mode)

    def remove(self, path):
        super().remove(self._here(path))

    def rename(self, path, dst):
        raise AssertionError(f"rename of {path}")

    replace = rename


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The store behind ``gs://``; the working folder must stay empty."""
    made = Bucket(str(tmp_path / "store"))
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", made)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield made
    assert not list(here.iterdir())


def test_addresses_keep_their_meaning(tmp_path):
    for given in ("gs://bucket/run", Path("gs://bucket/run"), "gs:/bucket/run"):
        assert os.fspath(run_folder(given)) == "gs://bucket/run"
    assert run_folder(tmp_path) == tmp_path and run_folder("a:b/c") == Path("a:b/c")
    for other in ("s3://bucket/run", Path("s3://bucket/run"), "gs://"):
        with pytest.raises(ValueError, match=r"expected a folder or gs://bucket"):
            run_folder(other)


def test_all_that_a_run_writes_beside_checkpoints_lies_in_the_store(bucket):
    workdir = run_folder("gs://bucket/run")
    mesh = make_mesh()
    with hold(workdir) as held:
        held.check(now=True)
        assert (workdir / NAME).exists()
        for _ in range(2):  # the second start finds the first's
            write_config(workdir, {"a": 1}, OptimizerConfig(), TrainConfig(), mesh)
        with Writer(workdir) as writer:
            for step in (1, 2, 3):
                writer.write(step, {"loss": 1.0 / step}, line=False)
            # Copied at intervals and at the end, not with every row.
            assert not (workdir / "metrics.jsonl").exists()
        with Writer(workdir, step=2) as writer:
            writer.write(3, {"loss": 7.0}, line=False)
        batch = {"x": np.ones((8, 2), np.float32)}
        fed = Fed(batch, jax.tree.map(jax.numpy.asarray, batch), None, None)
        told = record_nonfinite(workdir, 4, fed, {"loss": jax.numpy.float32(np.nan)})
    assert [row["loss"] for row in read_metrics("gs://bucket/run")] == [1.0, 0.5, 7.0]
    assert any("tfevents" in path.name for path in workdir.glob("*"))
    assert json.loads((workdir / "config.json").read_text())["experiment"] == {"a": 1}
    stored = io.BytesIO((told.folder / "batch_process_0.npz").read_bytes())
    with np.load(stored) as found:
        assert found["x"].shape == (8, 2)
    assert not (workdir / NAME).exists()
    (workdir / "checkpoints" / "12").mkdir(parents=True)
    assert saved_steps(Path("gs://bucket/run")) == [12]
    assert ("metrics.jsonl", "wb") in bucket.opened


def test_what_grows_is_copied_at_intervals(bucket, monkeypatch):
    monkeypatch.setattr(storage, "EVERY", 0.05)
    workdir = epath.Path("gs://bucket/run")
    with Writer(workdir) as writer:
        writer.write(1, {"loss": 1.0}, line=False)
        for _ in range(200):
            if (workdir / "metrics.jsonl").exists():
                break
            writer._growing._stop.wait(0.05)
        assert len(read_metrics(workdir)) == 1


@dataclasses.dataclass(frozen=True)
class Tiny:
    """The tiny system as an experiment takes one."""

    init: Any = init
    loss: Any = quiet_loss
    frozen: tuple[str, ...] = ()
    apply: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def test_an_experiment_goes_on_at_an_address_on_a_machine_that_has_nothing(
    bucket, capsys, monkeypatch, tmp_path
):
    # Orbax speaks to Google's store by itself: here it is told where that lies.
    monkeypatch.setattr(
        checkpoint, "_absolute", lambda folder: Path(bucket._here(folder))
    )
    monkeypatch.setattr("sys.argv", ["tiny.py", "--workdir", "gs://bucket/a/run"])
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    address = epath.Path("gs://bucket/a/run")

    def train(config, steps):
        loop = TrainConfig(steps=steps, log_every=1, checkpoint_every=1)
        for folder in (config.workdir, config.workdir / "stage"):
            inside = dataclasses.replace(config, train=loop, workdir=folder)
            inside.fit(Tiny(), Stream(), rows=64, batch_size=16, mesh=mesh)
            rows = read_metrics(folder)  # as a page reads them
            assert [row["step"] for row in rows] == [*range(1, steps + 1)]
        (config.workdir / "towers").mkdir()
        (config.workdir / "towers" / "weights").write_bytes(b"1234")
        (config.workdir / "data").mkdir()
        (config.workdir / "data" / "metadata.json").write_text("{}")
        (config.workdir / "data" / "rows").write_text("can be prepared again")

    for attempt, steps in enumerate((2, 3)):
        local = tmp_path / f"machine-{attempt}"
        monkeypatch.setattr(storage, "LOCAL", str(local))
        presets = {"tiny": Experiment(about="tiny", workdir=Path("run"))}
        assert main(presets, functools.partial(train, steps=steps), "about") == 0
        assert "and at gs://bucket/a/run" in capsys.readouterr().out
        # Both trainings went on, and lie where the address says.
        assert saved_steps(address)[-1] == saved_steps(address / "stage")[-1] == steps
        assert not (local / "bucket/a/run/checkpoints").exists()
        assert not (address / NAME).exists()
    assert json.loads((address / "time.json").read_text())["starts"] == 2
    assert (address / "towers" / "weights").read_bytes() == b"1234"
    assert not (address / "data").exists()
    told = (address / "README.txt").read_text()
    assert "gcloud storage cp --recursive gs://bucket/a/run ." in told


def test_a_run_at_an_address_has_no_mirror(bucket, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "LOCAL", str(tmp_path / "machine"))
    flags = ["--workdir", "gs://bucket/run", "--mirror", "memory://bucket/run"]
    monkeypatch.setattr("sys.argv", ["mflag.py", *flags])
    presets = {"tiny": Experiment(about="tiny", workdir=Path("run"))}
    assert main(presets, lambda _: pytest.fail("it ran"), "about") == 1
    told = capsys.readouterr().err
    assert "expected a workdir on a disk, not gs://bucket/run" in told
