"""What is measured of a finished run: its scores, and the style of the text that it generates."""

import json
import math
from pathlib import Path

from etils import epath

from experiments.study.results import SHORT
from experiments.study.study import Row, Study
from lovecraft_jax.data import dataset
from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.model.lm import count_parameters
from lovecraft_jax.report.collect import MARGIN
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.files import read_rows
from lovecraft_jax.stylometry.authorship import Author
from lovecraft_jax.stylometry.overlap import Overlap
from lovecraft_jax.training import metrics
from lovecraft_jax.training.progress import Progress

STREAMS, LENGTH, TEMPERATURE = 8, 10_000, 1.0
"""Texts that each run generates, and about how many characters of each. Temperature 1 leaves the model's distribution
as it is."""


def measure(study: Study, setting: str, workdir: Path, seconds: float) -> list[Row]:
    """Returns the rows of a finished run: of the text that it generates, and of the study's `more_texts`."""
    run = load_run(str(workdir))
    trained_on = whole = dataset.prepare(run.config, run.corpus, run.tokenizer).splits
    if run.config.data.share < 1:  # compared with all tales, even if it trained on fewer
        whole = dataset.prepare(run.config.replace(**{"data.share": 1.0}), run.corpus, run.tokenizer).splits
    texts = whole.by_tale
    held_out = texts["valid"] | texts["test"]
    author, overlap = Author(texts["train"] | held_out, held_out.keys()), Overlap(trained_on.by_tale["train"])
    generated = {"written": generate(run, "", LENGTH, Sampling(TEMPERATURE), STREAMS)} | study.more_texts(setting, run)
    scores = _scores(run, workdir) | {"setting": setting, "seconds": seconds} | study.more_scores(run, trained_on)
    return [scores | {"text": kind} | _style(pieces, overlap, author) for kind, pieces in generated.items()]


def generate(run: Run, prompt: str, length: int, sampling: Sampling, samples: int = 1) -> list[str]:
    """Returns texts of `length` characters each, without the prompt, generated with seed 0. One is shorter where its
    tokens have by far fewer characters on average than those of the valid tales."""
    tokens = count_tokens(run.split("valid"), length)
    if run.tokenizer.level != "chars":
        tokens = math.ceil(MARGIN * tokens)
    return [text[:length] for text in run.generate(prompt, tokens, 0, sampling, samples)]


def count_tokens(text: Encoded, length: int) -> int:
    """Returns how many tokens as long as those of `text` have `length` characters. What is left out of its ids is of no
    token, and is never generated."""
    left_out = sum(map(len, text.spelled.texts)) if text.spelled.left_out else 0
    return math.ceil(length * len(text.ids) / (text.n_chars - left_out))


def _scores(run: Run, workdir: Path) -> Row:
    rows = read_rows(epath.Path(workdir / metrics.FILE))
    final = {row["split"]: row for row in rows if row.get("scoring") == "final"}
    scores = {f"{split}_{key}": final[split].get(key) for split in ("valid", "test") for key in ("bpc", "bpc_window")}
    config, versions = run.config, json.loads((workdir / "versions.json").read_text())
    steps = config.train.steps
    progress = Progress.of(config.data.batch_size, config.data.seq_len, run.corpus)
    return scores | {
        "seed": config.seed,
        "steps": steps,
        "characters": round(steps * progress.chars_per_step),
        "parameters": count_parameters(run.variables),
        "checkpoint": final["valid"]["checkpoint"],
        "corpus": run.corpus["sha256"][:SHORT],
        "jax": versions["jax"],
        "hardware": versions["hardware"],
    }


def _style(texts: list[str], overlap: Overlap, author: Author) -> Row:
    comparison = author.compare("".join(texts))
    overlaps = [overlap.measure(text) for text in texts]
    return (
        {row.feature.key: row.value for row in comparison.features}
        | {"copied_longest": max(measured["copied_longest"] for measured in overlaps)}
        | {"p_value": comparison.p_value, "accepted_share": comparison.accepted_share}
    )
