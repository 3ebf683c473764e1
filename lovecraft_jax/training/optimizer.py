"""The optimiser: clipping by the global norm, an update rule, and a learning-rate schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from lovecraft_jax.config import OptimizerConfig
from lovecraft_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An update rule with its schedule, as one optax transform, and the norm that `step.make_update` clips gradients to
    first, 0 for no clipping."""

    transform: optax.GradientTransformation
    schedule: optax.Schedule
    clip: float


def make_optimizer(config: OptimizerConfig, total_steps: int) -> Optimizer:
    """Returns the optimiser that `config` describes.

    The schedule multiplies what the update rule gives at the peak learning rate. The peak is a leaf of the optimiser's
    state, so that runs with different learning rates can share one compiled program.
    """
    schedule = make_schedule(config, total_steps)
    chain = optax.chain(_update_rule(config), optax.scale_by_schedule(schedule))

    def update(grads: optax.Updates, opt_state: optax.OptState, params: optax.Params | None = None) -> tuple:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power; all else here is strict
            return chain.update(grads, opt_state, params)

    return Optimizer(optax.GradientTransformation(chain.init, update), schedule, config.clip)


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Returns the function from a step to its learning rate as a fraction of the peak: linear warmup from 0 to 1, then
    constant, or a cosine that falls to `config.end` at `total_steps`."""
    warmup = min(config.warmup, total_steps)
    if config.schedule == "constant":
        return optax.linear_schedule(0.0, 1.0, warmup) if warmup else optax.constant_schedule(1.0)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else 1.0, 1.0, warmup, max(total_steps, warmup + 1), config.end
    )


def learning_rate(opt_state: optax.OptState, schedule: optax.Schedule, step: jax.Array) -> jax.Array:
    """Returns the learning rate of `step`: the peak, from the optimiser's state, times the schedule."""
    return opt_state[0].hyperparams["learning_rate"] * schedule(step.astype(jnp.float32))


def global_norm(tree: optax.Updates) -> jax.Array:
    """Returns what optax.tree.norm does, by dot products: on a CPU, XLA takes twice as long for a square and a sum."""
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def _update_rule(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns the update rule `config.name` at the peak learning rate, which `inject_hyperparams` makes a leaf of the
    state: every rule needs it. To add a rule, add a branch here."""
    beta1, beta2 = config.beta1, config.beta2
    eps, static = (_eps_hat(config), ("b1", "b2")) if config.eps_hat else (config.eps, ("b1", "b2", "eps"))
    if config.name == "adam":  # Kingma and Ba 2015
        adam = optax.inject_hyperparams(optax.adam, static_args=static)
        return adam(learning_rate=config.lr, b1=beta1, b2=beta2, eps=eps)
    if config.name == "adamw":  # Loshchilov and Hutter 2019
        adamw = optax.inject_hyperparams(optax.adamw, static_args=(*static, "mask"))
        # Kernels and embeddings, but no biases and no scales.
        decayed = lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)  # noqa: E731
        return adamw(config.lr, beta1, beta2, eps, weight_decay=config.weight_decay, mask=decayed)
    if config.name == "sgd":
        sgd = optax.inject_hyperparams(optax.sgd, static_args="momentum")
        return sgd(learning_rate=config.lr, momentum=beta1 or None)
    raise UserError(f"config.optimizer.name={config.name!r}: expected adam, adamw or sgd")


def _eps_hat(config: OptimizerConfig) -> optax.Schedule:
    """Returns Adam's epsilon at each step where it is added before the bias correction, as Keras does.

    This is epsilon-hat of Kingma and Ba 2015, end of section 2. It equals an epsilon of config.eps / sqrt(1 - beta2^t)
    after the correction, so that gradients of about config.eps move the weights little in the first steps.
    """
    return lambda count: config.eps / jnp.sqrt(1 - config.beta2 ** (count.astype(jnp.float32) + 1))
