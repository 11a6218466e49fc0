"""Turn a CMRxRecon tree into prepared sets, one per shape of its series.

``python -m experiments.prepare cmrxrecon --root ChallengeData --out prepared/hearts``

Slices of equal frames, coils, ky and kx share a set (``t1map_9x10x144x512``).
``experiments.latent_transformer --data.root`` trains on one, or on all matrix sizes of
a series in the folder. A set appears when it is complete; the same command keeps what
is finished and goes on. At the end one batch of every new set is read back as training
will read it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from medjax.data.ledger import Ledger, OnError
from medjax.data.pipeline import PipelineConfig
from medjax.mri.cmrxrecon import (
    find,
    last_patients_split,
    latent_transformer_split,
    prepare,
    promptmr_split,
    training_stream,
)
from medjax.mri.cmrxrecon.layout import Edition
from medjax.train.ending import ends_in_words
from medjax.train.sets import CACHE, address_of, on_disk, written


@dataclasses.dataclass(frozen=True)
class Prepare:
    """What to read, how to split it, and where it goes."""

    root: Path
    """The folder that holds MultiCoil and SingleCoil."""
    out: Path
    """Folder of the prepared sets, or its gs:// or s3:// address."""
    edition: Edition = 2023
    """Which year's layout: 2023 or 2024."""
    series: tuple[str, ...] = ("T1map", "T2map")
    """T1map, T2map, cine_sax, ..."""
    coils: Literal["MultiCoil", "SingleCoil"] = "MultiCoil"
    """Multi-coil, or 2023's emulated single-coil data."""
    split: Literal["last_patients", "latent_transformer", "promptmr"] = "last_patients"
    """The last patients held out, or a published split of the 120."""
    share: float = 0.1
    """Of the patients that are held out (split: last_patients)."""
    acs: int = 24
    """Central lines that sensitivity maps are estimated from."""
    on_error: OnError = "raise"
    """A damaged file: stop, or list it and go on."""
    overwrite: bool = False
    """Replace sets that were prepared with other settings."""
    cache: Path = CACHE
    """Of an address as out: folder of this machine where the set is written first."""


def split_of(config: Prepare, patients: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which patients are in which split; nobody is in two.

    Raises:
      ValueError: for a share that leaves a part empty, or a published split of other
        patients than the 120.
    """
    if config.split == "latent_transformer":
        return latent_transformer_split(patients)
    if config.split == "promptmr":
        return promptmr_split(patients)
    return last_patients_split(patients, share=config.share)


def run(config: Prepare) -> None:
    """Writes the sets and says what they hold.

    Raises:
      FileNotFoundError: where the tree lacks a series.
      FileExistsError: for a set that was prepared with other settings.
      ValueError: for impossible settings and damaged files.
    """
    if config.acs < 1:
        raise ValueError(f"acs={config.acs}: expected at least 1 line to estimate maps")
    ledger = Ledger(config.on_error)
    for name in config.series:
        files = find(config.root, name=name, edition=config.edition, coils=config.coils)
        sets = prepare(
            config.root,
            config.out,
            name=name,
            split=split_of(config, [one.patient for one in files]),
            edition=config.edition,
            coils=config.coils,
            acs=config.acs,
            ledger=ledger,
            overwrite=config.overwrite,
        )
        for bucket, folder in sets.items():
            stream = training_stream(
                {bucket: folder},
                "train",
                PipelineConfig(batch_size=1),
                acceleration=4,
                acs=min(config.acs, bucket[2]),
            )
            batch = next(iter(stream))
            shapes = ", ".join(f"{k} {v.shape}" for k, v in batch.items())
            print(f"{folder.name}: a batch holds {shapes}")
    print(ledger.summary())


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> None:
    """Prepares; a fault of the data ends with its message and status 1."""
    config = tyro.cli(
        Prepare,
        args=arguments,
        description=__doc__,
        prog="python -m experiments.prepare cmrxrecon",
    )
    on_disk(config.root, "root")
    with written(config.out, config.cache, overwrite=config.overwrite) as folder:
        run(dataclasses.replace(config, out=folder))
    print(f"prepared sets: {address_of(config.out) or config.out}")
