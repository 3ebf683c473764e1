"""The settings that are compared, each with its own config, and the questions that they answer.

The first question is the ladder: from the article's recipe to c150:plain (the variant `plain` of configs/c150.py) and
beyond, one change at a time. The second goes on from there, to the recipe of c150. The other questions each vary one
thing, of c150:plain or of c150.
"""

import dataclasses
import functools
from typing import Any

from ml_collections import ConfigDict

from configs import c150
from experiments.study import measure
from experiments.study.study import Entry, Question, Row, Study, changed
from lovecraft_jax.data.splits import Splits
from lovecraft_jax.inference.scoring import Scorer
from lovecraft_jax.run import Run

FIRST = "article"
"""The first setting of the ladder: the article's recipe."""
BEST = "embedding"
"""The setting that is c150:plain. Most side questions start from it."""
RECIPE = "average"
"""The setting that is c150."""
CONTEXTS = (10, 30, 50, 100, 200)
UNITS = (100, 125, 150, 256, 512)
RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
SHARES = (0.1, 0.25, 0.5, 1.0)
NORMS = {
    "none": "none",
    "layer": "LayerNorm (Ba 2016)",
    "batch_input": "BatchNorm between layers (Laurent 2015)",
    "batch": "BatchNorm in the cell (Cooijmans 2016)",
}
NORMS_NOW = {
    "none": "none, and a rate of 0.008",
    "layer_gates": "LayerNorm of the gates",
    "batch_input": "BatchNorm between layers",
}
FREE_OF_COST = (
    "data.share",
    "model.forget_bias",
    "model.init_scale",
    "optimizer.lr",
    "optimizer.schedule",
    "optimizer.weight_decay",
)
"""Config fields that do not change how long a training step takes."""
COLUMNS = {
    "characters": ("million characters", 1e6, 1),
    "test_bpc": ("bpc, test", 1, 3),
    "valid_bpc_window": ("bpc, in windows", 1, 3),
    "valid_bce": ("bce", 1, 4),
    "real": ("real words, %", 1, 1),
    "the": ("the", 1, 0),
    "ing": ("-ing", 1, 0),
    "tion_end": ("-tion", 1, 0),
    "copied_longest": ("longest overlap", 1, 0),
}


@functools.cache
def get_study() -> Study:
    """Returns the study of the article."""
    return Study(
        package="experiments.article_2019",
        name="article",
        questions=_questions(),
        configs=_configs(),
        reference=BEST,
        free_of_cost=FREE_OF_COST,
        columns=COLUMNS,
        more_columns=("steps", "parameters", "word_length", "p_value", "accepted_share"),
        overhead=40.0,
        more_scores=_binary_cross_entropy,
        more_texts=_predict_the_true_text,
    )


def _questions() -> tuple[Question, ...]:
    first, *others = (Entry(name, label) for name, label, _ in ladder())
    entries = (
        dataclasses.replace(first, text="teacher_forced"),
        dataclasses.replace(first, label="+ generated, not predicted under the true text"),
        *others,
    )
    return (
        Question("ladder", "What went wrong, one change at a time", entries),
        Question(
            "recipe",
            "From c150:plain to c150",
            (Entry(BEST, "c150:plain"), *(Entry(name, label) for name, label, _ in recipe())),
        ),
        Question(
            "norm-now",
            "Normalisation, from the better start",
            (
                Entry(RECIPE, "RMSNorm of the gates: the recipe"),
                *(Entry(_norm_now(kind), label) for kind, label in NORMS_NOW.items()),
            ),
            RECIPE,
        ),
        Question(
            "context",
            "Characters of context",
            tuple(
                Entry(_context(T, carried), f"{T}, with the carry" if carried else f"trained in windows of {T}")
                for carried in (False, True)
                for T in CONTEXTS
            ),
            baseline=_context(50, True),
        ),
        Question("norm", "Normalisation", tuple(Entry(_norm(kind), label) for kind, label in NORMS.items()), BEST),
        Question(
            "rate",
            "Learning rate",
            (
                *(Entry(_rate(lr), f"{lr:g}, falling") for lr in RATES),
                Entry("rate-constant", f"{_peak():g}, constant"),
            ),
            BEST,
        ),
        Question("tales", "Share of the training tales", tuple(Entry(_share(p), f"{p:.0%}") for p in SHARES), BEST),
        Question("units", "Units of each layer", tuple(Entry(_units(H), str(H)) for H in UNITS), BEST),
        Question(
            "forget", "Initial bias of the forget gate", (Entry(BEST, "1, as in Keras"), Entry("forget-0", "0")), BEST
        ),
    )


