"""python -m lovecraft_jax.evaluate --workdir=runs/c150 --split=test: the exact score of a split or a text file."""

import json
from pathlib import Path
from typing import Any

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.data.corpus import read_text
from lovecraft_jax.run import check_one_scoring, load_run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import expand_home, nan_to_none


def main() -> int:
    """Prints one JSON line: the text, static, adaptive or cache scoring, loss (nats per token), bpc, bce with --bce,
    perplexity, tokens, characters, and with --adaptive or --cache the rates."""
    F = flags.FLAGS
    if cli.optional_flag("text") and F["split"].present:
        raise UserError(f"--text={F.text} and --split={F.split}: give one of them")
    check_one_scoring({"--bce": F.bce, "--adaptive": F.adaptive, "--cache": F.cache})
    run = load_run(cli.required_flag("workdir", "runs/c150"), F.checkpoint, cli.optional_flag("corpus"))
    if F.text:
        what, text = {"text": F.text}, run.encode(read_text(Path(expand_home(F.text))))
        if not len(text.ids):
            raise UserError(f"--text={F.text}: no text in it after cleaning")
    else:
        what, text = {"split": F.split}, run.split(F.split)
    score = run.score(text, F.bce, F.adaptive, F.cache)
    scoring: dict[str, Any] = {"scoring": "adaptive" if F.adaptive else "cache" if F.cache else "static"}
    if F.adaptive or F.cache:
        scoring |= {"tuned_on": "valid"} | (run.adaptive_rates if F.adaptive else run.cache_rates)._asdict()
    read = {"tokens": score.tokens, "characters": score.chars, "step": run.steps}
    print(json.dumps(nan_to_none(what | scoring | score.values() | read)))
    return 0


if __name__ == "__main__":
    cli.define_run_flags("scores their ensemble")
    flags.DEFINE_enum("split", "test", ["train", "valid", "test"], "The run's own split to score.")
    flags.DEFINE_string("text", None, "A UTF-8 text file to score instead.")
    flags.DEFINE_bool("adaptive", False, "Let the model learn from the text while it reads it (dynamic evaluation).")
    flags.DEFINE_bool("cache", False, "Mix in a neural cache of what the text had before (an adaptive score too).")
    flags.DEFINE_bool("bce", False, "Also compute Keras's binary_crossentropy, the loss of the 2019 article.")
    cli.run(main)
