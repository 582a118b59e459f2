"""Networks and objectives of a user's own with a mistake each, named by their import paths."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfg_jax.objectives import Denoising


class Own(nn.Module):
    """What the others return something else than."""

    takes = ("label",)

    @nn.compact
    def said(self, z):
        """A prediction of z's shape."""
        return nn.Conv(z.shape[-1], (3, 3))(z)

    def __call__(self, z, logsnr, cond):
        return self.said(z)


class Wider(Own):
    def __call__(self, z, logsnr, cond):
        return jnp.concatenate([self.said(z)] * 2, -1)


class OneExample(Own):
    def __call__(self, z, logsnr, cond):
        return self.said(z)[:1]


class Whole(Own):
    def __call__(self, z, logsnr, cond):
        return self.said(z).astype(jnp.int32)


class Imaginary(Own):
    def __call__(self, z, logsnr, cond):
        return self.said(z) * 1j


class Nothing(Own):
    def __call__(self, z, logsnr, cond):
        self.said(z)


class Two(Own):
    def __call__(self, z, logsnr, cond):
        return self.said(z), z


class Open(Own):
    """What takes more than it is given, but needs no more."""

    def __call__(self, z, logsnr, cond, *rest, scale=1.0, **more):
        return scale * self.said(z)


class Needing(Own):
    def __call__(self, z, logsnr, cond, more):
        return self.said(z)


class Batched(Own):
    @nn.compact
    def __call__(self, z, logsnr, cond):
        return nn.BatchNorm(use_running_average=False)(z)


class Numbered(Own):
    takes = 3


class NoComma(Own):
    takes = "label"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unknown(Denoising):
    """An objective that JAX does not know."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Fewer(Denoising):
    """An objective whose losses lack one."""

    def losses(self, ask, drawn):
        return super().losses(ask, drawn)[1:]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(Denoising):
    """An objective whose losses are whole numbers."""

    def losses(self, ask, drawn):
        return super().losses(ask, drawn).astype(jnp.int32)
