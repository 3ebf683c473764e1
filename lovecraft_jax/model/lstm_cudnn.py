"""cuDNN's LSTM, on NVIDIA GPUs, as a third way to run a layer: `model.backend = "cudnn"`, float32.

Not measured: no GPU has been at hand. What it is given and gives is tested against JAX's own reference for it.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn

from lovecraft_jax.model.cells import LSTMCell
from lovecraft_jax.model.lstm_fused import LayerCarry


def run_cudnn(cell: LSTMCell, carry: LayerCarry, x_TBD: jax.Array) -> tuple[LayerCarry, jax.Array]:
    """A whole sequence of a layer's inputs to the last carry and h_TBH, as `lstm.run_layer`."""
    (c_BH, h_BH), (T, B, D) = carry, x_TBD.shape
    lengths_B = jnp.full(B, T, jnp.int32)
    y_BTH, h_1BH, c_1BH = rnn.lstm(
        x_TBD.swapaxes(0, 1),
        h_BH[None],
        c_BH[None],
        pack(cell.kernel_x, cell.kernel_h, cell.bias),
        lengths_B,
        D,
        cell.units,
        1,
        0.0,
        False,
        precision=lax.Precision.HIGHEST,  # else its products are rounded to TF32
    )
    return (c_1BH[0], h_1BH[0]), y_BTH.swapaxes(0, 1)


def pack(kernel_x: jax.Array, kernel_h: jax.Array, bias: jax.Array) -> jax.Array:
    """One layer's parameters as cuDNN takes them: [4H, D], [4H, H], and two biases of which ours is the first."""
    return jnp.concatenate([kernel_x.T.ravel(), kernel_h.T.ravel(), bias, jnp.zeros_like(bias)])
