"""A noisy classifier, which learns from the draws that denoising learns from.

    E_{x,c} E_{λ ~ p(λ)} E_{ε ~ N(0, I)}  -log p_φ(c|z_λ)

(Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", Section 4.)
"""

import dataclasses
from collections.abc import Iterable

import jax
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.labels import label_log_prob
from cfg_jax.objectives.draw import Draw, draw
from cfg_jax.parts import Ask, Condition, Setting


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """The cross-entropy, in nats, of a network `(z, logsnr, {}) -> logits`.

    The network is not shown the condition: what it learns to tell is the entry `of`.

    Attributes:
      of: The name of the entry that holds the classes, never hidden; the only one when None.

    Raises:
      ValueError: of is no name.
    """

    of: str | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        if not isinstance(self.of, str | None):
            raise ValueError(f"of must be the name of an entry, got {checks.told(self.of)}")

    kind = None
    """It predicts no part of z."""

    def draw(
        self, key: jax.Array, x: Float[Array, "batch ..."], cond: Condition, setting: Setting
    ) -> Draw:
        """Draws λ and ε.

        Raises:
          ValueError: There is no such entry, or training hides it.
        """
        name = self.entry(cond)
        if setting.p_uncond[name]:
            raise ValueError(f"a classifier always sees {name}: its p_uncond must be 0")
        return draw(key, x, cond, setting)

    def entry(self, names: Iterable[str]) -> str:
        """The name of the entry that the network learns to tell.

        Raises:
          ValueError: It is not there, or nothing says which of several it is.
        """
        there = list(names)
        if self.of is None and len(there) == 1:
            return there[0]
        if self.of not in there:
            raise ValueError(
                f"of must name an entry of the condition, one of {', '.join(there) or 'none'}; "
                f"got {self.of!r}"
            )
        return self.of

    def losses(self, ask: Ask, drawn: Draw) -> Float[Array, " batch"]:
        """Each example's -log p(c|z_λ)."""
        return -label_log_prob(ask(drawn.z, drawn.logsnr, {}), drawn.cond[self.entry(drawn.cond)])
