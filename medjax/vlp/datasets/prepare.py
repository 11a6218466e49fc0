"""A data set, once, into a prepared set: resized images and token ids in ArrayRecord.

``prepare`` reads the studies, filters them with counts, draws the missing splits by
patient, learns or loads the vocabulary, and writes one row per study. What a row holds:

=================== ==============================================================
``image``           uint8 [size, size] (absent in a set of reports alone)
``findings`` ...    token ids of ``findings``, ``impression`` and ``report``, each at
                    its own length; ``[CLS] [SEP]`` if the section is missing
``sentences``       ids of all sentences, one after the other
``sentence_ends``   where each of them ends
``*_text``          the cleaned texts, for showing retrieved pairs
``labels``          float32 [findings], NaN for unknown
``boxes``           float32 [n, 4]: x0 y0 x1 y1 in pixels of ``image``
``id``, ``patient`` the study's id; the patient as a running number, for grouping
=================== ==============================================================

The folder appears when it is complete, with ``metadata.json`` (every count, option and
a hash of the source), ``skipped.csv`` and the tokenizer.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from medjax.data.boundary import reading
from medjax.data.images import Placement, ResizeMode, fit_square, read_image
from medjax.data.ledger import DataError, Ledger
from medjax.data.records import (
    Field,
    check_replaceable,
    is_occupied,
    read_metadata,
    write_records,
)
from medjax.vlp.datasets.study import (
    Reader,
    Study,
    check_labels,
    drop_duplicates,
    split_by_patient,
)
from medjax.vlp.reports import (
    CleanConfig,
    clean,
    join_sections,
    split_sentences,
    word_count,
)
from medjax.vlp.tokens import Tokenizer, load_tokenizer, train_tokenizer

TEXTS = ("findings", "impression", "report")
CHUNK = 64  # studies decoded at the same time
GLIMPSE = 4096  # bytes of a film's file at either end, by which it is known again


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
    """Draw the images from the reports with this generator (drawn)."""
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
    """Of the split and of the generator."""


def prepare(
    reader: Reader,
    out: str | Path,
    config: PrepareConfig = PrepareConfig(),
    *,
    ledger: Ledger | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Turn a data set into a prepared set; it is left as it is if it was made before.

    The source is read each time, without its images' pixels: whether it has changed is
    seen in what it holds. Who names the prepared set instead is not kept waiting.

    Args:
        reader: Which data set and where.
        out: Folder of the prepared set.
        config: What it looks like.
        ledger: Receives counts and faults; says whether faults raise or are skipped.
        overwrite: Replace a set of other settings or files; never anything else.
        progress: Show a bar.

    Returns:
        ``out``, for ``open_prepared``.

    Raises:
        DataError: On a wrong folder, or on the first fault unless faults are skipped.
        FileExistsError: If ``out`` holds a set made with other settings or from other
            files, or something that is no prepared set.
        ValueError: If nothing is left after the filters, or the settings make no sense.
    """
    out, ledger = Path(out), ledger or Ledger()
    _check(reader, config)
    request, old = _request(reader, config), {}
    if is_occupied(out):
        check_replaceable(out)
        old = read_metadata(out)
        if old.get("request") != request and not overwrite:
            raise FileExistsError(
                f"{out} was prepared with other settings: choose another folder, or "
                "overwrite it"
            )
    studies = _select(reader, config, ledger)
    studies = split_by_patient(
        studies, valid=config.valid, test=config.test, seed=config.seed
    )
    texts = {study.id: _texts(study, config) for study in studies}
    source_hash = _source_hash(studies, texts, images=config.render is None)
    if old and not overwrite:
        if old.get("source_hash") == source_hash:
            ledger.log(f"{out}: already prepared")
            return out
        raise FileExistsError(
            f"{out} was prepared from other files, or these have changed since: choose "
            "another folder, or overwrite it"
        )
    _warn_of_leaks(studies, ledger)
    tokenizer = _tokenizer(studies, texts, config) if reader.has_text else None
    findings = list(studies[0].labels)
    fields = _fields(reader, studies, config, len(findings))
    patients = {p: i for i, p in enumerate(dict.fromkeys(s.patient for s in studies))}

    bar = tqdm(total=len(studies), desc=reader.name, unit="study", disable=not progress)
    with (
        bar,
        write_records(
            out, name=reader.name, fields=fields, overwrite=overwrite
        ) as writer,
    ):
        done = 0
        for chunk, images in _decoded(studies, texts, config, "image" in fields):
            for study, image in zip(chunk, images, strict=True):
                bar.update()
                if isinstance(image, Exception):
                    ledger.fault(study.id, str(image))
                    continue
                row = _row(study, texts[study.id], image, tokenizer, patients, config)
                writer.add(study.split, {k: row[k] for k in fields})
                done += 1
        ledger.count(
            "drawn"
            if config.render
            else "readable image"
            if "image" in fields
            else "written",
            done,
            len(studies) - done,
        )
        _check_splits(reader, studies, writer.counts)
        for split, rows in writer.counts.items():
            ledger.log(f"  {split}: {rows}")
        if tokenizer is not None:
            tokenizer.save(writer.folder / "tokenizer")
        ledger.write_skipped(writer.folder / "skipped.csv")
        writer.metadata.update(
            request=request,
            source_hash=source_hash,
            settings=json.loads(json.dumps(dataclasses.asdict(config))),
            image_size=config.image_size if "image" in fields else None,
            finding_names=findings,
            tokenizer=tokenizer.name if tokenizer else None,
            vocab_size=tokenizer.vocab_size if tokenizer else None,
            patients=len(patients),
            filters=[list(line) for line in ledger.filters],
            skipped=len(ledger.skipped),
        )
    ledger.log(ledger.summary())
    return out


