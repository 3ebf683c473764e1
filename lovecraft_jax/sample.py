"""python -m lovecraft_jax.sample --workdir=runs/c150 --prompt="The ancient house": writes with a run."""

import json
import sys
from pathlib import Path

import numpy as np
from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.data.corpus import read_text
from lovecraft_jax.inference.generate import Sampling
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError

FLAGS_OF = {
    "free": ("prompt", "temperature", "top_k", "top_p", "samples", "stream"),
    "teacher_forced": ("split", "text"),
}
"""Those that a --mode has alone."""
LINE = 76
"""Tokens of a text beside what a model makes of it."""


def main() -> int:
    """Prints prompt and text, several samples separated by a line `---`, or one JSON line with --json."""
    F = flags.FLAGS
    sampling = Sampling(F.temperature, F.top_k, F.top_p)
    for name, value, least, end in (
        ("length", F.length, 1, 2**31),
        ("samples", F.samples, 1, 2**31),
        ("seed", F.seed, 0, 2**32),
    ):
        if not least <= value < end:
            raise UserError(f"--{name}={value}: expected a whole number from {least} to {end - 1}")
    if F.stream and (F.json or F.samples > 1):
        raise UserError("--stream prints one sample while it is written: leave --json and --samples out")
    for mode, names in FLAGS_OF.items():
        if mode != F.mode and (given := [f"--{name}" for name in names if F[name].present]):
            raise UserError(f"{', '.join(given)} with --mode={F.mode}: {mode} alone knows it; leave it out")
    if F["split"].present and cli.given("text"):
        raise UserError(f"--text={F.text} and --split={F.split}: give one of them")
    run = load_run(cli.required("workdir", "runs/c150"), F.checkpoint)
    if F.mode == "teacher_forced":
        return _teacher_forced(run)
    if F.stream:
        sys.stdout.write(F.prompt)
        for ids_SN in run.stream(F.prompt, F.length, F.seed, sampling):
            sys.stdout.write(run.tokenizer.decode(ids_SN[0]))
            sys.stdout.flush()
        sys.stdout.write("\n")
        return 0
    texts = run.generate(F.prompt, F.length, F.seed, sampling, F.samples)
    if F.json:
        print(json.dumps({"prompt": F.prompt, "samples": texts, "seed": F.seed, "step": run.step}))
    else:
        print("\n---\n".join(F.prompt + text for text in texts))
    return 0


def _teacher_forced(run: Run) -> int:
    """Prints lines of a text, under each what the model took for likeliest at every position of it; or one JSON line.

    The text is from a seeded place of a split, or a file's beginning: all of a short file, if no length is asked for.
    """
    F = flags.FLAGS
    if (file := cli.given("text")) is not None:
        source, text = file, run.encode(read_text(Path(file)))
    else:
        source, text = F.split, run.split(F.split)
    there = len(text.ids) - 1
    if there < 1:
        raise UserError(f"{source} has nothing to guess: expected two characters or more; give a longer text")
    length = F.length if F["length"].present else min(F.length, there)
    if length > there:
        has = f"{source} has {there:,} with one before them"
        raise UserError(f"--length={length} with --mode=teacher_forced: {has}; ask for fewer")
    start = 0 if file is not None else int(np.random.default_rng(F.seed).integers(there - length + 1))
    ids = text.ids[start : start + length + 1]
    true, likeliest = ids[1:], run.teacher_forced(ids)
    right = float(np.mean(true == likeliest))
    if F.json:
        texts = {"text": run.tokenizer.decode(true), "likeliest": run.tokenizer.decode(likeliest), "right": right}
        where = {"source": source, "offset": start + 1, "seq_len": run.config.data.seq_len}
        print(json.dumps(texts | where | {"seed": F.seed, "step": run.step}))
        return 0
    for line in (slice(n, n + LINE) for n in range(0, length, LINE)):
        print("\n".join(run.tokenizer.decode(part[line]).replace("\n", "¶") for part in (true, likeliest)), end="\n\n")
    log(
        f"{source} from token {start + 1:,} on, and under each line the likeliest token at every position, given the "
        f"true ones before it in its window of {run.config.data.seq_len}: {right:.0%} right; this is no writing"
    )
    return 0


if __name__ == "__main__":
    cli.define_run_flags()
    flags.DEFINE_enum(
        "mode", "free", ["free", "teacher_forced"], "Write, or guess each token of a text that is given, as in 2019."
    )
    flags.DEFINE_string("prompt", "", "The text to go on from.")
    flags.DEFINE_integer("length", 1000, "New tokens to write, or tokens to guess.")
    flags.DEFINE_float("temperature", 0.7, "0 takes the likeliest token; higher is bolder.")
    flags.DEFINE_integer("top_k", 0, "Draw from the k likeliest only; 0 keeps all.")
    flags.DEFINE_float("top_p", 1.0, "Draw from the fewest tokens whose probabilities reach this; 1 keeps all.")
    flags.DEFINE_integer("seed", 0, "The same seed writes the same text, or guesses at the same place.")
    flags.DEFINE_integer("samples", 1, "How many texts to write.")
    flags.DEFINE_bool("stream", False, "Print while writing.")
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.DEFINE_enum("split", "test", ["train", "valid", "test"], "With teacher_forced: the run's own text to guess.")
    flags.DEFINE_string("text", None, "With teacher_forced: a UTF-8 text file to guess instead, from its beginning.")
    cli.run(main)
