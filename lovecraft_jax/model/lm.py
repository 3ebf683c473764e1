"""LanguageModel: token ids -> embedding or one-hot -> recurrent layers -> logits. The carry goes in and comes out.

Axes in names: B batch, T time, D features, H units, G gates (4H for the LSTM), V vocabulary, K steps of one dispatch,
L layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lovecraft_jax.config import Config
from lovecraft_jax.model import adaptive_softmax
from lovecraft_jax.model.adaptive_softmax import AdaptiveSoftmax
from lovecraft_jax.model.backend import resolve_backend, run_layer
from lovecraft_jax.model.cell import Cell, LayerCarry
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.model.dropout import NO_DROPOUT, DropoutMasks, DropoutRates, LayerMasks, draw_masks
from lovecraft_jax.model.layer_input import LayerInput, Tokens
from lovecraft_jax.model.matmul import add_bias, dense
from lovecraft_jax.model.wavefront import run_wavefront
from lovecraft_jax.runtime.errors import UserError

Carry = tuple[LayerCarry, ...]
"""What each layer carries, for the LSTM (c_BH, h_BH): cell.py."""

Variables = dict[str, Any]
"""Flax's collections; "params" is one of them."""


class LanguageModel(nn.Module):
    """A stack of recurrent layers that predicts the logits of every next token.

    `cell` and `input_gate` name the cell (cells.py), `backend` what runs it (backend.py), `norm` what it normalises
    (normalization.py), `mogrify` the rounds of the Mogrifier (mogrifier.py), which needs an embedding, `init_scale` the
    scale of the initial embedding and kernels of the input.
    `embed=0` feeds tokens as one-hot vectors. `tie` uses the embedding as the head's kernel (Press and Wolf 2017), with
    a projection before it where its width is not `head_width`.
    With `skip` every layer also takes the token, and the head takes the outputs of all layers (Graves 2013).
    `softmax_head` above 0, and below V, makes the head an adaptive softmax (adaptive_softmax.py).
    Only training uses two fields (training/step.py): `remat`, the number of tokens between two carries that are saved
    for the backward pass (0 saves everything), and `loss`, "cross_entropy" or "binary_cross_entropy".
    """

    vocab_size: int
    layers: int
    units: int
    embed: int = 0
    tie: bool = False
    forget_bias: float = 1.0
    norm: str = "none"
    dtype: jnp.dtype = jnp.dtype("float32")
    backend: str = "scan"
    remat: int = 0
    loss: str = "cross_entropy"
    cell: str = "lstm"
    skip: bool = False
    input_gate: str = "own"
    mogrify: int = 0
    init_scale: str = "glorot"
    softmax_head: int = 0

    def setup(self) -> None:
        is_unit = self.init_scale == "unit" and not self.tie
        if self.embed:
            # "unit": every value has variance 1. "glorot", and tied weights: rows have norm 1, as nn.Embed's, which the
            # head needs where it shares them. Under glorot_uniform kernels the gates then hardly depend on the input at
            # first.
            normal = nn.initializers.normal(1.0 if is_unit else self.embed**-0.5)
            self.embedding = self.param("embedding", normal, (self.vocab_size, self.embed))
        in_cpp = self.backend == "native"
        if in_cpp and self.dtype != jnp.float32:
            raise ValueError(f"backend='native' computes in float32, not in {self.dtype}")
        if self.backend == "cuda" and self.dtype not in (jnp.float32, jnp.bfloat16):
            raise ValueError(f"backend='cuda' takes operands in float32 or bfloat16, not in {self.dtype}")
        if self.tie and not self.embed:
            raise ValueError("tie with embed=0: there is no embedding to share")
        if self.mogrify and not self.embed:
            raise ValueError(f"mogrify={self.mogrify} modulates an embedding, got embed=0")
        # "unit": kernel_x starts with variance 1 / E[|x|^2] for a layer's input x, so that x @ kernel_x has variance 1.
        # E[|x|^2] is 1 for a one-hot vector or a row of norm 1. Otherwise it is taken to be the width of x, as if all
        # values had variance 1; those of h have less.
        squared_norms = self._widths(self.embed if self.embed and is_unit else 1)
        stds = [norm**-0.5 if self.init_scale == "unit" else 0.0 for norm in squared_norms]
        settings = self.units, self.dtype, in_cpp, self.forget_bias, self.norm
        widths = self._widths(self.embed or self.vocab_size)
        self.cells = [
            self.cell_class(D, *settings, std, self.mogrify, name=f"{self.cell}_{n}")
            for n, (D, std) in enumerate(zip(widths, stds, strict=True))
        ]
        if self.is_projected:
            shape = (self.head_width, self.embed)
            self.head_projection = self.param("head_projection", nn.initializers.lecun_normal(), shape)
        if self.is_adaptive:
            width = self.embed if self.tie else self.head_width
            self.head = AdaptiveSoftmax(self.vocab_size, self.softmax_head, width, self.dtype, in_cpp, self.tie)
            return
        if not self.tie:
            shape = (self.head_width, self.vocab_size)
            self.head_kernel = self.param("head_kernel", nn.initializers.lecun_normal(), shape)
        self.head_bias = self.param("head_bias", nn.initializers.zeros, (self.vocab_size,))

    def __call__(self, carry: Carry, x_BT: jax.Array, masks: DropoutMasks = NO_DROPOUT) -> tuple[Carry, jax.Array]:
        """The carry after ids [B, T], and the logits of the token after each, [B, T, V], float32."""
        carry, hidden_TBH = self.hidden(carry, x_BT, masks)
        return carry, self.logits(hidden_TBH)

    def hidden(self, carry: Carry, x_BT: jax.Array, masks: DropoutMasks = NO_DROPOUT) -> tuple[Carry, jax.Array]:
        """The carry after ids [B, T], and the hidden states after each, [T, B, H]: the outputs of the last layer, with
        `skip` those of all layers side by side."""
        table_VD = self.embedding if self.embed else None
        tokens = Tokens(x_BT.T, self.vocab_size, table_VD, masks.embedding, masks.input)
        run = run_wavefront if self.backend == "wavefront" else self._run_layers
        new_carry, outputs = run(self.cells, carry, tokens, self.skip, masks.of_layers(self.layers))
        return tuple(new_carry), jnp.concatenate(outputs, axis=-1) if self.skip else outputs[-1]

    def _run_layers(
        self, cells: Sequence[Cell], carry: Carry, tokens: Tokens, skip: bool, masks: Sequence[LayerMasks]
    ) -> tuple[list[LayerCarry], list[jax.Array]]:
        new_carry: list[LayerCarry] = []
        outputs: list[jax.Array] = []
        for n, (cell, layer_carry, (recurrent_BH, output_BH, weights_HG)) in enumerate(
            zip(cells, carry, masks, strict=True)
        ):
            inputs = LayerInput(outputs[-1] if n else None, tokens if n == 0 or skip else None)
            layer_carry, h_TBH = run_layer(cell, layer_carry, inputs, self.backend, recurrent_BH, weights_HG)
            outputs.append(h_TBH if output_BH is None else h_TBH * output_BH[None])
            new_carry.append(layer_carry)
        return new_carry, outputs

    def logits(self, hidden_TBH: jax.Array) -> jax.Array:
        """The logits of the next token after hidden states [T, B, H]: [B, T, V], float32."""
        hidden_TBH = self._projected(hidden_TBH)
        if self.is_adaptive:
            return self.head.log_probs(hidden_TBH, self.tied_table).swapaxes(0, 1)
        kernel_HV = self.embedding.T if self.tie else self.head_kernel
        logits_TBV = add_bias(dense(hidden_TBH, kernel_HV, self.dtype, self.backend == "native"), self.head_bias)
        return logits_TBV.swapaxes(0, 1)

    def nats(self, hidden_TBH: jax.Array, y_BT: jax.Array) -> jax.Array:
        """The cross-entropy of the targets [B, T] after hidden states [T, B, H], for an adaptive softmax only."""
        hidden_TBH = self._projected(hidden_TBH)
        nats_N = self.head.nats(hidden_TBH.reshape(-1, hidden_TBH.shape[-1]), y_BT.T.ravel(), self.tied_table)
        return nats_N.reshape(y_BT.T.shape).T

    def _projected(self, hidden_TBH: jax.Array) -> jax.Array:
        if not self.is_projected:
            return hidden_TBH
        return dense(hidden_TBH, self.head_projection, self.dtype, self.backend == "native")

    def initial_carry(self, batch: int) -> Carry:
        return tuple(self.cell_class.initial_carry(batch, self.units) for _ in range(self.layers))

    def memory(self, carry: Carry) -> jax.Array:
        """The memory of the units of all layers [B, L * H], from -1 to 1: tanh(c) for the LSTM."""
        return jnp.concatenate([self.cell_class.memory(layer_carry) for layer_carry in carry], axis=-1)

    def flops_per_token(self) -> int:
        """FLOPs of the matmuls of one token's forward pass, of which a one-hot input, a lookup, needs none."""
        layers = sum(self.cell_class.flops_per_token(D, self.units, self.mogrify) for D in self._widths(self.embed))
        layers += 2 * self.head_width * self.embed if self.is_projected else 0
        width = self.embed if self.tie else self.head_width
        if self.is_adaptive:
            return layers + adaptive_softmax.flops_per_token(width, self.vocab_size, self.softmax_head, self.tie)
        return layers + 2 * width * self.vocab_size

    def dropout_masks(self, rng: jax.Array, rates: DropoutRates, batch: int) -> DropoutMasks:
        """The dropout masks of one training step, whose key is `rng`, for a batch of that many rows."""
        D, G = self.embed or self.vocab_size, self.cell_class.gates * self.units
        return draw_masks(rng, rates, batch, self.vocab_size, D, self.units, G, self.layers)

    @property
    def is_adaptive(self) -> bool:
        """Whether the head is an adaptive softmax."""
        return 0 < self.softmax_head < self.vocab_size

    @property
    def tied_table(self) -> jax.Array | None:
        """The embedding [V, D] of a model whose head shares it."""
        return self.embedding if self.tie else None

    @property
    def is_projected(self) -> bool:
        """Whether the hidden states are projected to the width of the embedding that the head shares."""
        return self.tie and self.embed != self.head_width

    @property
    def cell_class(self) -> type[Cell]:
        return cell_class(self.cell, self.input_gate)

    def _widths(self, token: int) -> list[int]:
        """The width of each layer's input, where that of a token's vector is `token`."""
        return [token] + [self.units + (token if self.skip else 0)] * (self.layers - 1)

    @property
    def head_width(self) -> int:
        """The width of the hidden states."""
        return self.units * (self.layers if self.skip else 1)


