"""The logger: writes a run's description, metrics, samples and baselines, and shows its progress."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, ParamSpec

from etils import epath

from lovecraft_jax.config import Config
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.data.encoded import Prompt
from lovecraft_jax.inference import generate
from lovecraft_jax.inference.baselines import Baselines, comparison_lines, labelled_scores
from lovecraft_jax.model.lm import LanguageModel, count_parameters
from lovecraft_jax.runtime import background, distributed
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.files import Row, trim_samples, write_json, write_text
from lovecraft_jax.stylometry.features import measure
from lovecraft_jax.stylometry.overlap import Overlap
from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.training.compiled import Program
from lovecraft_jax.training.display import Display, startup_summary
from lovecraft_jax.training.metrics import MetricsWriter, format_scores
from lovecraft_jax.training.progress import Progress
from lovecraft_jax.training.run_files import run_record, write_run_files

BASELINE_SECONDS = 60  # how long the end of a run waits for baselines that are still being computed
STYLE = ("real", "letters_tv", "copied_longest")
"""Figures of every sample: % of its words that the corpus has, total variation of its letter frequencies from the
author's, characters of the longest span that it shares with the training text."""

Given = ParamSpec("Given")


def _main_process_only(method: Callable[Given, None]) -> Callable[Given, None]:
    """A method that the main process executes; in other processes it returns at once."""
    return lambda *args, **kwargs: method(*args, **kwargs) if distributed.is_main_process() else None


class Logger:
    """Writes and shows what happens in the run in `path`. `prompt`: what samples continue. `chosen`: what
    settings_by_size.py chose for this run, as a line."""

    def __init__(self, path: epath.Path, config: Config, data: Data, prompt: Prompt, chosen: str) -> None:
        self._path, self._config, self._data, self._prompt, self._chosen = path, config, data, prompt, chosen
        self.record = run_record(config, data)
        self.progress = Progress.of(config.data.batch_size, config.data.seq_len, self.record["corpus"])
        self._author: Future[tuple[Reference, Overlap]] | None = None

    @_main_process_only
    def open(self, program: Program, step: int, total: int, stack: ExitStack) -> None:
        """Writes the run's description, shows a summary, and removes rows after `step`. `stack` closes the files."""
        write_run_files(self._path, self.record)
        parameters = count_parameters(program.target.variables)
        log(*startup_summary(self._config, self._data, parameters, program.devices, total, self.progress))
        if self._chosen:
            log(f"chosen      {self._chosen}")
        log(f"{'resuming at' if step else 'starting at'} step {step:,} in {self._path}")
        trim_samples(self._path / "samples", step)
        self._metrics = MetricsWriter(self._path, step)
        stack.callback(self._metrics.close)
        self._baselines = Baselines(self._data.splits.text, self._data.tokenizer.cleaning)
        stack.callback(self._baselines.close)
        self._baselines_logged = False
        self._display = Display(step, total, self.progress, stack)

    @_main_process_only
    def show(self, row: Row, due: bool) -> None:
        """Shows a row of training on the live line, and writes it if `due`."""
        if self._author is None:  # not before the first step, which it would delay
            self._author = background.start(self._index_author)
        self._log_baselines()
        self._display.show(row["step"], row["bpc"], row["chars_per_second"], due)
        if due:
            self._metrics.write(row)

    @_main_process_only
    def write(self, *rows: Row) -> None:
        self._metrics.write(*rows)

    @_main_process_only
    def log(self, *lines: str) -> None:
        self._display.log(*lines)

    @_main_process_only
    def evaluation(self, row: Row, model: LanguageModel, variables: Mapping[str, Any]) -> None:
        """Writes a scheduled score, a sample, and a row with its style. `variables`: on this process's devices."""
        text = self._sample(model, variables, f"{row['step']:08d}.txt")
        self.write(row, {"step": row["step"], "split": "sample"} | self._style(text))

    @_main_process_only
    def finish(self, rows: list[Row], model: LanguageModel, variables: Mapping[str, Any]) -> None:
        """Writes the final scores of the best checkpoint, and a sample from it."""
        if self._baselines.wait(BASELINE_SECONDS) is None:
            self.log("WARNING: the baselines could not be computed")
        self._log_baselines()
        text = self._config.sample.prompt + self._sample(model, variables, "best.txt")
        self.write(*rows)
        origin = f"from the best checkpoint, step {rows[0]['checkpoint']:,}; all is in {self._path}"
        self.log("", *text.split("\n"), "", origin, *comparison_lines(self._baselines.result() or {}))
        self.print_results(rows)

    @_main_process_only
    def print_results(self, rows: list[Row]) -> None:
        """Prints the final scores to standard output."""
        try:
            print(format_scores(rows), flush=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error

    def _sample(self, model: LanguageModel, variables: Mapping[str, Any], name: str) -> str:
        """Generates a text with config.sample, writes it to a file, and returns it without the prompt."""
        config = self._config.sample
        sampling, seed = generate.Sampling(config.temperature, config.top_k, config.top_p), self._config.seed
        tokenizer = self._data.tokenizer
        ((text,),) = generate.generate_texts(
            model, dict(variables), tokenizer, self._prompt, config.length, seed, sampling
        )
        (self._path / "samples").mkdir(exist_ok=True)
        write_text(self._path / "samples" / name, config.prompt + text + "\n")
        return text

    def _style(self, text: str) -> Row:
        assert self._author is not None, "a dispatch is shown before anything is evaluated"
        reference, overlap = self._author.result()
        figures = measure(text, reference) | overlap.measure(text)
        return {key: figures[key] for key in STYLE}

    def _index_author(self) -> tuple[Reference, Overlap]:
        tales = self._data.splits.by_tale
        return Reference(tales["train"], tales["valid"] | tales["test"]), Overlap(tales["train"])

    def _log_baselines(self) -> None:
        """Logs and writes the baselines once, as soon as they are known."""
        if (known := self._baselines.result()) and not self._baselines_logged:
            write_json(self._path / "baselines.json", known)
            scores = ", ".join(f"{name} {bpc:.3f}" for name, bpc in labelled_scores(known).items())
            self.log(f"baselines on valid: {scores}")
            self._baselines_logged = True
