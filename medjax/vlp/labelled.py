"""Films with labels to learn, of any prepared set: which, how split, how many.

Whatever is named becomes a prepared set once, as for pre-training; here rows are chosen
from it by lists of ids and by the share of training labels that may be used.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

from medjax.data.boundary import DataError
from medjax.data.images import ResizeMode
from medjax.data.ledger import OnError
from medjax.data.records import METADATA, RecordSource, read_metadata
from medjax.train.sets import CACHE, address_of
from medjax.vlp.corpus import Corpus, CorpusConfig, open_corpus
from medjax.vlp.datasets.lesions import shows, whose
from medjax.vlp.films import TABLES
from medjax.vlp.learnable import check_learnable
from medjax.vlp.splits import SPLITS, Overlaps, Splits, Studies, assign


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
    """Which films and labels."""

    data: Path | None = None
    """A prepared set or its gs:// or s3:// address, a table (CSV, TSV, JSONL) of image
    paths and labels, or a raw data set with --format; None: the embedded data."""
    format: Literal[
        "auto",
        "prepared",
        "table",
        "mimic",
        "chexpert",
        "nih",
        "rsna",
        "siim",
        "object_cxr",
        "covidx",
    ] = "auto"
    """What lies there; auto: a prepared set or a table, by looking."""
    target: tuple[str, ...] = ()
    """Labels to learn, by name; of a table its columns of 1, 0 or nothing. Default: all
    that a set has. "mask" or "boxes": where lesions are, of the findings behind it or
    of all."""
    classes: str | None = None
    """Of a table: column with one class name per row, in place of target."""
    column: str = "image"
    """Of a table: column or {pattern} of the image path."""
    patient: str | None = None
    """Of a table: column of the patient; splits are drawn by patient."""
    split: str | None = None
    """Of a table: column with train, valid or test."""
    uncertain: Literal["ignore", "zero", "one"] | None = None
    """Of a table: what a label of -1 becomes; None: it is refused."""
    mask: str | None = None
    """Of a table: column or {pattern} of the path of a mask, an image as large as the
    film, 0 where nothing is; an empty cell: no lesion."""
    boxes: tuple[str, ...] = ()
    """Of a table: columns of boxes, x y width height in pixels of the file, one box a
    row; or one column with all boxes of a film as JSON, [[x, y, width, height], ...].
    Empty cells: no box."""
    corners: bool = False
    """Of a table: boxes are x0 y0 x1 y1."""
    on_error: OnError = "raise"
    """A file that cannot be read, a duplicate id: stop, or count and list it."""
    prepared: Path | None = None
    """Where raw data are prepared to; default: data/ in the run's folder."""
    cache: Path = CACHE
    """Folder of this machine that prepared sets of an object store are fetched to."""
    image_size: int | None = None
    """Side of the stored films; None: what the tower was trained on."""
    resize: ResizeMode | None = None
    """How a film becomes that square; None: as the tower was trained."""
    patients: int = 600
    """Of the embedded data: how many."""
    train_ids: Path | None = None
    """List of ids (text or CSV) to train on; no list: the set's own splits."""
    valid_ids: Path | None = None
    """List of ids to stop by."""
    test_ids: Path | None = None
    """List of ids to test on."""
    overlaps: Overlaps = "refuse"
    """Patients in more than one split: refuse them, or count them and go on."""
    fraction: float = 1.0
    """Share of the training films whose labels may be used: 0.01, 0.1, 1. Drawn
    uniformly, not stratified, as in MGCA's protocol."""
    balance: bool = False
    """Before the share is taken, keep of the training films without any of the labels
    (of masks and boxes: without a lesion) as many as there are with one, drawn
    uniformly: MGCA's protocol of SIIM."""
    seed: int = 0
    """Of embedded data, drawn splits, the fraction, and the shuffle."""
    batch_size: int = 64
    """Of the global batch."""
    workers: int = 0
    """Interpreters that read beside each process; 0: threads."""

    @property
    def places(self) -> bool:
        """Whether masks or boxes are to be learned, not labels."""
        return self.target[:1] in (("mask",), ("boxes",))

    @property
    def findings(self) -> tuple[str, ...]:
        """Labels to learn, or whose places; none: all."""
        return self.target[1:] if self.places else self.target


