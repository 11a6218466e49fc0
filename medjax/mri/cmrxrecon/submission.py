"""Images as the challenge wants them: ``img4ranking`` at the place of the k-space."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from medjax.data import mat73
from medjax.mri.acquisitions import Acquisition
from medjax.mri.cmrxrecon.evaluation import ranking_crop
from medjax.mri.cmrxrecon.report import Kept


def submit(
    acquisition: Acquisition, found: Kept, folder: Path, *, root: Path, ranking: bool
) -> None:
    """Writes the images of every method into a tree of its own.

    Args:
        acquisition: Of a challenge's tree.
        found: Its images.
        folder: Holds one tree per method.
        root: Of the challenge's tree.
        ranking: Whether images are cut to the part that is ranked.
    """
    files = acquisition.files
    assert files is not None
    place = files.kspace.relative_to(root)
    for name, images in found.images.items():
        if ranking:
            series = jnp.asarray(images)
            images = np.asarray(ranking_crop(series, name=acquisition.series))
        path = folder / name / place
        path.parent.mkdir(parents=True, exist_ok=True)
        mat73.write(path, {"img4ranking": images.astype(np.float32)})
