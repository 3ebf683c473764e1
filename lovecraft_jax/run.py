"""The Python API: `load_run(workdir)` loads a run's weights, to sample from them and to score texts; of several runs it
makes an ensemble."""

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.data.cleaning import clean_all
from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.data.splits import PARTS
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.inference.adaptive import AdaptiveScorer, Rates
from lovecraft_jax.inference.decoder import Decoder, jitted_make_decoder
from lovecraft_jax.inference.generate import check_limits, encode_prompt, generate_texts, most_likely_next
from lovecraft_jax.inference.neural_cache import CacheRates, CacheScorer
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.inference.scoring import Score, Scorer
from lovecraft_jax.model.backend import fastest_backend
from lovecraft_jax.model.ensemble import Model, make_ensemble
from lovecraft_jax.model.lm import Variables, make_model
from lovecraft_jax.runtime.checks import checked, shown
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import resolve_path
from lovecraft_jax.runtime.quiet import silence_libraries
from lovecraft_jax.training.checkpoint import Checkpoints
from lovecraft_jax.training.run_files import AnyRates, read_rates, read_run_files, write_rates
from lovecraft_jax.training.state import weights_target

STREAM_CHUNK = 100  # tokens at a time, where a text is shown while it is generated
SAME_TEXT = ("sha256", "split_rule", "splits", "characters")  # what of corpus.json the runs of an ensemble must share


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, with what it was trained on. An ensemble is its first member, but for model, variables, workdir
    and `members`."""

    config: Config
    tokenizer: Tokenizer
    model: Model
    variables: Variables  # of one checkpoint, after `step` steps
    step: int
    corpus: dict[str, Any]  # the content of corpus.json
    workdir: epath.Path | None = None  # where it is kept
    members: tuple["Run", ...] = ()  # the runs of an ensemble

    @property
    def steps(self) -> int | list[int]:
        """`step`, of an ensemble that of every member."""
        return [run.step for run in self.members] or self.step

    def generate(
        self, prompt: str = "", length: int = 1000, seed: int = 0, sampling: Sampling | None = None, samples: int = 1
    ) -> list[str]:
        """Returns `samples` texts of `length` new tokens each, without the prompt."""
        (texts,) = self.stream(prompt, length, seed, sampling, samples, chunk=None)
        return texts

    def stream(
        self,
        prompt: str = "",
        length: int = 1000,
        seed: int = 0,
        sampling: Sampling | None = None,
        samples: int = 1,
        chunk: int | None = STREAM_CHUNK,
    ) -> Iterator[list[str]]:
        """Yields the same texts in pieces of `chunk` tokens, while they are generated; None is all at once. Raises
        UserError when it is called."""
        check_limits(length=length, seed=seed, samples=samples)
        checked(
            "chunk",
            1 if chunk is None else chunk,
            int,
            "a whole number of at least 1, or None",
            lambda tokens: tokens >= 1,
        )
        sampling = checked("sampling", Sampling() if sampling is None else sampling, Sampling, "a Sampling")
        encoded = encode_prompt(self.tokenizer, prompt)
        return generate_texts(
            self.model, self.variables, self.tokenizer, encoded, length, seed, sampling, samples, chunk, self._decoder
        )

    def teacher_forced(self, ids: np.ndarray, seq_len: int = 0) -> np.ndarray:
        """Returns the likeliest token after each of `ids` [N] but the last [N - 1], given the true ones before it. The
        article of 2019 took this for generated text. As there, the tokens are read in windows of `seq_len` (0: that of
        training), each from a zero carry."""
        ids = self._checked_ids(ids)
        checked("seq_len", seq_len, int, "a whole number of at least 0 (0: that of training)", lambda T: T >= 0)
        after, trained = max(0, len(ids) - 1), self.config.data.seq_len
        T = min(seq_len or trained, max(after, trained))  # a longer window would only be filled up
        x_BT: np.ndarray = np.zeros((-(-after // T), T), ids.dtype)
        x_BT.flat[:after] = ids[:after]
        return most_likely_next(self.model, self.variables, x_BT).ravel()[:after]

    def score(self, text: Encoded, bce: bool = False, adaptive: bool = False, cache: bool = False) -> Score:
        """The final score of an encoded text; with `bce` also Keras's binary cross-entropy, which takes more time.

        An `adaptive` score is that of a model which learns from the text while it reads it, with `adaptive_rates`; with
        `cache` it is that of a model with a cache of what it has read, with `cache_rates`. Neither is to be compared
        with the other, static one. This run stays as it is."""
        checked("text", text, Encoded, "what encode or split returns")
        if not len(self._checked_ids(text.ids)):
            raise UserError("the text has nothing to score: expected one character or more; give a longer text")
        check_one_scoring({"bce=True": bce, "adaptive=True": adaptive, "cache=True": cache})
        if adaptive:
            return self._adaptive_scorer.score(text, self.adaptive_rates)
        if cache:
            return self._cache_scorer.score(text, self.cache_rates)
        return self._scorer.final(self.variables, text, bce)

    @functools.cached_property
    def adaptive_rates(self) -> Rates:
        """The rates of dynamic evaluation for this checkpoint: those that its folder has, otherwise tuned on valid and
        saved there, if it can be written to."""
        return self._saved_or_tuned(Rates, lambda: self._adaptive_scorer.tune(self._encoded["valid"])[0])

    @functools.cached_property
    def cache_rates(self) -> CacheRates:
        """The rates of the neural cache for this checkpoint, as `adaptive_rates`."""
        return self._saved_or_tuned(CacheRates, lambda: self._cache_scorer.tune(self._encoded["valid"])[0])

    def _saved_or_tuned(self, kind: type[AnyRates], tune: Callable[[], AnyRates]) -> AnyRates:
        if self.workdir and (saved := read_rates(self.workdir, self.step, kind)):
            return saved
        log("tuning the rates of adaptive scores on valid")
        rates = tune()
        try:
            if self.workdir:
                write_rates(self.workdir, self.step, rates)
        except OSError as error:
            log(f"the adaptive rates are not saved: {error.filename or self.workdir}: {error.strerror or error}")
        return rates

    @functools.cached_property
    def _decoder(self) -> Decoder:
        """The folded weights, kept: to fold those of 16,513 ids takes as long as to generate hundreds of tokens."""
        return jitted_make_decoder(self.model, self.variables)

    @property
    def _scorer(self) -> Scorer:
        return Scorer(self.model, self.tokenizer.start_id)

    @functools.cached_property
    def _adaptive_scorer(self) -> AdaptiveScorer:
        return AdaptiveScorer.of(self._scorer, self.variables, self._encoded["train"])

    @property
    def _cache_scorer(self) -> CacheScorer:
        return CacheScorer(self._scorer, self.variables)

    @functools.cached_property
    def _encoded(self) -> dict[str, Encoded]:
        for other in self.members[1:]:  # another one may have trained on the text that is scored
            recorded = [{key: run.corpus.get(key) for key in SAME_TEXT} for run in (self.members[0], other)]
            _check_same(self.members[0], other, recorded, "corpus and split, or another text")
        return dataset.prepare(self.config, self.corpus, self.tokenizer).encoded

    def encode(self, text: str) -> Encoded:
        """Returns a text, cleaned and encoded as the training text was. Raises UserError where cleaning would drop over
        1 % of it."""
        advice = "give a text in the run's alphabet, or a run that was trained with config.data.alphabet=unicode"
        ((cleaned,), _) = clean_all([checked("text", text, str, "a str")], self.tokenizer.cleaning, advice)
        return self.tokenizer.encode(cleaned)

    def split(self, name: str) -> Encoded:
        """Returns the run's own "train", "valid" or "test" text, loaded again and compared by its hash."""
        checked("split", name, str, f"one of {', '.join(PARTS)}", PARTS.__contains__)
        return self._encoded[name]

    def _checked_ids(self, ids: Any) -> np.ndarray:
        """Returns the ids of a text as NumPy's. Raises UserError where a model would read others than were meant."""
        V = self.tokenizer.size
        expected = f"an array [N] of whole numbers from 0 to {V - 1}, as encode returns"
        allowed = lambda ids: ids.ndim == 1 and ids.dtype.kind in "iu" and not np.any((ids < 0) | (ids >= V))  # noqa: E731
        return np.asarray(checked("ids", ids, np.ndarray | jax.Array, expected, allowed))


