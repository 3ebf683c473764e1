"""What enters a layer: the layer below's output, the token, or both."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.model.input_kernel import InputKernel
from lovecraft_jax.model.matmul import look_up


class Tokens(NamedTuple):
    """Token ids [T, B] as vectors: rows of the embedding `table_VD`, or one-hot vectors where it is None (D = V).
    Dropout masks (dropout.py): `embedding_V` on whole tokens, `input_BD` on the vectors."""

    ids_TB: jax.Array
    vocab_size: int
    table_VD: jax.Array | None = None
    embedding_V: jax.Array | None = None
    input_BD: jax.Array | None = None

    def gates(self, kernel: InputKernel, rows: slice = slice(None)) -> jax.Array:
        """The vectors' part of the gates [T, B, G], by whichever way takes fewer FLOPs."""
        if self.table_VD is None:
            return kernel.look_up(self.ids_TB, None, self._one_hot_scale(), rows)
        if self.input_BD is None and self.vocab_size <= self.ids_TB.size:
            return kernel.look_up(self.ids_TB, self._table(), None, rows)
        return kernel.project(self.vectors(), rows)

    def vectors(self) -> jax.Array:
        """The rows of the embedding [T, B, D]."""
        x_TBD = look_up(self._table(), self.ids_TB)
        return x_TBD if self.input_BD is None else x_TBD * self.input_BD[None]

    def _table(self) -> jax.Array:
        assert self.table_VD is not None
        return self.table_VD if self.embedding_V is None else self.table_VD * self.embedding_V[:, None]

    def _one_hot_scale(self) -> jax.Array | None:
        """The masks' factor for the 1 in each one-hot vector, [T, B]; None without masks."""
        scales = [] if self.embedding_V is None else [self.embedding_V[self.ids_TB]]
        scales += [] if self.input_BD is None else [jnp.take_along_axis(self.input_BD.T, self.ids_TB, axis=0)]
        return functools.reduce(jnp.multiply, scales) if scales else None


class LayerInput(NamedTuple):
    """The output of the layer below [T, B, H], the tokens, or both."""

    below_TBH: jax.Array | None = None
    tokens: Tokens | None = None

    def gates(self, kernel: InputKernel) -> jax.Array:
        """Their part of the gates [T, B, G]: the matmul of kernel_x with the layer below's output, then the token."""
        if self.below_TBH is None:
            assert self.tokens is not None
            return self.tokens.gates(kernel)
        if self.tokens is None:
            return kernel.project(self.below_TBH)
        H = self.below_TBH.shape[-1]
        return kernel.project(self.below_TBH, slice(H)) + self.tokens.gates(kernel, slice(H, None))

    @property
    def has_vectors(self) -> bool:
        """Whether a token, if it enters, has a vector, and is not one-hot."""
        return self.tokens is None or self.tokens.table_VD is not None

    def vectors(self) -> jax.Array:
        """They themselves, side by side [T, B, D], for a cell that needs more of them than `gates`."""
        tokens = [] if self.tokens is None else [self.tokens.vectors()]
        return jnp.concatenate(([] if self.below_TBH is None else [self.below_TBH]) + tokens, axis=-1)
