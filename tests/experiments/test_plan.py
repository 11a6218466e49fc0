"""Every experiment is planned from its flags, on the shapes that its data have."""

import dataclasses
import functools
import json

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from experiments import convirt, finetune, generator, plan, varnet
from medjax.data.boundary import DataError
from medjax.heart import workload as heart
from medjax.heart.data import open_anatomies
from medjax.heart.motion_data import MotionRows, open_motion
from medjax.mri.scans import ScansConfig, open_scans, training_batches
from medjax.mri.workload import sizes
from medjax.nn.diffusion.autoencoder import Autoencoder
from medjax.train.mesh import MeshConfig
from medjax.train.plan.planner import program_on
from medjax.train.plan.table import told
from medjax.train.plan.topologies import topology
from medjax.vlp.corpus import Rows, open_corpus
from medjax.vlp.diffusion.networks import encode_films
from medjax.vlp.diffusion.sizes import autoencoder_sizes
from medjax.vlp.finetuning import Finetuning
from medjax.vlp.finetuning_workload import BOXES, finetuning
from medjax.vlp.labelled import LabelledConfig, open_labelled
from medjax.vlp.placed import place_films
from medjax.vlp.placing import asks_for_places
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig
from medjax.vlp.workload import settled

TWO = topology("cpu-2")
DOORS = plan.planned()


def test_every_trained_system_has_a_plan():
    assert set(DOORS) >= {
        "cheart",
        "cmrxmotion",
        "convirt",
        "deepmesh",
        "finetune",
        "generator",
        "gloria",
        "graph_motion",
        "hierarchical",
        "imitate",
        "latent_transformer",
        "mflag",
        "mgca",
        "promptmr",
        "segment",
        "varnet",
    }


@pytest.mark.parametrize("name", DOORS)
def test_flags_alone_describe_the_step(name):
    """The state and the step's arguments, of the smallest preset on two devices."""
    config = DOORS[name].PRESETS["tiny"]
    if hasattr(getattr(config, "data", None), "patients"):
        config = config.with_data(patients=40)  # embedded reports are written to count
    workload = plan.workload_of(config)
    program = program_on(workload, TWO)
    assert workload.batch_size % 2 == 0
    assert all(x.shape[0] == workload.batch_size for x in program.batch.values())
    assert len(jax.tree.leaves(program.state.params)) > 4


def same(row, batch):
    """Whether a row of the data is what a batch was said to hold."""
    found = {k: (np.shape(v), np.asarray(v).dtype) for k, v in row.items()}
    told = {k: (x.shape[1:], x.dtype) for k, x in batch.items()}
    assert found == told


def test_a_reconstruction_is_planned_on_the_shapes_of_its_data():
    config = varnet.PRESETS["tiny"]
    data = dataclasses.replace(config.data, patients=2, test_patients=1)
    config = dataclasses.replace(config, data=data)
    batch = next(iter(training_batches(open_scans(data), data)))
    workload = plan.workload_of(config)
    assert workload.rows == 2
    same({k: v[0] for k, v in batch.items() if k != "index"}, workload.batch)


def test_sets_of_several_matrix_sizes_are_planned_on_the_largest(tmp_path):
    for width in (20, 24):
        (tmp_path / f"t2map_3x2x24x{width}").mkdir()
    found, rows, (told,) = sizes(ScansConfig(root=tmp_path, series="t2"))
    assert (found, rows) == ((3, 2, 24, 24), None)
    assert told == "data.root: of 2 matrix sizes the largest, (3, 2, 24, 24)"


def test_hearts_are_planned_on_the_shapes_of_their_data(tmp_path):
    config = DOORS["cheart"].PRESETS["tiny"]
    data = dataclasses.replace(config.data, people=2, test_people=1)
    config = dataclasses.replace(config, data=data)
    same(open_anatomies(data).train[0], heart.generation(config).batch)
    config = DOORS["graph_motion"].PRESETS["tiny"]
    data = dataclasses.replace(config.data, people=1, test_people=1)
    config = dataclasses.replace(config, data=data)
    workload = heart.tracking(config)
    rows = MotionRows(open_motion(data, tmp_path).train, workload.system.fields)
    assert workload.rows == len(rows)
    same(rows[0], workload.batch)
    with pytest.raises(ValueError, match="stage is 'ed', expected one of"):
        heart.tracking(config, stage="ed")