def check_one_scoring(given: Mapping[str, bool]) -> None:
    """Raises UserError where more than one of these is true; the keys are what the user wrote."""
    if len(both := [name for name, is_given in given.items() if is_given]) > 1:
        raise UserError(f"{' with '.join(both)}: they are different scores; give one of them")


Workdir = str | os.PathLike[str]


def load_run(workdir: Workdir | Sequence[Workdir], checkpoint: str | int = "best", corpus: str | None = None) -> Run:
    """Loads a run's "best" checkpoint (the latest, where none was scored), its "latest", or that of a step; not the
    optimiser's state. Of several workdirs it returns the ensemble. `corpus`: where its text is now, if it was moved.
    Silences what libraries log, unless absl's verbosity was chosen before. Raises UserError."""
    silence_libraries()
    if isinstance(workdir, str | os.PathLike) or not isinstance(workdir, Sequence):
        return _load_one(workdir, checkpoint, corpus)
    paths = list(map(resolve_path, workdir))
    for n, path in enumerate(paths):
        if path in paths[:n]:
            raise UserError(f"workdir={workdir[n]}: given twice; give an ensemble different runs")
    return ensemble([_load_one(member, checkpoint, corpus) for member in workdir])


def ensemble(runs: Sequence[Run]) -> Run:
    """Returns the runs as one, whose probabilities at every token are the geometric mean of theirs, normalised again; a
    single run as it is. An ensemble among them counts as its members. Raises UserError where tokenizers differ."""
    if not runs:
        raise UserError("workdir=[]: expected the folder of a run, or of several")
    runs = [member for run in runs for member in run.members or [run]]
    first, *others = runs
    if not others:
        return first
    for other in others:
        # The level first: the vocabularies of two levels differ in ways that say nothing to a reader.
        saved = [{"data.level": run.tokenizer.level} | json.loads(run.tokenizer.dumps()) for run in (first, other)]
        _check_same(first, other, saved, "vocabulary and cleaning")
    model, variables = make_ensemble([run.model for run in runs], [run.variables for run in runs])
    return dataclasses.replace(first, model=model, variables=variables, workdir=None, members=tuple(runs))


