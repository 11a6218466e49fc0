"""No whole batch travels: what the compiled step of every experiment exchanges.

Numbers cannot show it, since the result is the same; on a laptop speed does not either.
A batch of 88 divides over eight devices and is a factor of no other size here, so an
axis that 88 divides is the global batch.
"""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import pytest

from experiments.plan import workload_of
from medjax.heart.workload import tracking
from medjax.mri.latent_transformer import CONFIGS as SINGLE_COIL
from medjax.mri.series import at_magnitude
from medjax.mri.systems import ReconstructionKernels
from medjax.mri.systems import build as build_reconstruction
from medjax.segmentation.uncertain import METHODS
from medjax.train.ensemble import ensemble, members_apart
from medjax.train.optimizer import OptimizerConfig
from medjax.train.plan.planner import make_plan, program_on
from medjax.train.plan.topologies import topology
from medjax.train.sharding import DEFAULT_RULES
from medjax.vlp.augment import AugmentConfig
from medjax.vlp.classifier import ClassifierConfig, classifier
from medjax.vlp.contrastive import ContrastConfig
from medjax.vlp.convirt import CONFIGS as CONVIRT
from medjax.vlp.convirt import convirt
from medjax.vlp.detector import DetectorConfig, detector
from medjax.vlp.segmenter import SegmenterConfig, segmenter
from medjax.vlp.systems import FAMILIES
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig
from medjax_kernels.aot import MissingCompilerError
from tests.experiments.traffic import collectives_of, size, whole_batch

BATCH = 88
DECODER = (64, 32, 32, 16, 16)
MESHES = [(8, 1), (4, 2), (1, 8)]
ALWAYS = (("convirt", (1, 8)), ("hierarchical", (4, 2)), ("ensemble", (4, 2)))
"""What had such a fault; hierarchical draws and members of an ensemble were mapped over
convolutions, whose batch is then not split."""


def pretraining(name, remat=False):
    """An experiment's ``tiny`` system, and the shapes of a batch as its data are."""
    door = importlib.import_module(f"experiments.{name}")
    run = door.PRESETS["tiny"]
    text = dataclasses.replace(run.text, vocab_size=1000, remat=remat)
    image = dataclasses.replace(run.image, remat=remat)
    system = FAMILIES[name][1](run.system, image, text, ContrastConfig())
    side = run.data.image_size
    specs = {"image": ((BATCH, side, side), jnp.uint8)}
    for field in system.tokens:
        specs[field] = ((BATCH, text.max_length), jnp.int32)
        specs[f"has_{field}"] = ((BATCH,), jnp.uint8)
    return system, specs


def reconstruction(name):
    """An experiment's ``tiny`` system; FFTs, not the matrices that a CPU prefers."""
    run = importlib.import_module(f"experiments.{name}").PRESETS["tiny"]
    system = build_reconstruction(run.system, ReconstructionKernels("xla_fft"))
    if run.normalise:
        system = at_magnitude(system, 1.0)
    return system, kspace_of(run.data.height, run.data.width, coils=2)


def single_coil(name):
    """The Latent Transformer without unrolling, which no tiny preset runs."""
    del name
    kernels = ReconstructionKernels("xla_fft")
    return build_reconstruction(SINGLE_COIL["tiny"], kernels), kspace_of(48, 48, 1)


def kspace_of(height, width, coils, frames=3):
    return {
        "kspace": ((BATCH, frames, coils, height, width), jnp.complex64),
        "mask": ((BATCH, 1, height, 1), jnp.bool),
        "sensitivities": ((BATCH, coils, height, width), jnp.complex64),
    }


def planned(name, **changes):
    """What a plan takes an experiment's ``tiny`` run for; its batch is ours."""
    run = importlib.import_module(f"experiments.{name}").PRESETS["tiny"]
    return of_workload(workload_of(dataclasses.replace(run, **changes)))


def of_workload(workload):
    specs = {k: ((BATCH, *x.shape[1:]), x.dtype) for k, x in workload.batch.items()}
    return workload.system, specs


def uncertain(name):
    """One of the methods that ``experiments.hierarchical`` knows."""
    return planned("hierarchical", method=name)


