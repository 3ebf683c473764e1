"""train.log_tensors: the size of every parameter, of its gradient and of its change, as root mean squares."""

from typing import Any

import jax
import jax.numpy as jnp

from lovecraft_jax.model.lm import Variables

TensorRMS = dict[str, dict[str, Any]]
"""{"lstm_0/kernel_h": {"grad_rms": ..., "param_rms": ..., "update_rms": ...}, ...}"""


def tensor_rms(every: int, step: jax.Array, grads: Variables, before: Variables, after: Variables) -> TensorRMS:
    """Returns the root mean squares in every step that is a multiple of `every`, in all others zeros.

    `grads` are those of the loss, not clipped; `before` and `after` the parameters around the step, param_rms is of
    those after it.
    """

    def measure() -> TensorRMS:
        trees = {"grad_rms": grads, "param_rms": after, "update_rms": jax.tree.map(jnp.subtract, after, before)}
        tensors: TensorRMS = {}
        for key, tree in trees.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                tensors.setdefault(name, {})[key] = jnp.sqrt(jnp.vdot(leaf, leaf) / leaf.size)
        return tensors

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(measure))
    return jax.lax.cond((step + 1) % every == 0, measure, lambda: zeros)


def last_values(tensors: TensorRMS) -> TensorRMS:
    """Returns the values [K] of a dispatch's last step, as floats."""
    return jax.tree.map(lambda value_K: float(value_K[-1]), jax.device_get(tensors))
