"""A finished (or unfinished) run from Python: `load_run(workdir)`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.data.cleaning import clean_all
from lovecraft_jax.data.tokenizer import Encoded, Tokenizer
from lovecraft_jax.inference.generate import Sampling, encode_prompt, generate_tokens, most_likely_next
from lovecraft_jax.inference.scoring import Score, Scorer
from lovecraft_jax.model.backend import fastest_backend
from lovecraft_jax.model.lm import LanguageModel, make_model
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import resolve_path
from lovecraft_jax.training.checkpoint import Checkpoints
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.run_files import read_run_files
from lovecraft_jax.training.state import TrainState, init_state

STREAM_CHUNK = 100
"""Tokens at a time, where they are shown while they are written."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's parts, and what people do with them. `state.variables` are the model's weights."""

    config: Config
    tokenizer: Tokenizer
    model: LanguageModel
    state: TrainState
    corpus: dict[str, Any]

    def generate(
        self, prompt: str = "", length: int = 1000, seed: int = 0, sampling: Sampling | None = None, samples: int = 1
    ) -> list[str]:
        """Returns `samples` texts of `length` new tokens each, without the prompt."""
        parts = list(self.stream(prompt, length, seed, sampling, samples, chunk=None))
        return [self.tokenizer.decode(ids) for ids in np.concatenate(parts, axis=1)]

    write = generate
    """The name of `generate` in earlier versions."""

    def stream(
        self,
        prompt: str = "",
        length: int = 1000,
        seed: int = 0,
        sampling: Sampling | None = None,
        samples: int = 1,
        chunk: int | None = STREAM_CHUNK,
    ) -> Iterator[np.ndarray]:
        """The same texts as ids [S, <= chunk], as they are written."""
        ids = encode_prompt(self.tokenizer, prompt)
        return generate_tokens(
            self.model, self.state.variables, ids, length, seed, sampling or Sampling(), samples, chunk
        )

    def teacher_forced(self, ids: np.ndarray, seq_len: int = 0) -> np.ndarray:
        """The likeliest token after each of `ids` [N] but the last [N - 1], given those that truly stand before it.

        The article of 2019 took this for writing. Windows of `seq_len` tokens (0: those of training) are read from a
        zero carry each, as there.
        """
        after, T = max(0, len(ids) - 1), seq_len or self.config.data.seq_len
        x_BT: np.ndarray = np.zeros((-(-after // T), T), ids.dtype)
        x_BT.flat[:after] = ids[:after]
        return most_likely_next(self.model, self.state.variables, x_BT).ravel()[:after]

    def score(self, text: Encoded, bce: bool = False) -> Score:
        """The final score of an encoded text; with `bce` also Keras's binary cross-entropy, which takes more time."""
        return Scorer(self.model, self.tokenizer.start_id).final(self.state.variables, text, bce)

    def encode(self, text: str) -> Encoded:
        """Any text, cleaned and encoded as this run's training text was. Raises UserError where over 1 % would go."""
        ((cleaned,), _) = clean_all([text], self.tokenizer.cleaning)
        return self.tokenizer.encode(cleaned)

    def split(self, name: str) -> Encoded:
        """The run's own "train", "valid" or "test" text, loaded again and checked by its hash."""
        return dataset.prepare(self.config, self.corpus, self.tokenizer).encoded[name]


def load_run(workdir: str, checkpoint: str | int = "best") -> Run:
    """Loads a run: its "best" checkpoint (else the latest), the "latest", or that of a step. Raises UserError."""
    path = resolve_path(workdir)
    if not path.is_dir():
        raise UserError(f"--workdir={workdir}: no such folder; train first, or name the folder of a run")
    config, tokenizer, corpus = read_run_files(path)
    if not (path / "checkpoints").is_dir():
        raise UserError(f"--workdir={workdir}: no checkpoint yet; train until the first is saved")
    model = make_model(config, tokenizer.size, fastest_backend(config.model))  # any backend runs it
    checkpoints = Checkpoints(path, read_only=True)
    restored = checkpoints.restore_newest(state_target(config, model), _wanted(checkpoints, checkpoint, workdir))
    checkpoints.close()
    if restored is None:
        raise UserError(f"--workdir={workdir}: no checkpoint yet; train until the first is saved")
    return Run(config, tokenizer, model, restored.state, corpus)


def state_target(config: Config, model: LanguageModel) -> TrainState:
    """Shapes of a run's state, on the first device."""
    optimizer = make_optimizer(config.optimizer, total_steps=1)
    shapes = jax.eval_shape(lambda: init_state(model, optimizer.transform, config.data.batch_size, 0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)


def _wanted(checkpoints: Checkpoints, checkpoint: str | int, workdir: str) -> int | None:
    if checkpoint == "best":
        return checkpoints.best_step
    if checkpoint == "latest":
        return None
    if not str(checkpoint).isdigit() or int(checkpoint) not in checkpoints.steps:
        there = ", ".join(map(str, checkpoints.steps)) or "none"
        raise UserError(f"--checkpoint={checkpoint}: {workdir} has best, latest and the steps {there}")
    return int(checkpoint)