def first_stage(name):
    """DeepMesh's fit of the mesh at end-diastole, which no tiny preset runs."""
    del name
    run = importlib.import_module("experiments.deepmesh").PRESETS["tiny"]
    system = dataclasses.replace(run.system, stage="motion", given=False)
    return of_workload(tracking(dataclasses.replace(run, system=system), stage="ed"))


def placed(name):
    """What fine-tuning trains on a tower: findings, masks or boxes."""
    tower = importlib.import_module("experiments.convirt").PRESETS["tiny"].image
    side = AugmentConfig(size=64)
    system, field = {
        "findings": lambda: (classifier(ClassifierConfig(side), tower, 10), "labels"),
        "masks": lambda: (
            segmenter(SegmenterConfig(side, widths=DECODER), tower),
            "mask",
        ),
        "boxes": lambda: (detector(DetectorConfig(side, width=64), tower), "boxes"),
    }[name]()
    more = {
        "labels": ((BATCH, 10), jnp.float32),
        "mask": ((BATCH, 64, 64), jnp.bool),
        "boxes": ((BATCH, 5, 4), jnp.float32),
    }
    return system, {"image": ((BATCH, 64, 64), jnp.uint8), field: more[field]}


SYSTEMS = {
    "imitate": pretraining,
    "mflag": pretraining,
    "convirt": pretraining,
    "gloria": pretraining,
    "mgca": pretraining,
    "latent_transformer": reconstruction,
    "latent_transformer, single coil": single_coil,
    "varnet": reconstruction,
    "promptmr": reconstruction,
    "graph_motion": planned,
    "deepmesh": planned,
    "deepmesh, first stage": first_stage,
    "cheart": planned,
    "segment": planned,
    "cmrxmotion": planned,
    "generator": planned,
    **dict.fromkeys(METHODS, uncertain),
    **dict.fromkeys(("findings", "masks", "boxes"), placed),
}


def assert_little_travels(found, state, batch, words=None, times=1):
    """Parameters, statistics and, of the contrast, vectors of the batch; thrice, or as
    many times that as there are chunks.

    Where words of all reports are compared with all films, they travel too, of the
    shape that is given, and nothing else of a report or a film does.
    """
    vectors = [c for c in found if whole_batch(c, batch)]
    for one in vectors:
        for _, shape in one.shapes:
            assert len(shape) <= 2 or shape[1:] == words, one
    rest = sum(c.total_bytes for c in found) - sum(c.total_bytes for c in vectors)
    assert rest <= 3 * times * (size(state.params) + size(state.extra))
    return vectors


@pytest.mark.parametrize("sizes", MESHES, ids=lambda sizes: "{}x{}".format(*sizes))
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_whole_batch_travels(name, sizes, request):
    """One system and mesh always, the others (a compilation each) by a flag."""
    if (name, sizes) not in ALWAYS and not request.config.getoption("--traffic"):
        pytest.skip("every system over every mesh: pytest --traffic")
    system, specs = SYSTEMS[name](name)
    rules = getattr(system, "rules", None) or DEFAULT_RULES
    found, state = collectives_of(system, specs, sizes, ema=0.99, rules=rules)
    words = (40, 128) if name == "gloria" else None
    vectors = assert_little_travels(found, state, BATCH, words)
    if SYSTEMS[name] is not pretraining or name == "mflag":
        assert not vectors, "nothing is contrasted"
    # Six contrasts of two embeddings and a prior at the most, there and back.
    widest = 512
    assert sum(c.total_bytes for c in vectors) <= 2 * 18 * 4 * BATCH * widest
    # The tiny reconstructions have no parameter that is large enough to be split.
    large = any(leaf.size >= 2**16 for leaf in jax.tree.leaves(state.params))
    if sizes == (1, 8) and large:
        assert any(c.kind == "all-gather" for c in found), "nothing was split"


