"""Captions: sentences as sequences of vectors that a network attends to."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from cfg_jax import parts
from cfg_jax.diffusion import checks
from cfg_jax.nn.fields import one_of
from cfg_jax.parts import Attended, Conditioner, Facts
from cfg_jax.runtime.files import read_text
from cfg_jax.text import CLIPText, Tokenizer, Tokens, tokenizer, weights
from cfg_jax.text.weights import CONVENTIONS, Weighted

_ENCODER = CLIPText(width=128, layers=3, heads=4, activation="gelu", pool="argmax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Conditioner):
    """A caption, encoded by a transformer that is trained along with the network.

    Captions become tokens on the host, and the encoder's states once a sample, before the first
    step; padding is hidden from the network. The null is a single token that no caption has: the
    network learns what it means.

    Attributes:
      p_uncond: How often training hides the caption.
      guided: Whether guidance compares with the null.
      folder: Where CLIP's tokenizer lies, see `tokenizer.clip`; "" learns byte pairs from the
        captions of the data.
      vocabulary: How many tokens there are, at most.
      length: Tokens of a caption, its beginning and its end among them; a longer one is cut, with a
        warning.
      weights: How "(a word:1.3)" is read: "a1111", "a1111_no_norm" or "comfyui", see
        `weights.parse`; "" takes brackets for text.
      encoder: (ids, mask) -> `Encoded`, such as `CLIPText`.

    Raises:
      ValueError: A value is out of range.
    """

    p_uncond: float = 0.1
    folder: str = ""
    vocabulary: int = 512
    length: int = 32
    weights: str = ""
    encoder: Any = _ENCODER
    name: str = dataclasses.field(default="text", repr=False, metadata=parts.BOUND)

    flag = "prompt"
    negative_flag = "negative"
    help = "a sentence, or @FILE with one a line; captions of held-out examples if not given"

    def __post_init__(self):
        super().__post_init__()
        checks.whole("vocabulary", self.vocabulary, 259, 1_000_000)
        checks.whole("length", self.length, 3, 1_000_000)
        one_of("weights", self.weights, ("", *CONVENTIONS))
        if not isinstance(self.folder, str):
            raise ValueError(f"folder must be a path, got {checks.told(self.folder)}")
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
        sizes = {"vocabulary": self.vocabulary + 1, "length": self.length, "eos": self.vocabulary}
        known = {field: size for field, size in sizes.items() if hasattr(self.encoder, field)}
        return dataclasses.replace(self, encoder=self.encoder.clone(**known), name=name)

    def frozen(self) -> Mapping[str, Any]:
        """The folder's tokenizer, as the bytes of its JSON text.

        Raises:
          ValueError: It cannot be read, or has more tokens than `vocabulary`.
        """
        if not self.folder:
            return {}
        made = tokenizer.clip(self.folder, length=self.length)
        if made.vocabulary > self.vocabulary:
            raise ValueError(
                f"vocabulary must be at least the {made.vocabulary} tokens of {self.folder}, "
                f"got {self.vocabulary}"
            )
        return _kept(made)

    def learned(self, texts: Iterable[str]) -> Mapping[str, Any]:
        """A tokenizer of the captions, where no folder holds one."""
        if self.folder:
            return {}
        return _kept(tokenizer.learned(texts, size=self.vocabulary, length=self.length))

    @property
    def inlet(self) -> parts.Sequence:
        """As many vectors as tokens, padding masked."""
        return parts.Sequence(self.length, self.encoder.width, masked=True)

    @property
    def null(self) -> Tokens | Weighted:
        """One token behind all others."""
        first = np.arange(self.length) == 0
        null = Tokens(np.full(self.length, self.vocabulary, np.int32), first)
        return Weighted(null, np.ones(self.length, np.float32), null) if self.weights else null

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
        return weights.rows(texts, made, self.weights) if self.weights else made(texts)

    def encoded(self, params: Mapping[str, Any], entry: Any) -> Attended:
        """The encoder's states, weighted."""

        def states(tokens: Tokens) -> jax.Array:
            return self.encoder.apply(params["encoder"], *tokens).sequence

        if not self.weights:
            return Attended(states(entry), entry.mask)
        z, empty = states(entry.tokens), states(entry.empty)
        return Attended(
            weights.weigh(z, entry.weights, self.weights, empty=empty), entry.tokens.mask
        )

    def parse(self, text: str) -> list[str]:
        """A sentence, or those of a file.

        Raises:
          ValueError: The file cannot be read, or is empty.
        """
        if not text.startswith("@"):
            return [text]
        lines = read_text(text[1:]).splitlines()
        if not lines:
            raise ValueError(f"{text[1:]} holds no sentence")
        return lines

    def lend(self, examples, x):
        """The first caption of each example."""
        return [example[self.name][0] for example in examples]


def _kept(made: Tokenizer) -> Mapping[str, Any]:
    return {"tokenizer": np.frombuffer(made.to_json().encode(), np.uint8)}


@functools.lru_cache(maxsize=8)
def _tokenizer(json: bytes) -> Tokenizer:
    """The tokenizer of a JSON text."""
    return Tokenizer.from_json(json.decode())
