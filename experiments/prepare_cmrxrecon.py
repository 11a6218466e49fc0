"""Turn a CMRxRecon tree into prepared sets, one per shape of its series.

``python -m experiments.prepare_cmrxrecon --root ChallengeData --out prepared/hearts``

Slices of equal frames, coils, ky and kx share a set (``t1map_9x10x144x512``), which
``experiments.latent_transformer --data.root`` trains on. Each is written whole or not
at all, and at the end one batch of every set is read back as training will read it.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from medjax.data.pipeline import PipelineConfig
from medjax.data.records import read_metadata
from medjax.mri.cmrxrecon import (
    find,
    latent_transformer_split,
    prepare,
    promptmr_split,
    training_stream,
)
from medjax.mri.cmrxrecon.layout import Edition


@dataclasses.dataclass(frozen=True)
class Prepare:
    """What to read, how to split it, and where it goes."""

    root: Path
    """The folder that holds MultiCoil and SingleCoil."""
    out: Path
    """Folder of the prepared sets."""
    edition: Edition = 2023
    """Which year's layout: 2023 or 2024."""
    series: tuple[str, ...] = ("T1map", "T2map")
    """T1map, T2map, cine_sax, ..."""
    coils: Literal["MultiCoil", "SingleCoil"] = "MultiCoil"
    """Multi-coil, or 2023's emulated single-coil data."""
    split: Literal["latent_transformer", "promptmr", "fractions"] = "fractions"
    """A published split of the 120 training patients, or random parts of any number."""
    valid: float = 0.1
    """Share of the patients to validate on (split: fractions)."""
    test: float = 0.1
    """Share of the patients that are held out (split: fractions)."""
    seed: int = 0
    """Of the random parts."""
    acs: int = 24
    """Central lines that sensitivity maps are estimated from."""
    overwrite: bool = False
    """Replace finished sets."""


def split_of(config: Prepare, patients: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which patients are in which split; nobody is in two.

    Raises:
      ValueError: for fractions that leave nobody to train on, or a published split of
        other patients than the 120.
    """
    if config.split == "latent_transformer":
        return latent_transformer_split(patients)
    if config.split == "promptmr":
        return promptmr_split(patients)
    count = len(patients)
    valid, test = (round(share * count) for share in (config.valid, config.test))
    if min(config.valid, config.test) < 0 or valid + test >= count:
        raise ValueError(
            f"valid={config.valid} and test={config.test} of {count} patients leave "
            "nobody to train on"
        )
    order = np.random.default_rng(config.seed).permutation(count)
    shuffled = [sorted(patients)[i] for i in order]
    parts = {
        "train": shuffled[valid + test :],
        "validation": shuffled[:valid],
        "test": shuffled[valid : valid + test],
    }
    return {name: tuple(sorted(part)) for name, part in parts.items() if part}


def run(config: Prepare) -> None:
    """Writes the sets and says what they hold."""
    for name in config.series:
        files = find(config.root, name=name, edition=config.edition, coils=config.coils)
        split = split_of(config, [one.patient for one in files])
        print(f"{name}: " + ", ".join(f"{k} {len(v)}" for k, v in split.items()))
        sets = prepare(
            config.root,
            config.out,
            name=name,
            split=split,
            edition=config.edition,
            coils=config.coils,
            acs=config.acs,
            overwrite=config.overwrite,
        )
        for bucket, folder in sets.items():
            counts = read_metadata(folder)["splits"]
            slices = ", ".join(f"{k} {n}" for k, n in counts.items())
            print(f"  {folder.name}: {slices} slices")
            if "train" not in counts:
                continue
            stream = training_stream(
                {bucket: folder},
                "train",
                PipelineConfig(batch_size=1),
                acceleration=4,
                acs=min(config.acs, bucket[2]),
            )
            batch = next(iter(stream))
            shapes = ", ".join(f"{k} {v.shape}" for k, v in batch.items())
            print(f"  a batch of {folder.name}: {shapes}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares; a fault of the data ends with its message and status 1."""
    config = tyro.cli(Prepare, args=arguments, description=__doc__)
    try:
        run(config)
    except KeyError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"prepared sets: {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