@pytest.mark.parametrize("sizes", MESHES, ids=lambda sizes: "{}x{}".format(*sizes))
@pytest.mark.parametrize(
    "name, accumulate",
    [("mflag", 1), ("convirt", 2), ("imitate", 2), ("gloria", 2), ("mgca", 2)],
)
def test_little_travels_through_remat_and_accumulation(
    name, accumulate, sizes, request
):
    """Activations that are computed again, and chunks that are encoded twice, fetch
    parameters as a plain step does: once a chunk and pass, and never activations."""
    if not request.config.getoption("--traffic"):
        pytest.skip("a compilation each: pytest --traffic")
    system, specs = pretraining(name, remat=accumulate == 1)
    specs = {k: ((accumulate * BATCH, *s[1:]), d) for k, (s, d) in specs.items()}
    found, state = collectives_of(system, specs, sizes, accumulate=accumulate)
    words = (40, 128) if name == "gloria" else None
    assert_little_travels(found, state, BATCH, words, times=accumulate)
    if sizes[1] > 1:
        assert any(c.kind == "all-gather" for c in found), "nothing was split"


@pytest.mark.aot
def test_weights_that_read_six_images_travel_once_on_gpus(request):
    """DeepMesh's encoder sees three views at two times, as one batch: image by image
    its gradients were summed over devices, 3.4 times the parameters on a CPU, where the
    compiler for an H200 had added them up first."""
    if not request.config.getoption("--traffic"):
        pytest.skip("a compilation for GPUs: pytest --traffic")
    asked = importlib.import_module("experiments.deepmesh").PRESETS["tiny"]
    workload = workload_of(asked.with_data(batch_size=BATCH))
    try:
        made = make_plan(workload, topology("h200-1x8"))
    except MissingCompilerError as error:
        pytest.skip(str(error))
    total = sum(one.bytes for one in made.traffic)
    state = program_on(workload, topology("h200-1x8")).state
    assert total <= 1.2 * (size(state.params) + size(state.extra))


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "ensemble"])
def test_nothing_travels_between_members_of_an_ensemble(name, request):
    """Two of every system in one program: along ``model`` there are the numbers of the
    log and the guard, and nothing else."""
    if not request.config.getoption("--traffic"):
        pytest.skip("a compilation each: pytest --traffic")
    system, specs = SYSTEMS[name](name)
    both = ensemble(system, 2)
    found, _ = collectives_of(
        both,
        specs,
        (4, 1, 2),
        optimizer=members_apart(OptimizerConfig(clip_norm=1.0)),
        rules=both.rules,
    )
    mesh = {"data": 4, "fsdp": 1, "model": 2}
    between = [one for one in found if "model" in one.axes(mesh)]
    assert all(dims == () for one in between for _, dims in one.shapes), between
    assert any(one.axes(mesh) == ("data",) for one in found)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if SYSTEMS[name] is planned])
def test_what_travels_does_not_grow_with_the_devices(name, request):
    """Weak scaling: as many hearts for each device, and the same gradients summed."""
    if not request.config.getoption("--traffic"):
        pytest.skip("a compilation each: pytest --traffic")
    system, specs = SYSTEMS[name](name)
    totals = {}
    for devices in (1, 2, 4, 8):
        batch = {k: ((11 * devices, *s[1:]), d) for k, (s, d) in specs.items()}
        found, state = collectives_of(system, batch, (devices, 1))
        totals[devices] = sum(c.total_bytes for c in found)
    assert totals[1] == 0
    assert totals[2] <= totals[4] <= totals[8] <= 1.01 * totals[2]
    assert totals[2] <= 3 * (size(state.params) + size(state.extra))


def test_no_whole_batch_of_a_large_convolutional_network_travels():
    """ResNet-18 at 224 pixels, batch 1024: 7.9 GB where channels of activations are
    split as the parameters are (which does not happen at the size of a toy), 0.1 GB
    where parameters are gathered and gradients summed once."""
    batch = 1024
    system = convirt(
        dataclasses.replace(CONVIRT["paper"], text="report", frozen_text_layers=0),
        ImageTowerConfig("resnet18"),
        TextTowerConfig("tiny", vocab_size=1000, max_length=32, pool="mean"),
        ContrastConfig(),
    )
    specs = {
        "image": ((batch, 224, 224), jnp.uint8),
        "report": ((batch, 32), jnp.int32),
    }
    found, state = collectives_of(system, specs, (1, 8))
    # The batch is a power of two here, and so are widths: only what is larger is sure.
    for one in found:
        for _, shape in one.shapes:
            assert len(shape) < 3 or batch not in shape, one
    params = size(state.params)
    assert sum(c.total_bytes for c in found) <= 2.5 * params