def _check_same(first: Run, other: Run, recorded: Sequence[Mapping[str, Any]], what: str) -> None:
    """Raises UserError with the first difference between what the two runs recorded."""
    flat, flat_other = (flatten_dict(record, keep_empty_nodes=True) for record in recorded)
    for names in [*flat, *flat_other]:
        values, name = [flat.get(names), flat_other.get(names)], ".".join(names)
        if values[0] == values[1]:
            continue
        if all(isinstance(value, list) or (isinstance(value, str) and len(value) > 20) for value in values):
            same = next(n for n, pair in enumerate(itertools.zip_longest(*values)) if pair[0] != pair[1])
            values, name = [value[same : same + 10] for value in values], f"{name}[{same}:]"
        raise UserError(
            f"workdir={other.workdir}: its {name} is {shown(values[1])}, that of {first.workdir} {shown(values[0])}: "
            f"give an ensemble runs of the same {what}"
        )


def _load_one(workdir: Workdir, checkpoint: str | int, corpus: str | None) -> Run:
    path = resolve_path(workdir)
    config, tokenizer, recorded = read_run_files(path)
    if corpus is not None:
        corpus = os.fspath(checked("corpus", corpus, str | os.PathLike, "the path or the name of a text", os.fspath))
        config = config.replace(**{"data.corpus": corpus})
    if not (path / "checkpoints").is_dir():
        raise UserError(f"workdir={workdir}: no checkpoint yet; train until the first is saved")
    model = make_model(config, tokenizer.size, fastest_backend(config.model))  # whatever backend it was trained with
    checkpoints = Checkpoints(path, read_only=True)
    step = checkpoints.best_step if checkpoint == "best" else None  # None: the latest
    if checkpoint not in ("best", "latest"):
        steps = {str(step): step for step in checkpoints.steps}
        if (step := steps.get(str(checkpoint))) is None:
            there = ", ".join(steps) or "none"
            raise UserError(f"checkpoint={checkpoint}: {workdir} has best, latest and the steps {there}")
    restored = checkpoints.restore_newest(weights_target(model, config.train.average > 0), step)
    checkpoints.close()
    if restored is None:
        raise UserError(f"workdir={workdir}: no checkpoint yet; train until the first is saved")
    if checkpoint not in ("best", "latest") and restored.step != step:
        raise UserError(f"checkpoint={checkpoint}: it is damaged; give another, as {restored.step}")
    return Run(config, tokenizer, model, restored.state.scored, int(restored.state.step), recorded, path)
