"""Rows of token ids: what they hold, what is cut off, long texts, and folders that are damaged."""

import copy
import json
import logging
import pickle
import struct
import subprocess
import sys

import clip_folders
import jax
import jaxtyping
import numpy as np
import pytest

from cfg_jax.text import Tokenizer, tokenizer

EOS = clip_folders.EOS

CAPTIONS = [
    "A red fox in the snow",
    "a red hen",
    "the fox and the hen",
    "Ein größerer Fuchs",
    "",
    "狐 と 雪",
]
STRANGE = [
    "",
    " \n\t",
    "\x00\x07",
    "🦊👩‍👩‍👧",
    "é e\u0301",
    "</w><|endoftext|>",
    "漢" * 9,
    "\uffff\U0010ffff",
]


@pytest.fixture
def unchecked_types(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def learned():
    return tokenizer.learned(CAPTIONS, size=320, length=12)


@pytest.fixture
def tiny(tmp_path):
    """CLIP's tokenizer with six merges."""
    return tokenizer.clip(clip_folders.write(tmp_path, clip_folders.TINY_MERGES), length=8)


def test_a_row_is_beginning_text_end_and_padding(learned):
    ids, mask = learned(["a red fox", ""])
    text = learned.ids("a red fox")
    assert ids.dtype == np.int32
    assert ids.shape == (2, 12)
    padding = [learned.pad] * (10 - len(text))
    assert ids[0].tolist() == [learned.bos, *text, learned.eos, *padding]
    assert ids[1].tolist() == [learned.bos, learned.eos] + [learned.pad] * 10
    np.testing.assert_array_equal(mask.sum(1), [len(text) + 2, 2])
    np.testing.assert_array_equal(mask, np.arange(12) < mask.sum(1, keepdims=True))
    assert learned.count("a red fox") == len(text)
    assert learned([]).ids.shape == (0, 12)


def decoded(made, ids):
    from tokenizers import Tokenizer as Backend

    return Backend.from_str(made.json).decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", [*CAPTIONS, *STRANGE])
def test_learned_ids_spell_the_text(learned, text):
    """Nothing is unknown: the bytes come back, lower-cased, with single spaces."""
    import unicodedata

    spelt = decoded(learned, learned.ids(text))
    want = " ".join(unicodedata.normalize("NFC", text).split()).lower()
    assert spelt.strip() == want
    assert max(learned.ids(text), default=0) < learned.pad < learned.bos < learned.eos
    assert learned.eos == learned.vocabulary - 1 <= 319


def test_learned_ids_put_frequent_words_together(learned):
    assert learned.count("the") == learned.count("THE") == 1
    assert learned.count("red red red") == 3 * learned.count("red") < 9
    assert tokenizer.learned(["x"], size=259, length=9).count("the") == 4


def test_the_same_captions_give_the_same_tokenizer(learned):
    again = tokenizer.learned(iter(CAPTIONS[::-1]), size=320, length=12)
    assert again == learned
    code = (
        "import sys, json; from cfg_jax.text import tokenizer\n"
        "captions = json.loads(sys.argv[1])\n"
        "print(tokenizer.learned(captions, size=320, length=12).to_json())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(CAPTIONS)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1", "PATH": ""},
    )
    assert Tokenizer.from_json(done.stdout) == learned


def test_what_is_cut_off_is_named_once(learned, caplog):
    long = "a red fox " + "snow " * 40
    with caplog.at_level(logging.WARNING):
        ids, mask = learned([long, "a red hen", "hen " * 60])
    assert mask.all(1).tolist() == [True, False, True]
    assert ids[0].tolist() == [learned.bos, *learned.ids(long)[:10], learned.eos]
    (record,) = caplog.records
    said = record.getMessage()
    assert "2 of 3 texts are longer than 10 tokens" in said
    kept = decoded(learned, ids[0, 1:-1].tolist()).strip()
    assert f"cut off: '{long[len(kept) :].strip()}"[:90] in said.replace("' ", "'")
    caplog.clear()
    learned(["a red fox"])
    assert not caplog.records


def test_very_long_captions_do(learned):
    caption = "x" * 100_000
    assert learned.count(caption) >= 100_000
    made = tokenizer.learned([caption] * 2, size=270, length=5)
    assert made.count(caption) < 20_000
    assert decoded(made, made.ids(caption)).strip() == caption


