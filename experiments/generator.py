"""A generator of radiographs, from films and reports to films of reports.

``python -m experiments.generator`` trains a small latent diffusion model on embedded
data on a CPU (``tiny``: a U-Net of a million numbers, to see that it learns). ``small``
is the same with one of 6.7 million and twelve times the updates, for an accelerator: on
a CPU it takes hours. ``finetune`` goes on from a folder of Stable Diffusion, as
RoentGen was made::

    python -m experiments.generator finetune --start stable-diffusion-v1-5 \\
        --data.root mimic-cxr-jpg --data.format mimic --mesh.fsdp 8

What was learnt lies in ``generator/`` of the run as a folder of ``diffusers``, and
serves ``experiments.prepare ... --render run:RUN``. ``--help`` behind a preset lists
all flags.
"""

import dataclasses
import sys
from pathlib import Path

from medjax.train.experiment import main
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.optimizer import OptimizerConfig
from medjax.train.settings import TrainConfig
from medjax.vlp.corpus import CorpusConfig
from medjax.vlp.diffusion.run import AutoencoderTraining, Generation, run
from medjax.vlp.diffusion.schedule import SamplingConfig
from medjax.vlp.diffusion.scores import ScoresConfig
from medjax.vlp.diffusion.sizes import GeneratorConfig
from medjax.vlp.report_tower import LanguageConfig

SMALL = Generation(
    about="Latent diffusion of embedded films, as large as a CPU allows",
    data=CorpusConfig(image_size=64, patients=3000, batch_size=64),
    optimizer=OptimizerConfig(
        lr=5e-4, weight_decay=0.01, clip_norm=1.0, schedule="cosine"
    ),
    train=TrainConfig(steps=3000, log_every=50, checkpoint_every=500, ema=0.999),
    language=LanguageConfig(steps=300, batch_size=64),
    launch=LaunchConfig(cpu_devices=cpu_devices()),
    warmup_fraction=0.05,
    workdir=Path("runs/generator-small"),
)

PRESETS = {
    "tiny": dataclasses.replace(
        SMALL,
        about="Latent diffusion of embedded films, small enough for a CPU",
        system=GeneratorConfig(autoencoder=(8, 16, 32), widths=(32, 64)),
        autoencoder=AutoencoderTraining(steps=80, batch_size=8, lr=4e-3),
        data=dataclasses.replace(SMALL.data, patients=600, batch_size=32),
        optimizer=dataclasses.replace(SMALL.optimizer, lr=2e-3),
        train=TrainConfig(steps=250, log_every=25, checkpoint_every=50, ema=0.98),
        language=LanguageConfig(steps=60, batch_size=64),
        sampling=SamplingConfig(steps=10, guidance=2.0),
        evaluation=ScoresConfig(films=48),
        launch=dataclasses.replace(SMALL.launch, compile_quickly=True),
        workdir=Path("runs/generator-tiny"),
    ),
    "small": SMALL,
    "finetune": Generation(
        about="Stable Diffusion, fine-tuned on radiographs as RoentGen was",
        system=GeneratorConfig(section="impression"),
        data=CorpusConfig(image_size=512, batch_size=256),
        optimizer=OptimizerConfig(
            lr=1e-5, weight_decay=0.01, clip_norm=1.0, schedule="cosine"
        ),
        train=TrainConfig(steps=12_500, log_every=10, checkpoint_every=500, ema=0.9999),
        cache_latents=False,
        sampling=SamplingConfig(steps=20),
        dtype="bfloat16",
        warmup_fraction=0.02,
        workdir=Path("runs/generator-finetune"),
    ),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, run, __doc__))