def test_films_and_reports_are_planned_on_the_shapes_of_their_data(tmp_path):
    config = convirt.PRESETS["tiny"].with_data(patients=40)
    workload = plan.workload_of(config)
    corpus = open_corpus(
        config.data, tmp_path, tokenizer=None, max_tokens=config.text.max_length
    )
    source = corpus.source("train", ("image", *workload.system.tokens))
    assert workload.rows == len(source)
    same(source[0], workload.batch)


@pytest.mark.parametrize("cached", [True, False])
def test_a_generator_is_planned_on_the_shapes_of_its_data(cached, tmp_path):
    config = dataclasses.replace(
        generator.PRESETS["tiny"].with_data(patients=40), cache_latents=cached
    )
    workload = plan.workload_of(config)
    corpus = open_corpus(
        config.data, tmp_path, tokenizer=None, max_tokens=config.text.max_length
    )
    ids = np.zeros((1000, config.text.max_length), np.int32)
    columns = {"ids": ids}
    if cached:
        autoencoder = autoencoder_sizes(config.system, config.dtype)
        films = jax.ShapeDtypeStruct((1000, 64, 64), np.uint8)
        image = jax.ShapeDtypeStruct((1, 64, 64, 1), np.float32)
        module = Autoencoder(autoencoder)
        params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        encode = functools.partial(encode_films, autoencoder)
        moments = jax.eval_shape(encode, params, films)
        pair = (np.zeros(x.shape, x.dtype) for x in moments)
        columns |= dict(zip(("mean", "logvar"), pair, strict=True))
    source = corpus.source("train", ("patient",) if cached else ("image",))
    assert workload.rows == len(source)
    same(Rows(source, columns)[0], workload.batch)


@pytest.mark.parametrize("target", [(), ("Cardiomegaly",), ("mask",), ("boxes",)])
def test_finetuning_is_planned_on_the_shapes_of_its_data(target, tmp_path):
    films = LabelledConfig(target=target, patients=60, image_size=32, fraction=0.5)
    tower = ImageTowerConfig(architecture="resnet_tiny")
    config = Finetuning(
        about="test", films=films, image=tower, augmentation="none", size=32
    )
    workload = finetuning(config)
    (assumed, *_) = workload.assumed
    assert assumed == "start: none is named: a resnet_tiny, films of 32 pixels"
    placed = asks_for_places(config)
    data = open_labelled(films, tmp_path, image_size=32, resize="mgca")
    part = data.parts["train"]
    if placed:
        kind, *findings = target
        part = place_films(data, kind=kind, findings=findings)["train"]
        part.most = BOXES  # which the data alone know, and the plan says so
    assert workload.rows == len(part) == workload.batch_size
    same(part[0], workload.batch)
    if not placed:
        probe = finetuning(dataclasses.replace(config, method="linear"))
        assert probe.batch["features"].shape == (len(part), 128)
        program_on(probe, topology("cpu-1"))


def test_a_tower_that_is_not_at_hand_is_what_its_flags_say(monkeypatch, tmp_path):
    """A probe reads features alone; of a set on a disk elsewhere 14 findings."""

    def fetch(*names, local_files_only, **options):
        assert local_files_only
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    config = dataclasses.replace(
        finetune.PRESETS["linear"],
        start="owner/name",
        films=LabelledConfig(data=tmp_path / "chexpert", format="chexpert"),
    )
    workload = finetuning(config)
    start, findings = workload.assumed
    assert "owner/name is not at hand" in start and "14 findings" in findings
    assert workload.rows is None
    made = plan.plan(dataclasses.replace(config, epochs=None), TWO, quick=True)
    assert "an epoch" not in told(made) and "the run: " in told(made)
    assert {k: v.shape for k, v in workload.batch.items()} == {
        "features": (64, 2048),
        "labels": (64, 14),
    }