def forward(
    model: nn.Module, variables: Mapping[str, Any], carry: Carry, x_BT: ArrayLike, masks: DropoutMasks = NO_DROPOUT
) -> tuple[Carry, jax.Array]:
    """The carry after ids of any integer type, and the logits [B, T, V], of a LanguageModel or an Ensemble; norms use
    their running statistics."""
    result: Any = model.apply(variables, carry, jnp.asarray(x_BT, jnp.int32), masks)
    return result


def reset_carry(carry: Carry, reset_B: ArrayLike) -> Carry:
    """The carry with zeros in the rows that restart."""
    return jax.tree.map(lambda leaf_BH: jnp.where(jnp.asarray(reset_B)[:, None], 0.0, leaf_BH), carry)


def count_parameters(variables: Variables) -> int:
    """Returns the number of parameters, without running statistics, of a model's variables or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def make_model(config: Config, vocab_size: int, backend: str = "") -> LanguageModel:
    """The model that `config.model` describes, run by `backend`, or by the config's own where none is named. Raises
    UserError where the config asks for a backend that this machine does not have, or JAX was told to use float64."""
    if jax.config.values["jax_enable_x64"]:
        raise UserError("jax_enable_x64 is on: expected the float types of config.model; turn it off")
    model = config.model
    return LanguageModel(
        vocab_size=vocab_size,
        layers=model.layers,
        units=model.units,
        embed=model.embed,
        tie=model.tie,
        forget_bias=model.forget_bias,
        norm=model.norm,
        dtype=jnp.dtype(model.dtype),
        backend=backend or resolve_backend(model),
        remat=model.remat,
        loss=config.train.loss,
        cell=model.cell,
        skip=model.skip,
        input_gate=model.input_gate,
        mogrify=model.mogrify,
        init_scale=model.init_scale,
        softmax_head=model.softmax_head,
    )
