"""A small training state, as a loop carries one."""

from typing import Any, NamedTuple


class State(NamedTuple):
    """What a checkpoint holds."""

    step: Any
    params: Any
    ema: Any
