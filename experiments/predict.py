"""Label maps of images by a trained segmentation, on the images' own grid.

(Findings on films, by a fine-tuned tower, are ``experiments.classify``.)

::

    python -m experiments.predict runs/segment-nnunet scans/ --out predicted
    python -m experiments.predict runs/brain a.nii.gz b.nii.gz --write prob entropy \\
        --mirror
    python -m experiments.predict runs/heart ACDC --format acdc --cine
    python -m experiments.predict runs/stroke ISLES --format bids
    python -m experiments.predict runs/pairs images.csv --format table

Images are NIfTI files, folders or patterns of them; files of several channels end in
``_0000``, ``_0001``, and what a folder has of label maps (``_gt``, ``-label``,
``labelsTr``, ``derivatives``) is counted and left out. Or they are sets as
``experiments.segment`` reads them, named by ``--format``; they need no label maps. A
run of one channel takes the fourth axis of a file for frames, and what it writes has
that axis too. Each image gives ``<name>.nii.gz`` with the values of the training set,
``<name>.json`` with volumes in mL, and with ``--write`` maps: ``prob`` (a last axis
of channels) and ``entropy`` (nats); of runs with several answers
(``experiments.hierarchical``) also ``mi`` (mutual information, nats: what the answers
disagree about) and ``variance``, and of hierarchical ones ``levels``: ``mi`` of each
level by itself, ``<name>_level0.nii.gz`` being the finest. What cannot be read is
listed and makes the status 1, unless ``--on-error skip``.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from medjax.data.boundary import DataError
from medjax.data.ledger import Ledger, OnError
from medjax.segmentation.images import find_images
from medjax.segmentation.inference import tile_mesh
from medjax.segmentation.pretrained import Images, open_run
from medjax.segmentation.sets import RawFormat, images_to_segment
from medjax.train.ending import ends_in_words


@dataclasses.dataclass(frozen=True)
class Predict:
    """What to segment, and where it goes."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """NIfTI files, folders or patterns; with a format, folders of sets, or CSVs."""
    format: Literal["files", RawFormat] = "files"
    """What lies there: images alone, or a set, with or without label maps; nnunet reads
    the Decathlon too."""
    channels: tuple[str, ...] = ()
    """Of BIDS: suffixes of images, in the order of the run's channels; default: their
    names. (Tables have columns image, image_1 and on, in that order.)"""
    cine: bool = False
    """Of ACDC and M&Ms: all frames, rather than end-diastole and end-systole."""
    out: Path = Path("predicted")
    """Where label maps go."""
    write: tuple[str, ...] = ()
    """Maps beside the labels: prob, entropy; mi, variance, levels where there are."""
    step: float | None = None
    """Between tiles, of the patch; default: the run's."""
    mirror: bool | None = None
    """Average over mirror images of each tile; default: the run's."""
    devices: int | None = None
    """Devices that tiles are split over; default: all accelerators, or one CPU."""
    nan_to: float | None = None
    """What voxels that are NaN or infinite are taken for; default: the image is listed
    as one that cannot be read."""
    on_error: OnError = "raise"
    """An image that cannot be read: list it and end with status 1, or list it alone."""


def run(config: Predict) -> int:
    """Segments what the flags name; returns the status."""
    print(f"opening {config.run}", flush=True)
    model = open_run(config.run, mesh=tile_mesh(config.devices))
    ledger = Ledger("skip")
    found = images_of(
        config, [c.name for c in model.record.preparation.channels], ledger
    )
    changes = {"step": config.step, "mirror": config.mirror}
    changes = {key: value for key, value in changes.items() if value is not None}
    window = dataclasses.replace(model.record.window, **changes)
    done = model.predict(
        found,
        out=config.out,
        written=config.write,
        window=window,
        ledger=ledger,
        nan_to=config.nan_to,
    )
    for count, one in enumerate(done, 1):
        shape = "x".join(map(str, one.labels.data.shape))
        print(f"{count} of {len(found)}: {one.id} ({shape})", flush=True)
    print(f"label maps: {config.out}")
    if not ledger.skipped:
        return 0
    path = config.out / "skipped.csv"
    config.out.mkdir(parents=True, exist_ok=True)
    ledger.write_skipped(path)
    print(f"{ledger.summary()}\nlist: {path}")
    return 0 if config.on_error == "skip" else 1


def images_of(config: Predict, channels: Sequence[str], ledger: Ledger) -> Images:
    """The images that the flags name.

    Args:
        config: The flags.
        channels: Of the run.
        ledger: Counts what is left out.

    Raises:
        ValueError: For flags that the format does not have.
        DataError: If there is none.
    """
    if config.format != "files":
        return images_to_segment(
            config.images,
            config.format,
            channels,
            ledger,
            named=config.channels,
            cine=config.cine,
        )
    if config.cine or config.channels:
        raise ValueError("cine and channels are of sets: name one by --format")
    if tables := [name for name in config.images if name.endswith(".csv")]:
        raise DataError(f"{tables[0]}: a table is read by --format table")
    return find_images(config.images, len(channels), ledger)


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.predict"
    return run(tyro.cli(Predict, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
