"""What the benchmark of segmentation times, ours and the peers'.

Peers are loaded if they are installed.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from experiments.bench.compiled import CompiledStep
from experiments.bench.lesion_tasks import SPACING, lesions, volume
from experiments.bench.tasks import Task, Work, peer
from medjax.metrics.surface import surface_distances
from medjax.mri.motion import MotionConfig, beats_of, draw_breathing, move
from medjax.nn.nnunet import NNUNetConfig
from medjax.segmentation.hierarchical import HierarchicalConfig, hierarchical_system
from medjax.segmentation.inference import WindowConfig, sliding_window
from medjax.segmentation.labels import classes
from medjax.segmentation.system import SegmentationConfig, segmentation_system
from medjax.train.ensemble import ensemble, member
from medjax.train.mesh import make_mesh
from medjax.train.optimizer import OptimizerConfig

TaskName = Literal[
    "lesions", "volume", "surfaces", "tiles", "samples", "ensemble", "motion"
]
DRAWS = 16


@dataclasses.dataclass(frozen=True)
class SegmentationBenchConfig:
    """Sizes."""

    tasks: tuple[TaskName, ...] = get_args(TaskName)
    """What is measured."""
    lesions: int = 16
    """Of a batch."""
    box: int = 32
    """Voxels along each axis of a lesion's box."""
    whole: tuple[int, int, int] = (182, 218, 182)
    """Voxels of a brain that lesions are put into and taken from."""
    surface: int = 128
    """Voxels along each axis of label maps."""
    volume: int = 96
    """Voxels along each axis of a volume that is cut into tiles."""
    patch: int = 48
    """Voxels along each axis of a tile."""
    plane: int = 64
    """Rows and columns of what the members are trained on."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Channels of the levels of their network."""
    members: int = 5
    """Of an ensemble."""
    frame: int = 144
    """Rows and columns of a frame."""
    turns: int = 5
    """Timed turns of each."""
    seed: int = 0
    """Of everything random."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""


PEERS = ("torch", "monai", "medpy", "torchio")


def surfaces(config: SegmentationBenchConfig) -> Task:
    """Label maps of three structures, measured."""
    rng = np.random.default_rng(config.seed)
    shape = (config.surface,) * 3

    def labels() -> np.ndarray:
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), config.surface / 12)
        edges = np.quantile(smooth, [0.55, 0.75, 0.9])
        return np.digitize(smooth, edges)

    truth = labels()
    said = np.roll(truth, (2, -1, 3), (0, 1, 2))

    def ours() -> list[tuple[float, ...]]:
        found = []
        for label in (1, 2, 3):
            both = surface_distances(
                said == label, truth == label, SPACING, elements="voxels"
            )
            found.append((both.hd95("monai"), both.assd("pooled"), both.nsd(2.0)))
        return found

    theirs: dict[str, Work] = {}
    differences: dict[str, float] = {}
    if peer("medpy"):
        binary = importlib.import_module("medpy.metric.binary")

        def medpy() -> list[tuple[float, ...]]:
            pairs = [(said == label, truth == label) for label in (1, 2, 3)]
            return [(binary.hd95(*pair), binary.assd(*pair)) for pair in pairs]

        theirs["medpy (without surface Dice)"] = medpy
        differences["medpy, ASSD"] = _gap(ours(), medpy(), 1)
    if peer("monai") and (torch := peer("torch")):
        metrics = importlib.import_module("monai.metrics")

        def one_hot(x: np.ndarray) -> Any:
            return torch.tensor(np.stack([x == i for i in range(4)])[None])

        pair = one_hot(said), one_hot(truth)

        def monai() -> list[tuple[float, ...]]:
            hd = metrics.compute_hausdorff_distance(*pair, percentile=95)
            mean = metrics.compute_average_surface_distance(*pair, symmetric=True)
            dice = metrics.compute_surface_dice(*pair, class_thresholds=[2.0] * 3)
            return list(zip(*(x[0].tolist() for x in (hd, mean, dice)), strict=True))

        theirs["MONAI"] = monai
        for place, name in enumerate(("HD95", "ASSD", "surface Dice")):
            differences[f"MONAI, {name}"] = _gap(ours(), monai(), place)
    about = f"three labels, {config.surface}^3: HD95, ASSD, surface Dice"
    return Task(about, ours, theirs, differences)


def _gap(ours: Any, theirs: Any, place: int) -> float:
    return max(abs(a[place] - b[place]) for a, b in zip(ours, theirs, strict=True))


def _doubled(variables: Any, patches: jax.Array, key: jax.Array) -> dict[str, Any]:
    """A network that costs nothing."""
    return {"value": 2.0 * patches}


def tiles(config: SegmentationBenchConfig) -> Task:
    """A volume by tiles."""
    rng = np.random.default_rng(config.seed)
    volume = rng.normal(size=(*(config.volume,) * 3, 1)).astype(np.float32)
    patch = (config.patch,) * 3
    window = WindowConfig(placement="clamped", batch=4)

    def ours() -> np.ndarray:
        found = sliding_window(_doubled, {}, volume, patch=patch, config=window)
        return found["value"]

    theirs: dict[str, Work] = {}
    differences: dict[str, float] = {}
    if peer("monai") and (torch := peer("torch")):
        inferers = importlib.import_module("monai.inferers")
        given = torch.tensor(volume)[None].movedim(-1, 1)

        def monai() -> np.ndarray:
            found = inferers.sliding_window_inference(
                given, patch, 4, lambda x: 2.0 * x, overlap=0.5, mode="gaussian"
            )
            return found[0].movedim(0, -1).numpy()

        theirs["MONAI"] = monai
        differences["MONAI"] = float(np.abs(ours() - monai()).max())
    about = f"{config.volume}^3 by tiles of {config.patch}^3"
    return Task(about, ours, theirs, differences)


def _described(kind: type, n: int, widths: tuple[int, ...]) -> Any:
    """Settings of a small network of slices."""
    levels = len(widths)
    network = NNUNetConfig(
        widths=widths,
        kernels=((3, 3),) * levels,
        strides=((1, 1), *((2, 2),) * (levels - 1)),
        blocks=(2,) * levels,
        decoder_blocks=(2,) * (levels - 1),
        out_channels=2,
    )
    return kind(network, (n, n), 1, classes({"lesion": 1}))


def _told(config: SegmentationBenchConfig) -> str:
    return "-".join(map(str, config.widths))


def samples(config: SegmentationBenchConfig) -> Task:
    """Draws of one batch, the encoder asked once."""
    n, rng = config.plane, np.random.default_rng(config.seed)
    system = hierarchical_system(_described(HierarchicalConfig, n, config.widths))
    images = jnp.asarray(rng.normal(size=(8, n, n, 1)), jnp.float32)
    key = jax.random.key(config.seed)
    variables = jax.jit(system.init)(key, {"image": images})
    assert system.sample is not None
    draw = jax.jit(system.sample, static_argnums=3)

    def one_by_one() -> None:
        for number in range(DRAWS):
            one = jax.random.fold_in(key, number)
            jax.block_until_ready(draw(variables, images, one, 1))

    def ours() -> jax.Array:
        return jax.block_until_ready(draw(variables, images, key, DRAWS))

    about = f"{DRAWS} answers to 8 slices of {n}x{n}, widths {_told(config)}"
    return Task(about, ours, {f"{DRAWS} forward passes": one_by_one}, {})


def ensembles(config: SegmentationBenchConfig) -> Task:
    """A step of five members."""
    n, rng = config.plane, np.random.default_rng(config.seed)
    system = segmentation_system(_described(SegmentationConfig, n, config.widths))
    batch = {
        "image": rng.normal(size=(8, n, n, 1)).astype(np.float32),
        "label": rng.integers(0, 2, (8, n, n)).astype(np.int16),
    }
    mesh, rule = make_mesh(devices=jax.devices()[:1]), OptimizerConfig(lr=1e-4)

    def compiled(built: Any) -> CompiledStep:
        with jax.set_mesh(mesh):
            step = CompiledStep(built.init, rule, batch, mesh, config.seed)
            step.compile(built.loss)
        return step

    def taken(*steps: CompiledStep) -> None:
        with jax.set_mesh(mesh):
            for step in steps:
                step.step()
                step.wait()

    together = compiled(ensemble(system, config.members))
    alone = [compiled(member(system, number)) for number in range(config.members)]
    about = f"a step of {config.members} members, widths {_told(config)}, "
    about += f"8 patches of {n}x{n}"
    work: dict[str, Work] = {"one after the other": functools.partial(taken, *alone)}
    return Task(about, functools.partial(taken, together), work, {})


def motion(config: SegmentationBenchConfig) -> Task:
    """A frame over twelve heartbeats."""
    n, rng = config.frame, np.random.default_rng(config.seed)
    how = MotionConfig(views=-(-n // 12))
    frame = rng.random((1, 1, n, n)).astype(np.float32)
    key = jax.random.key(config.seed)
    breathing = draw_breathing(how, slices=1, lines=n, key=key)
    spacing, beats = (8.0, 2.0, 2.0), beats_of(n, how.views)
    given, zero = jnp.asarray(frame), jnp.int32(0)

    def ours() -> jax.Array:
        found = move(given, zero, breathing, spacing, how, key=key)
        return jax.block_until_ready(found.image)

    places = np.asarray(breathing.displacement)[0, :, 1:] / 2.0

    def scipy() -> np.ndarray:
        kspace = np.zeros((n, n), complex)
        for beat, place in enumerate(places):
            moved = ndimage.shift(frame[0, 0], place, order=1, mode="nearest")
            kspace[beat::beats] = np.fft.fft2(moved)[beat::beats]
        return np.abs(np.fft.ifft2(kspace))

    theirs: dict[str, Work] = {"SciPy": scipy}
    if (torchio := peer("torchio")) and (torch := peer("torch")):
        random = torchio.RandomMotion(num_transforms=beats)
        image = torchio.ScalarImage(tensor=torch.tensor(frame[0].reshape(1, n, n, 1)))
        theirs["torchio"] = lambda: random(image)
    return Task(f"a frame of {n}x{n} over {beats} beats", ours, theirs, {})


TASKS: Mapping[TaskName, Callable[[SegmentationBenchConfig], Task]] = {
    "lesions": lesions,
    "volume": volume,
    "surfaces": surfaces,
    "tiles": tiles,
    "samples": samples,
    "ensemble": ensembles,
    "motion": motion,
}
