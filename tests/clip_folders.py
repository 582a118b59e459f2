"""Tokenizer folders like those of CLIP: with the real vocabulary, if it is there, or a tiny one."""

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def byte_signs():
    """A printable sign for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary(merges):
    signs = byte_signs()
    made = ["".join(pair) for pair in merges]
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), *made, BOS, EOS]
    return {token: i for i, token in enumerate(tokens)}


def real_merges():
    """CLIP's own, from the package open-clip-torch, which is not imported."""
    spec = importlib.util.find_spec("open_clip")
    file = spec and Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    if not file or not file.is_file():
        pytest.skip("the real vocabulary is in the package open-clip-torch, which is missing")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    return [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]


TINY_MERGES = [
    ("r", "e"),
    ("re", "d</w>"),
    ("f", "o"),
    ("fo", "x</w>"),
    ("'", "v"),
    ("'v", "e</w>"),
]


def named(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False} | flags


def write(folder, merges, pad=EOS, pad_of_config=None):
    """A folder of vocab.json and merges.txt; the files of its special tokens are as published."""
    folder.mkdir(parents=True, exist_ok=True)
    held = json.dumps(vocabulary(merges), ensure_ascii=False)
    (folder / "vocab.json").write_text(held, "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    tokens = {
        "bos_token": named(BOS, normalized=True),
        "eos_token": named(EOS, normalized=True),
        "unk_token": named(EOS, normalized=True),
        "pad_token": pad,
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    typed = {
        name: {"__type": "AddedToken"} | value if isinstance(value, dict) else value
        for name, value in tokens.items()
    }
    config = typed | {"pad_token": pad_of_config or pad, "model_max_length": 77}
    config["tokenizer_class"] = "CLIPTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
