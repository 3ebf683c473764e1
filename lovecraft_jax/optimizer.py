"""Clip by global norm, Adam, and a schedule whose peak is a leaf of the optimiser's state."""

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


def make_schedule(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """The learning rate's share of its peak at each step: linear warmup from 0, then a cosine to `end`, or 1."""
    warmup = min(config.warmup, total_steps)
    if config.schedule == "constant":
        return optax.linear_schedule(0.0, 1.0, warmup) if warmup else optax.constant_schedule(1.0)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else 1.0, 1.0, warmup, max(total_steps, warmup + 1), config.end
    )


def make_optimizer(config: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """optax Adam (Kingma and Ba 2015) after clipping, scaled by the schedule's share.

    The peak rate is a leaf of the state (`inject_hyperparams`), so that one compiled step serves many rates at once.
    """
    adam = optax.inject_hyperparams(optax.adam, static_args=("b1", "b2", "eps"))
    chain = optax.chain(
        optax.stateless(lambda grads, _: clip(grads, config.clip)),
        adam(learning_rate=config.lr, b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.scale_by_schedule(make_schedule(config, total_steps)),
    )

    def update(grads: optax.Updates, opt_state: optax.OptState, params: optax.Params | None = None) -> tuple:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power; all else here is strict
            return chain.update(grads, opt_state, params)

    return optax.GradientTransformation(chain.init, update)


def global_norm(tree: optax.Updates) -> jax.Array:
    """The Euclidean norm over all leaves. As optax.tree.norm, with products: XLA's sums take twice as long on a
    CPU, in two passes."""
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def clip(grads: optax.Updates, most: float) -> optax.Updates:
    """Scaled down to a global norm of `most`, where it is larger."""
    scale = jnp.minimum(1.0, most / global_norm(grads))
    return jax.tree.map(lambda grad: grad * scale, grads)


def learning_rate(opt_state: optax.OptState, schedule: optax.Schedule, step: jax.Array) -> jax.Array:
    """The rate that `step` uses: the peak in the state times the schedule's share."""
    return opt_state[1].hyperparams["learning_rate"] * schedule(step.astype(jnp.float32))
