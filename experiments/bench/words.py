"""What the benchmarks of GLoRIA and MGCA share: a batch, sizes of towers, our step."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.bench.compare import differences
from experiments.bench.compiled import CompiledStep
from experiments.bench.goals import unlike
from experiments.bench.tasks import Task
from medjax.nn.bert import BERTS
from medjax.train.mesh import make_mesh
from medjax.train.optimizer import OptimizerConfig
from medjax.vlp.augment import AugmentConfig, evaluate
from medjax.vlp.system import PretrainingSystem
from medjax.vlp.tokens import train_tokenizer
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

OPTIMIZER = OptimizerConfig(lr=1e-4, weight_decay=0.05, clip_norm=1.0)
"""Of both sides."""
SYLLABLES = ("pneu", "mo", "tho", "rax", "ef", "fu", "sion", "car", "dio", "me", "ga")


@dataclasses.dataclass(frozen=True)
class WordsConfig:
    """Sizes of a system that compares words with places."""

    image: Literal[
        "resnet18", "resnet50", "resnet_tiny", "vit_s16", "vit_b16", "vit_tiny"
    ] = "resnet18"
    """The image tower."""
    text: Literal["base", "tiny"] = "tiny"
    """Sizes of the report tower."""
    layers: int = 3
    """Layers of the report tower."""
    image_size: int = 128
    """Side of the network's input in pixels."""
    batch_size: int = 16
    """Pairs of a step."""
    tokens: int = 48
    """Of a report, padding included."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the towers' arithmetic."""
    turns: int = 3
    """Timed turns of each."""
    torch: bool = True
    """Measure PyTorch beside; without, ours alone."""
    seed: int = 0
    """Of weights and batch."""
    out: Path = Path("runs/bench")
    """Folder of the JSON file."""

    def described(self) -> str:
        """What a step takes, in words."""
        low = ", bfloat16" if self.dtype == "bfloat16" else ""
        return f"{self.image} at {self.image_size}, batch {self.batch_size}{low}"

    def unlike(self, published: "WordsConfig", batch_size: int) -> str:
        """Why goals per second are not for these sizes; see `goals.unlike`."""
        same = ("image", "text", "layers", "image_size", "tokens")
        return unlike(self, published, same=same, least={"batch_size": batch_size})


class Towers(NamedTuple):
    """Both towers, and a batch that they read."""

    image: ImageTowerConfig
    text: TextTowerConfig
    continues: np.ndarray
    """For every id, whether it goes on with the word before it."""
    batch: dict[str, np.ndarray]
    augment: AugmentConfig

    @property
    def view(self) -> np.ndarray:
        """The films as both networks see them, ``[b, h, w, 3]``."""
        return np.asarray(
            evaluate(jax.numpy.asarray(self.batch["image"]), self.augment)
        )


def invent(config: WordsConfig, folder: Path, **text: Any) -> Towers:
    """Towers without dropout, and noise for films with reports of invented words.

    Args:
      config: sizes.
      folder: the report tower reads its sizes and tokenizer there.
      **text: of the report tower's configuration.
    """
    rng = np.random.default_rng(config.seed)
    words = ["".join(rng.choice(SYLLABLES, rng.integers(1, 5))) for _ in range(200)]
    lengths = rng.integers(config.tokens // 6, config.tokens // 2, config.batch_size)
    reports = [" ".join(rng.choice(words, n)) for n in lengths]
    tokenizer = train_tokenizer([*words, *words], vocab_size=150)
    tokenizer.save(folder)
    sizes = dataclasses.replace(
        BERTS[config.text],
        num_hidden_layers=config.layers,
        vocab_size=tokenizer.vocab_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    (folder / "config.json").write_text(json.dumps(sizes.to_dict()))
    side = config.image_size
    films = rng.integers(0, 256, (config.batch_size, side, side)).astype(np.uint8)
    tower = TextTowerConfig(
        checkpoint=str(folder), max_length=config.tokens, dtype=config.dtype, **text
    )
    return Towers(
        ImageTowerConfig(config.image, dtype=config.dtype),
        tower,
        tokenizer.continues,
        {"image": films, "report": tokenizer.encode(reports, config.tokens)},
        # Nothing at random: both sides see the same films, PyTorch finds them prepared.
        AugmentConfig(size=side),
    )


def our_step(
    system: PretrainingSystem, towers: Towers, config: WordsConfig
) -> CompiledStep:
    """The compiled training step of a system on one device."""
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = CompiledStep(system.init, OPTIMIZER, towers.batch, mesh, config.seed)
        step.compile(system.loss)
    return step


def steps(
    about: str, ours: CompiledStep, theirs: Mapping[str, Any], towers: Towers
) -> Task:
    """A training step of ours and of theirs, after the first of each was compared.

    Args:
      about: the task.
      ours: compiled, no step taken yet.
      theirs: by name, with our weights in them.
      towers: their films.
    """

    def step() -> None:
        with jax.set_mesh(ours.mesh):
            ours.step()
            ours.wait()

    with jax.set_mesh(ours.mesh):
        first = {k: float(v) for k, v in ours.step().items()}
    known = ("loss", "grad_norm")
    gaps = {}
    for name, other in theirs.items():
        found = other.first(towers.view)
        mine, own = ({k: side[k] for k in known} for side in (first, found))
        gaps |= {f"{name}, {k}": v for k, v in differences(mine, own).items()}
    works = {n: t.waiting(lambda t=t: t.step(towers.view)) for n, t in theirs.items()}
    return Task(about, step, works, gaps, amount=len(towers.batch["image"]))