def test_it_is_a_value(learned):
    """Equal by content, hashable, and picklable, so that it may be a static field."""
    text = learned.to_json()
    for same in (pickle.loads(pickle.dumps(learned)), copy.deepcopy(learned)):
        assert same == learned
        assert hash(same) == hash(learned)
        assert same(["the fox"]).ids.tolist() == learned(["the fox"]).ids.tolist()
    assert Tokenizer.from_json(text) == Tokenizer.from_json(text.encode()) == learned
    other = tokenizer.learned(["something else"] * 2, size=320, length=12)
    assert other != learned
    seen = []

    @jax.tree_util.register_static
    class Static:
        def __init__(self, held):
            self.held = held

        def __eq__(self, other):
            return self.held == other.held

        def __hash__(self):
            return hash(self.held)

    @jax.jit
    def traced(static):
        seen.append(static)
        return 0

    for held in (learned, pickle.loads(pickle.dumps(learned)), other):
        traced(Static(held))
    assert len(seen) == 2
    assert len(repr(learned)) < 100


def test_long_texts_are_several_rows(learned):
    text = "the fox and the hen in the snow " * 3
    ids = learned.ids(text)
    rows = learned.chunks(text)
    assert learned.room == 10
    assert len(rows.ids) == -(-len(ids) // 10)
    kept = [row[1 : mask.sum() - 1].tolist() for row, mask in zip(*rows, strict=True)]
    assert [i for row in kept for i in row] == ids
    assert [len(row) for row in kept[:-1]] == [10] * (len(kept) - 1)
    assert (rows.ids[:, 0] == learned.bos).all()
    assert (rows.ids[:-1, 11] == learned.eos).all()
    short = learned.chunks(text, 4)
    assert len(short.ids) == -(-len(ids) // 4)
    assert (short.ids[:-1, 5] == learned.eos).all()
    assert (short.ids[:, 6:] == learned.pad).all()


def test_a_shorter_prompt_grows_by_rows_of_no_text(learned):
    rows = learned.chunks("a fox", at_least=3)
    empty = learned([""])
    np.testing.assert_array_equal(rows.ids[0], learned(["a fox"]).ids[0])
    for row in (1, 2):
        np.testing.assert_array_equal(rows.ids[row], empty.ids[0])
        np.testing.assert_array_equal(rows.mask[row], empty.mask[0])
    np.testing.assert_array_equal(learned.chunks("").ids, empty.ids)


def test_rows_are_full_after_75_tokens_for_clip(tmp_path):
    clip = tokenizer.clip(clip_folders.write(tmp_path, clip_folders.TINY_MERGES))
    assert clip.length == 77
    rows = clip.chunks("red " * 150, 75)
    red = clip.ids("red")
    assert rows.ids.tolist() == [[clip.bos, *red * 75, clip.eos]] * 2
    np.testing.assert_array_equal(rows.ids, clip.chunks("red " * 150).ids)


def test_all_behind_the_first_end_is_padding_where_that_is_another_token(tmp_path):
    text = "red <|endoftext|> fox"
    for pad, kept in (("!", 1), (clip_folders.EOS, 3)):
        folder = clip_folders.write(tmp_path / str(kept), clip_folders.TINY_MERGES, pad)
        clip = tokenizer.clip(folder, length=8)
        red, end, fox = clip.ids(text)
        assert end == clip.eos
        want = [clip.bos, *[red, end, fox][:kept], clip.eos]
        want += [clip.pad] * (8 - len(want))
        assert clip.chunks(text).ids.tolist() == [want]
        # A row of its own is as transformers has it.
        assert clip([text]).ids[0, :5].tolist() == [clip.bos, red, end, fox, clip.eos]


def test_the_padding_is_that_of_the_folder(tmp_path):
    first = tokenizer.clip(clip_folders.write(tmp_path / "1", clip_folders.TINY_MERGES), length=6)
    map_file = clip_folders.write(tmp_path / "2", clip_folders.TINY_MERGES, "!", clip_folders.EOS)
    second = tokenizer.clip(map_file, length=6)
    dictionary = clip_folders.named("!", normalized=False)
    third = tokenizer.clip(
        clip_folders.write(tmp_path / "3", clip_folders.TINY_MERGES, dictionary), length=6
    )
    assert (first.pad, second.pad, third.pad) == (first.eos, 0, 0)
    assert first(["red"]).ids[0, 2:].tolist() == [first.eos] * 4
    assert second(["red"]).ids[0, 2:].tolist() == [second.eos, 0, 0, 0]
    assert second(["red"]).mask[0].tolist() == [True] * 3 + [False] * 3


def test_the_real_vocabulary(tmp_path):
    """Ids published for CLIP, and what "!" is where it is the padding."""
    merges = clip_folders.real_merges()
    first = tokenizer.clip(clip_folders.write(tmp_path / "1", merges))
    second = tokenizer.clip(clip_folders.write(tmp_path / "2", merges, "!", clip_folders.EOS))
    assert first.vocabulary == second.vocabulary == 49_408
    row = [49406, 592, 1535, 1200, 1700, 589, 49407]
    assert first(["You should've done this"]).ids[0].tolist() == row + [49407] * 70
    assert first.ids("! !! !!!") == [256, 748, 995]
    assert second.ids("! !! !!!") == [0] * 6
    assert first(["cat"]).ids[0].tolist() == [49406, 2368, 49407] + [49407] * 74
    assert second(["cat"]).ids[0].tolist() == [49406, 2368, 49407] + [0] * 74
    digits = first.ids("2026")
    assert len(digits) == 4
    assert first.ids("  A   Cat\n") == first.ids("a cat")


def test_what_clips_folder_holds_is_read_in_either_form(tiny, tmp_path):
    """transformers 5 writes tokenizer.json and tokenizer_config.json alone."""
    new = tmp_path / "new"
    new.mkdir()
    merges = [" ".join(pair) for pair in clip_folders.TINY_MERGES]
    vocabulary = clip_folders.vocabulary(clip_folders.TINY_MERGES)
    for pairs in (merges, clip_folders.TINY_MERGES):
        held = {"model": {"type": "BPE", "vocab": vocabulary, "merges": pairs}, "added_tokens": []}
        (new / "tokenizer.json").write_text(json.dumps(held))
        assert tokenizer.clip(new, length=8).ids("A red fox, I've") == tiny.ids("A red fox, I've")
    assert tiny.count("red fox") == 2


DAMAGE = {
    "vocab.json": [None, "{", '{"a": 1', "[1]", '{"a": "x"}', '{"a": -1}', "\xff"],
    "merges.txt": [None, "#version: 0.2\nr", "r e\nre d</w> x\n", "r e\nz q\n"],
    "tokenizer_config.json": ["", "{", "[]", '{"added_tokens_decoder": [1]}'],
    "special_tokens_map.json": ["nothing", '{"pad_token": 3}', '{"eos_token": {"text": "x"}}'],
    "tokenizer.json": ["{}", '{"model": {"vocab": {}, "merges": 3}}', '{"model": 1}', "{"],
    "added_tokens.json": ['{"<fox>": "x"}', '{"<fox>": 7}'],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in DAMAGE.items() for text in texts]
)
def test_a_damaged_folder_of_clip_is_one_error_that_names_the_file(name, text, tmp_path):
    folder = clip_folders.write(tmp_path / "clip", clip_folders.TINY_MERGES)
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"clip") as raised:
        tokenizer.clip(folder)
    said = str(raised.value)
    assert "\n" not in said
    assert name in said or "'<fox>' has the id 7" in said or "vocabulary has not" in said


