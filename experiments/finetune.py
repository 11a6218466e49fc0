"""A trained tower put to a task: findings of films, or masks or boxes of lesions.

::

    python -m experiments.finetune runs/imitate-tiny
    python -m experiments.finetune runs/mimic --data films.csv --target Edema Mass \\
        --patient patient_id --fraction 0.1
    python -m experiments.finetune linear timm/resnet50.tv_in1k --data prepared/nih \\
        --train-ids train.txt --valid-ids val.txt --test-ids test.txt
    python -m experiments.finetune runs/imitate-tiny --target mask Consolidation
    python -m experiments.finetune boxes runs/mimic --data rsna --format rsna
    python -m experiments.finetune mask runs/mimic --data films.csv --mask lesion_path
    python -m experiments.finetune boxes runs/mimic --data boxes.csv \\
        --boxes x y width height --patient patient_id

The first fine-tunes on embedded films in about a minute on a CPU (preset ``tiny``).
``linear`` is the probe of MGCA's protocol: tower frozen, AdamW 5e-4, 50 passes,
patience 10 on the validation loss; ``full`` the fine-tuning of BenchX: tower at a tenth
of the rate, cosine over 3000 steps, patience 10 on the validation AUC. Data are a
prepared set of ``experiments.prepare``, a table, or a raw data set by ``--format``.
What is printed in the end: AUC by finding with intervals over patients; the run's
folder holds ``predictions.csv`` and ``report.html``, and ``medjax.load`` opens it.

``--target mask`` trains the decoder of a U-Net on the tower, ``--target boxes`` the
head of a YOLOv3; findings behind it say whose lesions, none: all. Presets ``mask`` and
``boxes`` are MGCA's protocols: tower frozen, 50 passes, patience 10; ``mask-siim`` is
that of SIIM: 8 films at a time, and as many without a pneumothorax as with one
(``--balance``), of which ``--fraction`` takes its share. Embedded, RSNA, SIIM and
Object-CXR data (``--format object_cxr``) have lesions; a table says them by ``--mask``
(an image of each film's lesions) or ``--boxes``. The code of MGCA lets statistics
of a frozen tower move (``--moving-statistics``) and has other rates for 1 % of the
films: AdamW 2e-4 of RSNA and 2.5e-4 of Object-CXR, 8 films at a time (``boxes-few``).
``mask-upernet`` is the protocol of BenchX: a UperNet on the frozen stages, films of 512
pixels, mirrored half of the time, AdamW 1e-3, 20,000 updates of 8, the best of ten
validations by its number, Dice with that of the background. Printed are Dice per film
(an empty mask is right where nothing is) and that number, or average precision with all
films counted and as published.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.train.experiment import main
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig
from medjax.train.stopping import StoppingConfig
from medjax.vlp.finetuning import Finetuning, run
from medjax.vlp.labelled import LabelledConfig
from medjax.vlp.placing import asks_for_places, run_places

PRESETS = {
    "tiny": Finetuning(
        about="all of a tower, fine-tuned for a minute on a CPU",
        optimizer=OptimizerConfig(
            lr=2e-3, weight_decay=0.05, clip_norm=1.0, rates=(("^image/", 0.3),)
        ),
        epochs=12,
        train=TrainConfig(log_every=10),
        stopping=StoppingConfig("auc", patience=4),
        launch=LaunchConfig(cpu_devices=cpu_devices()),
        workdir=Path("runs/finetune-tiny"),
    ),
    "linear": Finetuning(
        about="linear probe of a frozen tower, MGCA's protocol",
        method="linear",
        augmentation="none",
        films=LabelledConfig(batch_size=48),
        optimizer=OptimizerConfig(lr=5e-4, weight_decay=1e-6),
        epochs=50,
        train=TrainConfig(log_every=50),
        stopping=StoppingConfig("loss", higher_is_better=False),
        workdir=Path("runs/finetune-linear"),
    ),
    "full": Finetuning(
        about="full fine-tuning, BenchX's protocol",
        normalise_features=True,
        optimizer=OptimizerConfig(
            name="adam",
            lr=1e-4,
            clip_norm=1.0,
            rates=(("^image/", 0.1),),
            schedule="cosine",
            warmup_steps=50,
        ),
        train=TrainConfig(steps=3050, log_every=50),
        workdir=Path("runs/finetune-full"),
    ),
    "mask": Finetuning(
        about="masks of lesions from a frozen tower, MGCA's protocol",
        method="linear",
        films=LabelledConfig(target=("mask",), batch_size=16),
        optimizer=OptimizerConfig(lr=5e-4, weight_decay=0.05),
        epochs=50,
        train=TrainConfig(log_every=50),
        stopping=StoppingConfig("dice"),
        workdir=Path("runs/finetune-mask"),
    ),
    "boxes": Finetuning(
        about="boxes round lesions from a frozen tower, MGCA's protocol",
        method="linear",
        augmentation="none",
        films=LabelledConfig(target=("boxes",), batch_size=16),
        optimizer=OptimizerConfig(lr=5e-4, weight_decay=1e-6),
        epochs=50,
        train=TrainConfig(log_every=50),
        stopping=StoppingConfig("map"),
        workdir=Path("runs/finetune-boxes"),
    ),
}
PRESETS["mask-siim"] = dataclasses.replace(
    PRESETS["mask"],
    about="masks of pneumothorax from a frozen tower, MGCA's protocol of SIIM",
    films=LabelledConfig(target=("mask",), batch_size=8, balance=True),
    workdir=Path("runs/finetune-mask-siim"),
)
PRESETS["mask-upernet"] = Finetuning(
    about="masks of lesions from a frozen tower, BenchX's protocol",
    method="linear",
    head="upernet",
    size=512,
    films=LabelledConfig(target=("mask",), batch_size=8),
    optimizer=OptimizerConfig(
        lr=1e-3, weight_decay=0.05, schedule="poly", poly_power=1.0, warmup_steps=1500
    ),
    train=TrainConfig(steps=20_000, log_every=50, eval_every=2000),
    stopping=StoppingConfig("dice_with_background"),
    workdir=Path("runs/finetune-mask-upernet"),
)
PRESETS["boxes-few"] = dataclasses.replace(
    PRESETS["boxes"],
    about="boxes from 1 % of the films, MGCA's protocol",
    films=LabelledConfig(target=("boxes",), batch_size=8, fraction=0.01),
    optimizer=OptimizerConfig(lr=2e-4, weight_decay=1e-6),
    workdir=Path("runs/finetune-boxes-few"),
)


def finetune(config: Finetuning) -> None:
    """Findings, or places."""
    (run_places if asks_for_places(config) else run)(config)


if __name__ == "__main__":
    sys.exit(main(PRESETS, finetune, __doc__))
