"""Ensemble: several language models as one, whose probabilities are the geometric mean of theirs, normalised again."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.model.dropout import NO_DROPOUT, DropoutMasks
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables


class Ensemble(nn.Module):
    """Models of one vocabulary, which read the same tokens. The carry is a tuple with one of each member.

    The logits are the mean of the members' logits: a member's log-probabilities are its logits less the same number for
    every token, so softmax makes of the mean what it would make of the mean log-probabilities.
    """

    members: tuple["LanguageModel | Ensemble", ...]
    """All different objects: one that is there twice would share its weights, as Flax has it. See `make_ensemble`."""

    def __call__(self, carry: Carry, x_BT: jax.Array, masks: DropoutMasks = NO_DROPOUT) -> tuple[Carry, jax.Array]:
        """The carry after ids [B, T], and the logits of the token after each, [B, T, V], float32."""
        carry, hidden_TBH = self.hidden(carry, x_BT, masks)
        return carry, self.logits(hidden_TBH)

    def hidden(self, carry: Carry, x_BT: jax.Array, masks: DropoutMasks = NO_DROPOUT) -> tuple[Carry, jax.Array]:
        """The carry after ids [B, T], and the members' hidden states after each, side by side, [T, B, H]."""
        pairs = zip(self.members, carry, strict=True)
        outputs = [member.hidden(member_carry, x_BT, masks) for member, member_carry in pairs]
        carries, states = zip(*outputs, strict=True)
        return tuple(carries), jnp.concatenate([hidden_TBH.astype(jnp.float32) for hidden_TBH in states], axis=-1)

    def logits(self, hidden_TBH: jax.Array) -> jax.Array:
        """The logits of the next token after hidden states [T, B, H]: [B, T, V], float32."""
        edges = np.cumsum([member.head_width for member in self.members])[:-1]
        states = jnp.split(hidden_TBH, edges, axis=-1)
        return _mean([member.logits(part_TBH) for member, part_TBH in zip(self.members, states, strict=True)])

    def initial_carry(self, batch: int) -> Carry:
        return tuple(member.initial_carry(batch) for member in self.members)

    def split_variables(self, variables: Variables) -> list[Variables]:
        """The members' variables, from those of the ensemble."""
        names = [f"members_{n}" for n in range(len(self.members))]  # as Flax calls them
        return [{kind: by_name[name] for kind, by_name in variables.items() if name in by_name} for name in names]

    @property
    def vocab_size(self) -> int:
        return self.members[0].vocab_size

    @property
    def head_width(self) -> int:
        """The width of the members' hidden states, side by side."""
        return sum(member.head_width for member in self.members)


Model = LanguageModel | Ensemble
"""What scores and generates."""


def join_outputs(outputs: Sequence[tuple[Carry, jax.Array]]) -> tuple[Carry, jax.Array]:
    """The carry and the logits of an ensemble, from those of each member."""
    carries, logits = zip(*outputs, strict=True)
    return tuple(carries), _mean(logits)


def make_ensemble(models: Sequence[Model], variables: Sequence[Variables]) -> tuple[Ensemble, Variables]:
    """The ensemble of `models`, and its variables from those of each."""
    kinds = dict.fromkeys(kind for member in variables for kind in member)
    joined = {
        kind: {f"members_{n}": member[kind] for n, member in enumerate(variables) if kind in member} for kind in kinds
    }
    return Ensemble(tuple(model.clone() for model in models)), joined


def _mean(logits: Sequence[jax.Array]) -> jax.Array:
    return sum(logits[1:], start=logits[0]) / len(logits)
