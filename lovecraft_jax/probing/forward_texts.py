"""Runs a model over several texts as one batch, each from a zero carry, and returns something for every token: its
surprisal (probing/surprisal.py), the activations of the units (probing/units.py)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.inference.decoder import Decoder, decode, jitted_make_decoder
from lovecraft_jax.model.ensemble import Model
from lovecraft_jax.model.lm import Carry, Variables, reset_carry

CHUNK = 500  # tokens of a row in one dispatch

Observe = Callable[[Carry, jax.Array, jax.Array], jax.Array]
"""(carry after a token, logits_BV of the next token, its id y_B) -> the value to return for that token [B, ...]. A
static argument of `jax.jit`: pass a module-level function, since each new lambda would be compiled anew."""


class Tokens(NamedTuple):
    """Input ids, the ids that follow them, and whether a text starts there (then the carry is reset first)."""

    x_TB: np.ndarray
    y_TB: np.ndarray
    starts_TB: np.ndarray


def forward_texts(
    model: Model, variables: Variables, x: Sequence[np.ndarray], y: Sequence[np.ndarray], observe: Observe
) -> list[np.ndarray]:
    """Returns what `observe` returns at each token [N, ...] of each text of ids `x`, which the ids `y` follow."""
    packing = pack([len(ids) for ids in x])
    starts = [np.arange(len(ids)) == 0 for ids in x]
    tokens = Tokens(packing.to_rows(x, np.int32), packing.to_rows(y, np.int32), packing.to_rows(starts, bool))
    decoder, carry = jitted_make_decoder(model, variables), model.initial_carry(packing.rows)
    observed = []
    for start in range(0, packing.steps, CHUNK):
        chunk = Tokens(*(leaf[start : start + CHUNK] for leaf in tokens))
        carry, values_TB = scan_tokens(model, decoder, carry, chunk, observe)
        observed.append(values_TB)
    return packing.to_texts(np.concatenate(jax.device_get(observed)))


@functools.partial(jax.jit, static_argnames=("model", "observe"))
def scan_tokens(
    model: Model, decoder: Decoder, carry: Carry, tokens: Tokens, observe: Observe
) -> tuple[Carry, jax.Array]:
    """Returns the carry after the tokens, and what `observe` returns at each of them [T, B, ...]."""

    def step(carry: Carry, token: tuple[jax.Array, ...]) -> tuple[Carry, jax.Array]:
        x_B, y_B, starts_B = token
        carry, logits_BV = decode(model, decoder, reset_carry(carry, starts_B), x_B)
        return carry, observe(carry, logits_BV, y_B)

    return jax.lax.scan(step, carry, tuple(map(jnp.asarray, tokens)))


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where each text lies in a batch: texts follow each other in a row, and rows are as long as the longest text."""

    lengths: list[int]
    places: list[tuple[int, int]]  # row and first step of each text
    rows: int
    steps: int  # a multiple of CHUNK

    def to_rows(self, texts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
        """Returns the texts as one array [steps, rows], with zeros where there is no text."""
        array_TB: np.ndarray = np.zeros((self.steps, self.rows), dtype)
        for text, length, (row, start) in zip(texts, self.lengths, self.places, strict=True):
            array_TB[start : start + length, row] = text
        return array_TB

    def to_texts(self, array_TB: np.ndarray) -> list[np.ndarray]:
        """Returns the parts of an array [steps, rows, ...] that belong to each text."""
        places = zip(self.lengths, self.places, strict=True)
        return [array_TB[start : start + length, row] for length, (row, start) in places]


def pack(lengths: list[int]) -> Packing:
    """Packs texts into few rows: the longest first, each into the first row with enough space."""
    steps = -(-max(lengths) // CHUNK) * CHUNK
    leaves = 1 << (len(lengths) - 1).bit_length()  # a row for each text, which is always enough
    space = [steps] * (2 * leaves)  # a binary tree: the rows from `leaves` on; node n has the larger of 2n and 2n + 1
    places = [(0, 0)] * len(lengths)
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        node = 1
        while node < leaves:
            node = 2 * node if space[2 * node] >= lengths[text] else 2 * node + 1
        places[text] = node - leaves, steps - space[node]
        space[node] -= lengths[text]
        while node > 1:
            node //= 2
            space[node] = max(space[2 * node], space[2 * node + 1])
    return Packing(lengths, places, 1 + max(row for row, _ in places), steps)
