"""Recipes: which objects make a model and train it, with which fields, as plain values.

`default()` is a whole recipe; `node` writes a kind and its fields, `make` makes the object.
"""

from cfg_jax.recipe.blocks import block
from cfg_jax.recipe.checks import check, check_reading
from cfg_jax.recipe.claims import claim
from cfg_jax.recipe.defaults import default
from cfg_jax.recipe.description import (
    Description,
    copied,
    describe,
    differences,
    flatten,
    from_json,
    to_json,
    unflatten,
)
from cfg_jax.recipe.nodes import make, node
from cfg_jax.recipe.overrides import override, override_all

__all__ = [
    "Description",
    "block",
    "check",
    "check_reading",
    "claim",
    "copied",
    "default",
    "describe",
    "differences",
    "flatten",
    "from_json",
    "make",
    "node",
    "override",
    "override_all",
    "to_json",
    "unflatten",
]
