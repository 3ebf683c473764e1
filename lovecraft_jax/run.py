"""The Python API: `load_run(workdir)` loads a run's weights, to sample from them and to score texts."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.data.cleaning import clean_all
from lovecraft_jax.data.tokenizer import Encoded, Tokenizer
from lovecraft_jax.inference.generate import Sampling, encode_prompt, generate_tokens, most_likely_next
from lovecraft_jax.inference.scoring import Score, Scorer
from lovecraft_jax.model.backend import fastest_backend
from lovecraft_jax.model.lm import LanguageModel, Variables, make_model
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import resolve_path
from lovecraft_jax.training.checkpoint import Checkpoints
from lovecraft_jax.training.run_files import read_run_files
from lovecraft_jax.training.state import weights_target

STREAM_CHUNK = 100  # tokens at a time, where a text is shown while it is generated


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, with what it was trained on."""

    config: Config
    tokenizer: Tokenizer
    model: LanguageModel
    variables: Variables  # of one checkpoint, after `step` steps
    step: int
    corpus: dict[str, Any]  # the content of corpus.json

    def generate(
        self, prompt: str = "", length: int = 1000, seed: int = 0, sampling: Sampling | None = None, samples: int = 1
    ) -> list[str]:
        """Returns `samples` texts of `length` new tokens each, without the prompt."""
        parts = list(self.stream(prompt, length, seed, sampling, samples, chunk=None))
        return [self.tokenizer.decode(ids) for ids in np.concatenate(parts, axis=1)]

    write = generate  # its name in earlier versions

    def stream(
        self,
        prompt: str = "",
        length: int = 1000,
        seed: int = 0,
        sampling: Sampling | None = None,
        samples: int = 1,
        chunk: int | None = STREAM_CHUNK,
    ) -> Iterator[np.ndarray]:
        """Yields the same texts as ids [S, <= chunk], while they are generated."""
        ids = encode_prompt(self.tokenizer, prompt)
        return generate_tokens(self.model, self.variables, ids, length, seed, sampling or Sampling(), samples, chunk)

    def teacher_forced(self, ids: np.ndarray, seq_len: int = 0) -> np.ndarray:
        """Returns the likeliest token after each of `ids` [N] but the last [N - 1], given the true ones before it. The
        article of 2019 took this for generated text. As there, the tokens are read in windows of `seq_len` (0: that of
        training), each from a zero carry."""
        after, T = max(0, len(ids) - 1), seq_len or self.config.data.seq_len
        x_BT: np.ndarray = np.zeros((-(-after // T), T), ids.dtype)
        x_BT.flat[:after] = ids[:after]
        return most_likely_next(self.model, self.variables, x_BT).ravel()[:after]

    def score(self, text: Encoded, bce: bool = False) -> Score:
        """The final score of an encoded text; with `bce` also Keras's binary cross-entropy, which takes more time."""
        return Scorer(self.model, self.tokenizer.start_id).final(self.variables, text, bce)

    def encode(self, text: str) -> Encoded:
        """Returns a text, cleaned and encoded as the training text was. Raises UserError where cleaning would drop over
        1 % of it."""
        ((cleaned,), _) = clean_all([text], self.tokenizer.cleaning)
        return self.tokenizer.encode(cleaned)

    def split(self, name: str) -> Encoded:
        """Returns the run's own "train", "valid" or "test" text, loaded again and compared by its hash."""
        return dataset.prepare(self.config, self.corpus, self.tokenizer).encoded[name]


def load_run(workdir: str, checkpoint: str | int = "best", corpus: str | None = None) -> Run:
    """Loads a run's "best" checkpoint (the latest, where none was scored), its "latest", or that of a step; not the
    optimiser's state. `corpus`: where its text is now, if it was moved. Raises UserError."""
    path = resolve_path(workdir)
    if not path.is_dir():
        raise UserError(f"--workdir={workdir}: no such folder; train first, or name the folder of a run")
    config, tokenizer, recorded = read_run_files(path)
    if corpus:
        config = config.replace(**{"data.corpus": corpus})
    if not (path / "checkpoints").is_dir():
        raise UserError(f"--workdir={workdir}: no checkpoint yet; train until the first is saved")
    model = make_model(config, tokenizer.size, fastest_backend(config.model))  # whatever backend it was trained with
    checkpoints = Checkpoints(path, read_only=True)
    step = checkpoints.best_step if checkpoint == "best" else None  # None: the latest
    if checkpoint not in ("best", "latest"):
        if not str(checkpoint).isdigit() or int(checkpoint) not in checkpoints.steps:
            there = ", ".join(map(str, checkpoints.steps)) or "none"
            raise UserError(f"--checkpoint={checkpoint}: {workdir} has best, latest and the steps {there}")
        step = int(checkpoint)
    restored = checkpoints.restore_newest(weights_target(model), step)
    checkpoints.close()
    if restored is None:
        raise UserError(f"--workdir={workdir}: no checkpoint yet; train until the first is saved")
    return Run(config, tokenizer, model, restored.state.variables, int(restored.state.step), recorded)
