"""What trains an autoencoder: that data come back, that latents are tame, that pictures look real.

    L = |x - x̂|ᵖ / e^s + s + kl_weight · KL / D + code_weight · L_codes + a · L_generator

The mean over an example's D entries stands in the place of Rombach et al.'s sum (2022,
"High-Resolution Image Synthesis with Latent Diffusion Models", Appendix G): every term is divided
by D, so that none changes its weight against the others with the size of the data.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cfg_jax.codecs import Coded, Moments, quantise
from cfg_jax.diffusion import checks, noise
from cfg_jax.diffusion.noise import Stream
from cfg_jax.objectives.draw import Losses, mean
from cfg_jax.parts import Condition, Setting

ERRORS = {"l1": jnp.abs, "l2": jnp.square}

MEMORY = 0.99
"""How much of a code's share the next step keeps."""

SMALLEST, LARGEST = 1e-4, 1e4
"""What keeps the adaptive weight finite, and within bounds (Esser et al. 2021, Equation 7)."""


class Examples(NamedTuple):
    """A batch of data to come back, each of (batch, ...).

    Attributes:
      x: The data.
      keys: One an example, of the sample of its latents.
      judged: Whether the discriminator's judgement counts already.
    """

    x: Float[Array, "batch *sides channels"]
    keys: Any
    judged: Bool[Array, " batch"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The error of what comes back from a codec, for the network `Coding`.

    Attributes:
      error: "l1", or "l2" for the squared error.
      learned_logvar: Whether the error is the negative log-likelihood of a distribution about x̂
        whose log-variance s is learned; else s is 0.
      kl_weight: Of KL(q(ẑ|x) ‖ N(0, 1)), for an autoencoder with Gaussian latents; not negative.
      code_weight: Of what draws codes and vectors together, for one with a codebook; not negative.
      dead: A code that is used less often than this share of an even use is put where a vector is,
        from 0, which leaves all where they are, below 1.
      perceptual: `(x, x̂) -> distances` of (batch,), both in [-1, 1], added to every entry's error,
        such as `LPIPS`; None for none.
      perceptual_weight: Its weight; not negative.
      judged_weight: Of the discriminator's judgement, where the network has one; not negative. It
        is multiplied by ‖∇ error‖ / ‖∇ judgement‖ at the decoder's last kernel.
      judged_from: The step from which it counts. The discriminator learns from the first.

    Raises:
      ValueError: A value is out of range.
    """

    error: str = dataclasses.field(default="l1", metadata={"static": True})
    learned_logvar: bool = dataclasses.field(default=False, metadata={"static": True})
    kl_weight: float = dataclasses.field(default=1e-6, metadata={"static": True})
    code_weight: float = dataclasses.field(default=1.0, metadata={"static": True})
    dead: float = dataclasses.field(default=0.03, metadata={"static": True})
    perceptual: Any = None
    perceptual_weight: float = dataclasses.field(default=1.0, metadata={"static": True})
    judged_weight: float = dataclasses.field(default=0.5, metadata={"static": True})
    judged_from: int = dataclasses.field(default=0, metadata={"static": True})

    kind = None
    """It predicts no part of z."""

    def __post_init__(self):
        if not isinstance(self.error, str) or self.error not in ERRORS:
            raise ValueError(
                f"error must be one of {', '.join(ERRORS)}; got {checks.told(self.error)}"
            )
        if self.perceptual is not None and not callable(self.perceptual):
            raise ValueError(
                "perceptual must be a callable (x, x̂) -> distances, got "
                f"{checks.told(self.perceptual)}"
            )
        checks.truth("learned_logvar", self.learned_logvar)
        checks.number("dead", self.dead, 0.0, 1.0, ends="[)")
        for name in ("kl_weight", "code_weight", "perceptual_weight", "judged_weight"):
            checks.number(name, getattr(self, name), 0.0)
        checks.whole("judged_from", self.judged_from, 0, 1_000_000_000)

    def ready(self) -> "Reconstruction":
        """The objective with what its perceptual distance reads before training."""
        if not hasattr(self.perceptual, "ready"):
            return self
        return dataclasses.replace(self, perceptual=self.perceptual.ready())

    def draw(
        self,
        key: jax.Array,
        x: Float[Array, "batch *sides channels"],
        cond: Condition,
        setting: Setting,
    ) -> Examples:
        """Draws a key for each example's latents."""
        count = x.shape[0]
        keys = noise.examples(key, jnp.arange(count), Stream.NOISE)
        return Examples(x, keys, jnp.broadcast_to(setting.step >= self.judged_from, (count,)))

    def losses(self, ask: Any, drawn: Examples) -> Losses:
        """Each example's loss, and its parts.

        Raises:
          ValueError: The network is no codec.
        """
        if not hasattr(type(ask.network), "coded"):
            raise ValueError("Reconstruction needs a network that holds a codec, such as Coding")
        x, variables = drawn.x, ask.variables
        s = variables["params"]["logvar"] if self.learned_logvar else jnp.zeros(())
        path = ask.network.last_kernel

        def coded(kernel: Array) -> tuple[Array, Any]:
            found: Coded = ask.apply("coded", x, drawn.keys, variables=put(variables, path, kernel))
            return found.x, found.latents

        back, pull, latents = jax.vjp(coded, at(variables, path), has_aux=True)
        error = self._error(x, back)
        measured = {"error": error, "psnr": _psnr(x, back)}
        loss = error / jnp.exp(s) + s + self._of_latents(latents, x[0].size, measured)
        if self.learned_logvar:
            measured["logvar"] = jnp.broadcast_to(s, error.shape)
        if ask.network.discriminator is None:
            return Losses(loss, measured)
        fooled, told = self._judged(ask, x, back, measured)
        slopes = [
            jnp.linalg.norm(pull(jax.grad(lambda b, f=f: f(b).mean())(back))[0].ravel())
            for f in (
                lambda b: self._error(x, b) / jnp.exp(s) + s,
                lambda b: _fooled(ask, b),
            )
        ]
        weight = jnp.minimum(slopes[0] / (slopes[1] + SMALLEST), LARGEST / x[0].size)
        weight = jax.lax.stop_gradient(weight) * self.judged_weight
        measured["judged_weight"] = jnp.broadcast_to(weight, error.shape)
        return Losses(loss + jnp.where(drawn.judged, weight * fooled, 0.0) + told, measured)

    def after(
        self, variables: Any, measured: dict[str, Array], key: jax.Array
    ) -> tuple[Any, dict[str, Array]]:
        """Puts codes that nothing uses where vectors are; what is logged of a step.

        Args:
          variables: Of `Coding`, after the step.
          measured: As from `losses`.
          key: A JAX random key.
        """
        of_examples = {name: each for name, each in measured.items() if each.ndim == 1}
        logged = {name: each.mean() for name, each in of_examples.items()}
        if "numbers" not in measured:
            return variables, logged
        numbers, vectors = measured["numbers"], measured["vectors"]
        path = ("params", "codec", "codebook")
        book, count = at(variables, path), len(at(variables, path))
        here = quantise.counts(numbers, count) * (count / numbers.size)
        use = MEMORY * variables["usage"]["shares"] + (1.0 - MEMORY) * here
        logged["perplexity"] = quantise.perplexity(use)
        logged["used"] = (use >= self.dead).mean()
        book, new = quantise.revived(book, use, vectors, key, least=self.dead)
        use = jnp.where(new, 1.0, use)
        return put(put(variables, path, book), ("usage", "shares"), use), logged

    def _error(self, x: Array, back: Array) -> Float[Array, " batch"]:
        """The error of an example's entries, the perceptual distance laid on each."""
        error = mean(ERRORS[self.error](x - back))
        if self.perceptual is None:
            return error
        return error + self.perceptual_weight * self.perceptual(x, back)

    def _of_latents(
        self, latents: Any, entries: int, measured: dict[str, Array]
    ) -> Float[Array, " batch"]:
        """What keeps the latents tame: the KL term, or the loss of the codes."""
        if isinstance(latents, Moments):
            measured["kl"] = latents.kl() / entries
            return self.kl_weight * measured["kl"]
        measured["codes"] = latents.loss
        measured["numbers"], measured["vectors"] = latents.codes, latents.inputs
        return self.code_weight * latents.loss

    def _judged(
        self, ask: Any, x: Array, back: Array, measured: dict[str, Array]
    ) -> tuple[Array, Array]:
        """The generator's loss and the discriminator's, whose gradients do not meet."""
        real = ask.apply("judged", x)
        made = ask.apply("judged", jax.lax.stop_gradient(back))
        told = 0.5 * mean(jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + made))
        measured |= {"discriminator": told, "logit_real": mean(real), "logit_made": mean(made)}
        return _fooled(ask, back), told


def _fooled(ask: Any, back: Array) -> Float[Array, " batch"]:
    """The generator's loss: what the discriminator, held still, thinks of reconstructions."""
    still = jax.lax.stop_gradient(ask.variables)
    return -mean(ask.apply("judged", back, variables=still))


def _psnr(x: Array, back: Array) -> Float[Array, " batch"]:
    """10 log₁₀(range² / mean squared error) in dB, for data in [-1, 1]."""
    return 10.0 * jnp.log10(4.0 / jnp.maximum(mean(jnp.square(x - back)), 1e-10))


def at(tree: Any, path: tuple[str, ...]) -> Any:
    """The leaf at a path of nested dictionaries."""
    for name in path:
        tree = tree[name]
    return tree


def put(tree: Any, path: tuple[str, ...], leaf: Any) -> Any:
    """Nested dictionaries with another leaf at a path."""
    name, *rest = path
    return {**tree, name: put(tree[name], tuple(rest), leaf) if rest else leaf}
