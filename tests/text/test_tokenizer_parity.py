"""Token ids beside those of transformers, for folders old and new."""

import json
import random

import clip_folders
import numpy as np
import pytest

from cfg_jax.text import tokenizer

transformers = pytest.importorskip("transformers", reason="compares with transformers")
pytestmark = pytest.mark.parity

PROMPTS = [
    "",
    " ",
    "a photo of a cat",
    "You should've done this",
    "! !! !!!",
    "it's  we're I'll\tyou'd\n\nI'm don't",
    "1234567890 3.14159 ½ ²",
    "ÀÉÎÖÛ ßẞ İıI ΣΑΣ ǅ",
    "cafe\u0301 caf\u00e9 \uff21\uff22\uff23 \ufb01",
    "汉字漢字 かな 한국어 العربية עברית हिन्दी ไทย",
    "🦊👩‍👩‍👧‍👦🏳️‍🌈 \u200b\ufeff\u00ad\u00a0\u3000x",
    "<|startoftext|>a<|endoftext|> b <|ENDOFTEXT|> <|endoftext|><|endoftext|>",
    "</s> <pad> <unk> <extra_id_0> ▁under▁score",
    "(a:1.3) [b] {c} \\ / | ~ ` @ # $ % ^ & * _ + = ; : ' \" , . < > ?",
    "a" * 500,
    "word " * 200,
    "x, " * 80 + "the end",
    "\x00\x01\x7f\x85\u2028",
]


def scrambled(count):
    """Texts of signs from all over Unicode."""
    rng = random.Random(0)
    signs = "abcXYZ 019 .,!?'\"-_()<>|/\\\n\tàéßñøİſΩжש中日한🦊\u0301\u200d</w>Ġ▁"
    return ["".join(rng.choices(signs, k=rng.randrange(1, 40))) for _ in range(count)]


PROMPTS += scrambled(300)


def assert_same_ids(ours, theirs, length):
    options = {"padding": "max_length", "truncation": True, "max_length": length}
    want = theirs(PROMPTS, **options)
    got = ours(PROMPTS)
    np.testing.assert_array_equal(got.ids, want["input_ids"])
    np.testing.assert_array_equal(got.mask, np.array(want["attention_mask"], bool))
    assert (ours.bos, ours.eos, ours.pad) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )


@pytest.fixture(scope="module")
def merges():
    return clip_folders.real_merges()


PADS = {"sd1": (clip_folders.EOS, None), "sd2": ("!", clip_folders.EOS)}


@pytest.mark.parametrize("kind", PADS)
@pytest.mark.parametrize("saved", ["old", "new", "both"])
def test_clip(kind, saved, merges, tmp_path):
    old = clip_folders.write(tmp_path / "old", merges, *PADS[kind])
    folder = old
    if saved != "old":
        folder = tmp_path / saved
        transformers.CLIPTokenizer.from_pretrained(old).save_pretrained(folder)
        assert (folder / "tokenizer.json").is_file()
        assert not (folder / "special_tokens_map.json").exists()
    if saved == "both":
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_text((old / name).read_text("utf-8"), "utf-8")
    theirs = transformers.CLIPTokenizerFast.from_pretrained(folder)
    assert_same_ids(tokenizer.clip(folder), theirs, 77)
    short = tokenizer.clip(folder, length=16)
    assert_same_ids(short, theirs, 16)


@pytest.mark.parametrize("bare", ["vocab.json", "special_tokens_map.json", "tokenizer_config.json"])
def test_clip_without_the_files_of_special_tokens(bare, merges, tmp_path):
    folder = clip_folders.write(tmp_path, merges, "!", "<|endoftext|>")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if name != bare:
            (folder / name).unlink()
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    assert_same_ids(tokenizer.clip(folder), theirs, 77)


@pytest.mark.parametrize("kind", ["new", "added_tokens.json"])
def test_clip_with_added_tokens(kind, merges, tmp_path):
    folder = clip_folders.write(tmp_path / "old", merges)
    if kind == "new":
        theirs = transformers.CLIPTokenizer.from_pretrained(folder)
        assert theirs.add_tokens(["<fox>", "▁under"]) == 2
        folder = tmp_path / "new"
        theirs.save_pretrained(folder)
    else:
        (folder / kind).write_text(json.dumps({"<fox>": 49408, "<hen>": 49409}))
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    ours = tokenizer.clip(folder)
    assert_same_ids(ours, theirs, 77)
    assert ours.vocabulary == 49410
    assert ours.ids("a <fox>") == [320, 49408]


def sentencepiece_folder(folder):
    """A small T5 vocabulary with SentencePiece's own normalisation, by transformers."""
    pieces = pytest.importorskip("sentencepiece", reason="trains a small vocabulary for T5")
    folder.mkdir()
    lines = [prompt for prompt in PROMPTS if prompt.isprintable()] * 2
    (folder / "lines.txt").write_text("\n".join(lines), "utf-8")
    pieces.SentencePieceTrainer.train(
        input=str(folder / "lines.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=300,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=0.98,
        minloglevel=2,
    )
    return folder


def test_t5(tmp_path):
    spiece = sentencepiece_folder(tmp_path / "spiece")
    folder = tmp_path / "t5"
    transformers.T5Tokenizer.from_pretrained(spiece).save_pretrained(folder)
    theirs = transformers.T5TokenizerFast.from_pretrained(folder)
    normalizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))["normalizer"]
    assert "precompiled_charsmap" in json.dumps(normalizer)
    for length in (12, 256):
        assert_same_ids(tokenizer.t5(folder, length=length), theirs, length)
        assert_same_ids(tokenizer.t5(spiece, length=length), theirs, length)
