"""LSTMLM: token ids -> embedding or one-hot -> LSTM layers -> logits. The carry goes in and comes out.

Axes in names: B batch, T time, D features, H units, G gates (4H), V vocabulary, K steps of one dispatch, L layers.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lovecraft_jax.config import Config
from lovecraft_jax.model.backend import resolve_backend
from lovecraft_jax.model.cells import LSTMCell, run_layer
from lovecraft_jax.model.lstm_cudnn import run_cudnn
from lovecraft_jax.model.lstm_fused import LayerCarry
from lovecraft_jax.model.matmul import add_bias, dense
from lovecraft_jax.model.normalization import STATISTICS

Carry = tuple[LayerCarry, ...]
"""One (c_BH, h_BH) a layer."""

Masks = tuple[jax.Array | None, ...]
"""Dropout masks, scaled by 1/keep: for the input [B, D], then for each layer's output [B, H]; None drops nothing."""

Variables = dict[str, Any]
"""Flax's collections; "params" is one of them."""


class LanguageModel(nn.Module):
    """A stack of LSTM layers that gives the logits of every next token.

    `embed=0` feeds tokens as one-hot vectors; `tie` uses the embedding as the head's kernel (Press and Wolf 2017);
    `norm` is what the layers normalise (norm.py). For training (step.py) are `remat`, the tokens between two carries
    that are kept for the way back (0 keeps all), and `loss`, what it makes small: "cross_entropy" or
    "binary_cross_entropy".
    """

    vocab_size: int
    layers: int
    units: int
    embed: int = 0
    dropout_input: float = 0.0
    dropout: float = 0.0
    tie: bool = False
    forget_bias: float = 1.0
    norm: str = "none"
    dtype: jnp.dtype = jnp.dtype("float32")
    backend: str = "scan"
    remat: int = 0
    loss: str = "cross_entropy"

    def setup(self) -> None:
        if self.embed:
            # Rows of norm 1, as nn.Embed makes them.
            normal = nn.initializers.normal(self.embed**-0.5)
            self.embedding = self.param("embedding", normal, (self.vocab_size, self.embed))
        widths = self._widths()
        in_cpp = self.backend == "native"
        if in_cpp and self.dtype != jnp.float32:
            raise ValueError(f"backend='native' computes in float32, not in {self.dtype}")
        self.cells = [
            LSTMCell(D, self.units, self.dtype, in_cpp, self.forget_bias, self.norm, name=f"lstm_{i}")
            for i, D in enumerate(widths[:-1])
        ]
        if not self.tie:
            self.head_kernel = self.param("head_kernel", nn.initializers.lecun_normal(), (self.units, self.vocab_size))
        self.head_bias = self.param("head_bias", nn.initializers.zeros, (self.vocab_size,))

    def __call__(self, carry: Carry, x_BT: jax.Array, masks: Masks = ()) -> tuple[Carry, jax.Array]:
        """Ids to the carry after them and logits_BTV, float32. Without `masks` nothing is dropped."""
        masks = masks or (None,) * (self.layers + 1)
        h = x_BT.T
        new_carry: list[LayerCarry] = []
        for cell, layer_carry, mask_BH in zip(self.cells, carry, masks[1:], strict=True):
            if self.backend == "cudnn":
                layer_carry, h = run_cudnn(cell, layer_carry, h if new_carry else self._embed(h, masks[0]))
            else:
                gates_x_TBG = cell.project(h) if new_carry else self._look_up(h, masks[0])
                layer_carry, h = run_layer(cell, layer_carry, gates_x_TBG, self.backend)
            new_carry.append(layer_carry)
            h = h if mask_BH is None else h * mask_BH[None]
        kernel_HV = self.embedding.T if self.tie else self.head_kernel
        logits_TBV = add_bias(dense(h, kernel_HV, self.dtype, self.backend == "native"), self.head_bias)
        return tuple(new_carry), logits_TBV.swapaxes(0, 1)

    def initial_carry(self, batch: int) -> Carry:
        """Zeros, each leaf a buffer of its own, as donation wants them."""
        return tuple((jnp.zeros((batch, self.units)), jnp.zeros((batch, self.units))) for _ in range(self.layers))

    def dropout_masks(self, rng: jax.Array, batch: int) -> Masks:
        """One mask a row for the whole window (variational dropout, Gal and Ghahramani 2016)."""
        rates = [self.dropout_input] + [self.dropout] * self.layers
        return tuple(
            jnp.where(jax.random.bernoulli(key, 1 - rate, (batch, width)), 1 / (1 - rate), 0.0) if rate else None
            for key, rate, width in zip(jax.random.split(rng, len(rates)), rates, self._widths(), strict=True)
        )

    def _widths(self) -> list[int]:
        """The features that enter each layer, and last those that leave."""
        return [self.embed or self.vocab_size] + [self.units] * self.layers

    def _look_up(self, x_TB: jax.Array, mask_BD: jax.Array | None) -> jax.Array:
        """The first layer's part of the gates from its input [T, B, 4H]."""
        cell = self.cells[0]
        if not self.embed:
            return cell.look_up(x_TB, None, None if mask_BD is None else jnp.take_along_axis(mask_BD.T, x_TB, axis=0))
        if mask_BD is None and self.vocab_size <= x_TB.size:
            return cell.look_up(x_TB, self.embedding)
        return cell.project(self._embed(x_TB, mask_BD))

    def _embed(self, x_TB: jax.Array, mask_BD: jax.Array | None) -> jax.Array:
        """The first layer's input, [T, B, D]."""
        h_TBD = self.embedding[x_TB] if self.embed else jax.nn.one_hot(x_TB, self.vocab_size)
        return h_TBD if mask_BD is None else h_TBD * mask_BD[None]

    def flops_per_token(self) -> int:
        """Floating-point operations of the forward pass's matmuls for one token. Lookups, gates and softmax are not
        counted, so a one-hot input is free."""
        gates, inputs = 4 * self.units, [self.embed] + [self.units] * (self.layers - 1)
        return 2 * (sum(gates * (D + self.units) for D in inputs) + self.units * self.vocab_size)


