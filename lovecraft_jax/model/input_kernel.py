"""The matmul with kernel_x, which computes a layer's input's part of the gates for all time steps at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.model.matmul import dense, look_up


class InputKernel(NamedTuple):
    """kernel_x [D, G]. Matmuls take operands as `dtype`, and give `out`; with `in_cpp` they and their gradients run in
    C++, in float32."""

    kernel_DG: jax.Array
    dtype: jnp.dtype
    in_cpp: bool = False
    out: Any = jnp.float32

    def project(self, x: jax.Array, rows: slice = slice(None)) -> jax.Array:
        """The input's part of the gates, x [..., D] @ kernel_x, which needs no recurrence: [..., G]. `rows` of kernel_x
        belong to x, where x is only part of the input."""
        return dense(x, self.kernel_DG[rows], self.dtype, self.in_cpp, self.out)

    def look_up(
        self,
        ids: jax.Array,
        table_VD: jax.Array | None = None,
        scale: jax.Array | None = None,
        rows: slice = slice(None),
    ) -> jax.Array:
        """`project` of x = table_VD[ids], or of the one-hot vectors of `ids` where there is no table: [..., G]. One
        matmul with the table instead of one with every token. `scale` [...] multiplies the vectors, for dropout."""
        gates_VG = self.kernel_DG[rows].astype(self.out) if table_VD is None else self.project(table_VD, rows)
        gates = look_up(gates_VG, ids)
        return gates if scale is None else gates * scale[..., None].astype(gates.dtype)
