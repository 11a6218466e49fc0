"""Texts to token ids, with a published vocabulary or a small one trained here.

A text tower expects the vocabulary it was trained with, so a real run loads the
tokenizer of its checkpoint. The embedded data and tests need no download: a WordPiece
vocabulary learnt from the texts at hand, saved as a folder that transformers loads.

Everywhere in a batch a position with id 0 is padding, and the first token of a text is
``[CLS]``: tokenizers for which this does not hold are refused.
"""

import functools
import heapq
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from medjax.data.boundary import reading
from medjax.data.documents import read_json
from medjax.weights.files import HUB_ID, checkpoint_file

# transformers says at its import that PyTorch is absent: here that is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

VOCABULARIES = ("tokenizer.json", "vocab.txt")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Tokenizer:
    """A Hugging Face tokenizer that speaks NumPy.

    Attributes:
        name: Folder name or hub id it came from.
        vocab_size: Rows that a word embedding needs.
    """

    def __init__(self, inner: Any, *, name: str) -> None:
        """Wrap a tokenizer of transformers.

        Args:
            inner: A fast tokenizer.
            name: What to call it.

        Raises:
            ValueError: If its padding id is not 0, it adds no ``[CLS]`` in front, or
                it has no word, or ids that are not those of its vocabulary.
        """
        if inner.pad_token_id != 0:
            raise ValueError(
                f"tokenizer: {name} pads with id {inner.pad_token_id}, expected 0"
            )
        if inner.cls_token_id is None or inner("a")["input_ids"][0] != (
            inner.cls_token_id
        ):
            raise ValueError(f"tokenizer: {name} puts no [CLS] before a text")
        self.inner, self.name, self.vocab_size = inner, name, len(inner)
        known = inner.get_vocab()
        if not known.keys() - inner.all_special_tokens:
            raise ValueError(f"tokenizer: {name} knows no word at all")
        if max(known.values()) >= self.vocab_size:
            raise ValueError(
                f"tokenizer: {name} has ids up to {max(known.values())} for "
                f"{self.vocab_size} word-pieces: one id comes twice or is left out"
            )

    def ids(self, texts: Sequence[str], max_len: int) -> list[Int[np.ndarray, " n"]]:
        """Token ids of each text at its own length, ``[CLS]`` and ``[SEP]`` included.

        Args:
            texts: Any number of texts; an empty one gives ``[CLS] [SEP]``, so that no
                row of a batch is without a single token.
            max_len: Longer texts are cut, keeping ``[SEP]`` last.

        Returns:
            One int32 array per text.
        """
        if not texts:
            return []
        rows = self.inner(
            list(texts),
            truncation=True,
            max_length=max_len,
            add_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return [np.asarray(row, np.int32) for row in rows]

    def encode(self, texts: Sequence[str], max_len: int) -> Int[np.ndarray, "b n"]:
        """Token ids padded with 0 to ``max_len``.

        Args:
            texts: ``b`` texts.
            max_len: Columns of the result; longer texts are cut, keeping ``[SEP]``.

        Returns:
            int32 ids of shape [b, max_len].
        """
        ids = np.zeros((len(texts), max_len), np.int32)
        for row, found in zip(ids, self.ids(texts, max_len), strict=True):
            row[: len(found)] = found
        return ids

    @functools.cached_property
    def continues(self) -> Bool[np.ndarray, " k"]:
        """For every id, whether it goes on with the word before it (``##``)."""
        found = np.zeros(self.vocab_size, np.bool_)
        for piece, i in self.inner.get_vocab().items():
            found[i] = piece.startswith("##")
        return found

    def decode(self, ids: Int[np.ndarray, " n"]) -> str:
        """The text of one row of ids, special tokens left out."""
        return self.inner.decode(ids, skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Write a folder that ``load_tokenizer`` and transformers read."""
        self.inner.save_pretrained(str(folder))


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer from a local folder or a hub id.

    Code that comes with a checkpoint is never run. Where a checkpoint asks for it
    (CXR-BERT does) but holds a ``vocab.txt``, that is read as BERT's WordPiece, which
    such tokenizers are.

    Args:
        source: A folder with ``tokenizer.json`` or ``vocab.txt``, or a hub id such as
            ``emilyalsentzer/Bio_ClinicalBERT``, with ``@revision`` where one is meant.

    Raises:
        ValueError: If nothing can be loaded from there, or it has no vocabulary.
    """
    where, options = _locate(source)
    kind = "folder" if Path(where).is_dir() else "folder or hub id"
    own_code = _asks_for_code(where, options)
    with reading(source, f"tokenizer ({kind} with tokenizer.json or vocab.txt)"):
        from transformers import AutoTokenizer, BertTokenizer

        loader = BertTokenizer if own_code else AutoTokenizer
        inner = loader.from_pretrained(where, trust_remote_code=False, **options)
        name = Path(where).name if Path(where).is_dir() else str(source)
        return Tokenizer(inner, name=name)


def _locate(source: str | Path) -> tuple[str, dict[str, Any]]:
    """What transformers calls a source: its name and, on a hub, the revision.

    Raises:
        FileNotFoundError: It is no folder and cannot be a hub id.
        ValueError: A folder without a vocabulary, of which transformers would make a
            tokenizer that knows no word.
    """
    folder = Path(source)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in VOCABULARIES):
            raise ValueError(
                f"tokenizer: {folder} holds none of {list(VOCABULARIES)}: copy the "
                "tokenizer's files there, or name a checkpoint that has them"
            )
        return str(folder), {}
    if not HUB_ID.fullmatch(str(source)):
        raise FileNotFoundError(
            f"tokenizer: {source} is no folder, and not a hub id (owner/name)"
        )
    name, _, revision = str(source).partition("@")
    return name, {"revision": revision} if revision else {}


def _asks_for_code(where: str, options: dict[str, Any]) -> bool:
    try:
        path = checkpoint_file(where, "tokenizer_config.json", **options)
    except FileNotFoundError:
        return False
    named = read_json(path, "tokenizer's configuration").get("auto_map")
    return isinstance(named, dict) and "AutoTokenizer" in named


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int = 4096, min_frequency: int = 2
) -> Tokenizer:
    """Learn a lower-case WordPiece vocabulary (as BERT's, ``[PAD]`` = 0).

    Equal texts give an equal vocabulary, on every machine: ties go to the piece that
    comes first in the alphabet. (The trainers of ``tokenizers`` break them by hash
    order, so that a run could not be repeated.)

    Args:
        texts: What to learn from.
        vocab_size: Most entries; fewer come out of few texts. The characters of the
            texts are always in, so that only unseen characters are ``[UNK]``.
        min_frequency: Pairs seen less often are not merged.
    """
    from tokenizers import normalizers, pre_tokenizers
    from transformers import BertTokenizer

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        pieces = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        words.update(word for word, _ in pieces)
    pieces = _learn_pieces(words, vocab_size - len(SPECIAL), min_frequency)
    vocab = {piece: i for i, piece in enumerate([*SPECIAL, *pieces])}
    return Tokenizer(BertTokenizer(vocab=vocab, do_lower_case=True), name="trained")


