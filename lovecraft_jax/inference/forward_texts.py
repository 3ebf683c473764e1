"""A model reads several texts side by side, each from a zero carry, and what was asked for is kept of every token."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.inference.decoder import Decoder, decode, make_decoder
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables, reset_carry

CHUNK = 500
"""Tokens of a lane in one dispatch."""

See = Callable[[Carry, jax.Array, jax.Array], jax.Array]
"""(carry after a token, logits_BV of the next, the next y_B) -> what is kept, [B, ...]. A function of a module: it is
what `jax.jit` compiles for."""

decoder_of = jax.jit(make_decoder, static_argnums=0)


class Tokens(NamedTuple):
    """What goes in, what comes next, and whether a text begins there, so that what was before is forgotten."""

    x_TB: np.ndarray
    y_TB: np.ndarray
    begins_TB: np.ndarray


def read(
    model: LanguageModel, variables: Variables, x: Sequence[np.ndarray], y: Sequence[np.ndarray], see: See
) -> list[np.ndarray]:
    """What `see` keeps of the ids `x` of each text [N, ...], where `y` are the ids that follow each."""
    packing = pack([len(ids) for ids in x])
    begins = [np.arange(len(ids)) == 0 for ids in x]
    tokens = Tokens(packing.put(x, np.int32), packing.put(y, np.int32), packing.put(begins, bool))
    decoder, carry = decoder_of(model, variables), model.initial_carry(packing.lanes)
    seen = []
    for start in range(0, packing.steps, CHUNK):
        carry, part = scan(model, decoder, carry, Tokens(*(leaf[start : start + CHUNK] for leaf in tokens)), see)
        seen.append(part)
    return packing.take(np.concatenate(jax.device_get(seen)))


@functools.partial(jax.jit, static_argnames=("model", "see"))
def scan(model: LanguageModel, decoder: Decoder, carry: Carry, tokens: Tokens, see: See) -> tuple[Carry, jax.Array]:
    """The carry after the tokens, and what `see` keeps of each, [T, B, ...]."""

    def one(carry: Carry, token: tuple[jax.Array, ...]) -> tuple[Carry, jax.Array]:
        x_B, y_B, begins_B = token
        carry, logits_BV = decode(model, decoder, reset_carry(carry, begins_B), x_B)
        return carry, see(carry, logits_BV, y_B)

    return jax.lax.scan(one, carry, tuple(map(jnp.asarray, tokens)))


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where texts of these lengths lie: end to end in as few lanes as the longest allows."""

    lengths: list[int]
    places: list[tuple[int, int]]  # lane and first step
    lanes: int
    steps: int  # a multiple of CHUNK

    def put(self, texts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
        """The texts in their lanes [steps, lanes], zeros between."""
        array_TB: np.ndarray = np.zeros((self.steps, self.lanes), dtype)
        for text, length, (lane, start) in zip(texts, self.lengths, self.places, strict=True):
            array_TB[start : start + length, lane] = text
        return array_TB

    def take(self, array_TB: np.ndarray) -> list[np.ndarray]:
        """The texts out of their lanes."""
        spots = zip(self.lengths, self.places, strict=True)
        return [array_TB[start : start + length, lane] for length, (lane, start) in spots]


def pack(lengths: list[int]) -> Packing:
    """The longest text first, each into the first lane that has room."""
    room = -(-max(lengths) // CHUNK) * CHUNK
    ends: list[int] = []
    places = [(0, 0)] * len(lengths)
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        lane = next((lane for lane, end in enumerate(ends) if end + lengths[text] <= room), len(ends))
        if lane == len(ends):
            ends.append(0)
        places[text] = lane, ends[lane]
        ends[lane] += lengths[text]
    return Packing(lengths, places, len(ends), room)
