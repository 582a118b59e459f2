"""Tokenizers: texts to rows of token ids of one length, those of CLIP and T5 or learned ones."""

import dataclasses
import functools
import json as json_text
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Bool, Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from cfg_jax.diffusion.checks import told, whole
from cfg_jax.text import tokenizer_files

_LOG = logging.getLogger(__name__)

BYTES = 256
"""Values of a byte, each a token of a learned vocabulary."""

OWN_TOKENS = 3
"""Padding, beginning and end of a learned vocabulary."""

LONGEST_WORD = 256
"""Bytes that are learned of as one word; the time it takes grows with their square."""

LARGEST = 1_000_000
"""More tokens a row, or more entries of a vocabulary, are a mistake."""

MOST_CHUNKS = 1_000
"""More rows of one text are a mistake."""

NAMED = 3
"""So many texts are named in a warning; the others are counted."""


class Tokens(NamedTuple):
    """Rows of token ids.

    Attributes:
      ids: int32 (rows, length).
      mask: bool (rows, length): True for the text, its beginning and its end, False for padding.
    """

    ids: Int[np.ndarray, "rows length"]
    mask: Bool[np.ndarray, "rows length"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Makes rows of token ids of texts; made by `clip`, `t5` or `learned`.

    It is hashable and equal to one of the same content, so it may be a static field, and it can be
    pickled. A row is the beginning (if there is one), the text, the end, and padding.

    Attributes:
      json: The tokenizer of the package `tokenizers`, as its `to_str` writes it.
      length: Tokens of a row, at most a million.
      eos: The id of the end.
      pad: The id of the padding.
      bos: The id of the beginning; None for a tokenizer without one, as T5's.

    Raises:
      ValueError: A field is none of these, or a row has no place for text. When called: a text is
        no string, or holds half of a surrogate pair.

    >>> from cfg_jax.text import tokenizer
    >>> ours = tokenizer.learned(["a red fox", "a red hen"], size=300, length=6)
    >>> ids, mask = ours(["A red fox", ""])
    >>> ids.shape, mask.sum(1).tolist(), ids[1, :2].tolist() == [ours.bos, ours.eos]
    ((2, 6), [6, 2], True)
    """

    json: str = dataclasses.field(repr=False)
    length: int
    eos: int
    pad: int
    bos: int | None = None

    def __post_init__(self):
        _backend(self.json)
        for name in ("eos", "pad", "bos"):
            if name != "bos" or self.bos is not None:
                value = whole(name, getattr(self, name), 0, 2**31 - 1)
                object.__setattr__(self, name, value)
        least = len(self._beginning) + 2
        object.__setattr__(self, "length", whole("length", self.length, least, LARGEST))

    @property
    def vocabulary(self) -> int:
        """How many entries a table of embeddings needs: one more than the largest id."""
        own = [self.eos, self.pad, *self._beginning]
        return max(_backend(self.json).size, max(own) + 1)

    @property
    def room(self) -> int:
        """How many tokens of text a row holds."""
        return self.length - len(self._beginning) - 1

    @property
    def _beginning(self) -> list[int]:
        return [] if self.bos is None else [self.bos]

    def ids(self, text: str) -> list[int]:
        """The ids of a text alone, without beginning, end and padding."""
        return _encoded(self.json, [text])[0].ids

    def count(self, text: str) -> int:
        """How many tokens a text has, without beginning and end."""
        return len(self.ids(text))

    def __call__(self, texts: Sequence[str], *, chunks: int = 1) -> Tokens:
        """A row for each text; one warning names the ends that are cut off.

        Of a text that is too long, the first tokens are kept, and the end put behind them.

        Args:
          texts: The texts.
          chunks: A text goes on over so many rows, as in `chunks`, which become one of chunks *
            length tokens.
        """
        rows: list[list[int]] = []
        lost = []
        listed = _listed(texts)
        room = self.room * whole("chunks", chunks, 1, MOST_CHUNKS)
        for text, encoded in zip(listed, _encoded(self.json, listed), strict=True):
            if len(encoded.ids) > room:
                lost.append(text[encoded.offsets[room][0] :])
            rows += (encoded.ids[i : i + self.room] for i in range(0, room, self.room))
        if lost:
            more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
            _LOG.warning(
                "%d of %d texts are longer than %d tokens; cut off: %s%s",
                len(lost),
                len(listed),
                room,
                ", ".join(told(end) for end in lost[:NAMED]),
                more,
            )
        made = self.rows(rows)
        return Tokens(*(part.reshape(len(listed), chunks * self.length) for part in made))

    def rows(self, texts: Sequence[Sequence[int]]) -> Tokens:
        """A row for each text of ids, as `ids` gives them.

        Raises:
          ValueError: One has more than `room` ids, or one that no token has.
        """
        known = self.vocabulary
        ids = np.full((len(texts), self.length), self.pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, text in enumerate(texts):
            if len(text) > self.room:
                raise ValueError(f"a row has room for {self.room} tokens of text, got {len(text)}")
            if text and not 0 <= min(text) <= max(text) < known:
                raise ValueError(f"ids must lie in [0, {known}), got {told(text)}")
            row = [*self._beginning, *text, self.eos]
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return Tokens(ids, mask)

    def chunks(self, text: str, size: int | None = None, *, at_least: int = 1) -> Tokens:
        """A long text as several rows, each with a beginning and an end of its own.

        Where padding is not the end's id, all that follows a row's first end is padding.

        Args:
          text: The text.
          size: Tokens of text a row; `room` of them if None.
          at_least: How many rows there are at least: rows of no text follow, which is how a shorter
            negative prompt grows to the length of the prompt.

        Raises:
          ValueError: size is no whole number from 1 to `room`, or at_least is none from 1 to 1,000.
        """
        return self.chunked(self.ids(text), size, at_least=at_least)

    def chunked(self, ids: Sequence[int], size: int | None = None, *, at_least: int = 1) -> Tokens:
        """`chunks` of ids, as `ids` gives them."""
        size = self.room if size is None else whole("size", size, 1, self.room)
        parts = [list(ids[i : i + size]) for i in range(0, len(ids), size)]
        parts += [[]] * (whole("at_least", at_least, 1, MOST_CHUNKS) - len(parts))
        if self.pad != self.eos:
            parts = [part[: part.index(self.eos)] if self.eos in part else part for part in parts]
        return self.rows(parts)

    def to_json(self) -> str:
        """All of it as one text of JSON, which `from_json` reads."""
        return json_text.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Tokenizer":
        """The tokenizer that `to_json` wrote.

        Raises:
          ValueError: The text is damaged.
        """
        try:
            fields = json_text.loads(text)
            return cls(**fields)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"this is no tokenizer of Tokenizer.to_json: {error}") from None


def clip(folder: str | Path, *, length: int = 77) -> Tokenizer:
    """CLIP's tokenizer of a folder (Radford et al. 2021, Section 2.4): byte pairs, lower-cased.

    Ids are those that transformers gives for the same folder. Where the folder's padding is "!",
    as in Stable Diffusion 2, each "!" of a text is padding too, which CLIP's own code would not do.

    Args:
      folder: It holds vocab.json and merges.txt, or tokenizer.json; tokenizer_config.json and
        special_tokens_map.json, if there, name the tokens of beginning, end and padding.
      length: Tokens of a row.

    Raises:
      ValueError: A file is missing or damaged; it is named.
    """
    return Tokenizer(**tokenizer_files.clip(folder)._asdict(), length=length)


def t5(folder: str | Path, *, length: int = 256) -> Tokenizer:
    """T5's tokenizer of a folder (Raffel et al. 2020, Section 2.4.1), as transformers has it.

    Args:
      folder: It holds tokenizer.json, or a SentencePiece model such as spiece.model.
      length: Tokens of a row.

    Raises:
      ValueError: A file is missing or damaged; it is named.
    """
    return Tokenizer(**tokenizer_files.t5(folder)._asdict(), length=length)


def read(folder: str | Path, *, length: int) -> Tokenizer:
    """The tokenizer of a folder: T5's where it holds a unigram model, else CLIP's.

    Args:
      folder: As `clip` and `t5` take it.
      length: Tokens of a row.

    Raises:
      ValueError: A file is missing or damaged; it is named.
    """
    kind = tokenizer_files.t5 if tokenizer_files.is_unigram(folder) else tokenizer_files.clip
    return Tokenizer(**kind(folder)._asdict(), length=length)


def learned(captions: Iterable[str], *, size: int, length: int) -> Tokenizer:
    """Byte pairs learned from captions, lower-cased (Sennrich et al. 2016; Radford et al. 2019).

    The merges start from all 256 bytes: any text has ids, and no token is unknown. The ids of
    padding, beginning and end follow those of text, which no text can have; the end's is the
    largest. The same captions, in any order, give the same tokenizer.

    Args:
      captions: What it learns from.
      size: Entries of the vocabulary, from 259 to a million; few captions make fewer.
      length: Tokens of a row.

    Raises:
      ValueError: size or length is out of range, or there are no captions.
    """
    whole("size", size, BYTES + OWN_TOKENS, LARGEST)
    listed = _listed(captions)
    if not listed:
        raise ValueError("captions must be at least one text, got none")
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=True),
            pre_tokenizers.Split(tokenizers.Regex(f".{{{LONGEST_WORD}}}"), behavior="isolated"),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - OWN_TOKENS,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(listed, trainer)
    pad = made.get_vocab_size()
    return Tokenizer(json=made.to_str(), length=length, pad=pad, bos=pad + 1, eos=pad + 2)


class _Backend(NamedTuple):
    tokenizer: tokenizers.Tokenizer
    size: int


@functools.lru_cache(maxsize=16)
def _backend(json: str) -> _Backend:
    """The tokenizer of the package, and one more than its largest id."""
    try:
        made = tokenizers.Tokenizer.from_str(json)
    except Exception as error:  # the package raises no other class
        raise ValueError(f"json must be a tokenizer of the package tokenizers: {error}") from None
    made.no_truncation()
    made.no_padding()
    return _Backend(made, max(made.get_vocab().values(), default=-1) + 1)


def _encoded(json: str, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """The texts as the package encodes them, all at once, which leaves other threads free."""
    listed = [_text(text) for text in texts]
    return _backend(json).tokenizer.encode_batch(listed, add_special_tokens=False)


def _text(text: Any) -> str:
    """The text, checked."""
    if not isinstance(text, str):
        raise ValueError(f"a text must be a string, got {told(text)}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"a text holds half of a surrogate pair: {told(text)}") from None
    return text


def _listed(texts: Any) -> list[str]:
    """The texts as a list, checked."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise ValueError(f"texts must be a list of texts, got {told(texts)}")
    return [_text(text) for text in texts]
