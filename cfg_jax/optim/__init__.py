"""How training descends, and the moving averages of what it finds."""

from cfg_jax.optim.adam import adam
from cfg_jax.optim.averages import Average, Constant, Power

OPTIMISERS = {"Adam": adam}
"""The optimisers by the names that recipes use; any optax transformation is one by its path."""

AVERAGES = {kind.__name__: kind for kind in (Constant, Power)}
"""The averages by the names that recipes use."""

__all__ = ["AVERAGES", "OPTIMISERS", "Average", "Constant", "Power", "adam"]
