"""How fast a setting trains; its seeds trained through the package's own loop; what came of each, as a row."""

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
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED
from lovecraft_jax.runtime.files import read_rows, write_json
from lovecraft_jax.runtime.signals import collect_signals
from lovecraft_jax.stylometry.authorship import Author
from lovecraft_jax.stylometry.overlap import Overlap
from lovecraft_jax.training import loop, metrics
from lovecraft_jax.training.compiled import dispatch_steps, make_program
from lovecraft_jax.training.progress import Progress
from lovecraft_jax.training.stacked import train_stacked

EVALUATIONS, SAVES = 4, 10
"""Of a run."""
STREAMS, LENGTH, TEMPERATURE = 8, 10_000, 1.0
"""What each run writes to be measured: as the model has it, neither bolder nor shyer."""
MEASURED = "measured.json"


def pace(config: ConfigDict, least: float) -> float:
    """Training steps in a second of this process's computing time, or with an accelerator of all time.

    Measured for at least so many seconds; of the dispatches the quickest tenth counts, since whatever else the machine
    does only ever slows them.
    """
    typed = Config.of(config)
    read, section = dataset.prepare(typed), typed.data
    batches = Batches(read.encoded["train"].ids, section.batch_size, section.seq_len, section.regime, typed.seed)
    program = make_program(typed, read.tokenizer.size, 10**6)
    clock = time.process_time if program.devices[0].platform == "cpu" else time.perf_counter
    state, K = program.init(typed.seed), dispatch_steps(typed)
    seconds: list[float] = []
    while sum(seconds[1:]) < least:
        began = clock()
        state, told = program.train_steps(state, program.put(batches.at(len(seconds) * K, K, program.rows)))
        jax.block_until_ready(told)
        seconds.append(clock() - began)
    return K / float(np.quantile(seconds[1:], 0.1))  # the first one compiled


def train(setting: str, config: ConfigDict, seconds: float, folder: Path, stacked: str, seeds: Sequence[int]) -> int:
    """Trains the seeds, or goes on with them, and measures each; returns an exit code. `seconds`: what the steps should
    take, to be told. `stacked`: whether as one program, "yes", "no", or "auto", which does on an accelerator."""
    steps = config.train.steps
    config.train.steps_per_dispatch = DISPATCH
    config.train.eval_every = _multiple(steps / EVALUATIONS)
    config.train.checkpoint_every = _multiple(steps / SAVES)
    configs = {folder / f"{setting}-{seed}": _with_seed(config, seed) for seed in seeds}
    left = {workdir: config for workdir, config in configs.items() if not (workdir / MEASURED).exists()}
    stack = stacked == "yes" or (stacked == "auto" and jax.default_backend() != "cpu")
    if stack and len(left) > 1 and (code := train_stacked(left)) != DONE:
        return code
    for workdir, config in left.items():
        with collect_signals() as signals:  # of which the loop tells nothing once it has begun its final scores
            code = loop.train(config, str(workdir), cores=1)
        if code != DONE or signals:
            return code or INTERRUPTED
        write_json(epath.Path(workdir / MEASURED), measure(setting, workdir, seconds))
    return DONE


def _with_seed(config: ConfigDict, seed: int) -> ConfigDict:
    seeded = config.copy_and_resolve_references()
    seeded.seed = seed
    return seeded


def _multiple(steps: float) -> int:
    return max(1, round(steps / DISPATCH)) * DISPATCH


def measure(setting: str, workdir: Path, seconds: float) -> list[results.Row]:
    """Rows of a finished run: of what it writes, and for the article's recipe of what it had for writing."""
    run = load_run(str(workdir))
    whole = run.config.replace(**{"data.share": 1.0})  # fewer tales train it, all of them judge it
    texts = dataset.prepare(whole, run.corpus, run.tokenizer).splits.by_tale
    trained_on = dataset.prepare(run.config, run.corpus, run.tokenizer).splits.by_tale["train"]
    held_out = texts["valid"] | texts["test"]
    author, overlap = Author(texts["train"] | held_out, held_out.keys()), Overlap(trained_on)
    written = {"written": run.generate("", LENGTH, 0, Sampling(TEMPERATURE), STREAMS)}
    if setting == experiments.LADDER[0][0]:
        ids = run.split("valid").ids[: STREAMS * LENGTH + 1]
        guessed = run.tokenizer.decode(run.teacher_forced(ids))
        written["teacher_forced"] = [guessed[at : at + LENGTH] for at in range(0, len(guessed), LENGTH)]
    about = _scores(run, workdir) | {"setting": setting, "seconds": seconds}
    return [about | {"text": kind} | _style(texts, overlap, author) for kind, texts in written.items()]


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
    """Keras's binary cross-entropy of a split, which training computes only in runs that minimise it."""
    text, data = run.split(split), run.config.data
    values: results.Row = {"bce": run.score(text, bce=True).bce}
    if data.regime == "window":
        rows = run.config.train.eval_lanes or 1
        scorer = Scorer(run.model, run.tokenizer.start_id)
        score = scorer.windows(run.variables, text, rows, data.seq_len, bce=True)
        values["bce_window"] = score.bce
    return values


def _style(texts: list[str], overlap: Overlap, author: Author) -> results.Row:
    found = author.compare("".join(texts))
    copied = [overlap.measure(text) for text in texts]
    return (
        {row.feature.key: row.value for row in found.features}
        | {"copied_longest": max(figures["copied_longest"] for figures in copied)}
        | {"p_value": found.p_value, "accepted_share": found.accepted_share}
    )
