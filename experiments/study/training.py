"""Throughput of a setting, training of its seeds through the package's own loop, and measurement of each run."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from experiments.article_2019 import experiments, results
from experiments.article_2019.plan import DISPATCH
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.data.batches import Batches
from lovecraft_jax.inference.generate import Sampling
from lovecraft_jax.inference.scoring import Scorer
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import DONE, RunError
from lovecraft_jax.runtime.files import read_rows, write_json
from lovecraft_jax.stylometry.authorship import Author
from lovecraft_jax.stylometry.overlap import Overlap
from lovecraft_jax.sweep.runs import Outcome, train_runs
from lovecraft_jax.training import metrics
from lovecraft_jax.training.compiled import dispatch_steps, make_program
from lovecraft_jax.training.progress import Progress

EVALUATIONS, SAVES = 4, 10
"""Scheduled evaluations and checkpoints of a run."""
STREAMS, LENGTH, TEMPERATURE = 8, 10_000, 1.0
"""What each run generates to be measured. Temperature 1 leaves the model's distribution as it is."""
MEASURED = "measured.json"


def steps_per_second(config: ConfigDict, least_seconds: float) -> float:
    """Returns the throughput in training steps per second of this process's CPU time, or of wall time on accelerators.

    Trains for at least `least_seconds`. Other load on the machine only ever slows a dispatch, so the result is the
    0.1 quantile of their times.
    """
    typed = Config.of(config)
    data, section = dataset.prepare(typed), typed.data
    batches = Batches(data.encoded["train"].ids, section.batch_size, section.seq_len, section.regime, typed.seed)
    program = make_program(typed, data.tokenizer.size, 10**6)
    clock = time.process_time if program.devices[0].platform == "cpu" else time.perf_counter
    state, K = program.init(typed.seed), dispatch_steps(typed)
    seconds: list[float] = []
    while sum(seconds[1:]) < least_seconds:
        began = clock()
        state, step_metrics = program.train_steps(state, program.put(batches.at(len(seconds) * K, K, program.rows)))
        jax.block_until_ready(step_metrics)
        seconds.append(clock() - began)
    return K / float(np.quantile(seconds[1:], 0.1))  # the first dispatch compiled


def train(setting: str, config: ConfigDict, seconds: float, folder: Path, stacked: str, seeds: Sequence[int]) -> int:
    """Trains or resumes the seeds as a sweep does and measures each; returns an exit code. Raises RunError where the
    loss of one is not finite.

    `seconds`: how long the steps should take, for the rows. `stacked`: "yes" trains the seeds as one program, "no" one
    after another, "auto" as one program on an accelerator.
    """
    steps = config.train.steps
    config.train.steps_per_dispatch = DISPATCH
    config.train.eval_every = _multiple(steps / EVALUATIONS)
    config.train.checkpoint_every = _multiple(steps / SAVES)
    typed = Config.of(config)
    runs = {str(folder / f"{setting}-{seed}"): typed.replace(seed=seed) for seed in seeds}

    def measure_finished() -> None:
        for workdir in map(Path, runs):
            if Outcome.of(str(workdir)).is_finished and not (workdir / MEASURED).exists():
                write_json(epath.Path(workdir / MEASURED), measure(setting, workdir, seconds))

    code = train_runs(runs, {"yes": len(runs), "no": 1, "auto": 0}[stacked], False, measure_finished)
    if code == DONE:
        measure_finished()  # what an interrupted command had trained
        if failed := [workdir for workdir in runs if not Outcome.of(workdir).is_finished]:
            raise RunError(f"{', '.join(failed)}: the loss or its gradient is not finite")
    return code


def _multiple(steps: float) -> int:
    return max(1, round(steps / DISPATCH)) * DISPATCH


def measure(setting: str, workdir: Path, seconds: float) -> list[results.Row]:
    """Returns the rows of a finished run: of the text that it generates and, for the article's recipe, of its
    predictions under the true text, which the article took for generated text."""
    run = load_run(str(workdir))
    whole = run.config.replace(**{"data.share": 1.0})  # compared with all tales, even if it trained on fewer
    texts = dataset.prepare(whole, run.corpus, run.tokenizer).splits.by_tale
    trained_on = dataset.prepare(run.config, run.corpus, run.tokenizer).splits.by_tale["train"]
    held_out = texts["valid"] | texts["test"]
    author, overlap = Author(texts["train"] | held_out, held_out.keys()), Overlap(trained_on)
    generated = {"written": run.generate("", LENGTH, 0, Sampling(TEMPERATURE), STREAMS)}
    if setting == experiments.FIRST:
        ids = run.split("valid").ids[: STREAMS * LENGTH + 1]
        predicted = run.tokenizer.decode(run.teacher_forced(ids))
        generated["teacher_forced"] = [predicted[at : at + LENGTH] for at in range(0, len(predicted), LENGTH)]
    scores = _scores(run, workdir) | {"setting": setting, "seconds": seconds}
    return [scores | {"text": kind} | _style(pieces, overlap, author) for kind, pieces in generated.items()]


def _scores(run: Run, workdir: Path) -> results.Row:
    rows = read_rows(epath.Path(workdir / metrics.FILE))
    final = {row["split"]: row for row in rows if row.get("scoring") == "final"}
    final = {split: row if "bce" in row else row | _bce(run, split) for split, row in final.items()}
    scores = {
        f"{split}_{key}": final[split].get(key)
        for split in ("valid", "test")
        for key in ("bpc", "bce", "bpc_window", "bce_window")
    }
    config, versions = run.config, json.loads((workdir / "versions.json").read_text())
    steps = config.train.steps
    progress = Progress.of(config.data.batch_size, config.data.seq_len, run.corpus)
    return scores | {
        "seed": config.seed,
        "steps": steps,
        "characters": round(steps * progress.chars_per_step),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"])),
        "checkpoint": final["valid"]["checkpoint"],
        "corpus": run.corpus["sha256"][: results.SHORT],
        "jax": versions["jax"],
        "hardware": versions["hardware"],
    }


def _bce(run: Run, split: str) -> results.Row:
    """Returns Keras's binary cross-entropy of a split, which training computes only in runs that minimise it."""
    text, data = run.split(split), run.config.data
    values: results.Row = {"bce": run.score(text, bce=True).bce}
    if data.regime == "window":
        rows = run.config.train.eval_lanes
        scorer = Scorer(run.model, run.tokenizer.start_id)
        score = scorer.windows(run.variables, text, rows, data.seq_len, bce=True)
        values["bce_window"] = score.bce
    return values


def _style(texts: list[str], overlap: Overlap, author: Author) -> results.Row:
    comparison = author.compare("".join(texts))
    overlaps = [overlap.measure(text) for text in texts]
    return (
        {row.feature.key: row.value for row in comparison.features}
        | {"copied_longest": max(measured["copied_longest"] for measured in overlaps)}
        | {"p_value": comparison.p_value, "accepted_share": comparison.accepted_share}
    )
