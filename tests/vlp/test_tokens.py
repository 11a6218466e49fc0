"""Token ids: padding is 0, [CLS] leads, and a learnt vocabulary can be repeated."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer as Raw
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from medjax.vlp.tokens import Tokenizer, load_tokenizer, pad_ids, train_tokenizer

TEXTS = ["No pleural effusion.", "Small left effusion.", "The lungs are clear."] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=60)


def test_ids_are_padded_with_zero_and_framed(tokenizer):
    ids = tokenizer.encode(["No effusion", "", "the lungs are clear. no effusion"], 6)
    assert ids.shape == (3, 6) and ids.dtype == np.int32
    assert (ids[:, 0] == 2).all()  # [CLS]
    assert ids[1].tolist() == [2, 3, 0, 0, 0, 0]  # an empty text is [CLS] [SEP]
    assert ids[2, -1] == 3  # a text that is cut keeps [SEP]
    assert tokenizer.encode([], 6).shape == (0, 6)


def test_ids_without_padding(tokenizer):
    first, second = tokenizer.ids(["clear", "no effusion"], 10)
    assert 0 not in first and 0 not in second
    assert tokenizer.decode(second) == "no effusion"


def test_unseen_characters_are_unknown_and_seen_words_are_not(tokenizer):
    assert 1 in tokenizer.encode(["ß"], 4)
    assert 1 not in tokenizer.encode(["NO CLEAR"], 12)


def test_frequent_words_become_one_piece_within_the_limit():
    wide = train_tokenizer(TEXTS, vocab_size=200)
    assert wide.inner.tokenize("effusion") == ["effusion"]
    narrow = train_tokenizer(TEXTS, vocab_size=36)
    assert narrow.vocab_size == 36
    assert len(narrow.inner.tokenize("effusion")) > 1
    assert train_tokenizer(["ab ab cd"], min_frequency=2).inner.tokenize("ab cd") == [
        "ab",
        "c",
        "##d",
    ]


def test_the_vocabulary_is_the_same_in_another_process(tokenizer):
    # Hash seeds differ between processes; a resumed run must see the same ids.
    code = (
        "from medjax.vlp.tokens import train_tokenizer as t;"
        f"print(sorted(t({TEXTS!r}, vocab_size=60).inner.get_vocab().items()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip().splitlines()[-1] == str(
        sorted(tokenizer.inner.get_vocab().items())
    )


def test_a_saved_folder_loads_here_and_in_transformers(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "words")
    again = load_tokenizer(tmp_path / "words")
    np.testing.assert_array_equal(again.encode(TEXTS, 9), tokenizer.encode(TEXTS, 9))
    assert again.name == "words" and again.vocab_size == tokenizer.vocab_size
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "words"))
    ids = theirs(TEXTS[:1], padding="max_length", max_length=9, return_tensors="np")
    np.testing.assert_array_equal(ids["input_ids"], tokenizer.encode(TEXTS[:1], 9))


def test_a_folder_with_only_a_vocabulary_loads(tmp_path):
    # What older checkpoints, Bio_ClinicalBERT among them, come with.
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "clear", "lungs"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    ids = load_tokenizer(tmp_path).encode(["clear lungs"], 5)
    assert ids.tolist() == [[2, 5, 6, 3, 0]]


def test_tokenizers_that_break_the_contract_are_refused(tmp_path):
    raw = Raw(WordLevel({"a": 0, "[PAD]": 1, "[CLS]": 2}, unk_token="a"))
    other = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]")
    with pytest.raises(ValueError, match="pads with id 1, expected 0"):
        Tokenizer(other, name="other")
    raw = Raw(WordLevel({"[PAD]": 0, "a": 1, "[CLS]": 2}, unk_token="a"))
    other = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", cls_token="[CLS]"
    )
    with pytest.raises(ValueError, match=r"no \[CLS\]"):
        Tokenizer(other, name="other")
    with pytest.raises(FileNotFoundError, match="is no folder, and not a hub id"):
        load_tokenizer(tmp_path / "nothing")


def test_a_folder_without_a_vocabulary_is_refused(tokenizer, tmp_path):
    # transformers would make a tokenizer of it for which every word is [UNK].
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"holds none of .*vocab.txt.*copy"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(ValueError, match="knows no word"):
        load_tokenizer(tmp_path)


def test_code_of_a_checkpoint_is_not_run(tmp_path):
    # The layout of CXR-BERT: BERT's WordPiece under a class of its own.
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "clear", "lungs"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "config.json").write_text('{"model_type": "cxr-bert"}')
    own = {"AutoTokenizer": ["own_code.CXRBertTokenizer", None]}
    named = {"tokenizer_class": "CXRBertTokenizer", "do_lower_case": True}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**named, "auto_map": own})
    )
    (tmp_path / "own_code.py").write_text("raise SystemExit('code was run')")
    ids = load_tokenizer(tmp_path).encode(["CLEAR lungs"], 5)
    assert ids.tolist() == [[2, 5, 6, 3, 0]]


def test_pad_ids_keeps_the_end():
    ids = np.array([2, 7, 8, 9, 3], np.int32)
    assert pad_ids(ids, 7).tolist() == [2, 7, 8, 9, 3, 0, 0]
    assert pad_ids(ids, 4).tolist() == [2, 7, 8, 3]
    assert pad_ids(ids, 5).tolist() == ids.tolist()
