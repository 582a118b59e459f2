"""Captions: sentences as sequences of vectors that a network attends to."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import parts
from cfg_jax.diffusion import checks
from cfg_jax.nn.fields import one_of
from cfg_jax.parts import Attended, Conditioner, Facts
from cfg_jax.runtime.files import read_text
from cfg_jax.text import CLIPText, Tokenizer, Tokens, pretrained, tokenizer, weights
from cfg_jax.text.weights import CONVENTIONS, Weighted

_ENCODER = CLIPText(width=128, layers=3, heads=4, activation="gelu", pool="argmax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Conditioner):
    """A caption, encoded by a transformer: trained along with the network, or as others trained it.

    Captions become tokens on the host, and the encoder's states once a sample, before the first
    step. The null of an encoder that is trained along is a single token that no caption has: the
    network learns what it means. That of another is the empty caption, as in Stable Diffusion.

    Attributes:
      p_uncond: How often training hides the caption.
      guided: Whether guidance compares with the null.
      folder: Where the tokenizer lies, see `tokenizer.read`; "" takes that of `pretrained`, or
        learns byte pairs from the captions of the data.
      pretrained: Where a text encoder lies, see `pretrained.read`: its weights are taken when
        training begins, and stay as they are. "" trains `encoder` along.
      vocabulary: How many tokens there are, at most; with `pretrained`, exactly those of its table.
      length: Tokens of a caption, its beginning and its end among them; a longer one is cut, with a
        warning.
      chunks: A caption goes on over so many rows of `length` tokens, each with a beginning and an
        end of its own and encoded by itself, before it is cut; the network attends to all of them.
      weights: How "(a word:1.3)" is read: "a1111", "a1111_no_norm" or "comfyui", see
        `weights.parse`; "" takes brackets for text.
      masked: Whether padding is hidden from the network; Stable Diffusion's attend to it.
      encoder: (ids, mask) -> `Encoded`, such as `CLIPText`.

    Raises:
      ValueError: A value is out of range.
    """

    p_uncond: float = 0.1
    folder: str = ""
    pretrained: str = ""
    vocabulary: int = 512
    length: int = 32
    chunks: int = 1
    weights: str = ""
    masked: bool = True
    encoder: Any = _ENCODER
    name: str = dataclasses.field(default="text", repr=False, metadata=parts.BOUND)

    trained = ("folder", "pretrained", "vocabulary", "length", "chunks", "encoder")
    """Fields that sampling cannot change."""

    flag = "prompt"
    negative_flag = "negative"
    help = "a sentence, or @FILE with one a line; captions of held-out examples if not given"

    def __post_init__(self):
        super().__post_init__()
        checks.whole("vocabulary", self.vocabulary, 259, 1_000_000)
        checks.whole("length", self.length, 3, 1_000_000)
        checks.whole("chunks", self.chunks, 1, tokenizer.MOST_CHUNKS)
        one_of("weights", self.weights, ("", *CONVENTIONS))
        checks.truth("masked", self.masked)
        for name in ("folder", "pretrained"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a path, got {checks.told(getattr(self, name))}")
        if not hasattr(self.encoder, "clone") or not hasattr(self.encoder, "width"):
            raise ValueError(
                f"encoder must be an encoder of tokens, such as CLIPText(), "
                f"got {checks.told(self.encoder)}"
            )

    def bind(self, name: str, facts: Facts) -> "Text":
        """Finds that the data have such texts, and fits the encoder to the tokens."""
        if name not in facts.texts:
            has = ", ".join(facts.texts) or "none"
            raise ValueError(f"{name} is a Text, and the data have no such texts; they have {has}")
        ids = self.vocabulary + (not self.pretrained)
        sizes = {"vocabulary": ids, "length": self.length, "eos": ids - 1}
        known = {field: size for field, size in sizes.items() if hasattr(self.encoder, field)}
        return dataclasses.replace(self, encoder=self.encoder.clone(**known), name=name)

    def begun(self, key: jax.Array) -> Any:
        """The encoder's variables before training; None where it is not trained along."""
        return None if self.pretrained else self.encoder.init(key, *self._rows(self._nothing))

    def frozen(self) -> Mapping[str, Any]:
        """The folder's tokenizer, as the bytes of its JSON text; the encoder, if it is given.

        Raises:
          ValueError: They cannot be read, or do not fit each other or the fields.
        """
        folder = self.folder or self.pretrained
        if not folder:
            return {}
        made = tokenizer.read(folder, length=self.length)
        if made.vocabulary > self.vocabulary:
            raise ValueError(
                f"vocabulary must be at least the {made.vocabulary} tokens of {folder}, "
                f"got {self.vocabulary}"
            )
        if not self.pretrained:
            return _kept(made)
        empty = jax.tree.map(lambda row: row[0], made([""]))
        variables = pretrained.read(self.pretrained, self.encoder)
        return {**_kept(made), "encoder": variables, "empty": empty._asdict()}

    def learned(self, texts: Iterable[str]) -> Mapping[str, Any]:
        """A tokenizer of the captions, where no folder holds one."""
        if self.folder or self.pretrained:
            return {}
        return _kept(tokenizer.learned(texts, size=self.vocabulary, length=self.length))

    @property
    def inlet(self) -> parts.Sequence:
        """As many vectors as tokens, padding masked."""
        return parts.Sequence(self.chunks * self.length, self.encoder.width, masked=True)

    @property
    def null(self) -> Tokens | Weighted:
        """One token behind all others; no token at all stands for the empty caption."""
        null = self._nothing
        return Weighted(null, np.ones(len(null.ids), np.float32), null) if self.weights else null

    @property
    def _nothing(self) -> Tokens:
        places = np.arange(self.chunks * self.length)
        if self.pretrained:
            return Tokens(np.zeros_like(places, np.int32), np.zeros_like(places, bool))
        first = places % self.length == 0
        return Tokens(np.full_like(places, self.vocabulary, np.int32), first)

    def read(self, params, batch, x):
        """The batch's tokens."""
        return batch[self.name]

    def given(self, value: Any, params: Any = None) -> Any:
        """Sentences as tokens of (batch, length), with their weights where those have a meaning.

        What this returned before is taken as well.

        Raises:
          ValueError: One is no text.
        """
        if isinstance(value, Weighted if self.weights else Tokens):
            return value
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, np.ndarray):
            texts = texts.tolist()
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
            raise ValueError(f"{self.name} must be sentences, got {checks.told(value)}")
        made = _tokenizer(bytes(np.asarray(params["tokenizer"])))
        if not self.weights:
            return made(texts, chunks=self.chunks)
        return weights.rows(texts, made, self.weights, chunks=self.chunks)

    def encoded(self, params: Mapping[str, Any], entry: Any) -> Attended:
        """The encoder's states, weighted."""

        def states(tokens: Tokens) -> jax.Array:
            return self.encoder.apply(params["encoder"], *self._rows(tokens)).sequence

        tokens = self._said(params, entry.tokens if self.weights else entry)
        z = states(tokens)
        if self.weights:
            empty = states(self._said(params, entry.empty))
            z = weights.weigh(z, self._rows(entry.weights), self.weights, empty=empty)
        z = z.reshape(*tokens.mask.shape, -1)
        return Attended(z, tokens.mask if self.masked else jnp.ones_like(tokens.mask))

    def _rows(self, entry: Any) -> Any:
        """Chunks one below the other, as the encoder takes them."""
        return jax.tree.map(lambda leaf: leaf.reshape(-1, self.length), entry)

    def _said(self, params: Mapping[str, Any], tokens: Tokens) -> Tokens:
        """The tokens, those of the empty caption where there are none."""
        if not self.pretrained:
            return tokens
        none = ~jnp.any(tokens.mask, axis=-1, keepdims=True)
        empty = Tokens(**jax.tree.map(lambda row: jnp.tile(row, self.chunks), params["empty"]))
        return jax.tree.map(lambda row, other: jnp.where(none, other, row), tokens, empty)

    def parse(self, text: str) -> list[str]:
        """A sentence, or those of a file.

        Raises:
          ValueError: The file cannot be read, or is empty.
        """
        if not text.startswith("@"):
            return [text]
        if text == "@":
            raise ValueError("@ names no file: give @FILE, or a sentence")
        held = read_text(text[1:])
        if not held.strip():
            raise ValueError(f"{text[1:]} holds no sentence")
        return [line.removesuffix("\r") for line in held.removesuffix("\n").split("\n")]

    def lend(self, examples, x):
        """The first caption of each example."""
        return [example[self.name][0] for example in examples]


def _kept(made: Tokenizer) -> Mapping[str, Any]:
    return {"tokenizer": np.frombuffer(made.to_json().encode(), np.uint8)}


@functools.lru_cache(maxsize=8)
def _tokenizer(json: bytes) -> Tokenizer:
    """The tokenizer of a JSON text."""
    return Tokenizer.from_json(json.decode())
