"""Clip by global norm, Adam, and a schedule whose peak is a leaf of the optimiser's state."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from lovecraft_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate's share of its peak at each step: linear warmup from 0, then a cosine to `end`, or 1."""
    warmup = min(config.warmup, total_steps)
    if config.schedule == "constant":
        return optax.linear_schedule(0.0, 1.0, warmup) if warmup else optax.constant_schedule(1.0)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else 1.0, 1.0, warmup, max(total_steps, warmup + 1), config.end
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam with a schedule, after a clip by the global norm (0: none), which `step.make_update` makes with its mean."""

    adam: optax.GradientTransformation
    schedule: optax.Schedule
    clip: float


def make_optimizer(config: OptimizerConfig, total_steps: int) -> Optimizer:
    """optax Adam (Kingma and Ba 2015), scaled by the schedule's share.

    The peak rate is a leaf of the state (`inject_hyperparams`), so that one compiled step serves many rates at once.
    With `eps_hat` epsilon is added before the bias is corrected, as at the end of their section 2 and in Keras: divided
    by sqrt(1 - beta2^t), where gradients near it then move little in the first steps.
    """
    schedule, beta2, eps = make_schedule(config, total_steps), config.beta2, config.eps
    eps_hat = config.eps_hat
    adam = optax.inject_hyperparams(optax.adam, static_args=("b1", "b2") if eps_hat else ("b1", "b2", "eps"))
    corrected = lambda count: eps / jnp.sqrt(1 - beta2 ** (count.astype(jnp.float32) + 1))  # noqa: E731
    chain = optax.chain(
        adam(learning_rate=config.lr, b1=config.beta1, b2=beta2, eps=corrected if eps_hat else eps),
        optax.scale_by_schedule(schedule),
    )

    def update(grads: optax.Updates, opt_state: optax.OptState, params: optax.Params | None = None) -> tuple:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power; all else here is strict
            return chain.update(grads, opt_state, params)

    return Optimizer(optax.GradientTransformation(chain.init, update), schedule, config.clip)


def global_norm(tree: optax.Updates) -> jax.Array:
    """The Euclidean norm over all leaves. As optax.tree.norm, with products: XLA's sums take twice as long on a
    CPU, in two passes."""
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def learning_rate(opt_state: optax.OptState, schedule: optax.Schedule, step: jax.Array) -> jax.Array:
    """The rate that `step` uses: the peak in the state times the schedule's share."""
    return opt_state[0].hyperparams["learning_rate"] * schedule(step.astype(jnp.float32))
