"""The conditioners: each makes one named entry of a condition."""

from cfg_jax.conditions.attended_label import AttendedLabel
from cfg_jax.conditions.label import Label
from cfg_jax.conditions.small import Small
from cfg_jax.conditions.text import Text
from cfg_jax.conditions.together import (
    ENCODERS,
    Conditioners,
    encoded,
    encoded_null,
    given,
    hidden,
    hidden_null,
    inlets,
    named,
    negative,
    null,
    read,
    shown,
    tokenised,
)
from cfg_jax.conditions.vector import Vector

CONDITIONERS = {kind.__name__: kind for kind in (Label, AttendedLabel, Vector, Small, Text)}
"""The conditioners by the names that recipes use."""

__all__ = [
    "CONDITIONERS",
    "ENCODERS",
    "AttendedLabel",
    "Conditioners",
    "Label",
    "Small",
    "Text",
    "Vector",
    "encoded",
    "encoded_null",
    "given",
    "hidden",
    "hidden_null",
    "inlets",
    "named",
    "negative",
    "null",
    "read",
    "shown",
    "tokenised",
]
