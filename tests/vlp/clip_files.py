"""A tokenizer of CLIP that knows single letters."""

import json
from pathlib import Path


def clip_tokenizer(folder: Path) -> None:
    """Writes its files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqr"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), ".</w>", "x"]
    known = {piece: i for i, piece in enumerate(pieces)}
    known |= {"<|startoftext|>": 38, "<|endoftext|>": 39}
    (folder / "vocab.json").write_text(json.dumps(known))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    content = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 9, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
