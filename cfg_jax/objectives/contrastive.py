"""CLIP's objective: each picture's own caption among those of the batch, and the other way round.

    ℓ_i = -½ Σ_j t_ij [log softmax_j(s f_i·g_j) + log softmax_j(s f_j·g_i)]

f are the embeddings of the data, g those of the sentences, s the learned scale (Radford et al.
2021, "Learning Transferable Visual Models From Natural Language Supervision", Figure 3). A sentence
that occurs k times in a batch is no negative of its own examples: the target t_ij is 1/k wherever
sentence j equals sentence i (Yang et al. 2022, "Unified Contrastive Learning in Image-Text-Label
Space", Equation 3). Where all differ that is Radford et al.'s.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cfg_jax.diffusion import checks, process
from cfg_jax.objectives.draw import Draw, draw
from cfg_jax.parts import Ask, Condition, Setting


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive:
    """The symmetric InfoNCE, in nats, of a network `(z, logsnr, cond) -> Embeddings`.

    The negatives of an example are all others of the global batch, so a batch cannot be taken in
    parts.

    Attributes:
      noisy: Whether the network sees z_λ at levels drawn from the schedule, as guiding by it on z_λ
        needs; else it sees data at the schedule's largest λ alone.

    Raises:
      ValueError: noisy is no bool.
    """

    noisy: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self):
        checks.truth("noisy", self.noisy)

    kind = None
    """It predicts no part of z."""

    compares = True
    """An example's loss depends on the others of the batch."""

    def draw(
        self, key: jax.Array, x: Float[Array, "batch ..."], cond: Condition, setting: Setting
    ) -> Draw:
        """Draws λ and ε.

        Raises:
          ValueError: There is not one entry, or training hides it.
        """
        if len(cond) != 1:
            raise ValueError(
                "Contrastive compares data with one entry of the condition, the sentence; "
                f"got {', '.join(cond) or 'none'}"
            )
        (name,) = cond
        if setting.p_uncond[name]:
            raise ValueError(f"Contrastive always sees {name}: its p_uncond must be 0")
        drawn = draw(key, x, cond, setting)
        if self.noisy:
            return drawn
        return drawn._replace(logsnr=jnp.full_like(drawn.logsnr, setting.schedule.logsnr_max))

    def losses(self, ask: Ask, drawn: Draw) -> Float[Array, " batch"]:
        """Each example's mean of both directions.

        Raises:
          ValueError: The network returns no embeddings.
        """
        z = process.forward(drawn.x, drawn.eps, logsnr=drawn.logsnr)
        found = ask(z, drawn.logsnr, drawn.cond)
        if not hasattr(found, "image"):
            raise ValueError(
                "Contrastive needs a network that embeds data and sentences, such as Towers"
            )
        logits = found.scale * jnp.matmul(found.image, found.text.T, precision="highest")
        return contrastive(logits, equal(drawn.cond))


def contrastive(
    logits: Float[Array, "batch batch"], same: Bool[Array, "batch batch"]
) -> Float[Array, " batch"]:
    """Each example's loss, the mean of both directions, see the module.

    Args:
      logits: Of data i and sentence j.
      same: Where sentence j is that of example i.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.objectives.contrastive import contrastive
    >>> [round(loss.item(), 4) for loss in contrastive(jnp.zeros((3, 3)), jnp.eye(3, dtype=bool))]
    [1.0986, 1.0986, 1.0986]
    """
    target = same / same.sum(1, keepdims=True)
    to_text = jax.nn.log_softmax(logits, axis=1)
    to_image = jax.nn.log_softmax(logits, axis=0).T
    return -0.5 * jnp.sum(target * (to_text + to_image), axis=1)


def equal(cond: Condition) -> Bool[Array, "batch batch"]:
    """Where two examples have the same condition, in every array of it.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.objectives.contrastive import equal
    >>> equal({"text": jnp.array([[1, 2], [1, 3], [1, 2]])})[0].tolist()
    [True, False, True]
    """
    rows = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(cond)]
    found = [(row[:, None] == row[None]).all(-1) for row in rows]
    return jnp.stack(found).all(0)
