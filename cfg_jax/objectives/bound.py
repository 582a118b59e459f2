"""A learned reverse variance: the denoising error and the variational bound together."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks, prediction
from cfg_jax.diffusion.likelihood import reverse_kl
from cfg_jax.diffusion.logsnr import expand
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.objectives.denoising import Denoising, asked, prediction_of, wanted
from cfg_jax.objectives.draw import Draw, mean
from cfg_jax.parts import Ask, Prediction


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hybrid(Denoising):
    """L_simple + bound_weight · L_vlb, for a network that says the reverse variance too.

    L_vlb = steps · KL(q(z_λ'|z_λ, x) || p(z_λ'|z_λ)) in bits/dim, where λ' lies 1 / steps of u
    above λ: in the mean over λ the bound of a sampler of so many steps. Its gradient goes to v
    alone, the prediction learns from the squared error as ever (Nichol & Dhariwal 2021, "Improved
    Denoising Diffusion Probabilistic Models", Equation 16 and Section 3.1).

    Attributes:
      target: As in `Denoising`.
      weight: As in `Denoising`.
      sigma_data: As in `Denoising`.
      noise_offset: As in `Denoising`.
      input_perturbation: As in `Denoising`.
      bound_weight: Of the bound, not negative; 0.001 in the paper.
      steps: The number of steps of the sampler that is bounded, from 1 to a million. The best
        variance depends on it: take as many as will be sampled with.
      schedule: p(λ); the recipe's when None.

    Raises:
      ValueError: A value is out of range. When called: the network says no variance.
    """

    bound_weight: float = dataclasses.field(default=1e-3, metadata={"static": True})
    steps: int = dataclasses.field(default=256, metadata={"static": True})
    schedule: Any = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        super().__post_init__()
        checks.number("bound_weight", self.bound_weight, 0.0)
        checks.whole("steps", self.steps, 1, 1_000_000)
        if not isinstance(self.schedule, Schedule | None):
            raise ValueError(f"schedule must be a schedule, got {checks.told(self.schedule)}")

    def losses(self, ask: Ask, drawn: Draw) -> Float[Array, " batch"]:
        """Each example's weighted squared error and bound."""
        output, logsnr, x = asked(ask, drawn, self.kind), drawn.logsnr, drawn.x
        if not isinstance(output, Prediction):
            raise ValueError("Hybrid needs a network that says the variance: learned_variance=True")
        value = prediction_of(output, drawn.z)
        error = value - wanted(drawn, self.kind)
        found = prediction.estimate(value, drawn.z, logsnr=logsnr, kind=self.kind)
        u = self.schedule.u(logsnr)
        # λ' > λ near the data too.
        cleaner = self.schedule.logsnr(u - jnp.minimum(1.0 / self.steps, 0.5 * u))
        kl = reverse_kl(
            jax.lax.stop_gradient(x - found.x),
            logsnr=expand(logsnr, x),
            logsnr_next=expand(cleaner, x),
            v=output.v,
        )
        bound = self.bound_weight * self.steps / math.log(2.0) * mean(kl)
        return drawn.weight * mean(jnp.square(error)) + bound
