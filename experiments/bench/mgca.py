"""MGCA: the training step, assignments to prototypes, and boxes with their precision.

============= =======================================================================
``step``      towers, heads, three losses, gradient, clipping and AdamW, against the
              same in PyTorch with a loop over tokens
``sinkhorn``  soft assignments of a batch to prototypes, against PyTorch
``masks``     an epoch of masks on films, U-Net on a tower that is kept, against the
              same in PyTorch
``boxes``     answers of a detector to distinct boxes, and their average precision,
              against a loop over films and boxes in NumPy
============= =======================================================================

Films come prepared to PyTorch; ours prepares them within the step. Dropout is off.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import measure
from experiments.bench.goals import Goal, Goals
from experiments.bench.masks import epoch
from experiments.bench.tasks import Task, run_tasks
from experiments.bench.words import WordsConfig, invent, our_step, steps
from medjax.metrics.detection import THRESHOLDS, average_precision
from medjax.vlp.augment import AugmentConfig
from medjax.vlp.detector import DetectorConfig, decode, surest
from medjax.vlp.mgca import MgcaConfig, mgca
from medjax.vlp.placed_run import detections
from medjax.vlp.prototypes import sinkhorn
from medjax.vlp.towers import ImageTowerConfig

FULL = 72
SIDE, GRIDS, AT_A_TIME = 224, (7, 14, 28), 256


TaskName = Literal["step", "sinkhorn", "masks", "boxes"]


@dataclasses.dataclass(frozen=True)
class MgcaBenchConfig(WordsConfig):
    """Sizes."""

    tasks: tuple[TaskName, ...] = get_args(TaskName)
    """What is measured."""
    hidden: int = 512
    """Of the heads of the step."""
    examples: int = 144
    """That are assigned."""
    prototypes: int = 500
    """To so many, in the step as well."""
    films: int = 300
    """Whose boxes are told apart and scored."""
    epoch: int = 32
    """Films of an epoch of masks."""
    mask_side: int = 128
    """Side of those in pixels."""
    mask_tower: Literal["resnet18", "resnet50", "resnet_tiny"] = "resnet18"
    """What they are seen by."""


PUBLISHED = MgcaBenchConfig(
    image="resnet50",
    text="base",
    layers=6,
    image_size=299,
    batch_size=FULL,
    tokens=112,
    hidden=2048,
    films=5337,
    epoch=720,
    mask_side=224,
    mask_tower="resnet50",
)
"""Of the released code: on a CPU minutes a step, and more than ten GB."""


def goals(config: MgcaBenchConfig) -> Goals:
    """What is asked for, by device; more of a ViT's step than of a ResNet's.

    Args:
      config: names the image tower.
    """
    step = 1.2 if config.image.startswith("vit") else 1.0
    return {
        "cpu": {
            "step": Goal(step),
            "sinkhorn": Goal(2.0),
            "masks": Goal(1.0),
            "boxes": Goal(10.0),
        },
        "H200": {"step": Goal(per_second=2500.0)},
    }


def run(config: MgcaBenchConfig) -> dict[str, Any]:
    """Times every task, prints and writes."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = {
            "step": functools.partial(step, folder=Path(folder)),
            "sinkhorn": assignments,
            "masks": masks,
            "boxes": boxes,
        }
        tasks = {name: tasks[name] for name in config.tasks}
        return run_tasks(
            "mgca",
            config,
            tasks,
            goals=goals(config),
            peers=("torch",),
            sizes=config.unlike(PUBLISHED, FULL),
        )


def step(config: MgcaBenchConfig, *, folder: Path) -> Task:
    """The whole training step, as released."""
    towers = invent(config, folder)
    system = MgcaConfig(
        hidden=config.hidden,
        prototypes=config.prototypes,
        mask_pads=False,
        normalise_patches=False,
        augment=towers.augment,
    )
    ours = our_step(mgca(system, towers.image, towers.text), towers, config)
    theirs = {}
    if config.torch:
        module = measure.need_torch("torch_words")
        pair = module.Mgca(towers, system)
        theirs["PyTorch"] = module.Step(pair, towers, ours.variables())
    about = f"MGCA's training step, {config.described()}"
    return steps(about, ours, theirs, towers)