def test_merges_that_end_too_soon_are_seen(tmp_path):
    """Cut between two lines, as by a full disk."""
    merges = [(chr(97 + i), chr(97 + j)) for i in range(10) for j in range(10)]
    folder = clip_folders.write(tmp_path, merges)
    tokenizer.clip(folder)
    lines = (folder / "merges.txt").read_text().split("\n")
    (folder / "merges.txt").write_text("\n".join(lines[:60]) + "\n")
    with pytest.raises(ValueError, match=r"merges.txt is cut short: it makes 41 tokens"):
        tokenizer.clip(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({EOS: None}, r"clip: the unk_token '<\|endoftext\|>' is not in the vocabulary"),
        ({EOS: 512}, r"vocab\.json: '<\|startoftext\|>' and '<\|endoftext\|>' have one id, 512"),
        ({"a": None, "b": None}, r"clip: .* each of the 256 bytes, and lacks 2, such as 'a'"),
    ],
)
def test_a_vocabulary_that_loses_letters_is_refused(change, message, tmp_path):
    folder = clip_folders.write(tmp_path / "clip", [])
    held = clip_folders.vocabulary([]) | change
    kept = {token: i for token, i in held.items() if i is not None}
    (folder / "vocab.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=message):
        tokenizer.clip(folder)


def test_the_beginning_is_not_the_end(tmp_path):
    folder = clip_folders.write(tmp_path / "clip", [])
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": EOS}))
    with pytest.raises(ValueError, match="clip: the bos_token and the eos_token are one, 513"):
        tokenizer.clip(folder)


def test_an_empty_special_token_is_refused(tmp_path):
    folder = clip_folders.write(tmp_path, clip_folders.TINY_MERGES, clip_folders.named(""))
    with pytest.raises(ValueError, match="the pad_token '' is not in the vocabulary"):
        tokenizer.clip(folder)


def test_folders_that_hold_nothing(tmp_path):
    for maker in (tokenizer.clip, tokenizer.t5):
        with pytest.raises(ValueError, match="nowhere is no folder"):
            maker(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds neither tokenizer.json nor vocab.json and"):
        tokenizer.clip(tmp_path)
    with pytest.raises(ValueError, match=r"holds no tokenizer.json"):
        tokenizer.t5(tmp_path)


PIECES = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -3.0], ["▁red", -1.0], ["s", -2.0]]