class LabelledFilms:
    """Some rows of a prepared set: film, labels, and what stands in memory for it.

    Attributes:
        labels: 1, 0 or NaN for unknown; row by row.
        patients: numbers, equal for films of one patient.
        ids: of the studies.
        folder: the prepared set.
        columns: features to hand out in place of films; empty: none.
    """

    def __init__(
        self,
        folder: Path,
        places: Sequence[tuple[str, int]],
        *,
        labels: Float[np.ndarray, "n k"],
        patients: Int[np.ndarray, " n"],
        ids: list[str],
    ) -> None:
        self._sources = {
            split: RecordSource(folder, split, fields=["image"])
            for split in dict.fromkeys(split for split, _ in places)
        }
        self.folder, self._places = folder, list(places)
        self.labels, self.patients, self.ids = labels, patients, ids
        self.columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        index = row.__index__()
        if self.columns:
            held = {name: column[index] for name, column in self.columns.items()}
        else:
            held = {"image": self.film(index)}
        return {**held, "labels": self.labels[index]}

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that the set has."""
        return tuple(read_metadata(self.folder)["fields"])

    def columns_of(self, fields: Sequence[str]) -> list[dict[str, Any]]:
        """Other columns of the same rows, read alone."""
        sources = {
            split: RecordSource(self.folder, split, fields=fields)
            for split in self._sources
        }
        return [sources[split][place] for split, place in self._places]

    def film(self, row: int) -> np.ndarray:
        """uint8 [size, size]."""
        split, place = self._places[row]
        return self._sources[split][place]["image"]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Everything that fine-tuning asks of data.

    Attributes:
        corpus: the prepared set.
        names: of the labels.
        parts: films by split; of ``train`` the share that may be used.
        splits: who is where, and what was found about it.
        balanced: training films that were left to draw the share from.
    """

    corpus: Corpus
    names: tuple[str, ...]
    parts: dict[str, LabelledFilms]
    splits: Splits
    balanced: int

    def lines(self) -> list[str]:
        """What there is, for the terminal."""
        held, whole = len(self.parts["train"]), len(self.splits.rows["train"])
        used = f"training on {held} of {self.balanced} films"
        used += f", balanced out of {whole}" if self.balanced < whole else ""
        return [*self.splits.lines(), used, f"labels: {', '.join(self.names)}"]


def open_labelled(
    config: LabelledConfig, folder: Path, *, image_size: int, resize: ResizeMode
) -> Labelled:
    """The films and labels that flags name, prepared if that was not done before.

    Args:
        config: What to read.
        folder: Where raw and embedded data are prepared to, unless the flags say.
        image_size: Side of the films that the tower was trained on.
        resize: How they were prepared.

    Raises:
        DataError: A wrong folder or label, splits that overlap or are empty, labels
            that nothing can be learned from.
    """
    if not 0.0 < config.fraction <= 1.0:
        raise ValueError(f"fraction: expected (0, 1], got {config.fraction}")
    corpus = open_corpus(
        _corpus(config, image_size, resize), folder, tokenizer=None, max_tokens=512
    )
    if "image" not in corpus.metadata["fields"]:
        raise DataError(f"data: {corpus.folder} has no films")
    names = _names(config, corpus)
    every = _Every.read(corpus)
    lists = dict(
        zip(SPLITS, (config.train_ids, config.valid_ids, config.test_ids), strict=True)
    )
    splits = assign(every.studies, lists, overlaps=config.overlaps)
    if empty := [split for split in SPLITS if not splits.rows[split]]:
        raise DataError(
            f"data: {corpus.folder} has no films in {empty}; name lists of ids, a "
            "column of splits, or bring more patients"
        )
    columns = [corpus.findings.index(name) for name in names]
    chosen = {split: np.asarray(rows) for split, rows in splits.rows.items()}
    if config.balance:
        shown = _shown(config, corpus, every, chosen["train"], columns)
        chosen["train"] = _balance(chosen["train"], shown, config.seed)
    balanced = len(chosen["train"])
    chosen["train"] = _subsample(chosen["train"], config.fraction, config.seed)
    parts = {
        split: every.films(corpus, rows, columns) for split, rows in chosen.items()
    }
    if not config.places:
        check_learnable(names, {split: part.labels for split, part in parts.items()})
    return Labelled(corpus, names, parts, splits, balanced)