def test_stable_diffusion_is_planned_from_its_folder_or_its_sizes(monkeypatch):
    """RoentGen's training: 0.86 billion numbers of the U-Net, as published."""

    def fetch(*names, local_files_only, **options):
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    config = dataclasses.replace(generator.PRESETS["finetune"], start="owner/name")
    workload = plan.workload_of(config)
    assert "start: owner/name is not at hand" in workload.assumed[0]
    made = jax.eval_shape(workload.system.init, jax.random.key(0), workload.batch)
    count = sum(x.size for x in jax.tree.leaves(made["params"]["unet"]))
    assert count == 859_520_964
    with pytest.raises(DataError, match="data.image-size: films of 256 pixels"):
        plan.workload_of(config.with_data(image_size=256))


def test_a_checkpoint_on_the_hub_is_not_asked_for(monkeypatch):
    def fetch(*names, local_files_only, **options):
        assert local_files_only
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    text = TextTowerConfig(checkpoint="owner/name")
    found, (assumed,) = settled(text)
    assert found.architecture == "base" and "owner/name is not at hand" in assumed


def test_the_command_plans_and_writes(tmp_path, capsys):
    path = tmp_path / "plan.json"
    words = "convirt tiny --topology cpu-2 --quick --rows 1000 --data.batch-size 128"
    assert plan.main([*words.split(), "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["batch"] == 128 and found["run"]["steps_per_epoch"] == 7
    assert found["topology"]["devices"] == 2 and not found["compiled"]
    out = capsys.readouterr().out
    assert "nothing was compiled" in out and "a batch of 128 is 13%" in out


@pytest.mark.parametrize(
    "words, message",
    [
        ("imitate --topology v9-3", "topology: 'v9-3', expected a name like"),
        ("nobody --topology cpu-2", "experiment: 'nobody', expected one of"),
        ("--topology cpu-2", "expected an experiment first"),
        ("convirt --topology v6e-256x0", "topology: 'v6e-256x0', expected a name"),
        ("convirt --topology cpu-2 --rows 0", "--rows: 0, expected 1 or more"),
        ("convirt --topology cpu-2 --quick --suggest", "compiles what it tries"),
    ],
)
def test_what_cannot_be_planned_is_said(words, message, capsys):
    assert plan.main(words.split()) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name, model, islands", [("cpu-12", 1, 6), ("cpu-4", 2, 2)])
def test_only_meshes_that_can_be_are_suggested(name, model, islands, monkeypatch):
    """Parameters are split over devices that divide what a model's axis leaves."""
    asked = []
    monkeypatch.setattr(plan, "suggest", lambda *_, **how: asked.append(how))
    config = dataclasses.replace(convirt.PRESETS["tiny"], mesh=MeshConfig(model=model))
    plan.suggested(config, topology(name), {})
    assert asked[0]["islands"] == islands
    assert asked[0]["shards"] == topology(name).devices // model


def test_a_run_tells_how_fast_its_devices_were(tmp_path, capsys):
    chip = topology("h200-1x8").chip
    rows = [{"step": n, "hfu": hfu} for n, hfu in enumerate((0.01, 0.2, 0.3))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert plan.reached(tmp_path, chip) == pytest.approx(0.2 * chip.peak.value)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "hfu": null}\n')
    words = f"convirt --topology cpu-2 --quick --calibrate {tmp_path}"
    assert plan.main(words.split()) == 1
    assert f"calibrate: the log of {tmp_path} has no hfu" in capsys.readouterr().err


def test_a_batch_that_does_not_split_is_refused():
    config = dataclasses.replace(convirt.PRESETS["tiny"], mesh=MeshConfig(data=8))
    config = config.with_data(batch_size=20)
    with pytest.raises(ValueError, match="20 examples do not split over the 8"):
        program_on(plan.workload_of(config), topology("cpu-8"))