def _check(reader: Reader, config: PrepareConfig) -> None:
    """Refuses settings that make no sense, before anything is read."""
    for name, least in (("image_size", 1), ("max_tokens", 3), ("vocab_size", 6)):
        if (value := getattr(config, name)) < least:
            raise ValueError(f"{name}: expected {least} or more, got {value}")
    if config.render is not None:
        from medjax.vlp.rendering import generator

        if not reader.has_text:
            raise ValueError(
                f"render: {reader.name} has no reports to draw images from"
            )
        generator(config.render, size=config.image_size)
    if config.tokenizer is not None and reader.has_text:
        load_tokenizer(config.tokenizer)


def _check_splits(
    reader: Reader, studies: Sequence[Study], counts: Mapping[str, int]
) -> None:
    """Refuses to go on without a split that was there before images were read.

    Raises:
        DataError: Naming it.
    """
    for split in dict.fromkeys(study.split for study in studies):
        if not counts.get(split):
            had = sum(study.split == split for study in studies)
            raise DataError(
                f"{reader.name}: none of the {had} studies of the {split} split has a "
                "readable image"
            )


def _request(reader: Reader, config: PrepareConfig) -> str:
    """A hash of everything that was asked for (the root may be a private path)."""
    asked = [reader.name, dataclasses.asdict(reader), dataclasses.asdict(config)]  # pyright: ignore[reportArgumentType]
    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()


def _select(reader: Reader, config: PrepareConfig, ledger: Ledger) -> list[Study]:
    """The filters that all data sets share."""
    studies = drop_duplicates(reader.read(ledger), ledger)
    check_labels(studies)
    if reader.has_text:
        least = config.clean.min_words
        studies = ledger.keep(
            f"report of {least} words or more",
            studies,
            lambda s: word_count(_texts(s, config)["report"]) >= least,
        )
    if config.distinct and reader.has_text:
        seen: set[str] = set()
        first = [
            s
            for s in studies
            if not ((text := _texts(s, config)["report"]) in seen or seen.add(text))
        ]
        ledger.count("distinct report", len(first), len(studies) - len(first))
        studies = first
    if not studies:
        raise DataError(f"{reader.name}: nothing is left after the filters")
    return studies


def _warn_of_leaks(studies: Sequence[Study], ledger: Ledger) -> None:
    """Official splits and user tables are taken as they are, but not unseen."""
    splits: dict[str, set[str]] = {}
    for study in studies:
        splits.setdefault(study.patient, set()).add(study.split)
    if leaks := sum(len(found) > 1 for found in splits.values()):
        ledger.log(f"WARNING: {leaks} patients are in more than one split")


