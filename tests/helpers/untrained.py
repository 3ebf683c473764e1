"""Models with random weights, for tests that need a model with a memory but no training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from configs import tiny
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.run import Run


def untrained_run(text: str, seed: int = 0, scale: float = 0.8) -> Run:
    """A run of a small model. Its vocabulary is that of `text`; its weights let tokens of long ago still matter."""
    config = tiny.get_config()
    tokenizer = CharTokenizer.of(text, make_cleaning("ascii"))
    model = make_model(config, tokenizer.size)
    return Run(config, tokenizer, model, random_variables(model, scale, seed), 0, {})


def random_variables(model: LanguageModel, scale: float = 0.6, seed: int = 0) -> Any:
    """Normally distributed, larger than a model starts with, so that what it remembers matters; variances are squares
    of these plus a half."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(1), jnp.zeros((1, 1), jnp.int32))

    def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.normal(0, scale, shape.shape).astype(np.float32)
        return values**2 + np.float32(0.5) if "variance" in jax.tree_util.keystr(path) else values

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def forward_float64(run: Run, text: str) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities of the token after a text [V] and tanh(c) of all layers [L * H], by a loop in float64."""
    params = {name: np.asarray(leaf, np.float64) for name, leaf in flatten_dict(run.variables["params"]).items()}
    state = [(np.zeros(run.model.units), np.zeros(run.model.units))] * run.model.layers
    below = np.zeros(0)
    for token in [run.tokenizer.start_id, *run.tokenizer.encode(text).ids]:
        below = np.eye(run.tokenizer.size)[token]
        for layer, (c, h) in enumerate(state):
            kernel_x, kernel_h, bias = (params[f"lstm_{layer}", name] for name in ("kernel_x", "kernel_h", "bias"))
            i, f, g, o = np.split(below @ kernel_x + h @ kernel_h + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            below = sigmoid(o) * np.tanh(c)
            state[layer] = c, below
    logits = below @ params["head_kernel",] + params["head_bias",]
    return logits - np.logaddexp.reduce(logits), np.tanh(np.concatenate([c for c, _ in state]))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
