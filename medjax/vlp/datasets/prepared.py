"""Reading a prepared set: rows as the systems want them, a grain source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int

from medjax.data.boundary import DataError
from medjax.data.records import RecordSource, described, read_metadata
from medjax.vlp.tokens import Tokenizer, load_tokenizer, pad_ids

TOKENS = ("findings", "impression", "report")
EMPTY = 2  # a missing section holds [CLS] [SEP] and nothing else


@dataclass(frozen=True)
class DrawSentence:
    """Random map of the pipeline: one sentence of the report per example and step.

    Which one follows from the pipeline's seed, the epoch and the row's place in it.
    """

    max_tokens: int

    def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Replace ``sentences`` by ``sentence``, int32 [max_tokens]."""
        ends = row.pop("sentence_ends")
        which = int(rng.integers(len(ends)))
        start = ends[which - 1] if which else 0
        ids = row.pop("sentences")[start : ends[which]]
        return row | {"sentence": pad_ids(ids, self.max_tokens)}


class PreparedSource:
    """One split of a prepared set as rows of the pre-training contract.

    Attributes:
        metadata: What ``metadata.json`` says.
        finding_names: Names of the columns of ``labels``.
        transform: To hand to ``build_pipeline``; draws a sentence if one was asked for.
    """

    def __init__(
        self, source: RecordSource, fields: Sequence[str], tokens: int
    ) -> None:
        """Wrap a split; see ``open_prepared``."""
        self.source, self.fields, self.max_tokens = source, tuple(fields), tokens
        self.metadata = source.metadata
        self.finding_names: list[str] = described(
            self.metadata, "finding_names", list[str], source.folder
        )
        self.transform: Callable[..., dict[str, Any]] | None = (
            DrawSentence(tokens) if "sentence" in fields else None
        )

    def __repr__(self) -> str:
        return f"PreparedSource({self.source!r}, {self.fields})"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        example = self.source[row]
        if "sentences" in example:
            self._check_sentences(example, row)
        for name in TOKENS:
            if name in example:
                ids = example[name]
                if name != "report":
                    example[f"has_{name}"] = np.bool_(len(ids) > EMPTY)
                example[name] = pad_ids(ids, self.max_tokens)
        return example

    def _check_sentences(self, example: dict[str, Any], row: SupportsIndex) -> None:
        ends = example["sentence_ends"]
        starts = np.concatenate([[0], ends[:-1]])
        if (
            not len(ends)
            or (ends <= starts).any()
            or ends[-1] > len(example["sentences"])
        ):
            raise DataError(
                f"{self.source.folder}: row {row} of {self.source.split!r}: "
                "'sentence_ends' does not divide 'sentences'"
            )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids."""
        return load_tokenizer(self.source.folder / "tokenizer")

    def all(self, field: str) -> list[Any]:
        """One column over all rows, read alone: texts, ids or labels for evaluation."""
        alone = RecordSource(self.source.folder, self.source.split, fields=[field])
        return [alone[row][field] for row in range(len(alone))]


def open_prepared(
    folder: str | Path,
    split: str,
    *,
    fields: Sequence[str] | None = None,
    max_tokens: int = 256,
) -> PreparedSource:
    """Open a split that ``prepare`` wrote.

    Args:
        folder: The prepared set.
        split: ``train``, ``valid`` or ``test``.
        fields: Which columns; ``None`` is all that batches can hold: image, findings,
            impression, report, labels (as far as the set has them). Also there:
            ``sentence`` (pass the source's ``transform`` to the pipeline), ``patient``,
            ``id``, ``findings_text``, ``impression_text``, ``report_text``, ``boxes``
            (ragged: not for batches).
        max_tokens: Columns of token fields; longer texts lose their end, not ``[SEP]``.

    Returns:
        A source of rows: ``image`` uint8 [h, w]; token fields int32 [max_tokens], 0 is
        padding, ``[CLS]`` first; ``has_findings`` and ``has_impression``; ``labels``
        float32 [findings].

    Raises:
        ValueError: If the folder is no prepared set, or has no such split or field.
    """
    known = list(read_metadata(folder)["fields"])
    if fields is None:
        fields = [f for f in ("image", *TOKENS, "labels") if f in known]
    stored = [f for f in fields if f != "sentence"]
    if "sentence" in fields:
        stored += ["sentences", "sentence_ends"]
    return PreparedSource(
        RecordSource(folder, split, fields=stored), fields, max_tokens
    )


def sentence_ids(row: dict[str, Any]) -> list[Int[np.ndarray, " n"]]:
    """All sentences of a row opened with ``sentences`` and ``sentence_ends``."""
    return np.split(row["sentences"], row["sentence_ends"][:-1])
