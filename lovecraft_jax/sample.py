"""python -m lovecraft_jax.sample --workdir=runs/c150 --prompt="The ancient house": generates text with a run."""

import json
import sys
from pathlib import Path

import numpy as np
from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.data.corpus import read_text
from lovecraft_jax.inference.generate import check_limits
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.console import log, printable
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import expand_home
from lovecraft_jax.runtime.signals import collect_signals

FLAGS_OF_MODE = {  # those that one --mode alone has
    "free": ("prompt", "temperature", "top_k", "top_p", "samples", "stream"),
    "teacher_forced": ("split", "text", "corpus"),
}
LINE = 76  # tokens a line of --mode=teacher_forced


def main() -> int:
    """Prints prompt and generated text, several samples separated by a line `---`; one JSON line with --json."""
    F = flags.FLAGS
    sampling = Sampling(F.temperature, F.top_k, F.top_p)
    check_limits(length=F.length, samples=F.samples, seed=F.seed)  # before a run is loaded
    if F.stream and (F.json or F.samples > 1):
        raise UserError("--stream prints one sample while it is generated: leave --json and --samples out")
    for mode, names in FLAGS_OF_MODE.items():
        if mode != F.mode and (given := [f"--{name}" for name in names if F[name].present]):
            raise UserError(f"{', '.join(given)} with --mode={F.mode}: only for --mode={mode}; leave it out")
    if F["split"].present and cli.optional_flag("text"):
        raise UserError(f"--text={F.text} and --split={F.split}: give one of them")
    run = load_run(cli.required_flag("workdir", "runs/c150"), F.checkpoint, cli.optional_flag("corpus"))
    if F.mode == "teacher_forced":
        return _teacher_forced(run)
    if F.stream:
        return _stream(run, sampling)
    texts = run.generate(F.prompt, F.length, F.seed, sampling, F.samples)
    if F.json:
        print(json.dumps({"prompt": F.prompt, "samples": texts, "seed": F.seed, "step": run.steps}))
    else:
        print(printable("\n---\n".join(F.prompt + text for text in texts)))
    return 0


def _stream(run: Run, sampling: Sampling) -> int:
    """Prints prompt and text while it is generated. Ctrl-C ends it after the current piece."""
    F = flags.FLAGS
    # Collected, since Python discards a KeyboardInterrupt that is raised while JAX's callback of gc runs.
    with collect_signals() as signals:
        pieces = run.stream(F.prompt, F.length, F.seed, sampling)  # which may refuse the prompt
        sys.stdout.write(printable(F.prompt))
        try:
            for (piece,) in pieces:
                sys.stdout.write(printable(piece))
                sys.stdout.flush()
                if signals:
                    raise KeyboardInterrupt
        finally:  # before the shell's prompt
            sys.stdout.write("\n")
    return 0


def _teacher_forced(run: Run) -> int:
    """Prints lines of a text and under each the model's likeliest token at every position; or one JSON line. The text
    is a part of a split, at an offset drawn with --seed, or the beginning of a file; without --length, a text shorter
    than its default is taken whole."""
    F = flags.FLAGS
    if run.tokenizer.level != "chars":
        raise UserError(
            f"--mode=teacher_forced with data.level={run.tokenizer.level}: expected chars, as in the article"
        )
    if (file := cli.optional_flag("text")) is not None:
        source, text = file, run.encode(read_text(Path(expand_home(file))))
    else:
        source, text = F.split, run.split(F.split)
    predictable = len(text.ids) - 1  # all but the first
    if predictable < 1:
        raise UserError(f"{source} has nothing to predict: expected two characters or more; give a longer text")
    length = F.length if F["length"].present else min(F.length, predictable)
    if length > predictable:
        raise UserError(
            f"--length={length} with --mode=teacher_forced: {source} has {predictable:,} tokens after its first; "
            "give a smaller length"
        )
    start = 0 if file is not None else int(np.random.default_rng(F.seed).integers(predictable - length + 1))
    ids = text.ids[start : start + length + 1]
    true, likeliest = ids[1:], run.teacher_forced(ids)
    right = float(np.mean(true == likeliest))
    if F.json:
        texts = {"text": run.tokenizer.decode(true), "likeliest": run.tokenizer.decode(likeliest), "right": right}
        where = {"source": source, "offset": start + 1, "seq_len": run.config.data.seq_len}
        print(json.dumps(texts | where | {"seed": F.seed, "step": run.steps}))
        return 0
    for line in (slice(n, n + LINE) for n in range(0, length, LINE)):
        pair = (run.tokenizer.decode(part[line]).replace("\n", "¶") for part in (true, likeliest))
        print(printable("\n".join(pair)), end="\n\n")
    log(
        f"{source} from token {start + 1:,} on, and under each line the likeliest token at every position, given the "
        f"true ones before it in its window of {run.config.data.seq_len}: {right:.0%} right; this is not generated text"
    )
    return 0


if __name__ == "__main__":
    cli.define_run_flags("generates with their ensemble")
    flags.DEFINE_enum(
        "mode", "free", ["free", "teacher_forced"], "Generate text, or predict each token of a given text, as in 2019."
    )
    flags.DEFINE_string("prompt", "", "The text to continue.")
    flags.DEFINE_integer("length", 1000, "Tokens to generate, or to predict.")
    flags.DEFINE_float("temperature", 0.7, "0 takes the likeliest token; higher is more random.")
    flags.DEFINE_integer("top_k", 0, "Sample from the k likeliest tokens; 0: from all.")
    flags.DEFINE_float("top_p", 1.0, "Sample from the fewest tokens whose probabilities add up to this; 1: from all.")
    flags.DEFINE_integer("seed", 0, "The same seed generates the same text, or predicts the same part of a split.")
    flags.DEFINE_integer("samples", 1, "The number of texts.")
    flags.DEFINE_bool("stream", False, "Print while generating.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.DEFINE_enum("split", "test", ["train", "valid", "test"], "With teacher_forced: the split to predict.")
    flags.DEFINE_string("text", None, "With teacher_forced: a UTF-8 text file to predict instead, from its beginning.")
    cli.run(main)
