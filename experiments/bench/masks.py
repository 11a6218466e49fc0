"""An epoch of masks on films: U-Net on a tower that is kept, ours beside PyTorch."""

from typing import Any

import jax
import numpy as np

from experiments.bench import measure
from experiments.bench.compare import differences
from experiments.bench.compiled import CompiledStep
from experiments.bench.tasks import Task
from medjax.train.mesh import make_mesh
from medjax.train.optimizer import OptimizerConfig
from medjax.vlp.augment import AugmentConfig, evaluate
from medjax.vlp.segmenter import SegmenterConfig, segmenter
from medjax.vlp.towers import ImageTowerConfig

OPTIMIZER = OptimizerConfig(lr=5e-4, weight_decay=1e-6, clip_norm=1.0)
"""Of both sides."""


def masks(
    tower: ImageTowerConfig, *, side: int, batch_size: int, films: int, seed: int
) -> tuple[SegmenterConfig, CompiledStep, dict[str, np.ndarray]]:
    """Our step on noise with a lesion in each film, compiled; and the batch.

    Args:
      tower: a ResNet, which is kept.
      side: of films in pixels.
      batch_size: films of a step.
      films: of an epoch; fewer than a batch make a batch.
      seed: of weights and films.
    """
    rng = np.random.default_rng(seed)
    size = (min(batch_size, films), side, side)
    mask = np.zeros(size, bool)
    for one, (y, x) in zip(
        mask, rng.integers(0, side // 2, (len(mask), 2)), strict=True
    ):
        one[y : y + side // 3, x : x + side // 4] = True
    batch = {"image": rng.integers(0, 256, size).astype(np.uint8), "mask": mask}
    config = SegmenterConfig(AugmentConfig(size=side), train_tower=False)
    system = segmenter(config, tower)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = CompiledStep(
            system.init, OPTIMIZER, batch, mesh, seed, frozen=system.frozen
        )
        step.compile(system.loss)
    return config, step, batch


def epoch(
    tower: ImageTowerConfig,
    *,
    side: int,
    batch_size: int,
    films: int,
    seed: int,
    torch: bool,
) -> Task:
    """All films once, a batch at a time.

    Args:
      tower: a ResNet, which is kept.
      side: of films in pixels.
      batch_size: films of a step.
      films: of the epoch; a last batch that is not full is left out.
      seed: of weights and films.
      torch: whether PyTorch is measured.
    """
    config, ours, batch = masks(
        tower, side=side, batch_size=batch_size, films=films, seed=seed
    )
    count = max(1, films // len(batch["image"]))

    def work() -> None:
        with jax.set_mesh(ours.mesh):
            for _ in range(count):
                ours.step()
            ours.wait()

    theirs, gaps = {}, {}
    if torch:
        module = measure.need_torch("torch_masks")
        view = np.asarray(evaluate(jax.numpy.asarray(batch["image"]), config.augment))
        other = module.Step(tower, config, batch, ours.variables())
        found = other.first(view)
        with jax.set_mesh(ours.mesh):
            first: dict[str, Any] = {k: float(v) for k, v in ours.step().items()}
        known = ("loss", "grad_norm")
        mine, own = ({k: side[k] for k in known} for side in (first, found))
        gaps = {f"PyTorch, {k}": v for k, v in differences(mine, own).items()}

        def taken() -> None:
            for _ in range(count):
                other.step(view)

        theirs["PyTorch"] = other.waiting(taken)
    seen = count * len(batch["image"])
    about = f"masks, an epoch of {seen} films of {side}, U-Net on {tower.architecture}"
    return Task(about, work, theirs, gaps, amount=seen, unit="films")
