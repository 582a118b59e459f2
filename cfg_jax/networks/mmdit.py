"""The multimodal diffusion transformer of Esser et al. (2024), asked for its prediction at λ.

Patches of z and the vectors of a sequence are two streams of tokens, with weights of their own,
which attend to each other and among themselves at once ("Scaling Rectified Flow Transformers for
High-Resolution Image Synthesis", Section 4 and Figure 2).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from cfg_jax.diffusion.checks import whole
from cfg_jax.networks import inlets
from cfg_jax.networks.base import MOST_BLOCKS, REMAT
from cfg_jax.networks.patchwork import Embedding, Patchwork, Tokens, gated
from cfg_jax.nn import (
    Attention,
    Dtype,
    FeedForward,
    Modulation,
    Projections,
    attend,
    cropped,
    layer_norm,
    sincos_positions,
    space_axes,
)
from cfg_jax.nn.fields import flag
from cfg_jax.nn.transformer import XAVIER
from cfg_jax.parts import Condition, Prediction, Sequence

LARGEST_GRID = 4096

Context = Float[Array, "batch length channels"]


class MMDiTBlock(nn.Module):
    """Joint attention over both streams, then two dense layers in each, added to their inputs.

    What attention and dense layers see is layer-normalised, scaled and shifted by the embedding,
    and what they say is scaled by it.

    Attributes:
      each: Channels of a head.
      hidden: Channels between the dense layers.
      norm: Whether queries and keys are normalised, see `nn.Projections`.
      dual: Whether the patches also attend among themselves alone.
      last: Whether the context ends here: it is attended to, and not returned.
      dropout: The rate after attention and between the dense layers.
      train: Whether dropout is on.
      dtype: Of the activations.
    """

    each: int
    hidden: int
    norm: bool = False
    dual: bool = False
    last: bool = False
    dropout: float = 0.0
    train: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        context: Context,
        embedding: Embedding,
        mask: Bool[Array, "batch length"] | None = None,
    ) -> tuple[Tokens, Context | None]:
        """Transforms the patches and the context.

        Args:
          x: Patches.
          context: The other stream.
          embedding: Of noise level and condition, activated.
          mask: Which vectors of the context count; None for all.
        """
        (shift, scale, gate), *of_x = self._modulation("image", 3 if self.dual else 2, embedding)
        h = layer_norm(x, scale, shift, dtype=self.dtype)
        if self.last:
            shift, scale = Modulation(2, name="context_modulation")(embedding)
        else:
            (shift, scale, gate_c), of_context = self._modulation("context", 2, embedding)
        h_c = layer_norm(context, scale, shift, dtype=self.dtype)
        h, h_c = self._joint(h, h_c, mask)
        branch = gated(gate, self._out("image", h), self.dtype)
        if self.dual:
            shift, scale, gate = of_x[1]
            alone = Attention(self.each, norm=self.norm, dtype=self.dtype, name="image_attention")
            h = self._dropped(alone(layer_norm(x, scale, shift, dtype=self.dtype)))
            branch = branch + gated(gate, h, self.dtype)
        x = self._layers("image", x + branch, of_x[0])
        if self.last:
            return x, None
        context = context + gated(gate_c, self._out("context", h_c), self.dtype)
        return x, self._layers("context", context, of_context)

    @nn.nowrap
    def _modulation(self, stream: str, branches: int, embedding: Embedding) -> list[Any]:
        """(shift, scale, gate) of each branch of a stream."""
        made = Modulation(3 * branches, name=f"{stream}_modulation")(embedding)
        return [made[3 * i : 3 * i + 3] for i in range(branches)]

    @nn.nowrap
    def _joint(self, x: Tokens, context: Context, mask: Any) -> tuple[Tokens, Context]:
        """Attention of all to all, before the dense layer that ends it."""
        fields = self.each, True, self.norm, self.dtype
        pairs = zip(
            Projections(*fields, name="image_projections")(x),
            Projections(*fields, name="context_projections")(context),
            strict=True,
        )
        q, k, v = (jnp.concatenate(pair, axis=1) for pair in pairs)
        if mask is not None:
            mask = jnp.concatenate([jnp.ones(x.shape[:2], bool), mask], axis=1)
        h = attend(q, k, v, self.each, mask)
        return h[:, : x.shape[1]], h[:, x.shape[1] :]

    @nn.nowrap
    def _out(self, stream: str, h: Array) -> Array:
        dense = nn.Dense(h.shape[-1], dtype=self.dtype, kernel_init=XAVIER, name=f"{stream}_output")
        return self._dropped(dense(h))

    @nn.nowrap
    def _layers(self, stream: str, x: Array, modulation: Any) -> Array:
        shift, scale, gate = modulation
        forward = FeedForward(
            self.hidden,
            dropout=self.dropout,
            train=self.train,
            dtype=self.dtype,
            name=f"{stream}_forward",
        )
        h = forward(layer_norm(x, scale, shift, dtype=self.dtype))
        return x + gated(gate, h, self.dtype)

    @nn.nowrap
    def _dropped(self, h: Array) -> Array:
        return nn.Dropout(self.dropout, deterministic=not self.train)(h)


class MMDiT(Patchwork):
    """A prediction from z_λ, λ and c, of which at least one entry is a sequence.

    The condition c is a dictionary of the entries that `inlets` name, each shown by its kind:

    - `Sequence`: the other stream, after a dense layer; several follow each other;
    - `Classes`: a learned vector a class, added to the embedding of λ;
    - `Vector`: added to it after two dense layers;
    - `Beside`: resized to z and laid beside it along the channels; if it is noised, its own noise
      level is added to the embedding after two dense layers.

    Attributes:
      grid: The side of a learned grid of positions, in patches, of whose middle smaller data are
        given theirs, from 1 to 4096; 0 for fixed sines and cosines, which the learned ones also
        begin at. Places along the frames of a video have fixed ones.
      qk_norm: Whether queries and keys are divided by their root mean square in each head, and
        scaled.
      dual_blocks: In how many of the first blocks patches also attend among themselves alone, at
        most the depth.

    The other attributes are those of `patchwork.Patchwork` and `base.Predictor`. Stable Diffusion 3
    has width 1536, depth 24, heads 24 and grid 192.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks import MMDiT
    >>> from cfg_jax.parts import Sequence
    >>> net = MMDiT(width=16, depth=1, heads=2, inlets=(("text", Sequence(3, 5)),))
    >>> z, logsnr, cond = jnp.ones((2, 8, 6, 1)), jnp.zeros(2), {"text": jnp.ones((2, 3, 5))}
    >>> params = net.init(jax.random.key(0), z, logsnr, cond)
    >>> net.apply(params, z, logsnr, cond).shape
    (2, 8, 6, 1)
    """

    grid: int = 0
    qk_norm: bool = False
    dual_blocks: int = 0

    def __post_init__(self):
        whole("grid", self.grid, 0, LARGEST_GRID)
        whole("dual_blocks", self.dual_blocks, 0, MOST_BLOCKS)
        flag("qk_norm", self.qk_norm)
        super().__post_init__()
        if self.dual_blocks > self.depth:
            raise ValueError(
                f"dual_blocks must be at most depth, {self.depth}; got {self.dual_blocks}"
            )

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch *sides channels"],
        logsnr: ArrayLike,
        cond: Condition | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *sides channels"] | Prediction:
        """Predicts what it was trained on.

        Args:
          z: z_λ of (batch, *sides, channels).
          logsnr: λ, a scalar or (batch,).
          cond: As above.
          train: Turns dropout on, which then needs a "dropout" rng.

        Returns:
          The prediction, of z's shape, float32; with a learned variance a `parts.Prediction`.

        Raises:
          ValueError: There is no sequence; patches do not divide the sides, or are more than the
            grid has; or an entry of the condition is missing, of another shape, or not taken.
        """
        self.check(z.shape[1:])
        cond = inlets.entries(self.who, self.shown, cond, len(z))
        embedding = self.embed(logsnr, len(z), cond, marked=False)
        context, mask = self._context(cond)
        h = self.tokens(z, cond)
        made = REMAT[self.remat](MMDiTBlock)
        for i in range(self.depth):
            block = made(
                each=self.width // self.heads,
                hidden=self.hidden,
                norm=self.qk_norm,
                dual=i < self.dual_blocks,
                last=i == self.depth - 1,
                dropout=self.dropout,
                train=train,
                dtype=self.dtype,
                name=f"block{i}",
            )
            h, context = block(h, context, embedding, mask)
        return self.put_together(h, embedding, z.shape)

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the network cannot take examples of (*sides, channels)."""
        super().check(shape)
        if not any(isinstance(inlet, Sequence) for _, inlet in self.shown):
            raise ValueError(f"{self.who} needs a sequence in its condition to attend to")
        sides = [shape[axis - 1] for axis in space_axes(len(shape) + 1)]
        if self.grid and max(sides) > self.grid * self.patch:
            raise ValueError(
                f"{self.who} has positions of {self.grid} patches a side: sides are at most "
                f"{self.grid * self.patch}; got {'×'.join(map(str, sides))}"
            )

    @nn.nowrap
    def places(self, grid: tuple[int, ...]) -> Float[Array, "*grid channels"]:
        """The positions of a grid of patches; float32."""
        if not self.grid:
            return super().places(grid)
        space = len(space_axes(len(grid) + 2))
        side = (self.grid,) * space
        learned = self.param(
            "positions", lambda key: sincos_positions(side, self.width, self.period)
        )
        middle = cropped(learned, grid[len(grid) - space :])
        frames = grid[: len(grid) - space]
        along = sincos_positions(frames, self.width, self.period)[:, None, None] if frames else 0.0
        return middle + along

    @nn.nowrap
    def _context(self, cond: Condition) -> tuple[Any, Any]:
        """The tokens of the sequences, one after the other, and which of them count."""
        shown = inlets.sequences(self.shown, cond)
        pairs = {name: inlets.sequence_of(entry) for name, entry in shown.items()}

        def embedded(name, vectors):
            dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER, name=name)
            return dense(vectors)

        tokens = [embedded(f"{name}_embedding", vectors) for name, (vectors, _) in pairs.items()]
        mask = None
        if any(mask is not None for _, mask in pairs.values()):
            masks = [jnp.ones(v.shape[:2], bool) if m is None else m for v, m in pairs.values()]
            mask = jnp.concatenate(masks, axis=1)
        return jnp.concatenate(tokens, axis=1), mask