@functools.cache
def ladder() -> tuple[tuple[str, str, dict[str, Any]], ...]:
    """Returns name, label and changes of each setting of the ladder. Its changes are made on top of all before them."""
    recipe = {"optimizer": c150.get_config("plain").optimizer.to_dict(), "data.batch_size": 64}
    return (
        (FIRST, "the article's recipe", {}),
        ("cross-entropy", "+ categorical cross-entropy", {"train.loss": "cross_entropy"}),
        ("carry", "+ the carry across batches", {"data.regime": "stream"}),
        ("clip", "+ gradient clipping", {"optimizer.clip": 1.0}),
        ("schedule", "+ c150:plain's falling rate and Adam, batches of 64", recipe),
        (BEST, "+ an embedding: c150:plain", {"model.embed": 64}),
        ("dropout", "+ dropout of 0.1", {"model.dropout": 0.1}),
    )


@functools.cache
def recipe() -> tuple[tuple[str, str, dict[str, Any]], ...]:
    """Returns name, label and changes of each setting from c150:plain to c150."""
    now = c150.get_config()
    decay = {f"optimizer.{key}": now.optimizer[key] for key in ("name", "lr", "weight_decay")}
    return (
        ("start", "+ a larger initial scale", {"model.init_scale": now.model.init_scale}),
        ("capped", "+ the input gate capped by 1 - f", {"model.input_gate": now.model.input_gate}),
        ("gates", "+ a norm of the gates", {"model.norm": now.model.norm}),
        ("decay", f"+ weight decay at a rate of {now.optimizer.lr:g}", decay),
        (RECIPE, "+ averaged weights: c150", {"train.average": now.train.average}),
    )


def _configs() -> dict[str, ConfigDict]:
    configs, config = {}, c150.get_config("article")
    for name, _, changes in ladder():
        config = configs[name] = changed(config, changes)
    best = config = configs[BEST]
    for name, _, changes in recipe():
        config = configs[name] = changed(config, changes)
    for kind in NORMS_NOW:
        changes = {"model.norm": kind} | ({"optimizer.lr": _peak()} if kind == "none" else {})
        configs[_norm_now(kind)] = changed(config, changes)
    side: dict[str, dict[str, Any]] = {
        _context(T, carried): {"data.seq_len": T, "data.regime": "stream" if carried else "window"}
        for carried in (False, True)
        for T in CONTEXTS
    }
    side |= {_norm(kind): {"model.norm": kind} for kind in NORMS}
    side |= {_rate(lr): {"optimizer.lr": lr} for lr in RATES}
    side |= {"rate-constant": {"optimizer.schedule": "constant"}}
    side |= {_share(share): {"data.share": share} for share in SHARES}
    side |= {_units(H): {"model.units": H} for H in UNITS}
    side |= {"forget-0": {"model.forget_bias": 0.0}}
    return configs | {name: changed(best, changes) for name, changes in side.items() if name != BEST}


def _context(T: int, carried: bool) -> str:
    return BEST if carried and T == 50 else f"{'carry' if carried else 'window'}-{T}"


def _norm(kind: str) -> str:
    return BEST if kind == "none" else f"norm-{kind}"


def _norm_now(kind: str) -> str:
    return f"now-{kind}"


def _rate(lr: float) -> str:
    return BEST if lr == _peak() else f"rate-{lr:g}"


@functools.cache
def _peak() -> float:
    """c150:plain's learning rate after the warmup."""
    lr: float = c150.get_config("plain").optimizer.lr
    return lr


def _share(share: float) -> str:
    return BEST if share == 1 else f"tales-{share:.0%}".rstrip("%")


def _units(H: int) -> str:
    return BEST if H == 150 else f"units-{H}"


def _binary_cross_entropy(run: Run, trained_on: Splits) -> Row:
    """Returns Keras's binary cross-entropy of valid and test."""
    del trained_on
    values, data = {}, run.config.data
    for split in ("valid", "test"):
        text = run.split(split)
        values[f"{split}_bce"] = run.score(text, bce=True).bce
        if data.regime == "window":
            scorer = Scorer(run.model, run.tokenizer.start_id)
            score = scorer.windows(run.variables, text, run.config.train.eval_rows, data.seq_len, bce=True)
            values[f"{split}_bce_window"] = score.bce
    return values


def _predict_the_true_text(setting: str, run: Run) -> dict[str, list[str]]:
    """Returns what the article took for generated text: of its recipe, the predictions under the valid tales."""
    if setting != FIRST:
        return {}
    length = measure.LENGTH
    ids = run.split("valid").ids[: measure.STREAMS * length + 1]
    predicted = run.tokenizer.decode(run.teacher_forced(ids))
    return {"teacher_forced": [predicted[at : at + length] for at in range(0, len(predicted), length)]}
