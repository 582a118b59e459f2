"""The methods of guidance that which_solver_which_guidance.py compares, and what each costs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scoring

import cfg_jax
from cfg_jax import denoiser, evaluation, grids, guidance, schedules, solvers
from cfg_jax.diffusion import piecewise
from cfg_jax.sampling.defaults import choose

STEPS = 20  # of the default solver
LOW, HIGH = -3.0, 3.0  # the range of λ that `interval` guides in


class Method(NamedTuple):
    """A method of guidance.

    Attributes:
      make: `(network, w) -> guided`.
      ws: The strengths that it is measured at.
      solver: The solver; the default when None.
      steps: The number of steps.
    """

    make: Callable[[Any, float], Any]
    ws: tuple[float, ...] = (0.3, 1.0, 3.0)
    solver: solvers.Solver | None = None
    steps: int = STEPS

    def walk(self) -> dict[str, Any]:
        """Solver, grid and steps, as arguments of `sample`: a named solver is uniform in u."""
        named = None if self.solver is None else grids.UniformU()
        solver, grid = choose(self.solver, named, self.steps)
        return {"solver": solver, "grid": grid, "steps": self.steps}

    def draw(self, run: cfg_jax.Run, w: float, entries: dict, *, seed: int) -> np.ndarray:
        """Samples, x̂ clipped; the noise is the same for every method."""
        count = len(jax.tree.leaves(entries)[0])
        guiding = {"guide": lambda network, null: self.make(network, w), **self.walk()}
        mesh = scoring.mesh_for(count, count)
        drawn = evaluation.sampler(run, entries, {w: guiding}, seed=seed, batch=count, mesh=mesh)
        return drawn(np.arange(count), w)


def methods(null: Any, weak: Any = None) -> dict[str, Method]:
    """The methods by name; autoguidance only if there is a weaker network."""

    def grown(w):
        return lambda logsnr: 2.0 * w * jax.nn.sigmoid(logsnr)

    def free(network, w):
        return guidance.classifier_free(network, w=w, null=null)

    found = {
        "none": Method(lambda net, w: net, ws=(0.0,)),
        "classifier_free": Method(free),
        "interval": Method(lambda net, w: guidance.interval(free(net, w), low=LOW, high=HIGH)),
        "scheduled": Method(lambda net, w: guidance.scheduled(net, w=grown(w), null=null)),
        "rescaled": Method(lambda net, w: guidance.rescaled(net, w=w, null=null, phi=0.7)),
        "projected": Method(lambda net, w: guidance.projected(net, w=w, null=null)),
        "zero_star": Method(lambda net, w: guidance.zero_star(net, w=w, null=null)),
        "plus_plus": Method(
            lambda net, w: guidance.plus_plus(net, w=w, null=null),
            ws=(-0.9, -0.8),
            solver=solvers.DDIM(),
            steps=50,
        ),
    }
    if weak is not None:
        found["autoguidance"] = Method(lambda net, w: guidance.autoguidance(net, weak, w=w))
    return found


def evaluations(name: str, null: Any, cond: Any, schedule: schedules.Schedule) -> int:
    """How many images the networks see for one image of a method, counted where they are called.

    Args:
      name: The method's.
      null: What stands for no condition.
      cond: The condition of one image.
      schedule: The run's.
    """
    asked = []

    def network(z, logsnr, cond):
        asked.append(len(z))
        return z

    method = methods(null, network)[name]
    guided, walk = method.make(network, method.ws[-1]), method.walk()
    levels = walk["grid"](schedule, method.steps)[:-1].tolist()
    if walk["solver"].calls(method.steps) != len(levels):
        raise ValueError(f"{walk['solver']} calls a denoiser more than once a step")
    z = jnp.zeros((1, 2))
    for level in levels:
        asking = functools.partial(denoiser.read, piecewise.at(guided, level))
        jax.eval_shape(asking, z, level, cond)
    return sum(asked)
