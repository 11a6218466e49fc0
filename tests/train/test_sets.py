"""Prepared sets on an object store: a store in memory, and a server that speaks S3."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from medjax import train
from medjax.data.boundary import DataError
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.data.record_writer import write_records
from medjax.data.records import METADATA, Field, RecordSource
from medjax.train import sets
from medjax.train.copies import COMMIT, MirrorError
from medjax.train.sets import here, on_disk, upload, written
from tests.full_disk import full_disk
from tests.train.tiny import init, quiet_loss

ADDRESS = "memory://bucket/set"
ROOT = Path(ADDRESS)
"""As a flag has it: `pathlib` takes one of the slashes."""
FIELDS = {
    "x": Field("array", (4,), "float32"),
    "y": Field("array", (4,), "float32"),
    "id": Field("text"),
}


def row(i):
    x = np.sin(np.arange(4, dtype=np.float32) + i)
    return {"x": x, "y": np.cos(x), "id": f"row {i}"}


def prepare(folder, first=0, overwrite=False):
    with write_records(
        folder, name="demo", fields=FIELDS, overwrite=overwrite
    ) as writer:
        for i in range(12):
            writer.add("train" if i < 8 else "test", row(first + i))
    return folder


@pytest.fixture
def local(tmp_path):
    return prepare(tmp_path / "local")


@pytest.fixture
def brought(store, monkeypatch):
    """Names of what travels from the store, in turn."""
    names, get = [], type(store).get

    def counted(self, there, places, *args, **kwargs):
        names.extend(Path(path).name for path in there)
        return get(self, there, places, *args, **kwargs)

    monkeypatch.setattr(type(store), "get", counted)
    return names


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_written_to_an_address_is_read_from_it(store, brought, tmp_path):
    with written(ROOT, tmp_path / "there") as folder:
        prepare(folder)
    found = here(ROOT, tmp_path / "here")
    assert found.name == "set" and contents(found) == contents(folder)
    source = RecordSource(found, "train")
    for i in (0, 3, 7):
        np.testing.assert_array_equal(source[i]["x"], row(i)["x"])
        assert source[i]["id"] == row(i)["id"]
    many = len(brought)
    assert here(ROOT, tmp_path / "here") == found and len(brought) == many
    # A folder is given as it is, and nothing is uploaded from it.
    with written(tmp_path / "plain", tmp_path / "there") as plain:
        assert plain == tmp_path / "plain"
    assert here(found, tmp_path / "nowhere") == found


def test_training_on_an_address_is_that_on_the_folder(store, local, tmp_path):
    upload(local, ADDRESS)
    found = {}
    for name, root in (("address", ROOT), ("folder", local)):
        folder = here(root, tmp_path / "cache")
        source = RecordSource(folder, "train", fields=["x", "y"])
        found[name] = train.fit(
            init,
            quiet_loss,
            build_pipeline(source, PipelineConfig(batch_size=4, seed=3)),
            workdir=tmp_path / name,
            train=train.TrainConfig(steps=3, log_every=1),
            mesh=train.make_mesh(train.MeshConfig(), devices=jax.devices()[:1]),
        ).params
    jax.tree.map(np.testing.assert_array_equal, found["address"], found["folder"])
    rows = [train.read_metrics(tmp_path / name) for name in found]
    losses = [[row["loss"] for row in some] for some in rows]
    assert losses[0] == losses[1] and len(set(losses[0])) == 3


def test_a_store_that_speaks_s3_has_the_set_too(s3, local, tmp_path):
    upload(local, "s3://films/set")
    keys = {o["Key"] for o in s3.list_objects_v2(Bucket="films")["Contents"]}
    assert keys == {f"set/{name}" for name in (*contents(local), COMMIT)}
    assert contents(here(Path("s3://films/set"), tmp_path)) == contents(local)
    s3.delete_object(Bucket="films", Key=f"set/{COMMIT}")
    with pytest.raises(DataError, match="s3://films/set .* its upload was cut"):
        here(Path("s3://films/set"), tmp_path)
    with pytest.raises(DataError, match="data: s3://nowhere/set .* found nothing"):
        here(Path("s3://nowhere/set"), tmp_path)


def test_only_what_is_missing_is_fetched_again(store, brought, local, tmp_path):
    upload(local, ADDRESS)
    found = here(ROOT, tmp_path)
    assert sorted(brought) == sorted(contents(local))
    shard = next(path for path in found.iterdir() if "train" in path.name)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    (found / "features.json").unlink()
    brought.clear()
    assert here(ROOT, tmp_path) == found
    assert sorted(brought) == sorted(["features.json", shard.name])
    assert shard.read_bytes() == whole


def test_processes_of_a_machine_fetch_once(store, brought, local, tmp_path):
    upload(local, ADDRESS)
    with ThreadPoolExecutor(4) as several:
        found = list(several.map(lambda _: here(ROOT, tmp_path), range(4)))
    assert len(set(found)) == 1 and sorted(brought) == sorted(contents(local))


def test_a_download_that_is_cut_goes_on(store, local, tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "TOGETHER", 1)
    upload(local, ADDRESS)
    get, came = type(store).get, []

    def cut(self, there, places, *args, **kwargs):
        if len(came) == 2:
            raise RuntimeError("the network is gone")
        came.append(there)
        return get(self, there, places, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "get", cut)
        with pytest.raises(MirrorError, match=f"data: {ADDRESS}: the network is gone"):
            here(ROOT, tmp_path)
    left = len(contents(local)) - 2
    came.clear()

    def rest(self, there, places, *args, **kwargs):
        came.append(there)
        return get(self, there, places, *args, **kwargs)

    monkeypatch.setattr(type(store), "get", rest)
    assert contents(here(ROOT, tmp_path)) == contents(local) and len(came) == left


def test_an_upload_that_was_cut_is_refused_and_done_again(
    store, local, tmp_path, monkeypatch
):
    monkeypatch.setattr(sets, "TOGETHER", 1)
    put, sent = type(store).put, []

    def cut(self, places, there, *args, **kwargs):
        if len(sent) == 2:
            raise RuntimeError("quota exceeded")
        sent.append(there)
        return put(self, places, there, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put", cut)
        with pytest.raises(MirrorError, match=f"out: {ADDRESS}: quota exceeded"):
            upload(local, ADDRESS)
    assert len(store.find("/bucket/set")) == 2
    with pytest.raises(DataError, match=r"its upload was cut: expected a COMMIT"):
        here(ROOT, tmp_path)
    upload(local, ADDRESS)
    assert contents(here(ROOT, tmp_path)) == contents(local)


def test_a_preparation_that_could_not_be_uploaded_says_how(tmp_path, fill, capsys):
    fill()
    with (
        pytest.raises(MirrorError, match="quota exceeded"),
        written(ROOT, tmp_path) as folder,
    ):
        prepare(folder)
    told = capsys.readouterr().out
    assert f"upload --root {folder} --out {ADDRESS} tries again" in told


def test_what_is_at_an_address_is_replaced_only_if_asked(store, local, tmp_path):
    upload(local, ADDRESS)
    first = here(ROOT, tmp_path / "cache")
    upload(local, ADDRESS)  # the same again is nothing to do
    other = prepare(tmp_path / "other", first=100)
    (local / "more.txt").write_text("of the first set alone")
    with pytest.raises(FileExistsError, match="holds other files"):
        upload(other, ADDRESS)
    with (
        pytest.raises(FileExistsError, match="holds prepared sets already"),
        written(ROOT, tmp_path / "empty"),
    ):
        pytest.fail("it was prepared")
    upload(local, ADDRESS, overwrite=True)
    upload(other, ADDRESS, overwrite=True)
    assert not store.exists("/bucket/set/more.txt")
    second = here(ROOT, tmp_path / "cache")
    assert second != first and RecordSource(second, "train")[0]["id"] == "row 100"
    store.pipe_file("/bucket/films/film.png", b"")
    with pytest.raises(FileExistsError, match=r"holds other files \(\['film.png'\]\)"):
        upload(local, "memory://bucket/films")
    assert store.exists("/bucket/films/film.png")


def test_what_is_at_fault_is_named(store, local, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=f"data: {ADDRESS} is no prepared set.*nothing"):
        here(ROOT, tmp_path)
    with pytest.raises(DataError, match="data: .* is not a prepared set"):
        upload(tmp_path / "nowhere", ADDRESS)
    upload(local, ADDRESS)
    shard = next(name for name in contents(local) if "train" in name)
    there = f"/bucket/set/{shard}"
    whole = store.cat_file(there)
    store.pipe_file(there, whole[:-1])
    with pytest.raises(DataError, match=f"'{shard}'.* came with other sizes"):
        here(ROOT, tmp_path / "a")
    store.pipe_file(there, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="what came is not what COMMIT has the hash of"):
        here(ROOT, tmp_path / "a")
    store.pipe_file(there, whole)
    assert contents(here(ROOT, tmp_path / "a")) == contents(local)
    store.rm_file(there)
    with pytest.raises(MirrorError, match=f"data: {ADDRESS}: .*{shard}"):
        here(ROOT, tmp_path / "b")
    store.pipe_file(there, whole)
    monkeypatch.setattr(sets, "TOGETHER", 1)
    bring = sets.Copy.bring

    def meanwhile(self, names, folder):
        bring(self, names, folder)
        commit = json.loads(store.cat_file(f"/bucket/set/{COMMIT}"))
        again = json.dumps(commit | {"mark": "another"}).encode()
        store.pipe_file(f"/bucket/set/{COMMIT}", again)

    with monkeypatch.context() as patch:
        patch.setattr(sets.Copy, "bring", meanwhile)
        with pytest.raises(DataError, match="was written anew while it was fetched"):
            here(ROOT, tmp_path / "c")
    store.rm_file(f"/bucket/set/{METADATA}")
    files = {"log": [1, 1]}
    run = json.dumps({"mark": "m", "files": files}).encode()
    store.pipe_file(f"/bucket/set/{COMMIT}", run)
    with pytest.raises(DataError, match=r"expected metadata.json .* found \['log'\]"):
        here(ROOT, tmp_path / "d")


def test_a_disk_without_room_is_named(store, local, tmp_path, monkeypatch):
    upload(local, ADDRESS)
    with (
        full_disk(),
        pytest.raises(OSError, match=rf"data: {ADDRESS}: .*File too large"),
    ):
        here(ROOT, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob(".part.*"))
    little = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(sets.shutil, "disk_usage", lambda _: little)
    with pytest.raises(OSError, match=r"data.cache: .* 0.00 GB are free"):
        here(ROOT, tmp_path / "cache")


def test_raw_data_stay_on_disks():
    on_disk(Path("films"), "data.root")
    on_disk(None, "data.root")
    for given in ("s3://bucket/films", Path("s3://bucket/films")):
        with pytest.raises(
            DataError, match=r"data.root: s3://bucket/films: .*experiments.prepare"
        ):
            on_disk(given, "data.root")