@dataclasses.dataclass(frozen=True)
class _Every:
    """All studies of a set, read once."""

    studies: Studies
    places: list[tuple[str, int]]
    labels: np.ndarray

    @classmethod
    def read(cls, corpus: Corpus) -> "_Every":
        ids: list[str] = []
        patients: list[int] = []
        places: list[tuple[str, int]] = []
        for split in corpus.splits:
            rows = RecordSource(corpus.folder, split, fields=["id", "patient"])
            found = [rows[i] for i in range(len(rows))]
            ids += [row["id"] for row in found]
            patients += [int(row["patient"]) for row in found]
            places += [(split, i) for i in range(len(rows))]
        labels = np.concatenate([corpus.labels(split) for split in corpus.splits])
        studies = Studies(ids, patients, [split for split, _ in places])
        return cls(studies, places, labels)

    def films(
        self, corpus: Corpus, rows: np.ndarray, columns: list[int]
    ) -> LabelledFilms:
        studies = self.studies
        return LabelledFilms(
            corpus.folder,
            [self.places[int(i)] for i in rows],
            labels=self.labels[rows][:, columns],
            patients=np.asarray([studies.patients[int(i)] for i in rows]),
            ids=[studies.ids[int(i)] for i in rows],
        )


def _corpus(
    config: LabelledConfig, image_size: int, resize: ResizeMode
) -> CorpusConfig:
    """The same wish as pre-training would say it."""
    kind: Any = config.format
    if config.data is not None and kind == "auto":
        is_table = config.data.suffix.lower() in TABLES
        remote = address_of(config.data) is not None
        if not (is_table or remote or (config.data / METADATA).is_file()):
            raise DataError(
                f"data: {config.data} is neither a prepared set nor a table "
                f"({', '.join(TABLES)}); --format names a raw data set"
            )
        kind = "table" if is_table else "prepared"
    labels = () if config.classes or config.places else config.target
    told = labels or config.classes
    if config.places:
        told = config.mask or config.boxes
    if kind == "table" and not told:
        wanted = "name the columns of labels, or --classes"
        if config.places:
            wanted = "a table says where lesions are by --mask or --boxes"
        raise DataError(f"target: {wanted}")
    return CorpusConfig(
        root=config.data,
        format="prepared" if kind == "auto" else kind,
        prepared=config.prepared,
        cache=config.cache,
        on_error=config.on_error,
        image_column=config.column,
        text_column=None,
        patient_column=config.patient,
        split_column=config.split,
        label_columns=labels,
        class_column=config.classes,
        uncertain=config.uncertain,
        mask_column=config.mask,
        box_columns=config.boxes,
        box_corners=config.corners,
        patients=config.patients,
        image_size=config.image_size or image_size,
        resize=config.resize or resize,
        seed=config.seed,
    )


def _names(config: LabelledConfig, corpus: Corpus) -> tuple[str, ...]:
    if not corpus.findings:
        raise DataError(f"data: {corpus.folder} has no labels")
    if config.places:
        return tuple(corpus.findings)
    if missing := [name for name in config.target if name not in corpus.findings]:
        raise DataError(
            f"target: {corpus.folder} has no {missing}, its labels are "
            f"{corpus.findings}"
        )
    return config.target or tuple(corpus.findings)


def _shown(
    config: LabelledConfig,
    corpus: Corpus,
    every: _Every,
    rows: np.ndarray,
    columns: list[int],
) -> Bool[np.ndarray, " n"]:
    """Which rows show any of what is to be learned."""
    if not config.places:
        return (every.labels[rows][:, columns] == 1).any(1)
    wanted = whose(corpus.findings, config.findings)
    part = every.films(corpus, rows, columns)
    stored = [name for name in ("lesion_findings", "boxes") if name in part.fields]
    return np.asarray([shows(row, wanted) for row in part.columns_of(stored)])


def _balance(
    rows: np.ndarray, shown: Bool[np.ndarray, " n"], seed: int
) -> Int[np.ndarray, " m"]:
    """All rows that show something, and no more of the others than of these.

    Raises:
        DataError: None shows anything.
    """
    if not shown.any():
        raise DataError(
            f"balance: none of the {len(rows)} training films shows what is to be "
            "learned"
        )
    others = np.random.default_rng(seed).permutation(rows[~shown])
    return np.sort(np.concatenate([rows[shown], others[: shown.sum()]]))


def _subsample(rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A share of the rows; a larger share of the same seed holds the smaller."""
    most = max(1, round(fraction * len(rows)))
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])
