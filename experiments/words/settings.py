"""The settings that are compared, and the questions that they answer: what a token is, and what becomes of rare words.

They are configs/c150.py, configs/bpe.py and configs/words.py, and these with what a question asks changed.
"""

import functools
from typing import Any

from ml_collections import ConfigDict

from configs import bpe, c150, words
from experiments.study.samples import generate_sample
from experiments.study.study import Entry, Question, Row, Study, changed
from lovecraft_jax.data.splits import Splits
from lovecraft_jax.probing.word_costs import LEAST, costs_by_frequency
from lovecraft_jax.run import Run

CHARS, BPE, WORDS = "chars", "bpe", "words"
"""configs/c150.py and configs/words.py as they are; the beginning of the names of settings of configs/bpe.py."""
SIZES = (250, 500, 1000, 2000, 4000, 8000)
"""The sizes of the vocabularies of subwords."""
LARGE, SOFTMAX_HEAD = 4000, 500
"""From so many ids on, the softmax of subwords is adaptive, with so many ids in its head."""
RARE = {
    "spell": "a class by form, and the spelling given the class",
    "cluster": "a class learnt from contexts, and the spelling",
    "class": "a class by form",
    "unk": "one class for all",
    "drop": "left out",
}
"""What becomes of rare words."""
MIN_COUNTS = (1, 2, 3, 5)
ALL_WORDS = 2**20
"""More ids than a text has words: where every word has an id, `vocab_size` is no limit."""
DROPOUT = {CHARS: 0.0, BPE: 0.1, WORDS: 0.3}
"""What training/settings_by_size.py chooses for all tales, by config: fixed, so that settings of other sizes have the
same."""
FREE_OF_COST = ("data.rare",)
"""Config fields that do not change how long a training step takes: the classes are few among the ids."""
COLUMNS = {
    "characters": ("million characters", 1e6, 1),
    "ids": ("ids", 1, 0),
    "parameters": ("million parameters", 1e6, 2),
    "test_bpc": ("bpc, test", 1, 3),
    **{f"bpc_{least}": (f"bpc, {group}", 1, 2) for group, least in LEAST.items()},
    "real": ("real words, %", 1, 1),
    "copied_longest": ("longest overlap", 1, 0),
    "accepted_share": ("accepted as the author's, %", 0.01, 0),
    "p_value": ("p", 1, 3),
}


@functools.cache
def get_study() -> Study:
    """Returns the study of words."""
    return Study(
        package="experiments.words",
        name="words",
        questions=(
            Question(
                "tokens",
                "What a token is",
                (
                    Entry(CHARS, "a character"),
                    *(Entry(_bpe(size), f"one of {size:,} subwords") for size in SIZES),
                    Entry(WORDS, "a word"),
                ),
                CHARS,
            ),
            Question("rare", "Rare words", tuple(Entry(_rare(kind), label) for kind, label in RARE.items()), WORDS),
            Question(
                "min-count",
                "How often a word with an id of its own occurs",
                tuple(Entry(_min_count(count), f"{count} or more") for count in MIN_COUNTS),
                WORDS,
            ),
        ),
        configs=_configs(),
        reference=WORDS,
        free_of_cost=FREE_OF_COST,
        columns=COLUMNS,
        more_columns=("steps", "word_length", "invented_plausible", "invented_other", "distinct_in_100"),
        overhead=60.0,
        more_scores=_measure_words,
    )


def _configs() -> dict[str, ConfigDict]:
    chars, subwords, whole_words = (
        # Adaptive scores take long, and are not compared.
        changed(base.get_config(), {"model.dropout": DROPOUT[level], "train.adaptive": False})
        for level, base in ((CHARS, c150), (BPE, bpe), (WORDS, words))
    )
    configs = {CHARS: chars}
    for size in SIZES:
        adaptive = {"model.softmax_head": SOFTMAX_HEAD} if size >= LARGE else {}
        configs[_bpe(size)] = changed(subwords, {"data.vocab_size": size} | adaptive)
    side: dict[str, dict[str, Any]] = {WORDS: {}}
    side |= {_rare(kind): {"data.rare": kind} for kind in RARE if _rare(kind) != WORDS}
    for count in MIN_COUNTS:
        if (setting := _min_count(count)) != WORDS:
            unlimited = {"data.vocab_size": ALL_WORDS} if count == 1 else {}
            side[setting] = {"data.min_count": count} | unlimited
    return configs | {setting: changed(whole_words, changes) for setting, changes in side.items()}


def _bpe(size: int) -> str:
    return f"{BPE}-{size}"


def _rare(kind: str) -> str:
    return WORDS if kind == "spell" else kind


def _min_count(count: int) -> str:
    return WORDS if count == 2 else f"min-count-{count}"


def _measure_words(run: Run, trained_on: Splits) -> Row:
    """Returns the number of ids, bits per character of valid by how often the training text has a word, and a sample.
    A group without words has no column."""
    costs = costs_by_frequency(run, trained_on.text["train"], [trained_on.text["valid"]])
    by_group = {f"bpc_{LEAST[cost.group]}": cost.bpc for cost in costs if cost.chars}
    return {"ids": run.tokenizer.size} | by_group | {"sample": generate_sample(run, trained_on)}