def t5_folder(folder, **changes):
    model = {"type": "Unigram", "unk_id": 2, "vocab": PIECES}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model} | changes), "utf-8")
    return folder


def test_t5_has_an_end_and_no_beginning(tmp_path, caplog):
    made = tokenizer.t5(t5_folder(tmp_path), length=4)
    assert (made.bos, made.eos, made.pad) == (None, 1, 0)
    assert made(["red  reds", ""]).ids.tolist() == [[4, 4, 5, 1], [1, 0, 0, 0]]
    with caplog.at_level(logging.WARNING):
        assert made(["red red red red"]).ids.tolist() == [[4, 4, 4, 1]]
    assert "1 of 1 texts are longer than 3 tokens; cut off: 'red'" in caplog.text.replace("' ", "'")
    assert made.chunks("red red red red").ids.tolist() == [[4, 4, 4, 1], [4, 1, 0, 0]]
    assert made.ids("x") == [3, 2]
    assert made.vocabulary == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "BPE", "vocab": {}}}, "holds no unigram model"),
        ({"model": {"vocab": [["a", "x"]], "unk_id": 0}}, "damaged unigram model"),
        ({"model": {"vocab": [], "unk_id": 0}}, "damaged unigram model"),
        ({"model": {"vocab": PIECES}}, "damaged unigram model: it has no unk_id"),
        ({"normalizer": {"precompiled_charsmap": "é"}}, "precompiled_charsmap is damaged"),
        ({"normalizer": {"precompiled_charsmap": "AAAA"}}, "precompiled_charsmap is damaged"),
        ({"added_tokens": [{"content": "a"}]}, "added_tokens are damaged"),
        ({"model": {"vocab": PIECES, "unk_id": 99}, "normalizer": None}, "damaged unigram model"),
        ({"normalizer": {"normalizers": 3}, "added_tokens": 3}, "added_tokens are damaged"),
    ],
)
def test_a_damaged_folder_of_t5_is_one_error(changes, message, tmp_path):
    with pytest.raises(ValueError, match=rf"tokenizer.json.*{message}"):
        tokenizer.t5(t5_folder(tmp_path, **changes))