def _texts(study: Study, config: PrepareConfig) -> dict[str, str]:
    findings = clean(study.findings, config.clean.style)
    impression = clean(study.impression, config.clean.style)
    whole = join_sections(findings, impression)
    return {
        "findings": findings,
        "impression": impression,
        "report": whole or clean(study.report, config.clean.style),
    }


def _tokenizer(
    studies: Sequence[Study], texts: dict[str, dict[str, str]], config: PrepareConfig
) -> Tokenizer:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    train = (texts[s.id]["report"] for s in studies if s.split == "train")
    return train_tokenizer(train, vocab_size=config.vocab_size)


def _fields(
    reader: Reader, studies: Sequence[Study], config: PrepareConfig, findings: int
) -> dict[str, Field]:
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
    fields["labels"] = Field("array", (findings,), "float32")
    fields["patient"] = Field("array", (), "int32")
    fields["id"] = Field("text")
    return fields


Picture = tuple[np.ndarray, Placement | None] | DataError | FileNotFoundError | None


def _decoded(
    studies: Sequence[Study],
    texts: dict[str, dict[str, str]],
    config: PrepareConfig,
    wanted: bool,
) -> Iterator[tuple[Sequence[Study], Sequence[Picture]]]:
    """Chunks of studies with their images, decoded in threads or drawn."""
    chunks = [studies[i : i + CHUNK] for i in range(0, len(studies), CHUNK)]
    if not wanted:
        yield from ((chunk, [None] * len(chunk)) for chunk in chunks)
        return
    if config.render is not None:
        from medjax.vlp.rendering import generator

        draw = generator(config.render, size=config.image_size)
        for number, chunk in enumerate(chunks):
            # A seed of its own for each chunk: an image depends on its place in a call.
            seed = config.seed * 1_000_003 + number
            images = draw([_reading(s, texts[s.id]) for s in chunk], seed=seed)
            yield chunk, [(image, None) for image in images]
        return

    def load(study: Study) -> Picture:
        if study.image is None:
            return DataError("no image")
        try:
            image = read_image(study.image)
            with reading(study.image, "radiograph"):
                return fit_square(image, config.image_size, mode=config.resize)
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


def _row(
    study: Study,
    texts: dict[str, str],
    picture: Picture,
    tokenizer: Tokenizer | None,
    patients: dict[str, int],
    config: PrepareConfig,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": study.id,
        "patient": np.int32(patients[study.patient]),
        "labels": np.asarray(list(study.labels.values()), np.float32),
        "boxes": np.zeros((0, 4), np.float32),
    }
    if isinstance(picture, tuple):
        row["image"], placement = picture
        if study.boxes and placement is not None:
            row["boxes"] = placement.boxes(np.asarray(study.boxes, np.float64))
    if tokenizer is not None:
        sentences = split_sentences(texts["report"]) or [texts["report"]]
        ids = tokenizer.ids([*texts.values(), *sentences], config.max_tokens)
        row |= dict(zip(texts, ids, strict=False))
        row |= {f"{name}_text": text for name, text in texts.items()}
        each = ids[len(texts) :]
        row["sentences"] = np.concatenate(each)
        row["sentence_ends"] = np.cumsum([len(s) for s in each]).astype(np.int32)
    return row


def _source_hash(
    studies: Sequence[Study], texts: dict[str, dict[str, str]], *, images: bool
) -> str:
    """Of all that a study holds: tells whether two sets were made from equal files.

    Of an image it is the size, the beginning and the end: reading all of every film
    would take as long as preparing them.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        paths = [study.image if images else None for study in studies]
        seen = list(pool.map(_glimpse, paths))
    digest = hashlib.sha256()
    for study, image in zip(studies, seen, strict=True):
        labels = [(name, str(value)) for name, value in study.labels.items()]
        said = (study.id, study.patient, study.split, texts[study.id], labels)
        digest.update(repr((*said, study.boxes, image)).encode())
    return digest.hexdigest()


def _glimpse(path: Path | None) -> tuple[int, str]:
    if path is None:
        return 0, ""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            begin = file.read(GLIMPSE)
            file.seek(max(0, size - GLIMPSE))
            return size, hashlib.sha256(begin + file.read(GLIMPSE)).hexdigest()
    except OSError:
        return -1, ""
