"""What the software writes for itself: weights, prepared sets, the folder of a run."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from medjax.data import npz
from medjax.data.record_writer import write_records
from medjax.data.records import Field, RecordSource
from medjax.mri.systems import Trained
from medjax.mri.varnet import VarNetConfig
from medjax.nn.bert import Bert, BertConfig
from medjax.train import MeshConfig, OptimizerConfig, TrainConfig, load_variables
from medjax.train import log as train_log
from medjax.train.checkpoint import Checkpoints, saved_steps
from medjax.train.mesh import make_mesh
from medjax.train.settings import write_config
from medjax.train.state import TrainState
from medjax.vlp.datasets import open_prepared
from medjax.weights import load, save
from tests.mutation import inside
from tests.mutation import mutators as m
from tests.mutation.formats import Format

BERT = BertConfig(
    vocab_size=8,
    hidden_size=4,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=4,
    max_position_embeddings=4,
)


def _bert_shapes() -> Any:
    ids = jnp.ones((1, 4), jnp.int32)
    return jax.eval_shape(Bert(BERT).init, jax.random.key(0), ids)


def _build_weights(folder: Path) -> None:
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), _bert_shapes())
    save(folder / "whole", "bert", variables, BERT)
    tensors = load_file(folder / "whole/model.safetensors")
    (folder / "shards").mkdir()
    weight_map = {}
    for i in range(2):
        name = f"model-{i + 1:05}-of-00002.safetensors"
        part = dict(list(tensors.items())[i::2])
        save_file(part, folder / "shards" / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / "shards/model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map})
    )


def _weights(name: str):
    def read(folder: Path) -> Any:
        loaded = load(folder / name, "bert", _bert_shapes())
        return jax.tree.map(np.asarray, loaded)

    return read


FIELDS = {
    "image": Field("png", (8, 8), "uint8"),
    "findings": Field("array", (None,), "int32"),
    "report": Field("array", (None,), "int32"),
    "sentences": Field("array", (None,), "int32"),
    "sentence_ends": Field("array", (None,), "int32"),
    "labels": Field("array", (2,), "float32"),
    "boxes": Field("array", (None, 4), "float32"),
    "id": Field("text"),
}


def _build_records(folder: Path) -> None:
    ids = np.arange(6, dtype=np.int32)
    with write_records(folder / "set", name="demo", fields=FIELDS) as writer:
        for i in range(6):
            row = {
                "image": np.full((8, 8), i, np.uint8),
                "findings": ids[:4],
                "report": ids,
                "sentences": ids,
                "sentence_ends": ids[3::2],
                "labels": np.ones(2, np.float32),
                "boxes": np.ones((i % 2, 4), np.float32),
                "id": f"study {i}",
            }
            writer.add("train" if i < 4 else "test", row)
        writer.metadata["finding_names"] = ["sick", "well"]


def _rows(folder: Path) -> list[Any]:
    """All rows; their numbers may be NaN: a label that is not known."""
    return [
        list(source[i])
        for split in ("train", "test")
        for source in [RecordSource(folder / "set", split)]
        for i in range(len(source))
    ]


def _prepared(folder: Path) -> list[Any]:
    fields = ("image", "findings", "report", "labels", "sentence")
    source = open_prepared(folder / "set", "train", fields=fields, max_tokens=5)
    assert source.transform is not None
    random = np.random.default_rng(0)
    rows = [source.transform(source[i], random) for i in range(len(source))]
    for row in rows:  # as a step is compiled for them
        assert row["image"].shape == (8, 8) and row["labels"].shape == (2,), row
        assert row["findings"].shape == row["report"].shape == (5,)
    return [list(row) for row in rows]


def _state(make=jnp.ones) -> TrainState:
    params = {"encoder": {"kernel": make((4, 3))}, "head": {"bias": make((3,))}}
    return TrainState(
        step=jnp.asarray(2),
        params=params,
        extra={"batch_stats": {"mean": make((3,))}},
        opt_state={"mu": params},
        ema=params,
    )


SETTINGS = {"seed": 0, "optimizer": {"lr": 1e-3}}


def _trained() -> Trained:
    return Trained(
        system=VarNetConfig(),
        magnitude=1.5,
        data="made up",
        series="t1",
        frames=9,
        coils=4,
        acceleration=(4,),
        acs=8,
    )


def _write_config(run: Path) -> None:
    mesh = make_mesh(MeshConfig())
    write_config(run, {"lr": 1e-3}, OptimizerConfig(), TrainConfig(), mesh)


def _build_run(folder: Path) -> None:
    run = folder / "run"
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(_state(), {"position": 3}, SETTINGS, wait=True)
    rows = [{"step": i, "loss": 1 / i, "rate": None} for i in range(1, 9)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    _trained().save(run)
    _write_config(run)


def _resume(folder: Path) -> list[Any]:
    """What the loop asks of a checkpoint, in its order."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), _state()
    )
    with Checkpoints(folder / "run/checkpoints") as checkpoints:
        step = checkpoints.latest
        if step is None:
            return []
        data = checkpoints.restore_data(step)
        settings = checkpoints.settings(step)
        state = checkpoints.restore(step, shapes)
    return [data, settings, jax.tree.map(np.asarray, state.variables)]


def _variables(folder: Path) -> Any:
    if not saved_steps(folder / "run"):
        return None
    return jax.tree.map(np.asarray, load_variables(folder / "run"))


def _build_caches(folder: Path) -> None:
    with open(folder / "features.npz", "wb") as file:
        np.savez(file, report=np.ones((4, 3), np.float32), findings=np.arange(4))


def _npz(folder: Path) -> Any:
    return npz.read(folder / "features.npz")


WEIGHTS = (*m.BYTES, *(inside.in_safetensors,) * 12)
FORMATS = {
    "weights": Format(
        build=_build_weights,
        reads={"whole": _weights("whole"), "shards": _weights("shards")},
        damage={"*.safetensors": WEIGHTS, "*.index.json": m.JSON},
        also=("/whole:", "/shards:"),
    ),
    "records": Format(
        build=_build_records,
        reads={"rows": _rows, "prepared": _prepared},
        damage={
            "metadata.json": m.JSON,
            "*.json": m.JSON,
            "*.array_record*": (*m.BYTES, *(inside.in_shard,) * 12),
        },
        also=("/set",),
    ),
    "run": Format(
        build=_build_run,
        reads={
            "read_metrics": lambda folder: train_log.read_metrics(folder / "run"),
            "truncate": lambda f: train_log.truncate(f / "run/metrics.jsonl", 4),
            "config": lambda folder: _write_config(folder / "run"),
            "system": lambda folder: Trained.load(folder / "run"),
        },
        damage={
            "metrics.jsonl": m.JSONL,
            "config.json": m.JSON,
            "system.json": m.JSON,
        },
    ),
    "checkpoint": Format(
        build=_build_run,
        reads={"resume": _resume, "load_variables": _variables},
        damage={
            "checkpoints/*/*": m.JSON,
            "checkpoints/**/*.json": m.JSON,
            "checkpoints/**/*": m.BYTES,
        },
        also=("run/checkpoints",),
        share=0.3,
    ),
    "caches": Format(
        build=_build_caches,
        reads={"npz": _npz},
        damage={"*.npz": (*m.BYTES, *(inside.in_zip(*m.BYTES),) * 12)},
        share=0.3,
    ),
}
