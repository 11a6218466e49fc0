"""LesionMix: few cases with lesions become many, written as NIfTI, with a report.

Basaran, Zhang, Bai et al., "LesionMix: A Lesion-Level Data Augmentation Method for
Medical Image Segmentation", DALI at MICCAI 2023, arXiv 2308.09026::

    python -m experiments.lesionmix
    python -m experiments.lesionmix --data.root open_ms --out runs/lesionmix \\
        --data.image "MNI_{case}_FLAIR.nii.gz" --data.mask "MNI_{case}_GT.nii.gz"

With no flag it draws brain-like phantoms and mixes them, in about a minute. With a
folder it pairs images and masks by name; masks without an image tell of loads and
places. ``out`` then holds ``<case>_mix<n>.nii.gz`` and ``<case>_mix<n>_label.nii.gz``,
``mixed.csv`` with every load, target and count, and ``report.html``: loads against
their targets, pictures before and after, and the difference. ``--mixing`` takes one of
the methods that LesionMix is compared with instead.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from medjax.segmentation.lesionmix.command import (
    MixData,
    Mixing,
    mix_and_write,
    read_cohort,
)
from medjax.segmentation.lesionmix.loads import LoadName
from medjax.segmentation.lesionmix.mix import LesionMixConfig
from medjax.train.ending import ends_in_words


@dataclasses.dataclass(frozen=True)
class LesionMixRun:
    """What is mixed, how, and where it goes."""

    data: MixData = MixData()
    """The cases."""
    mixing: Mixing = "lesionmix"
    """LesionMix, or one of its peers."""
    load: LoadName = "uniform"
    """Law of the load: between percentiles of the training cases' (low 5-35, medium
    35-65, high 65-95, uniform 5-95), one of theirs (real), or log-normal."""
    log_normal: tuple[float, float] | None = None
    """Of the log-normal law: mean and standard deviation of the load's logarithm."""
    lesionmix: LesionMixConfig = LesionMixConfig()
    """How lesions are put in and taken away."""
    copies: int = 4
    """Results per case."""
    seed: int = 0
    """Of everything random; the same seed writes the same files."""
    out: Path = Path("runs/lesionmix")
    """Folder of the results."""


def run(config: LesionMixRun) -> None:
    """Mixes what the flags name."""
    cohort = read_cohort(config.data)
    page = mix_and_write(
        cohort,
        config.out,
        mixing=config.mixing,
        load=config.load,
        log_normal=config.log_normal,
        config=config.lesionmix,
        hold_out=config.data.hold_out,
        copies=config.copies,
        seed=config.seed,
    )
    print(f"report: {page}")


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    prog = "python -m experiments.lesionmix"
    run(tyro.cli(LesionMixRun, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
