"""Label maps of images by a trained segmentation, on the images' own grid.

(Findings on films, by a fine-tuned tower, are ``experiments.classify``.)

::

    python -m experiments.predict runs/segment-nnunet scans/ --out predicted
    python -m experiments.predict runs/brain a.nii.gz b.nii.gz --write prob entropy \\
        --mirror

Images are NIfTI files, folders or patterns of them; files of several channels end in
``_0000``, ``_0001``. Each gives ``<name>.nii.gz`` with the values of the training set,
``<name>.json`` with volumes in mL, and with ``--write`` maps: ``prob`` (a fourth axis
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

import tyro

from medjax.data.ledger import Ledger, OnError
from medjax.segmentation.images import find_images
from medjax.segmentation.inference import tile_mesh
from medjax.segmentation.pretrained import open_run
from medjax.train.ending import ends_in_words


@dataclasses.dataclass(frozen=True)
class Predict:
    """What to segment, and where it goes."""

    run: tyro.conf.Positional[Path]
    """Folder of a trained run."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """NIfTI files, folders or patterns."""
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
    found = find_images(config.images, len(model.record.preparation.channels))
    changes = {"step": config.step, "mirror": config.mirror}
    changes = {key: value for key, value in changes.items() if value is not None}
    window = dataclasses.replace(model.record.window, **changes)
    ledger = Ledger("skip")
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


@ends_in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    prog = "python -m experiments.predict"
    return run(tyro.cli(Predict, args=arguments, description=__doc__, prog=prog))


if __name__ == "__main__":
    sys.exit(main())
