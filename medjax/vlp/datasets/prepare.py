"""A data set, once, into a prepared set: resized images and token ids in ArrayRecord.

``prepare`` reads the studies, filters them with counts, draws the missing splits by
patient, learns or loads the vocabulary, and writes one row per study
(:mod:`medjax.vlp.datasets.rows` says what a row holds).

The folder appears when it is complete, with ``metadata.json`` (every count, option and
a hash of the source), ``films.json`` (sizes, times and hashes of the films, so that a
later start need not open them), ``skipped.csv`` and the tokenizer.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medjax.data.ledger import DataError, Ledger
from medjax.data.record_writer import check_replaceable, is_occupied, write_records
from medjax.data.records import read_metadata
from medjax.progress import Progress
from medjax.vlp.datasets.rows import (
    PrepareConfig,
    decoded,
    fields_of,
    row_of,
    texts_of,
)
from medjax.vlp.datasets.sources import (
    FILMS,
    known_films,
    look_at_films,
    source_hash,
)
from medjax.vlp.datasets.study import (
    Reader,
    Study,
    check_labels,
    drop_duplicates,
    split_by_patient,
)
from medjax.vlp.rendering import Generator, generator
from medjax.vlp.reports import word_count
from medjax.vlp.tokens import Tokenizer, load_tokenizer, train_tokenizer

DEFAULT = PrepareConfig()
LATER = (("mask", None), ("boxes", ()), ("corners", False))
"""Settings of readers that earlier versions had not: unused, a set is what it was."""


def prepare(
    reader: Reader,
    out: str | Path,
    config: PrepareConfig = DEFAULT,
    *,
    ledger: Ledger | None = None,
    overwrite: bool = False,
) -> Path:
    """Turn a data set into a prepared set; it is left as it is if it was made before.

    The source's tables and reports are read each time, and of its films size and time
    of change (:mod:`medjax.vlp.datasets.sources`): whether it has changed is seen in
    what it holds. Who names the prepared set instead is not kept waiting.

    Args:
        reader: Which data set and where.
        out: Folder of the prepared set.
        config: What it looks like.
        ledger: Receives counts and faults; says whether faults raise or are skipped.
        overwrite: Replace a set of other settings or files; never anything else.

    Returns:
        ``out``, for ``open_prepared``.

    Raises:
        DataError: On a wrong folder, or on the first fault unless faults are skipped.
        FileExistsError: If ``out`` holds a set made with other settings or from other
            files, or something that is no prepared set.
        ValueError: If nothing is left after the filters, or the settings make no sense.
    """
    out, ledger = Path(out), ledger or Ledger()
    draw = _check(reader, config)
    request, old = _request(reader, config, draw), {}
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
    texts = {study.id: texts_of(study, config) for study in studies}
    drawn = config.render is not None
    films = {} if drawn else look_at_films(studies, known_films(out))
    source = source_hash(studies, texts, films)
    if old and not overwrite:
        if old.get("source_hash") == source:
            ledger.log(f"{out}: already prepared")
            return out
        raise FileExistsError(
            f"{out} was prepared from other files, or these have changed since: choose "
            "another folder, or overwrite it"
        )
    _warn_of_leaks(studies, ledger)
    tokenizer = _tokenizer(studies, texts, config) if reader.has_text else None
    findings = list(studies[0].labels)
    fields = fields_of(reader, studies, config, len(findings), draw=draw)
    patients = {p: i for i, p in enumerate(dict.fromkeys(s.patient for s in studies))}

    # Hours of a learnt generator are not lost with the process.
    kept = out.with_name(f"{out.name}.films-{request[:8]}-{source[:8]}")
    kept = None if draw is None or config.render == "drawn" else kept
    progress = Progress(f"prepare {reader.name}", len(studies), "studies")
    with (
        progress,
        write_records(
            out, name=reader.name, fields=fields, overwrite=overwrite
        ) as writer,
    ):
        done = 0
        chunks = decoded(
            studies, texts, config, "image" in fields, draw=draw, kept=kept
        )
        for chunk, images in chunks:
            for study, image in zip(chunk, images, strict=True):
                progress.advance()
                if isinstance(image, Exception):
                    ledger.fault(study.id, str(image))
                    continue
                row = row_of(study, texts[study.id], image, tokenizer, patients, config)
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
        if films:
            (writer.folder / FILMS).write_text(json.dumps(films) + "\n")
        writer.metadata.update(
            request=request,
            source_hash=source,
            settings=json.loads(json.dumps(dataclasses.asdict(config))),
            image_size=config.image_size if "image" in fields else None,
            finding_names=findings,
            generator=dict(draw.described(), seed=config.render_seed) if draw else None,
            tokenizer=tokenizer.name if tokenizer else None,
            vocab_size=tokenizer.vocab_size if tokenizer else None,
            patients=len(patients),
            filters=[list(line) for line in ledger.filters],
            skipped=len(ledger.skipped),
        )
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)
    ledger.log(ledger.summary())
    return out


def _check(reader: Reader, config: PrepareConfig) -> Generator | None:
    """Refuses settings that make no sense, before anything is read.

    Returns:
        What makes the images of the reports, if anything does.
    """
    draw = None
    least_of = {"image_size": 1, "max_tokens": 3, "vocab_size": 6, "render_seed": 0}
    for name, least in least_of.items():
        if (value := getattr(config, name)) < least:
            raise ValueError(f"{name}: expected {least} or more, got {value}")
    if config.render is not None:
        if not reader.has_text:
            raise ValueError(
                f"render: {reader.name} has no reports to draw images from"
            )
        draw = generator(
            config.render, size=config.image_size, sampling=config.sampling
        )
    if config.tokenizer is not None and reader.has_text:
        load_tokenizer(config.tokenizer)
    return draw


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


def _request(reader: Reader, config: PrepareConfig, draw: Generator | None) -> str:
    """A hash of everything that was asked for (the root may be a private path)."""
    settings = dataclasses.asdict(config)
    # It says how a learnt generator samples, which that one says itself.
    del settings["sampling"]
    # One seed was of films and splits once: such sets are still what was asked for.
    apart = settings.pop("render_seed") != config.seed
    given: dict[str, Any] = dataclasses.asdict(reader)  # pyright: ignore[reportArgumentType]
    given = {k: v for k, v in given.items() if (k, v) not in LATER}
    asked: list[Any] = [reader.name, given, settings]
    if draw is not None and config.render != "drawn":
        asked.append(dict(draw.described()))
    if draw is not None and apart:
        asked.append({"render_seed": config.render_seed})
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
            lambda s: word_count(texts_of(s, config)["report"]) >= least,
        )
    if config.distinct and reader.has_text:
        seen: set[str] = set()
        first = [
            s
            for s in studies
            if not ((text := texts_of(s, config)["report"]) in seen or seen.add(text))
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


def _tokenizer(
    studies: Sequence[Study], texts: dict[str, dict[str, str]], config: PrepareConfig
) -> Tokenizer:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    train = (texts[s.id]["report"] for s in studies if s.split == "train")
    return train_tokenizer(train, vocab_size=config.vocab_size)
