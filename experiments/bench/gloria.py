"""GLoRIA: its step, its local contrast, and words, against loops as theirs has them.

============ ========================================================================
``step``     towers, heads, both contrasts, gradient, clipping and AdamW, against the
             same in PyTorch with a loop over reports and over tokens
``contrast`` the local contrast and its gradient, against the loop over reports
``words``    word-pieces to words, against the loop over tokens
============ ========================================================================

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
from experiments.bench.tasks import Task, run_tasks
from experiments.bench.words import WordsConfig, invent, our_step, steps
from medjax.vlp.gloria import GloriaConfig, gloria
from medjax.vlp.towers import bert_config
from medjax.vlp.word_contrast import WordContrastConfig, local_contrast
from medjax.vlp.words import aggregate, word_segments

GOALS: Goals = {
    "cpu": {"step": Goal(1.2), "contrast": Goal(3.0), "words": Goal(20.0)},
    "H200": {"step": Goal(per_second=3000.0), "words": Goal(share_of_step=0.01)},
}
"""What is asked for, by device; per second of `PUBLISHED` with `FULL` pairs."""
FULL = 384


TaskName = Literal["step", "contrast", "words"]


@dataclasses.dataclass(frozen=True)
class GloriaBenchConfig(WordsConfig):
    """Sizes."""

    tasks: tuple[TaskName, ...] = get_args(TaskName)
    """What is measured."""
    pairs: int = 48
    """Of the local contrast alone, and reports whose words are put together."""
    words: int = 25
    """Of a report in the local contrast alone."""
    regions: int = 196
    """Of a film in it."""
    width: int = 256
    """Of both in it."""


PUBLISHED = GloriaBenchConfig(
    image="resnet50",
    text="base",
    layers=12,
    image_size=299,
    batch_size=48,
    tokens=97,
    words=97,
    regions=361,
    width=768,
)
"""Of the released code: on a CPU minutes a step, and more than ten GB."""


def run(config: GloriaBenchConfig) -> dict[str, Any]:
    """Times every task, prints and writes."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = {
            "step": functools.partial(step, folder=Path(folder)),
            "contrast": contrast,
            "words": functools.partial(words, folder=Path(folder)),
        }
        tasks = {name: tasks[name] for name in config.tasks}
        return run_tasks(
            "gloria",
            config,
            tasks,
            goals=GOALS,
            peers=("torch",),
            sizes=config.unlike(PUBLISHED, FULL),
        )


def step(config: GloriaBenchConfig, *, folder: Path) -> Task:
    """The whole training step."""
    towers = invent(config, folder, pool="mean", layers_summed=2)
    width = bert_config(towers.text).hidden_size
    system = GloriaConfig(width=width, text="report", augment=towers.augment)
    ours = our_step(gloria(system, towers.image, towers.text), towers, config)
    theirs = {}
    if config.torch:
        module = measure.need_torch("torch_words")
        temps = (system.temp1, system.temp2, system.temp3)
        pair = module.Gloria(towers, temps)
        theirs["PyTorch"] = module.Step(pair, towers, ours.variables())
    about = f"GLoRIA's training step, {config.described()}"
    return steps(about, ours, theirs, towers)


def contrast(config: GloriaBenchConfig) -> Task:
    """Value and gradient of the local contrast."""
    rng = np.random.default_rng(config.seed)
    n, t, r, d = config.pairs, config.words, config.regions, config.width
    features = [
        rng.normal(size=size).astype(np.float32) / np.sqrt(d)
        for size in ((n, t, d), (n, r, d))
    ]
    counts = rng.integers(2, t + 1, n)
    mask = jnp.asarray(np.arange(t) < counts[:, None])
    how = WordContrastConfig()

    @jax.jit
    def ours(words: jax.Array, regions: jax.Array) -> Any:
        def loss(words: jax.Array, regions: jax.Array) -> jax.Array:
            return sum(local_contrast(words, mask, regions, config=how))  # pyright: ignore[reportReturnType]

        return jax.value_and_grad(loss, (0, 1))(words, regions)

    theirs, gaps = {}, {}
    if config.torch:
        module = measure.need_torch("torch_words")
        torch = module.torch
        leaves = [torch.tensor(x, requires_grad=True) for x in features]
        lengths = counts.tolist()
        temps = (how.temp1, how.temp2, how.temp3)

        def loop() -> float:
            for leaf in leaves:
                leaf.grad = None
            loss = module.word_contrast(leaves[0], lengths, leaves[1], temps)
            loss.backward()
            return float(loss.detach())

        theirs["PyTorch"] = loop
        value, (slope, _) = ours(*features)
        gaps["PyTorch, loss"] = abs(float(value) / loop() - 1)
        gaps["PyTorch, gradient"] = _apart(slope, leaves[0].grad.numpy())
    about = f"local contrast and gradient, {n} pairs of {t} words, {r} regions, {d}"
    return Task(about, lambda: jax.block_until_ready(ours(*features)), theirs, gaps)


def words(config: GloriaBenchConfig, *, folder: Path) -> Task:
    """Word-pieces to words."""
    many = dataclasses.replace(config, batch_size=config.pairs, image_size=8)
    towers = invent(many, folder)
    ids = towers.batch["report"]
    rng = np.random.default_rng(config.seed)
    hidden = rng.normal(size=(*ids.shape, config.width)).astype(np.float32)

    @jax.jit
    def ours(hidden: jax.Array, ids: jax.Array) -> jax.Array:
        return aggregate(hidden, word_segments(ids, towers.continues))[0]

    theirs, gaps = {}, {}
    if config.torch:
        module = measure.need_torch("torch_words")
        given = module.torch.tensor(hidden), module.torch.tensor(ids)
        known = towers.continues.tolist()

        def loop() -> Any:
            return module.words_of(*given, known, closing=True)[0]

        theirs["PyTorch"] = loop
        gaps["PyTorch, words"] = _apart(ours(hidden, ids), loop().numpy())
    about = f"words of {len(ids)} reports of {ids.shape[1]} tokens, {config.width}"
    return Task(about, lambda: jax.block_until_ready(ours(hidden, ids)), theirs, gaps)


def _apart(one: Any, other: np.ndarray) -> float:
    """Relative difference of two arrays."""
    return float(np.linalg.norm(np.asarray(one) - other) / np.linalg.norm(other))
