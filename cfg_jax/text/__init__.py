"""Tokenizers and text encoders: texts to token ids, and those to what a network attends to."""

from cfg_jax.text.clip import CLIPText
from cfg_jax.text.encoded import Encoded, joined
from cfg_jax.text.t5 import T5Encoder
from cfg_jax.text.tokenizer import Tokenizer, Tokens

ENCODERS = {kind.__name__: kind for kind in (CLIPText, T5Encoder)}
"""The encoders by the names that recipes use."""

__all__ = ["ENCODERS", "CLIPText", "Encoded", "T5Encoder", "Tokenizer", "Tokens", "joined"]