def assignments(config: MgcaBenchConfig) -> Task:
    """Three rounds of balancing."""
    rng = np.random.default_rng(config.seed)
    size = (config.examples, config.prototypes)
    scores = rng.uniform(-1, 1, size).astype(np.float32)
    ours = jax.jit(functools.partial(sinkhorn, epsilon=0.05, iterations=3))
    theirs, gaps = {}, {}
    if config.torch:
        module = measure.need_torch("torch_words")
        given = module.torch.tensor(scores)

        def loop() -> Any:
            return module.sinkhorn(given / 0.05, 3)

        theirs["PyTorch"] = loop
        apart = np.abs(np.asarray(ours(scores)) - loop().numpy()).max()
        gaps["PyTorch, assignments"] = float(apart)
    about = f"assignments of {size[0]} examples to {size[1]} prototypes"
    return Task(about, lambda: jax.block_until_ready(ours(scores)), theirs, gaps)


def masks(config: MgcaBenchConfig) -> Task:
    """A decoder of masks is trained for an epoch."""
    return epoch(
        ImageTowerConfig(config.mask_tower),
        side=config.mask_side,
        batch_size=config.batch_size,
        films=config.epoch,
        seed=config.seed,
        torch=config.torch,
    )


def boxes(config: MgcaBenchConfig) -> Task:
    """Raw answers to average precision."""
    rng = np.random.default_rng(config.seed)
    n = config.films
    shapes = [(n, g, g, 3, 6) for g in GRIDS]
    answers = [rng.normal(size=s).astype(np.float32) for s in shapes]
    for one in answers:
        one[..., 4] -= 2.5  # some twenty boxes a film are sure
    low = rng.uniform(0, SIDE - 80, (n, 2, 2))
    there = np.concatenate([low, low + rng.uniform(20, 80, (n, 2, 2))], axis=2)
    truth = list(there)
    how = DetectorConfig(AugmentConfig())
    find = jax.jit(functools.partial(surest, size=SIDE, config=how))

    def ours() -> float:
        parts = [
            np.asarray(find([jnp.asarray(a[i : i + AT_A_TIME]) for a in answers]))
            for i in range(0, n, AT_A_TIME)
        ]
        return average_precision(detections(np.concatenate(parts)), truth)

    whole = jax.jit(functools.partial(decode, size=SIDE))
    said, scores = (np.asarray(x) for x in whole([jnp.asarray(a) for a in answers]))
    given = np.clip(said, 0, SIDE), scores

    def loop() -> float:
        kept = [_distinct(*one, how) for one in zip(*given, strict=True)]
        return float(np.mean([_precision(kept, truth, t) for t in THRESHOLDS]))

    gaps = {"NumPy, precision": abs(ours() - loop())}
    about = f"boxes of {n} films told apart and scored"
    return Task(about, ours, {"NumPy": loop}, gaps)


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (box, others)]
    return both / np.maximum(areas[0] + areas[1] - both, 1e-12)


def _distinct(
    boxes: np.ndarray, scores: np.ndarray, how: DetectorConfig
) -> list[tuple[float, np.ndarray]]:
    """Box by box, the surest first."""
    sure = np.flatnonzero(scores >= how.confidence)
    left = sure[np.argsort(-scores[sure], kind="stable")][:100]
    kept = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append((float(scores[first]), boxes[first]))
        left = left[_iou(boxes[first], boxes[left]) < how.overlap]
    return kept


def _precision(kept: list, truth: list[np.ndarray], threshold: float) -> float:
    """Area under precision and recall, detection by detection over all films."""
    every = sorted(
        ((s, i, b) for i, found in enumerate(kept) for s, b in found),
        key=lambda item: -item[0],
    )
    taken = [np.zeros(len(t), bool) for t in truth]
    hits = []
    for _, i, box in every:
        overlaps = np.where(taken[i], -1.0, _iou(box, truth[i]))
        best = int(overlaps.argmax())
        hits.append(overlaps[best] >= threshold)
        taken[i][best] |= hits[-1]
    total = np.cumsum(hits)
    precision = total / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(total / sum(map(len, truth)), np.linspace(0, 1, 101))
    return float(np.mean(np.append(best, 0.0)[np.minimum(at, len(best))]))
