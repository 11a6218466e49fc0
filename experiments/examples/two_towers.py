"""Two towers of one's own: a new loss on the library's parts, trained by the same loop.

The idea tried here: one head for the film, and the mean of two contrasts, with findings
and with impression. What is written is a module and a loss; mesh, schedule,
checkpoints, resuming and logs are ``train.fit``'s, the probes those of all systems.

::

    python experiments/examples/two_towers.py            # minutes on a laptop
"""

# %% Data: embedded films here; CorpusConfig reads tables and public sets alike
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from medjax import train
from medjax.data.pipeline import PipelineConfig, build_pipeline
from medjax.typing import Batch, Key, Metrics, Variables
from medjax.vlp import (
    AUGMENTATIONS,
    CorpusConfig,
    ImageTower,
    ImageTowerConfig,
    MlpHead,
    TextTower,
    TextTowerConfig,
    TwoTower,
    contrast,
    normalise,
    open_corpus,
    two_tower_system,
)
from medjax.vlp.augment import augment
from medjax.vlp.corpus import Rows
from medjax.vlp.evaluate import encode
from medjax.vlp.retrieval import retrieval

steps, patients = (int(word) for word in (*sys.argv[1:3], "100", "600")[:2])
workdir = Path("runs/two-towers")
data = CorpusConfig(patients=patients, image_size=64)
corpus = open_corpus(data, workdir / "data", tokenizer=None, max_tokens=64)
SECTIONS = ("findings", "impression")


# %% The module: two towers, a head each, and what the loss compares
class Mine(TwoTower):
    """A film near to its findings and to its impression."""

    def setup(self) -> None:
        words = corpus.tokenizer.vocab_size
        self.image = ImageTower(ImageTowerConfig("resnet_tiny"))
        self.text = TextTower(
            TextTowerConfig("tiny", vocab_size=words, pool="mean", max_length=64)
        )
        self.image_head, self.text_head = MlpHead(128, 64), MlpHead(128, 64)

    def __call__(self, image: jax.Array, ids: dict[str, jax.Array]) -> tuple:
        """Initialises every parameter."""
        return self.compare(image, ids, train=False)

    def compare(
        self, image: jax.Array, ids: dict[str, jax.Array], *, train: bool = True
    ) -> tuple:
        """Film, findings and impression in the shared space."""
        film = self.image_head(self.image(image, train=train).pooled)
        texts = [self.text_head(self.text(ids[name])) for name in SECTIONS]
        return normalise(film), *map(normalise, texts)


# %% The loss: a pure function of variables, batch and key
module, recipe = Mine(), AUGMENTATIONS["tiny"]


def loss(
    variables: Variables, batch: Batch, key: Key
) -> tuple[jax.Array, tuple[Metrics, Variables]]:
    """Mean of both contrasts, both ways; a missing section takes no part."""
    (film, *texts), updated = module.apply(
        variables,
        augment(batch["image"], recipe, key=key),
        {name: batch[name] for name in SECTIONS},
        method="compare",
        mutable=["batch_stats"],
    )
    present = {name: batch[f"has_{name}"].astype(jnp.float32) for name in SECTIONS}
    terms = {}
    for name, text in zip(SECTIONS, texts, strict=True):
        both = contrast(film, text, temperature=0.1, weights=present[name])
        terms[name] = (both[0] + both[1]) / 2
    return (terms["findings"] + terms["impression"]) / 2, (terms, updated)


system = two_tower_system(
    module, loss, augment=recipe, tokens=SECTIONS, compared="impression"
)

# %% Training: started again, it goes on where it was stopped
source = corpus.source("train", ("image", *SECTIONS))
size = min(64, len(source) // 8 * 8)
state = train.fit(
    system.init,
    system.loss,
    build_pipeline(source, PipelineConfig(batch_size=size)),
    workdir=workdir,
    optimizer=train.OptimizerConfig(lr=2e-3, weight_decay=0.05, warmup_steps=10),
    train=train.TrainConfig(steps=steps, log_every=20),
)

# %% What it is worth: does a held-out film find its own impression?
found = encode(
    {
        "image": lambda v, b: system.image_embedding(v, b["image"]),
        "text": lambda v, b: system.text_embedding(v, b["impression"]),
    },
    state.variables,
    Rows(corpus.source("test", ("image", "impression"))),
    mesh=train.make_mesh(train.MeshConfig()),
    batch_size=64,
)
ranks = retrieval(
    found["image"], found["text"], corpus.column("test", "impression_text")
)["image_to_text"]
print(f"R@10 {ranks['R@10']:.3f}, guessing {ranks['chance']['R@10']:.3f}")
