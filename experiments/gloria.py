"""GLoRIA, from reports and radiographs to an evaluated checkpoint.

``python -m experiments.gloria`` runs the ``tiny`` preset on embedded data on a CPU;
``repo`` and ``paper`` are the real thing (``--data.root``). ``--help`` behind a preset
lists all flags. First of all it says from how many pairs on the contrast word by word
costs more than reading the films.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from medjax.progress import say
from medjax.train.agree import on_first
from medjax.train.experiment import main
from medjax.train.optimizer import OptimizerConfig
from medjax.vlp.augment import AUGMENTATIONS
from medjax.vlp.gloria import CONFIGS, GloriaConfig, equal_cost, gloria
from medjax.vlp.pretraining import IMAGENET, TINY, Pretraining, run
from medjax.vlp.towers import ImageTowerConfig, TextTowerConfig

REPO = Pretraining(
    about="GLoRIA, settings of the released code",
    system=CONFIGS["repo"],
    image=ImageTowerConfig("resnet50", checkpoint=IMAGENET, dtype="bfloat16"),
    text=TextTowerConfig(
        checkpoint="emilyalsentzer/Bio_ClinicalBERT",
        max_length=97,
        pool="mean",
        layers_summed=4,
        dtype="bfloat16",
    ),
    # The code halves the rate when a validation loss stands still for five epochs, and
    # stops after ten: here it is constant.
    optimizer=OptimizerConfig(
        name="adam", lr=5e-5, b1=0.5, weight_decay=1e-6, clip_norm=0.25
    ),
    epochs=50,
    workdir=Path("runs/gloria-repo"),
).with_data(batch_size=48)

PRESETS = {
    "tiny": dataclasses.replace(
        TINY,
        about="GLoRIA on embedded data, small enough for a CPU",
        system=dataclasses.replace(
            GloriaConfig(),
            width=128,
            text="report",
            words=40,
            augment=AUGMENTATIONS["tiny"],
        ),
        text=dataclasses.replace(TINY.text, layers_summed=2),
        workdir=Path("runs/gloria-tiny"),
    ),
    "repo": REPO,
    "paper": dataclasses.replace(
        REPO,
        about="GLoRIA, words as the paper counts them",
        system=CONFIGS["paper"],
        workdir=Path("runs/gloria-paper"),
    ),
}


def train(config: Pretraining) -> dict[str, Any]:
    """Trains, after it has said what the contrast word by word costs.

    Args:
      config: the run.

    Returns:
      The evaluation.
    """
    on_first(lambda: say(cost(config)), what="cost of the local contrast")
    return run(config, gloria)


def cost(config: Pretraining) -> str:
    """From how many pairs on the local contrast costs more than the image tower."""
    pairs, system = config.data.batch_size, config.system
    if system.local_negatives is not None:
        return f"local contrast: with {system.local_negatives} others of {pairs} pairs"
    whose = "a batch" if config.loss.negatives == "global" else "a device"
    n = equal_cost(system, config.image, config.text)
    return (
        f"local contrast: costs more than the image tower from {n} pairs of {whose} "
        f"on; this batch has {pairs}"
    )


if __name__ == "__main__":
    sys.exit(main(PRESETS, train, __doc__))