def forward(
    model: LanguageModel, variables: Mapping[str, Any], carry: Carry, x_BT: ArrayLike, masks: Masks = ()
) -> tuple[Carry, jax.Array]:
    """The model applied to ids of any integer type: the carry after them and logits_BTV."""
    result: Any = model.apply(variables, carry, jnp.asarray(x_BT, jnp.int32), masks)
    return result


def forward_in_training(
    model: LanguageModel, variables: Mapping[str, Any], carry: Carry, x_BT: ArrayLike, masks: Masks = ()
) -> tuple[Carry, jax.Array, dict[str, Any]]:
    """As `forward`, with the batch's own statistics where it has any, and the running ones after them: the collections
    that a step changes, none without batch norms. With them, to be called inside `mesh.by_rows`."""
    x_BT = jnp.asarray(x_BT, jnp.int32)
    (carry, logits_BTV), changed = model.apply(variables, carry, x_BT, masks, mutable=[STATISTICS])
    return carry, logits_BTV, dict(changed)


def reset_carry(carry: Carry, reset_B: ArrayLike) -> Carry:
    """The carry, zero in the rows that start over."""
    return jax.tree.map(lambda leaf_BH: jnp.where(jnp.asarray(reset_B)[:, None], 0.0, leaf_BH), carry)


def make_model(config: Config, vocab_size: int, backend: str = "") -> LanguageModel:
    """The model that `config.model` describes, computed by `backend`, or by that of the config where none is named.

    Raises UserError where the config asks for a backend that this machine does not have.
    """
    model = config.model
    return LanguageModel(
        vocab_size=vocab_size,
        layers=model.layers,
        units=model.units,
        embed=model.embed,
        dropout_input=model.dropout_input,
        dropout=model.dropout,
        tie=model.tie,
        forget_bias=model.forget_bias,
        norm=model.norm,
        dtype=jnp.dtype(model.dtype),
        backend=backend or resolve_backend(model),
        remat=model.remat,
        loss=config.train.loss,
    )
