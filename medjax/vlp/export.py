"""A pair of towers as a folder that PyTorch uses alone.

::

    image/            model.safetensors under torchvision's or timm's names, config.json
    text/             the same under Hugging Face's names, and the tokenizer
    heads.safetensors image_head.* and text_head.*: from the towers to the shared space;
                      a side without a head is in it already
    preparation.json  how a film and a text become input
    prompts.json      the sentences of each class, for zero-shot scores

``experiments/examples/zero_shot_in_pytorch.py`` reads it without this library, and each
of the two towers is a checkpoint that a run can start from.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.numpy import save_file

from medjax.data.images import ResizeMode
from medjax.data.whole import whole
from medjax.typing import Variables
from medjax.vlp.augment import NORMALISATIONS, AugmentConfig, evaluation
from medjax.vlp.prompts import NOUNS, PROMPTS_VERSION, SENTENCES, prompts
from medjax.vlp.systems import PairRecord
from medjax.vlp.tokens import Tokenizer
from medjax.vlp.towers import save_towers
from medjax.weights import to_torch

PREPARATION = "preparation.json"
HEADS = ("image_head", "text_head")


def export_pair(
    folder: Path, record: PairRecord, variables: Variables, tokenizer: Tokenizer
) -> None:
    """Writes the folder.

    Args:
      folder: Made if it does not exist.
      record: Of the run; its report tower's checkpoint, if named, is there to be read.
      variables: The system's, on this host.
      tokenizer: The report tower's.
    """
    save_towers(folder, variables, record.image, record.text, tokenizer)
    tensors: dict[str, np.ndarray] = {}
    for head in HEADS:
        own = {name: tree[head] for name, tree in variables.items() if head in tree}
        tensors |= {f"{head}.{k}": v for k, v in to_torch("head", own).items()}
    with whole(folder / "heads.safetensors") as draft:
        save_file(tensors, draft, metadata={"format": "pt"})
    names = dict.fromkeys([*record.findings, *NOUNS, *SENTENCES])
    sentences = {name: [list(side) for side in prompts(name)] for name in names}
    for file, content in (
        (PREPARATION, dataclasses.asdict(Preparation.of(record))),
        ("prompts.json", sentences),
    ):
        with whole(folder / file) as draft:
            draft.write_text(json.dumps(content, indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a film and a text become input: everything that is not a weight."""

    architecture: str
    """Of the image tower."""
    image_size: int
    """Side in pixels that a film is resized to."""
    resize: ResizeMode
    crop_area: float
    """Share of the film's middle that is seen."""
    input_size: int
    """Side in pixels of what the tower sees."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, of grey values in [0, 1]."""
    pool: str
    """One vector from a report: the first token, or mean or maximum over tokens."""
    max_length: int
    """Tokens of a text; longer ones are cut."""
    compared: str
    """The field of the reports that the contrast saw."""
    prompts: str
    """Version of the sentences."""
    layers_summed: int = 1
    """What a token is: the sum of its states after the last so many layers."""
    upsample: int | None = None
    """Side that what is seen is brought to, corners on corners; None: as it is."""

    @classmethod
    def of(cls, record: PairRecord) -> "Preparation":
        """What a run does to its films and texts."""
        seen = evaluation(record.system.augment)
        mean, std = NORMALISATIONS[seen.normalise]
        return cls(
            architecture=record.image.architecture,
            image_size=record.image_size,
            resize=record.resize,
            crop_area=seen.crop_area[0],
            input_size=seen.size,
            mean=mean,
            std=std,
            pool=record.text.pool,
            max_length=record.text.max_length,
            compared=record.compared,
            prompts=PROMPTS_VERSION,
            layers_summed=record.text.layers_summed,
            upsample=seen.upsample,
        )

    def seen(self) -> AugmentConfig:
        """What the image tower sees of a film, with nothing random.

        Raises:
            ValueError: for a mean and standard deviation that no recipe has.
        """
        area, size = (self.crop_area, self.crop_area), self.input_size
        for name, known in NORMALISATIONS.items():
            if known == (self.mean, self.std):
                plain = AugmentConfig(size, crop_area=area, centre=True)
                how = {"normalise": cast(Any, name), "upsample": self.upsample}
                return dataclasses.replace(plain, **how)
        raise ValueError(
            f"mean {self.mean} and std {self.std}: expected those of one of "
            f"{list(NORMALISATIONS)}"
        )