def varint(value):
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def field(number, value):
    """A field of a protocol buffer: an integer, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(name, score, kind=1):
    """A piece as SentencePiece writes it: its name, its score in float32, its type."""
    score = varint(2 << 3 | 5) + struct.pack("<f", score)
    return field(1, field(1, name.encode()) + score + field(3, kind))


def spiece(pieces=PIECES, trainer=None):
    trainer = field(3, 1) + field(4, 32_000) + field(40, 2) if trainer is None else trainer
    normaliser = field(3, field(1, b"nmt_nfkc") + field(3, 1))
    return b"".join(piece(*each) for each in pieces) + field(2, trainer) + normaliser


def test_a_sentencepiece_model_is_the_same_tokenizer_with_t5s_extra_tokens(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "old" / "spiece.model").write_bytes(spiece())
    old, new = tokenizer.t5(tmp_path / "old", length=6), tokenizer.t5(t5_folder(tmp_path / "new"))
    for text in ("red  reds", "", "red x s", "reds" * 9):
        assert old.ids(text) == new.ids(text)
    assert (old.bos, old.eos, old.pad) == (None, 1, 0)
    assert old.vocabulary == len(PIECES) + 100
    assert old.ids("red <extra_id_0><extra_id_99>") == [4, len(PIECES) + 99, len(PIECES)]
    assert tokenizer.read(tmp_path / "old", length=6) == old


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no unigram model"),
        (b"\x0a", "is damaged, or no SentencePiece model"),
        (spiece()[:-3], "is damaged"),
        (spiece()[:40], "is damaged"),
        (b"\xff" * 40, "is damaged"),
        (field(1, 7), "is damaged"),
        (field(1, field(2, b"\0\0\0\0")), "is damaged"),
        (field(1, field(1, b"\xff")), "is damaged"),
        (b"\x0b", "is damaged"),
        (spiece(trainer=field(3, 2)), "holds no unigram model"),
        (spiece(trainer=field(40, 999)), "holds a damaged unigram model"),
        (spiece(trainer=field(40, b"x")), "is damaged"),
        (spiece() + field(3, field(2, b"AAAA")), "holds a damaged unigram model"),
    ],
)
def test_a_damaged_sentencepiece_model_is_one_error(content, message, tmp_path):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(ValueError, match=rf"spiece.model {message}") as refused:
        tokenizer.t5(tmp_path)
    assert "\n" not in str(refused.value)


def test_wrong_texts_and_fields_are_refused(learned, unchecked_types):
    for texts in ("one text", b"bytes", 3, None, [3], [b"x"], ["a", None]):
        with pytest.raises(ValueError, match=r"must be a list of texts|must be a string"):
            learned(texts)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        learned.ids("a\ud83e")
    for field, value in {
        "length": (2, 0, 2.0, True, 10**7),
        "eos": (-1, None, "1", 2**31),
        "pad": (-1, 0.5),
        "bos": (-1, "a"),
        "json": ("", "{}", "nothing"),
    }.items():
        for wrong in value:
            fields = {"json": learned.json, "length": 12, "eos": 1, "pad": 2, "bos": 3}
            with pytest.raises(ValueError, match=field):
                Tokenizer(**fields | {field: wrong})
    for wrong in (258, 2**20, 300.0, None):
        with pytest.raises(ValueError, match="size must be a whole number from 259"):
            tokenizer.learned(CAPTIONS, size=wrong, length=9)
    for captions in ([], "a caption"):
        with pytest.raises(ValueError, match=r"captions must be|must be a list"):
            tokenizer.learned(captions, size=300, length=9)
    for size in (0, 11, 1.5):
        with pytest.raises(ValueError, match="size must be a whole number from 1 to 10"):
            learned.chunks("a", size)
    for wrong in (0, 10**9):
        with pytest.raises(ValueError, match="at_least must be a whole number from 1 to 1000"):
            learned.chunks("a", at_least=wrong)
        with pytest.raises(ValueError, match="chunks must be a whole number from 1 to 1000"):
            learned(["a"], chunks=wrong)
    for wrong in (-1, learned.vocabulary):
        with pytest.raises(ValueError, match=r"ids must lie in \[0, \d+\), got"):
            learned.rows([[1], [wrong]])
    with pytest.raises(ValueError, match="a row has room for 10 tokens of text, got 11"):
        learned.rows([[1] * 11])
    for text in (
        "",
        "{",
        "[]",
        "3",
        100_000 * "[",
        '{"length": 3}',
        learned.json,
        learned.to_json()[:-9],
    ):
        with pytest.raises(ValueError, match=r"no tokenizer of Tokenizer\.to_json"):
            Tokenizer.from_json(text)