def _learn_pieces(words: Counter[str], size: int, min_frequency: int) -> list[str]:
    """Characters, then merges of the most frequent neighbours, one after the other."""
    split = [[w[0], *(f"##{c}" for c in w[1:])] for w in sorted(words)]
    counts = [words[w] for w in sorted(words)]
    pieces = dict.fromkeys(sorted({piece for word in split for piece in word}))
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    for i, word in enumerate(split):
        for pair in itertools.pairwise(word):
            pairs[pair] += counts[i]
            where[pair].add(i)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    while heap and len(pieces) < size:
        n, pair = heapq.heappop(heap)
        if -n != pairs[pair]:  # an old entry: the pair was counted anew since
            continue
        if -n < min_frequency:
            break
        merged = pair[0] + pair[1].removeprefix("##")
        pieces[merged] = None
        changed: set[tuple[str, str]] = set()
        for i in sorted(where[pair]):
            before, after = split[i], _merge(split[i], pair, merged)
            for sign, word in ((-1, before), (1, after)):
                for neighbours in itertools.pairwise(word):
                    pairs[neighbours] += sign * counts[i]
                    where[neighbours].add(i)
                    changed.add(neighbours)
            split[i] = after
        for neighbours in changed:
            if pairs[neighbours] > 0:
                heapq.heappush(heap, (-pairs[neighbours], neighbours))
    return list(pieces)


def _merge(word: list[str], pair: tuple[str, str], merged: str) -> list[str]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] = merged
        else:
            out.append(piece)
    return out


def pad_ids(ids: Int[np.ndarray, " m"], length: int) -> Int[np.ndarray, " n"]:
    """Bring one row of ids to a fixed length.

    A row that is too long loses tokens from its end but keeps its closing ``[SEP]``.
    """
    row = np.zeros(length, np.int32)
    if len(ids) > length:
        row[:-1], row[-1] = ids[: length - 1], ids[-1]
    else:
        row[: len(ids)] = ids
    return row
