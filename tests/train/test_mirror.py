"""A copy of a run's folder: on a store in memory, and on a server that speaks S3."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from medjax import train
from medjax.train import mirror
from medjax.train.copies import COMMIT, MirrorError
from medjax.train.experiment import Experiment, main
from medjax.train.mirror import KEPT, Mirror
from tests import processes
from tests.train.short import run
from tests.train.test_processes import PROGRAM, rows

ADDRESS = "memory://bucket/run"


def write(folder, **files):
    """Files of a folder by name; ``__`` is a stroke."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def held(folder):
    """What a folder holds that belongs to a run."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != KEPT
    }


def objects(store):
    """What the store holds."""
    return {
        path.removeprefix("/bucket/run/"): store.cat_file(path).decode(errors="replace")
        for path in store.find("/bucket")
        if not path.endswith(COMMIT)
    }


def copied(folder):
    """A folder with its copy, made or gone on with."""
    found = Mirror(folder, ADDRESS)
    found.bring()
    found._renew()
    return found


def test_what_is_whole_is_copied_and_comes_back_in_an_empty_folder(store, tmp_path):
    first = write(tmp_path / "a", log="1", checkpoints__5__x="five")
    write(first, **{"checkpoints__9.orbax-checkpoint-tmp__x": "half"})
    write(first, **{".part.report.html": "half", "lock.json": "{}"})
    one = copied(first)
    assert objects(store) == {"log": "1", "checkpoints/5/x": "five"}
    write(first, log="1 2", checkpoints__9__x="nine")
    shutil.rmtree(first / "checkpoints" / "5")
    one._renew()
    assert objects(store) == {"log": "1 2", "checkpoints/9/x": "nine"}

    second = tmp_path / "b"
    second.mkdir()
    two = Mirror(second, ADDRESS)
    two.bring()
    assert held(second) == objects(store)
    sent = two._sent
    two._sent = lambda files: pytest.fail("copied again")
    two._renew()
    two._sent = sent
    write(second, log="1 2 3")
    two._renew()
    assert objects(store)["log"] == "1 2 3"
    # The first machine is back: its folder has fallen behind, and nothing is lost.
    with pytest.raises(MirrorError, match="a was not the last to be copied"):
        copied(first)
    assert held(first)["log"] == "1 2" and objects(store)["log"] == "1 2 3"


def test_what_no_commit_names_was_never_there(store, tmp_path):
    first = write(tmp_path / "a", log="1", checkpoints__5__x="five")
    one = copied(first)
    write(first, checkpoints__9__x="nine", checkpoints__9__y="nine")
    # The machine goes when one of two files of a checkpoint is there.
    one._copy.store.pipe_file("/bucket/run/checkpoints/9/x", b"nine")
    (tmp_path / "b").mkdir()
    two = Mirror(tmp_path / "b", ADDRESS)
    two.bring()
    assert held(tmp_path / "b") == {"log": "1", "checkpoints/5/x": "five"}
    assert "checkpoints/9/x" not in objects(store)


@pytest.mark.parametrize("said", [False, True])
def test_a_crash_at_the_commit_itself_leaves_the_folder_its_own(
    said, store, tmp_path, monkeypatch
):
    folder = write(tmp_path / "a", log="1")
    one = copied(folder)
    write(folder, log="1 2")
    pipe = one._copy.store.pipe_file

    def crash(path, content):
        if said:
            pipe(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one._copy.store, "pipe_file", crash)
        with pytest.raises(KeyboardInterrupt):
            one._renew()
    copied(folder)
    assert objects(store) == {"log": "1 2"}


def test_a_commit_whose_answer_was_lost_is_known_as_ones_own(
    store, tmp_path, monkeypatch
):
    folder = write(tmp_path / "a", log="1")
    one = copied(folder)
    pipe = one._copy.store.pipe_file

    def unanswered(path, content):
        pipe(path, content)
        raise TimeoutError("no answer")

    write(folder, log="1 2")
    with monkeypatch.context() as patch:
        patch.setattr(one._copy.store, "pipe_file", unanswered)
        assert not one._tried()
    write(folder, log="1 2 3")
    assert one._tried() and objects(store) == {"log": "1 2 3"}
    one.check()
    copied(folder)


def test_a_copy_that_vanishes_is_told_and_made_anew(store, tmp_path):
    folder = write(tmp_path / "a", log="1")
    one = copied(folder)
    store.rm("/bucket/run", recursive=True)
    write(folder, log="1 2")
    assert not one._tried()
    with pytest.raises(MirrorError, match="memory://bucket/run has vanished"):
        one.check()
    store.rm("/bucket/run", recursive=True)
    copied(folder)
    assert objects(store) == {"log": "1 2"}


def test_a_folder_that_was_half_brought_is_brought_again(store, tmp_path, monkeypatch):
    copied(write(tmp_path / "a", log="1", notes="2"))
    monkeypatch.setattr(mirror, "TOGETHER", 1)
    second = tmp_path / "b"
    second.mkdir()
    two = Mirror(second, ADDRESS)
    get, asked = two._copy.store.get, []

    def once(there, here):
        if asked:
            raise KeyboardInterrupt
        asked.append(there)
        get(there, here)

    monkeypatch.setattr(two._copy.store, "get", once)
    with pytest.raises(KeyboardInterrupt):
        two.bring()
    assert held(second) == {"log": "1"}
    Mirror(second, ADDRESS).bring()
    assert held(second) == {"log": "1", "notes": "2"}


def test_what_would_mix_two_runs_is_refused_by_name(store, tmp_path):
    one = copied(write(tmp_path / "a", log="1"))
    other = write(tmp_path / "b", log="other")
    with pytest.raises(MirrorError, match="never copied there"):
        copied(other)
    moved = Mirror(tmp_path / "a", "memory://bucket/elsewhere")
    moved.bring()  # an address where nothing is takes any folder
    moved._renew()
    with pytest.raises(MirrorError, match="is copied to memory://bucket/elsewhere"):
        copied(tmp_path / "a")
    store.pipe_file("/bucket/others/film.png", b"")
    with pytest.raises(MirrorError, match=r"1 objects \(film.png\), and no COMMIT"):
        Mirror(tmp_path / "b", "memory://bucket/others").bring()
    store.pipe_file(f"/bucket/run/{COMMIT}", b'{"mark": 3}')
    with pytest.raises(MirrorError, match="run/COMMIT: expected a list of files"):
        copied(other)
    with pytest.raises(MirrorError, match="run/COMMIT: expected a list of files"):
        write(tmp_path / "a", log="1 2")
        one._renew()
    away = {"mark": "m", "files": {"../../home": [0, 0]}}
    store.pipe_file(f"/bucket/run/{COMMIT}", json.dumps(away).encode())
    with pytest.raises(MirrorError, match="../../home is outside of it"):
        copied(other)


def test_two_runs_that_copy_to_one_address_are_found_out(store, tmp_path):
    one = copied(write(tmp_path / "a", log="1"))
    (tmp_path / "b").mkdir()
    copied(tmp_path / "b")
    write(tmp_path / "b", log="1 b")
    two = copied(tmp_path / "b")
    write(tmp_path / "a", log="1 a")
    assert not one._tried()
    with pytest.raises(MirrorError, match="another run copies to memory://bucket/run"):
        one.check()
    two.check()


def test_a_checkpoint_that_goes_while_it_is_copied_is_left_out(
    store, tmp_path, monkeypatch
):
    folder = write(
        tmp_path / "a", log="1", checkpoints__5__x="5", checkpoints__5__y="5"
    )
    one = Mirror(folder, ADDRESS)
    one.bring()
    put = one._copy.store.put

    def late(here, there):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        put(here, there)

    monkeypatch.setattr(mirror, "TOGETHER", 1)
    monkeypatch.setattr(one._copy.store, "put", late)
    one._renew()
    (tmp_path / "b").mkdir()
    Mirror(tmp_path / "b", ADDRESS).bring()
    assert held(tmp_path / "b") == {"log": "1"}


def test_a_copy_that_keeps_failing_ends_the_run_at_the_next_save(
    store, tmp_path, monkeypatch, fill, caplog
):
    with train.mirrored(tmp_path / "ok", ADDRESS):
        run(tmp_path / "ok")
    assert "checkpoints/6/_CHECKPOINT_METADATA" in objects(store)

    monkeypatch.setattr(mirror, "EVERY", 0.0)
    fill()
    with (
        pytest.raises(MirrorError, match="memory://bucket/other: quota exceeded"),
        train.mirrored(tmp_path / "run", "memory://bucket/other"),
    ):
        run(tmp_path / "run", 5000, checkpoint_every=1, log_every=5000)
    assert "try 1 of" in caplog.text
    assert train.read_metrics(tmp_path / "run")[-1]["step"] < 5000


def test_a_last_copy_that_fails_is_an_error_but_hides_none(tmp_path, fill, caplog):
    fill()
    with (
        pytest.raises(MirrorError, match="quota exceeded"),
        train.mirrored(tmp_path / "a", ADDRESS),
    ):
        write(tmp_path / "a", log="1")
    with (
        pytest.raises(KeyError, match="its own"),
        train.mirrored(tmp_path / "b", "memory://bucket/b"),
    ):
        write(tmp_path / "b", log="1")
        raise KeyError("its own")
    assert "memory://bucket/b: quota exceeded" in caplog.text


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("/mnt/run", "expected an address of an object store"),
        ("file:///mnt/run", "expected an address of an object store"),
        ("s3://", "expected an address of an object store"),
        ("nowhere://bucket/run", "nowhere"),
        ("memory://bucket/run", "expected a workdir on a disk, not gs://bucket/run"),
    ],
)
def test_addresses_that_are_none_are_refused(address, told, tmp_path):
    workdir = "gs://bucket/run" if "disk" in told else tmp_path
    with pytest.raises(ValueError, match=told), train.mirrored(workdir, address):
        pass


def test_a_store_that_nothing_speaks_to_is_named(tmp_path):
    with (
        pytest.raises(ImportError, match="abfs://x/run: .*adlfs"),
        train.mirrored(tmp_path, "abfs://x/run"),
    ):
        pass


def test_an_experiment_goes_on_from_its_copy(store, tmp_path, monkeypatch, capsys):
    """By its flag; and a workdir on a store is told of it."""
    presets = {"tiny": Experiment(about="nothing", workdir=tmp_path / "a")}

    def steps(config):
        write(config.workdir, log=f"{(config.workdir / 'log').exists()}")

    def command(*flags):
        monkeypatch.setattr("sys.argv", ["nothing.py", "tiny", *flags])
        return main(presets, steps, "Nothing.")

    copy = ("--mirror", ADDRESS)
    assert command(*copy) == 0 and objects(store)["log"] == "False"
    shutil.rmtree(tmp_path / "a")
    assert command(*copy) == 0 and objects(store)["log"] == "True"
    assert (tmp_path / "a" / "README.txt").exists() and "README.txt" in objects(store)
    assert command("--workdir", "s3://bucket/run") == 1
    assert "--mirror" in capsys.readouterr().err


def test_a_run_outlives_its_machine_on_s3(s3, tmp_path):
    """Killed, the disk with it, and asked to leave: the copy goes on, bit for bit."""
    loop = dict(steps=22, log_every=1, checkpoint_every=5, eval_every=1)

    def start(name, **options):
        settings = {"workdir": str(tmp_path / name), "train": loop, **options}
        log = tmp_path / "logs" / f"{name}.log"
        return processes.start([str(PROGRAM), json.dumps(settings)], log)

    copy = dict(address="s3://films/run", every=0.1)
    reference = start("whole")
    attempts = [({"0:17": "SIGKILL"}, -9), ({"0:20": "SIGTERM"}, 143), ({}, 0)]
    for attempt, (signals, status) in enumerate(attempts):
        name = f"machine{attempt}"
        # So slow that a busy machine has copied a checkpoint before it dies.
        options = dict(mirror=copy, signals=signals, delay=0.3)
        processes.finish(tmp_path / "logs", [start(name, **options)], [status])
        log = Path(tmp_path, "logs", f"{name}.log").read_text()
        assert ("resumed from step" in log) == (attempt > 0), log
        if status:
            shutil.rmtree(tmp_path / name)
    processes.finish(tmp_path / "logs", [reference], [0])
    assert rows(tmp_path / "machine2") == rows(tmp_path / "whole")
    a, b = (
        jax.device_get(train.load_variables(tmp_path / name))
        for name in ("whole", "machine2")
    )
    jax.tree.map(np.testing.assert_array_equal, a, b)
    names = {o["Key"] for o in s3.list_objects_v2(Bucket="films")["Contents"]}
    assert {"run/COMMIT", "run/metrics.jsonl"} <= names
    kept = {name.split("/")[2] for name in names if name.startswith("run/checkpoints/")}
    assert kept == {path.name for path in (tmp_path / "machine2/checkpoints").iterdir()}


def test_a_bucket_that_is_not_there_is_named(s3, tmp_path):
    with (
        pytest.raises(MirrorError, match="mirror: s3://nowhere/run: "),
        train.mirrored(tmp_path / "a", "s3://nowhere/run"),
    ):
        pass
