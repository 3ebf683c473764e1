"""Adaptive softmax: a softmax over a large vocabulary, most of whose time goes to the frequent tokens.

Edouard Grave et al., Efficient softmax approximation for GPUs (ICML 2017). Frequent ids should come first. The head has
a logit for each of the first ids and one for each tail; a tail has the next ids, four times as many as all before it,
from a projection of the hidden state that is four times as narrow as that of the part before it, unless the kernels are
the rows of the embedding. A token's probability is its tail's times its own within it, exactly normalised.

Axes: N tokens, H hidden, V vocabulary, C tokens of a tail, E width of a tail.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lovecraft_jax.model.matmul import add_bias, dense

SHARES = (0.25, 0.125)
"""The share of the tokens of a batch for which the first tail, and each later one, is computed, if so few are in it."""
NARROWEST = 16


class Tail(NamedTuple):
    """What the logits of a tail's C ids come from: a projection [H, E], if it has one, a kernel [E, C], a bias [C]."""

    down: jax.Array | None
    up: jax.Array
    bias: jax.Array


class AdaptiveSoftmax(nn.Module):
    """The head of a language model of `vocab_size` ids, of which the first `head` are in none of the tails.

    Where it is `tied`, every method also takes the embedding `table_VD`, and the kernels of all ids are its rows, which
    are as wide as the hidden state: no tail is narrower.
    """

    vocab_size: int
    head: int
    width: int  # of the hidden state
    dtype: jnp.dtype
    in_cpp: bool
    tied: bool = False

    def setup(self) -> None:
        kernel, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.ranges = list(itertools.pairwise(tail_edges(self.vocab_size, self.head)))
        size = self.head + len(self.ranges)
        if self.tied:
            self.tails_kernel = self.param("tails_kernel", kernel, (self.width, len(self.ranges)))
        else:
            self.head_kernel = self.param("head_kernel", kernel, (self.width, size))
        self.head_bias = self.param("head_bias", zeros, (size,))
        kernels, biases = [], []
        for n, (low, high) in enumerate(self.ranges):
            if not self.tied:
                E = tail_width(self.width, n)
                down = self.param(f"tail_{n}_projection", kernel, (self.width, E))
                kernels.append((down, self.param(f"tail_{n}_kernel", kernel, (E, high - low))))
            biases.append(self.param(f"tail_{n}_bias", zeros, (high - low,)))
        self.kernels, self.biases = kernels, biases

    def log_probs(self, hidden: jax.Array, table_VD: jax.Array | None = None) -> jax.Array:
        """The log-probability of every id [..., V] after hidden states [..., H]."""
        tails = [tail_logits(tail, hidden, self.dtype, self.in_cpp) for tail in self.tails(table_VD)]
        return join_log_probs(self._head_logits(hidden, table_VD), tails)

    def nats(self, hidden_NH: jax.Array, y_N: jax.Array, table_VD: jax.Array | None = None) -> jax.Array:
        """The cross-entropy of each target [N]. A tail is computed for its own tokens only, unless they are more than
        their share, and then for all."""
        y_N = y_N.astype(jnp.int32)
        part_N = y_N
        for n, (low, high) in enumerate(self.ranges):
            part_N = jnp.where((y_N >= low) & (y_N < high), self.head + n, part_N)
        nats_N = _cross_entropy(self._head_logits(hidden_NH, table_VD), part_N)
        for n, ((low, high), tail) in enumerate(zip(self.ranges, self.tails(table_VD), strict=True)):
            in_tail_N = (y_N >= low) & (y_N < high)
            nats_N += self._tail_nats(hidden_NH, y_N - low, in_tail_N, SHARES[min(n, 1)], tail)
        return nats_N

    def head_weights(self, table_VD: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The kernel [H, P] and the bias [P] of the logits of the first ids and of the tails."""
        kernel = self.head_kernel if table_VD is None else jnp.hstack([table_VD[: self.head].T, self.tails_kernel])
        return kernel, self.head_bias

    def tails(self, table_VD: jax.Array | None) -> list[Tail]:
        """What each tail's logits come from."""
        if table_VD is None:
            return [Tail(*kernels, bias) for kernels, bias in zip(self.kernels, self.biases, strict=True)]
        ranges = zip(self.ranges, self.biases, strict=True)
        return [Tail(None, table_VD[low:high].T, bias) for (low, high), bias in ranges]

    def _tail_nats(
        self, hidden_NH: jax.Array, y_N: jax.Array, in_tail_N: jax.Array, share: float, tail: Tail
    ) -> jax.Array:
        """The cross-entropy of the targets `y_N` within a tail, 0 for tokens outside of it."""
        N = len(y_N)
        C = max(1, int(share * N))

        def nats_for_all() -> jax.Array:
            logits_NV = tail_logits(tail, hidden_NH, self.dtype, self.in_cpp)
            return jnp.where(in_tail_N, _cross_entropy(logits_NV, jnp.where(in_tail_N, y_N, 0)), 0.0)

        def nats_for_its_own() -> jax.Array:
            (places_C,) = jnp.nonzero(in_tail_N, size=C, fill_value=N)  # N: none
            hidden_CH = hidden_NH.at[places_C].get(mode="fill", fill_value=0.0)
            logits_CV = tail_logits(tail, hidden_CH, self.dtype, self.in_cpp)
            nats_C = _cross_entropy(logits_CV, y_N.at[places_C].get(mode="fill", fill_value=0))
            return jnp.zeros(N).at[places_C].add(nats_C, mode="drop")

        # Without checkpoints the backward pass would be given the logits of both, of one of them zeros.
        return jax.lax.cond(jnp.sum(in_tail_N) <= C, jax.checkpoint(nats_for_its_own), jax.checkpoint(nats_for_all))

    def _head_logits(self, hidden: jax.Array, table_VD: jax.Array | None) -> jax.Array:
        kernel, bias = self.head_weights(table_VD)
        return add_bias(dense(hidden, kernel, self.dtype, self.in_cpp), bias)


def tail_logits(tail: Tail, hidden: jax.Array, dtype: jnp.dtype, in_cpp: bool = False) -> jax.Array:
    """Returns the logits of the ids of a tail [..., C] after hidden states [..., H]."""
    narrow = hidden if tail.down is None else dense(hidden, tail.down, dtype, in_cpp)
    return add_bias(dense(narrow, tail.up, dtype, in_cpp), tail.bias)


def join_log_probs(head_logits: jax.Array, logits_of_tails: Sequence[jax.Array]) -> jax.Array:
    """The log-probability of every id [..., V], from the logits of the head and those within each tail."""
    logs = jax.nn.log_softmax(head_logits)
    head = logs.shape[-1] - len(logits_of_tails)
    tails = [jax.nn.log_softmax(tail) + logs[..., head + n, None] for n, tail in enumerate(logits_of_tails)]
    return jnp.concatenate([logs[..., :head], *tails], axis=-1)


def tail_edges(vocab_size: int, head: int) -> list[int]:
    """Where each tail begins, and the end of the last: [head, 5 * head, 25 * head, ..., vocab_size]."""
    edges = [head]
    while edges[-1] < vocab_size:
        edges.append(min(vocab_size, 5 * edges[-1]))
    return edges


def tail_width(hidden: int, tail: int) -> int:
    """The width of the projection of tail 0, 1, ..."""
    return max(min(NARROWEST, hidden), hidden // 4 ** (tail + 1))


def flops_per_token(hidden: int, vocab_size: int, head: int, tied: bool = False) -> int:
    """FLOPs of the matmuls of a token's forward pass, where each tail is computed for its share of the tokens."""
    edges = tail_edges(vocab_size, head)
    flops = 2.0 * hidden * (head + len(edges) - 1)
    for n, (low, high) in enumerate(itertools.pairwise(edges)):
        weights = hidden * (high - low)
        if not tied:
            weights = tail_width(hidden, n) * (hidden + high - low)
        flops += SHARES[min(n, 1)] * 2 * weights
    return int(flops)


def _cross_entropy(logits_NV: jax.Array, y_N: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits_NV, y_N)
