"""The data of an experiment, by flags alone: embedded, prepared, or raw on disk.

Whatever is named becomes a prepared set once (``medjax.vlp.datasets.prepare``), and
every experiment reads that.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
from jaxtyping import Float, Int

from medjax.data.ledger import DataError, Ledger
from medjax.data.records import METADATA, RecordSource, described, read_metadata
from medjax.train.agree import on_first
from medjax.train.sets import CACHE, here, on_disk
from medjax.vlp.datasets import (
    READERS,
    PrepareConfig,
    PreparedSource,
    Reader,
    Table,
    open_prepared,
    prepare,
)
from medjax.vlp.datasets.embedded import Embedded
from medjax.vlp.diffusion.schedule import SamplingConfig
from medjax.vlp.tokens import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What to read, and how it is turned into training input."""

    root: Path | None = None
    """Folder (or table) of the data, or gs:// or s3:// address of a prepared set; None:
    the embedded data."""
    format: Literal[
        "prepared",
        "mimic",
        "chexpert",
        "nih",
        "rsna",
        "siim",
        "object_cxr",
        "covidx",
        "openi",
        "table",
    ] = "prepared"
    """What lies at root: a set that experiments.prepare wrote, or a raw data set, which
    is then prepared first. prepare has more options for each."""
    prepared: Path | None = None
    """Where a raw data set is prepared to; default: data/ in the run's folder."""
    cache: Path = CACHE
    """Folder of this machine that prepared sets of an object store are fetched to."""
    on_error: Literal["raise", "skip"] = "raise"
    """A file that cannot be read, a duplicate id: stop, or count and list it."""
    image_column: str | None = "image"
    """Of a table: column or {pattern} of the image path; None: reports alone."""
    text_column: str | None = "text"
    """Of a table: column of the report."""
    findings_column: str | None = None
    """Of a table: column of the findings, if they have one of their own."""
    impression_column: str | None = None
    """Of a table: column of the impression, if it has one of its own."""
    patient_column: str | None = None
    """Of a table: column of the patient; splits are drawn by patient."""
    split_column: str | None = None
    """Of a table: column with train, valid or test."""
    label_columns: tuple[str, ...] = ()
    """Of a table: columns of labels, 1, 0 or empty."""
    class_column: str | None = None
    """Of a table: column with one class name per row; becomes one label per class."""
    uncertain: Literal["ignore", "zero", "one"] | None = None
    """Of a table: what a label of -1 becomes; None: it is refused."""
    mask_column: str | None = None
    """Of a table: column or {pattern} of the path of a mask of lesions."""
    box_columns: tuple[str, ...] = ()
    """Of a table: columns x y width height of a box, or one with all boxes as JSON."""
    box_corners: bool = False
    """Of a table: boxes are x0 y0 x1 y1."""
    patients: int = 3000
    """Of the embedded data: how many."""
    image_size: int = 256
    """Side of the stored images; augmentation crops from them."""
    resize: Literal["mgca", "imitate"] = "mgca"
    """mgca: keep the shape and pad. imitate: cut to content and fill the square."""
    render: str | None = None
    """Replace every image by one generated from its report: drawn; run:PATH, by what a
    run of experiments.generator has learnt; diffusion:FOLDER, by Stable Diffusion."""
    sampling: SamplingConfig = SamplingConfig()
    """How a learnt generator samples."""
    render_seed: int = 0
    """Of the generator: another one makes other films of the same reports."""
    seed: int = 0
    """Of embedded data, drawn splits, shuffle and sentence choice."""
    batch_size: int = 128
    """Of the global batch."""
    workers: int = 0
    """Interpreters that read beside each process; 0: threads."""


