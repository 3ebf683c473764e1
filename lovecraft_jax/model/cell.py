"""What a recurrent cell is: the base class that lstm.py and gru.py derive from. cells.py chooses between them.

A cell defines its parameters, one time step, its carry, its output, its FLOPs, and how it is folded for decoding.
backend.py runs it over a whole sequence. Axes: B batch, T time, D features, H units, G all gates side by
side (4H for the LSTM, 3H for the GRU), V vocabulary.
"""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.input_kernel import InputKernel
from lovecraft_jax.model.normalization import BatchMoments

LayerCarry = Any
"""What one layer carries from one time step to the next: an array [B, H] or a tuple of them, float32."""


class FoldedLayer(NamedTuple):
    """A layer's weights for decoding: what does not depend on the carry is computed once, for every token.

    The gates of a time step are concat([layer below's output, h]) @ kernel [K + H, F] + start[token or 0], with start
    [V or 1, F]. `Cell.folded_step` computes the next carry from them. F is G, or what a cell needs. The bias is part of
    `start`, unless a norm of the gates comes before it: then `after_norm` has that norm's scale [G] and the bias [G].
    """

    start: jax.Array
    kernel: jax.Array
    after_norm: Any = None


class Cell(nn.Module):
    """One layer's parameters and one time step of it.

    Every cell has kernel_x [D, G], normal with standard deviation `kernel_std`, glorot uniform where that is 0, and
    kernel_h [H, G], one orthogonal matrix per gate; a subclass adds its biases. Parameters, gates and the carry are
    float32; matmuls take their operands as `dtype` and accumulate in float32. With `in_cpp` the matmul with kernel_x
    and its gradients run in C++ (native/ops.py). `forget_bias` (initial value of the forget gate's bias), `norm`
    (normalization.py) and `mogrify` (mogrifier.py) are the LSTM's.
    """

    label: ClassVar[str]
    """Its name in messages: "LSTM"."""
    gates: ClassVar[int]
    """Blocks of H columns in the kernels."""
    backends: ClassVar[tuple[str, ...]] = ("scan",)
    """The values of model.backend that can run it (backend.py)."""
    input_gate: ClassVar[str] = "own"
    """config.model.input_gate, which the LSTM's subclasses stand for: "own", "capped" or "coupled"."""

    features: int
    units: int
    dtype: jnp.dtype = jnp.dtype("float32")
    in_cpp: bool = False
    forget_bias: float = 1.0
    norm: str = "none"
    kernel_std: float = 0.0
    mogrify: int = 0

    def setup(self) -> None:
        G = self.gates * self.units
        initial = nn.initializers.normal(self.kernel_std) if self.kernel_std else nn.initializers.glorot_uniform()
        self.kernel_x = self.param("kernel_x", initial, (self.features, G))
        self.kernel_h = self.param("kernel_h", _orthogonal_gates, (self.units, G))

    def __call__(
        self, carry: LayerCarry, gates_x_BG: jax.Array, kernel_h_HG: jax.Array, recurrent_BH: jax.Array | None = None
    ) -> tuple[LayerCarry, BatchMoments]:
        """One time step: the next carry, and in training the moments of the batch that a norm has computed.

        `gates_x_BG` is the input's part of the gates, after `normalise_input`; `kernel_h_HG` is kernel_h, perhaps with
        a dropout mask; `recurrent_BH` is the dropout mask on h before the matmul with it.
        """
        raise NotImplementedError

    @staticmethod
    def initial_carry(batch: int, units: int) -> LayerCarry:
        """Zeros, each leaf in a buffer of its own, as donation requires."""
        raise NotImplementedError

    @staticmethod
    def output(carry: LayerCarry) -> jax.Array:
        """The layer's output h [B, H] at the time step that ended with `carry`."""
        raise NotImplementedError

    @staticmethod
    def memory(carry: LayerCarry) -> jax.Array:
        """The memory of the units [B, H], from -1 to 1, for probing/units.py."""
        raise NotImplementedError

    @classmethod
    def folded_step(cls, carry: LayerCarry, gates_SF: jax.Array, after_norm: Any, norm: str) -> LayerCarry:
        """The next carry, from gates [S, F] as `fold` lays them out, before `norm` if that is of the gates and before
        their activations; `after_norm`: of the FoldedLayer."""
        raise NotImplementedError

    @classmethod
    def flops_per_token(cls, features: int, units: int, mogrify: int = 0) -> int:
        """FLOPs of the matmuls of one token's forward pass: a multiplication and an addition per weight."""
        return 2 * (cls.gates * units * (features + units) + mogrify * features * units)

    @property
    def input_kernel(self) -> InputKernel:
        """kernel_x, which computes the input's part of the gates."""
        return InputKernel(jnp.asarray(self.kernel_x), self.dtype, self.in_cpp)

    def normalise_input(self, gates_x_TBG: jax.Array) -> jax.Array:
        """The input's part of the gates after the cell's norm, if it has one."""
        return gates_x_TBG

    def update_statistics(self, moments: BatchMoments) -> None:
        """Moves a norm's running statistics towards those of a batch, if the cell has any."""

    def fold(self, token_gates_VG: jax.Array | None, below: slice) -> FoldedLayer:
        """The layer's weights for decoding.

        `token_gates_VG`: the input's part of the gates for each token, None where the layer does not take the token.
        `below`: the K rows of kernel_x that belong to the layer below.
        """
        # With running statistics a norm is an affine map: shift_1G is what it adds, without which it is linear.
        shift_1G = self.normalise_input(jnp.zeros((1, self.gates * self.units)))
        kernel_KG = self.normalise_input(jnp.asarray(self.kernel_x)[below]) - shift_1G
        start_VG = shift_1G if token_gates_VG is None else self.normalise_input(token_gates_VG)
        return FoldedLayer(start_VG + self.bias[None], jnp.concatenate([kernel_KG, self.kernel_h]))


def _orthogonal_gates(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """[H, G]: one orthogonal matrix per gate, so that h neither grows nor decays at the start (Saxe et al. 2013)."""
    units, gates = shape
    orthogonal, keys = nn.initializers.orthogonal(), jax.random.split(key, gates // units)
    # One after the other: jaxlib 0.10.2 factorises a batch of matrices on threads that it also waits for, and the
    # batches of two layers can deadlock.
    kernels_NHH = lax.map(lambda key: orthogonal(key, (units, units)), keys)
    return jnp.moveaxis(kernels_NHH, 0, 1).reshape(shape)
