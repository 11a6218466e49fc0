"""Runs with random weights: what is tested is what is done with them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from medjax.data.images import ResizeMode
from medjax.train.checkpoint import Checkpoints
from medjax.train.state import TrainState
from medjax.vlp.augment import AUGMENTATIONS
from medjax.vlp.convirt import ConvirtConfig
from medjax.vlp.gloria import GloriaConfig
from medjax.vlp.systems import PairConfig, PairRecord
from medjax.vlp.tokens import train_tokenizer
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

SIZE = 32
SYSTEM = ConvirtConfig(
    features=16,
    frozen_text_layers=0,
    text="report",
    augment=dataclasses.replace(AUGMENTATIONS["tiny"], size=SIZE),
)


def random_pair(
    folder: Path,
    texts: Sequence[str],
    system: PairConfig = SYSTEM,
    architecture: str = "vit_tiny",
    resize: ResizeMode = "mgca",
) -> Path:
    """The folder of a run of two towers that was never trained."""
    tokenizer = train_tokenizer([*texts, *texts], vocab_size=80)
    text = TextTowerConfig("tiny", vocab_size=tokenizer.vocab_size, max_length=16)
    if isinstance(system, GloriaConfig):
        text = dataclasses.replace(text, pool="mean", layers_summed=2)
    record = PairRecord(
        system=system,
        image=ImageTowerConfig(architecture),
        text=text,
        image_size=SIZE,
        resize=resize,
        compared="report",
        data="test",
        findings=("Edema",),
    )
    record.save(folder, tokenizer)
    built = record.build(folder)
    batch = {"image": jnp.zeros((2, SIZE, SIZE), jnp.uint8)}
    batch |= {name: jnp.zeros((2, 16), jnp.int32) for name in built.tokens}
    variables = dict(jax.jit(built.init)(jax.random.key(0), batch))
    state = TrainState(
        step=jnp.ones((), jnp.int32),
        params=variables.pop("params"),
        extra=variables,
        opt_state={"none": jnp.zeros(())},
    )
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, {}, {}, wait=True)
    return folder