class Corpus:
    """A prepared set with what experiments ask of it.

    Attributes:
      folder: where it lies.
      metadata: what it says of itself.
      findings: names of its labels; empty where it has none.
    """

    def __init__(self, folder: Path, *, max_tokens: int) -> None:
        self.folder, self.max_tokens = folder, max_tokens
        self.metadata = read_metadata(folder)
        self.findings: list[str] = described(
            self.metadata, "finding_names", list[str], folder
        )

    @property
    def generators(self) -> tuple[dict[str, Any], ...]:
        """What made its films of their reports; empty where they were taken."""
        if self.metadata.get("generator") is None:
            return ()
        return (described(self.metadata, "generator", dict[str, Any], self.folder),)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits."""
        return tuple(self.metadata["splits"])

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made its token ids."""
        return load_tokenizer(self.folder / "tokenizer")

    def source(self, split: str, fields: Sequence[str]) -> PreparedSource:
        """Rows of one split with these fields."""
        return open_prepared(
            self.folder, split, fields=fields, max_tokens=self.max_tokens
        )

    def column(self, split: str, field: str) -> list[Any]:
        """One field over all rows of a split."""
        return self.source(split, ()).all(field)

    def text_lengths(self, field: str, *, most: int) -> Int[np.ndarray, " n"]:
        """Tokens of the first training texts, before any is padded or cut to a batch.

        Args:
          field: ``findings``, ``impression``, ``report`` or ``sentence``.
          most: rows to look at.
        """
        return np.concatenate(self._lengths(field, most))

    def longest_texts(self, fields: Sequence[str]) -> Int[np.ndarray, " n"]:
        """Tokens of the longest text of every training study, as a batch has them.

        Args:
          fields: of ``findings``, ``impression``, ``report`` and ``sentence``; of
            sentences any may be drawn.
        """
        lengths = [self._lengths(field) for field in fields]
        longest = [max(map(max, of_study)) for of_study in zip(*lengths, strict=True)]
        return np.minimum(longest, self.max_tokens)

    def _lengths(self, field: str, most: int | None = None) -> list[Any]:
        """Tokens of the texts of each of the first training studies."""
        column = "sentence_ends" if field == "sentence" else field
        rows = RecordSource(self.folder, "train", fields=[column])
        count = len(rows) if most is None else min(most, len(rows))
        found = (rows[i][column] for i in range(count))
        if field == "sentence":
            return [np.diff(ends, prepend=0) for ends in found]
        return [np.asarray([len(ids)]) for ids in found]

    def labels(self, split: str) -> Float[np.ndarray, "n k"]:
        """Labels of a split: 1, 0, or NaN for unknown.

        Raises:
          DataError: a label is something else; sets of earlier versions may have such.
        """
        labels = np.stack(self.column(split, "labels"))
        wrong = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
        if wrong.any():
            which = [self.findings[k] for k in np.flatnonzero(wrong.any(0))]
            raise DataError(
                f"data: {self.folder} has {wrong.sum()} labels in the {split} split "
                f"that are not 1, 0 or unknown ({', '.join(which)}): prepare it again, "
                "--uncertain says what becomes of -1"
            )
        return labels


class Rows:
    """The first rows of a source, with columns from memory beside them."""

    def __init__(
        self,
        source: PreparedSource,
        columns: dict[str, np.ndarray] | None = None,
        *,
        most: int | None = None,
    ) -> None:
        self.source, self.columns = source, columns or {}
        self.length = len(source) if most is None else min(most, len(source))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        more = {name: column[row] for name, column in self.columns.items()}
        return {**self.source[row], **more}


def open_corpus(
    config: CorpusConfig, folder: Path, *, tokenizer: str | None, max_tokens: int
) -> Corpus:
    """The data that flags name, prepared if that was not done before.

    Args:
      config: what to read.
      folder: where raw and embedded data are prepared to, unless the flags say.
      tokenizer: folder or hub id of the report tower's tokenizer; None learns one.
      max_tokens: of a report in a batch.

    Returns:
      The corpus. With several processes the first one prepares, the others wait.

    Raises:
      DataError: a wrong folder, or a fault in the data.
      ValueError: token ids made by another tokenizer than the report tower's.
    """
    if config.root is not None and config.format == "prepared":
        folder = here(config.root, config.cache)
        if not (folder / METADATA).is_file():
            raise DataError(
                f"data.root: {config.root} holds no {METADATA}, so it is not a "
                f"prepared set; name a raw one by data.format, one of {list(READERS)}"
            )
    else:
        on_disk(config.root, f"data.root ({config.format})")
        on_disk(config.prepared, "data.prepared")
        folder = config.prepared or folder

        def write() -> None:
            prepare(
                _reader(config),
                folder,
                PrepareConfig(
                    image_size=config.image_size,
                    resize=config.resize,
                    render=config.render or (None if config.root else "drawn"),
                    sampling=config.sampling,
                    tokenizer=tokenizer,
                    max_tokens=max(max_tokens, 512),
                    seed=config.seed,
                    render_seed=config.render_seed,
                ),
                ledger=Ledger(on_error=config.on_error),
            )

        on_first(write, what="prepared data")
    corpus = Corpus(folder, max_tokens=max_tokens)
    if tokenizer is not None and corpus.metadata["tokenizer"] is not None:
        check_tokenizer(corpus, load_tokenizer(tokenizer))
    return corpus


def check_tokenizer(corpus: Corpus, wanted: Tokenizer) -> None:
    """Refuse token ids that the report tower would read as other words.

    Raises:
      ValueError: naming both tokenizers.
    """
    probe = ["There is a small left pleural effusion; no pneumothorax. 2.5 cm nodule"]
    ours, theirs = (
        (t.encode(probe, 64).tolist(), t.inner.get_vocab())
        for t in (wanted, corpus.tokenizer)
    )
    if ours != theirs:
        raise ValueError(
            f"data.root: {corpus.folder} was tokenised with "
            f"{corpus.metadata['tokenizer']!r}, the report tower reads "
            f"{wanted.name!r}: prepare it again with --tokenizer"
        )


def _reader(config: CorpusConfig) -> Reader:
    if config.root is None:
        return Embedded(patients=config.patients, seed=config.seed)
    if config.format != "table":
        return READERS[config.format](config.root)
    sections = config.findings_column or config.impression_column
    return Table(
        config.root,
        image=config.image_column,
        text=None if sections else config.text_column,
        findings=config.findings_column,
        impression=config.impression_column,
        patient=config.patient_column,
        split=config.split_column,
        labels=config.label_columns,
        classes=config.class_column,
        uncertain=config.uncertain,
        mask=config.mask_column,
        boxes=config.box_columns,
        corners=config.box_corners,
    )
