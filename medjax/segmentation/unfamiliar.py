"""Does a segmenter notice that an image is unlike those it was trained on?

Held-out phantoms and the same under a shift (:mod:`.phantoms.shifts`) are to be told
apart by one number of each image: the mean of a map of uncertainty over the predicted
foreground and three voxels around it, or over the whole image where nothing is
predicted. (A mean over the whole image would measure how large the object is.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from medjax.metrics.auroc import auroc, average_precision, false_positive_rate
from medjax.progress import Progress
from medjax.segmentation.applied import LEVELS
from medjax.segmentation.datasets.embedded import AmbiguousPhantoms, flat
from medjax.segmentation.phantoms.shifts import SHIFTS, shifted_case
from medjax.segmentation.pretrained import Segmenter
from medjax.segmentation.uncertainty import image_score

Scores = Mapping[str, Float[np.ndarray, " n"]]
"""Of every map, one number per image."""


def image_scores(model: Segmenter, images: Sequence[np.ndarray]) -> Scores:
    """Of every map of uncertainty that the system has.

    Args:
        model: Of any system.
        images: Planes.
    """
    maps = [name for name in ("entropy", "mi", LEVELS) if name in model.written]
    found: dict[str, list[float]] = {}
    for number, image in enumerate(images):
        said = model.segment([flat(image)], id=str(number), maps=maps)
        for name, volume in said.maps.items():
            score = image_score(volume.data, said.labels.data > 0)
            found.setdefault(name, []).append(score)
    return {name: np.array(values) for name, values in found.items()}


def detection(
    model: Segmenter, data: AmbiguousPhantoms, numbers: Sequence[int], strengths: Any
) -> tuple[list[dict[str, Any]], dict[str, Scores]]:
    """How well shifts are told from none.

    Args:
        model: Of any system.
        data: Whose images are the familiar ones.
        numbers: Of the images, held out.
        strengths: Of the shifts, from 1 to 3.

    Returns:
        A row for every shift and strength: ``auroc``, ``average_precision`` and ``fpr``
        (at 95 % of the unfamiliar found) of each map, and by how much the mean of the
        map grows; and the numbers of every image.
    """
    kinds = [(shift, strength) for shift in SHIFTS for strength in strengths]
    with Progress("unfamiliar", 1 + len(kinds), "shifts") as progress:
        count = dict(data.annotators)["test"]
        familiar = [np.asarray(data.drawn(n, count).image) for n in numbers]
        known = image_scores(model, familiar)
        progress.advance()
        rows, every = [], {"familiar": known}
        for shift, strength in kinds:
            images = []
            for number in numbers:
                key = jax.random.fold_in(jax.random.key(0), number)
                case = shifted_case(data.config, shift, strength, annotators=1, key=key)
                images.append(np.asarray(case.image))
            other = image_scores(model, images)
            every[f"{shift} {strength}"] = other
            row: dict[str, Any] = {"shift": shift, "strength": strength}
            for name, values in other.items():
                score = np.concatenate([known[name], values])
                truth = np.repeat([0.0, 1.0], [len(known[name]), len(values)])
                row[f"auroc_{name}"] = auroc(score, truth)
                row[f"average_precision_{name}"] = average_precision(score, truth)
                row[f"fpr_{name}"] = false_positive_rate(score, truth)
                before = max(float(known[name].mean()), 1e-12)
                row[f"growth_{name}"] = float(values.mean()) / before
            rows.append(row)
            progress.advance()
    return rows, every
