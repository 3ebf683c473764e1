"""What enters a layer: the layer below's output, the token, or both; as vectors, or as their part of the gates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.model.cell import Cell


class Tokens(NamedTuple):
    """Token ids [T, B] as vectors: rows of the embedding `table_VD`, or one-hot vectors where it is None (D = V).

    `mask_BD` is the dropout mask of the input.
    """

    ids_TB: jax.Array
    vocab_size: int
    table_VD: jax.Array | None = None
    mask_BD: jax.Array | None = None

    def vectors(self) -> jax.Array:
        """[T, B, D]"""
        x_TBD = jax.nn.one_hot(self.ids_TB, self.vocab_size) if self.table_VD is None else self.table_VD[self.ids_TB]
        return x_TBD if self.mask_BD is None else x_TBD * self.mask_BD[None]

    def gates(self, cell: Cell, rows: slice | None = None) -> jax.Array:
        """The vectors' part of the gates [T, B, G], by whatever takes the fewest FLOPs."""
        if self.table_VD is None:
            scale_TB = None if self.mask_BD is None else jnp.take_along_axis(self.mask_BD.T, self.ids_TB, axis=0)
            return cell.look_up(self.ids_TB, None, scale_TB, rows)
        if self.mask_BD is None and self.vocab_size <= self.ids_TB.size:
            return cell.look_up(self.ids_TB, self.table_VD, None, rows)
        return cell.project(self.vectors(), rows)


class LayerInput(NamedTuple):
    """The output of the layer below [T, B, H], the tokens, or both."""

    below_TBH: jax.Array | None = None
    tokens: Tokens | None = None

    def vectors(self) -> jax.Array:
        """[T, B, D]: the layer below first, then the token."""
        tokens = [] if self.tokens is None else [self.tokens.vectors()]
        return jnp.concatenate(([] if self.below_TBH is None else [self.below_TBH]) + tokens, axis=-1)

    def gates(self, cell: Cell) -> jax.Array:
        """[T, B, G]: `vectors() @ kernel_x`."""
        if self.below_TBH is None:
            assert self.tokens is not None
            return self.tokens.gates(cell)
        if self.tokens is None:
            return cell.project(self.below_TBH)
        H = self.below_TBH.shape[-1]
        return cell.project(self.below_TBH, slice(H)) + self.tokens.gates(cell, slice(H, None))
