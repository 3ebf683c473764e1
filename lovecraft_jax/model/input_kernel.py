"""The matmul with kernel_x, which computes a layer's input's part of the gates for all time steps at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.model.matmul import dense, look_up


class InputKernel(NamedTuple):
    """kernel_x [D, G]. Operands are taken as `dtype`; with `in_cpp` the matmul and its gradients run in C++."""

    kernel_DG: jax.Array
    dtype: jnp.dtype
    in_cpp: bool = False

    def project(self, x: jax.Array, rows: slice = slice(None)) -> jax.Array:
        """The input's part of the gates, x [..., D] @ kernel_x, which needs no recurrence: [..., G]. `rows` of kernel_x
        belong to x, where x is only part of the input."""
        return dense(x, self.kernel_DG[rows], self.dtype, self.in_cpp)

    def look_up(
        self,
        ids: jax.Array,
        table_VD: jax.Array | None = None,
        scale: jax.Array | None = None,
        rows: slice = slice(None),
    ) -> jax.Array:
        """`project` of x = table_VD[ids], or of the one-hot vectors of `ids` where there is no table: [..., G]. One
        matmul with the table instead of one with every token. `scale` [...] multiplies the vectors, for dropout."""
        gates_VG = self.kernel_DG[rows] if table_VD is None else self.project(table_VD, rows)
        gates = look_up(gates_VG, ids)
        return gates if scale is None else gates * scale[..., None]
