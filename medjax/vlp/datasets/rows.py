"""Rows of a prepared set: what a study's file and texts become.

=================== ==============================================================
``image``           uint8 [size, size] (absent in a set of reports alone)
``findings`` ...    token ids of ``findings``, ``impression`` and ``report``, each at
                    its own length; ``[CLS] [SEP]`` if the section is missing
``sentences``       ids of all sentences, one after the other
``sentence_ends``   where each of them ends
``*_text``          the cleaned texts, for showing retrieved pairs
``labels``          float32 [findings], NaN for unknown
``boxes``           float32 [n, 4]: x0 y0 x1 y1 in pixels of ``image``
``lesions``         uint8 [n, bytes]: a packed mask of each finding that shows, and in
                    ``lesion_findings`` (int32 [n]) which it is
                    (:mod:`medjax.vlp.datasets.lesions`)
``id``, ``patient`` the study's id; the patient as a running number, for grouping
=================== ==============================================================
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medjax.data import npy
from medjax.data.boundary import DataError, reading
from medjax.data.images import Placement, ResizeMode, fit_square, read_image
from medjax.data.records import Field
from medjax.data.whole import whole
from medjax.vlp.datasets.lesions import check_boxes, draw_all, pack
from medjax.vlp.datasets.study import Reader, Study
from medjax.vlp.diffusion.schedule import SamplingConfig
from medjax.vlp.rendering import Generator, PlacingGenerator
from medjax.vlp.reports import CleanConfig, clean, join_sections, split_sentences
from medjax.vlp.tokens import Tokenizer

TEXTS = ("findings", "impression", "report")
CHUNK = 64  # studies decoded at the same time


@dataclass(frozen=True)
class PrepareConfig:
    """What a prepared set looks like; equal settings on equal files, equal sets."""

    image_size: int = 256
    """Side of the stored square; augmentation crops from it while training."""
    resize: ResizeMode = "mgca"
    """mgca: keep the shape and pad. imitate: cut to content and fill the square."""
    encoding: Literal["array", "png"] = "array"
    """Store pixels as they are (fast) or as PNG (half the disk)."""
    render: str | None = None
    """Make the images of the reports with this generator: drawn; run:PATH, what a run
    of experiments.generator has learnt; diffusion:FOLDER, Stable Diffusion as a folder
    or hub id of diffusers."""
    sampling: SamplingConfig = SamplingConfig()
    """How a learnt generator samples."""
    tokenizer: str | None = None
    """Folder or hub id of a tokenizer; None learns a vocabulary from the training
    reports."""
    vocab_size: int = 4096
    """Most entries of a learnt vocabulary."""
    max_tokens: int = 512
    """Longer texts are cut here; training may cut shorter."""
    clean: CleanConfig = CleanConfig()
    """What is done to texts."""
    distinct: bool = False
    """Keep one study per distinct report: equal reports are false negatives for each
    other in retrieval (a fifth of Open-i)."""
    valid: float = 0.1
    """Share of patients for validation, where the set has no official split."""
    test: float = 0.2
    """Share of patients for testing, likewise."""
    seed: int = 0
    """Of the split."""
    render_seed: int = 0
    """Of the generator: another one makes other films of the same reports, which stay
    in the same splits."""


def texts_of(study: Study, config: PrepareConfig) -> dict[str, str]:
    """The cleaned texts of a study, by the names in `TEXTS`."""
    findings = clean(study.findings, config.clean.style)
    impression = clean(study.impression, config.clean.style)
    whole = join_sections(findings, impression)
    return {
        "findings": findings,
        "impression": impression,
        "report": whole or clean(study.report, config.clean.style),
    }


def fields_of(
    reader: Reader,
    studies: Sequence[Study],
    config: PrepareConfig,
    findings: int,
    *,
    draw: Generator | None,
) -> dict[str, Field]:
    """The columns of a set: those that its studies have something for.

    Args:
        reader: Of the data set.
        studies: All that will be written.
        config: What the set looks like.
        findings: How many labels a study has.
        draw: Makes the images, and may know where findings lie on them.
    """
    fields: dict[str, Field] = {}
    size = config.image_size
    if config.render is not None or any(study.image for study in studies):
        fields["image"] = Field(config.encoding, (size, size), "uint8")
    if reader.has_text:
        for name in (*TEXTS, "sentences", "sentence_ends"):
            fields[name] = Field("array", (None,), "int32")
        fields |= {f"{name}_text": Field("text") for name in TEXTS}
    if any(study.boxes for study in studies):
        fields["boxes"] = Field("array", (None, 4), "float32")
    if any(study.lesions for study in studies) or isinstance(draw, PlacingGenerator):
        packed = -(-size * size // 8)
        fields["lesions"] = Field("array", (None, packed), "uint8")
        fields["lesion_findings"] = Field("array", (None,), "int32")
    fields["labels"] = Field("array", (findings,), "float32")
    fields["patient"] = Field("array", (), "int32")
    fields["id"] = Field("text")
    return fields


Seen = tuple[np.ndarray, Placement | None, Mapping[str, np.ndarray]]
"""A film, where it lies in its square, and masks of its lesions there, by finding."""
Picture = Seen | DataError | FileNotFoundError | None


def decoded(
    studies: Sequence[Study],
    texts: dict[str, dict[str, str]],
    config: PrepareConfig,
    wanted: bool,
    *,
    draw: Generator | None = None,
    kept: Path | None = None,
) -> Iterator[tuple[Sequence[Study], Sequence[Picture]]]:
    """Chunks of studies with their images, decoded in threads or made from reports.

    Args:
        studies: All that will be written.
        texts: Of `texts_of`, by id.
        config: What the set looks like.
        wanted: Whether there are images at all.
        draw: Makes the images, where ``config.render`` names a generator.
        kept: Folder that holds what was made already, and takes what is made here;
            None: nothing is kept.
    """
    chunks = [studies[i : i + CHUNK] for i in range(0, len(studies), CHUNK)]
    if not wanted:
        yield from ((chunk, [None] * len(chunk)) for chunk in chunks)
        return
    if draw is not None:
        for number, chunk in enumerate(chunks):
            # A seed of its own for each chunk: an image depends on its place in a call.
            seed = config.render_seed * 1_000_003 + number
            reports = [_reading(s, texts[s.id]) for s in chunk]
            place = kept and kept / f"{number}.npy"
            lesions: list[Any] = [{}] * len(chunk)
            if isinstance(draw, PlacingGenerator):
                images, lesions = draw.with_lesions(reports, seed=seed)
            elif place and place.is_file():
                images = npy.read(place)
            else:
                images = draw(reports, seed=seed)
            if place and not place.is_file():
                with whole(place) as draft:
                    np.save(draft, images)
            both = zip(images, lesions, strict=True)
            yield chunk, [(image, None, masks) for image, masks in both]
        return

    def load(study: Study) -> Picture:
        if study.image is None:
            return DataError("no image")
        try:
            image = read_image(study.image)
            with reading(study.image, "radiograph"):
                size = config.image_size
                square, placement = fit_square(image, size, mode=config.resize)
            check_boxes(study.boxes, image.shape, study.id)
            masks = {
                finding: placement.mask(draw_all(lesions, image.shape, study.id), size)
                for finding, lesions in study.lesions.items()
            }
            return square, placement, masks
        except (DataError, FileNotFoundError) as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in chunks:
            yield chunk, list(pool.map(load, chunk))


def _reading(study: Study, texts: dict[str, str]) -> str:
    """The report under its headers: generators tell findings from impression."""
    if not (study.findings or study.impression):
        return texts["report"]
    parts = (("FINDINGS", texts["findings"]), ("IMPRESSION", texts["impression"]))
    return "\n\n".join(f"{header}: {text}" for header, text in parts if text)


def row_of(
    study: Study,
    texts: dict[str, str],
    picture: Picture,
    tokenizer: Tokenizer | None,
    patients: dict[str, int],
    config: PrepareConfig,
) -> dict[str, Any]:
    """One study as a row, with all columns that a set can have.

    Args:
        study: The study.
        texts: Of `texts_of`.
        picture: Of `decoded`.
        tokenizer: None for a set without reports.
        patients: Their running numbers.
        config: What the set looks like.
    """
    row: dict[str, Any] = {
        "id": study.id,
        "patient": np.int32(patients[study.patient]),
        "boxes": np.zeros((0, 4), np.float32),
    }
    labels = dict(study.labels)
    if isinstance(picture, tuple):
        row["image"], placement, masks = picture
        # A mask that is a file says, once it is read, whether anything is there.
        for name in study.lesions.keys() & masks.keys():
            if np.isnan(labels[name]):
                labels[name] = float(masks[name].any())
        row["lesions"], row["lesion_findings"] = pack(
            masks, list(study.labels), config.image_size
        )
        if study.boxes and placement is not None:
            row["boxes"] = placement.boxes(np.asarray(study.boxes, np.float64))
    row["labels"] = np.asarray(list(labels.values()), np.float32)
    if tokenizer is not None:
        sentences = split_sentences(texts["report"]) or [texts["report"]]
        ids = tokenizer.ids([*texts.values(), *sentences], config.max_tokens)
        row |= dict(zip(texts, ids, strict=False))
        row |= {f"{name}_text": text for name, text in texts.items()}
        each = ids[len(texts) :]
        row["sentences"] = np.concatenate(each)
        row["sentence_ends"] = np.cumsum([len(s) for s in each]).astype(np.int32)
    return row
