"""The pass at which a run trained by binary cross-entropy first reaches a figure of the article's:

python -m experiments.article_2019.passes --workdir=runs/c100-article --bce=0.0244

Keras printed for every epoch the mean over its batches while they trained, and over the vocabulary, and nobody knows
how many characters the article's had. In a vocabulary of another size the same model's figure is ours times our size
over that one: characters that never come cost nothing. Of every `log_every` steps metrics.jsonl has the last dispatch.
"""

import argparse
import json
import sys

import numpy as np

from experiments.article_2019.options import at_least, not_empty
from experiments.article_2019.results import told_of_damage
from lovecraft_jax import cli
from lovecraft_jax.data.tokenizer import load_tokenizer
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.runtime.files import read_rows, resolve_path
from lovecraft_jax.training import metrics
from lovecraft_jax.training.progress import Progress


def main() -> int:
    """Prints a table: classes, our figure for the article's, the first pass at or under it, and how long that takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=not_empty, required=True, help="of a run of an :article variant")
    parser.add_argument("--bce", type=at_least(1e-9, float), required=True, help="the article's figure")
    parser.add_argument("--classes", nargs="+", type=at_least(2), default=[60, 70, 80, 90])
    speed = "characters a second; the median of the run's own rows by default"
    parser.add_argument("--speed", type=at_least(1.0, float), help=speed)
    given = parser.parse_args()
    return cli.report_errors(lambda: _print(given))


def _print(given: argparse.Namespace) -> int:
    path = resolve_path(given.workdir)
    if not (path / "config.json").exists():
        raise UserError(f"--workdir={given.workdir}: there is no run; give the folder of one")
    with told_of_damage(path, "give the folder of a run"):
        config, corpus = (json.loads((path / f"{name}.json").read_text()) for name in ("config", "corpus"))
        size = load_tokenizer((path / "vocab.json").read_text()).size
        rows = [row for row in read_rows(path / metrics.FILE) if row["split"] == "train" and row.get("bce") is not None]
        progress = Progress.of(config["data"]["batch_size"], config["data"]["seq_len"], corpus)
        steps, chars = progress.steps_per_epoch, progress.chars_per_step
        if not rows or rows[-1]["step"] < steps:
            told = f"its rows of training have no `bce` of a whole pass, which is {steps:,} steps"
            raise UserError(f"--workdir={given.workdir}: {told}; give a run of an :article variant that is as far")
        bce = by_pass(rows, steps)
        seconds = steps * chars / (given.speed or float(np.median([row["chars_per_second"] for row in rows])))
    print(f"{len(bce)} passes of {steps:,} steps and {seconds:.1f} s; the last has {bce[-1]:.4f} over {size} classes\n")
    print("| classes | in ours | first pass | minutes |\n|---|---|---|---|")
    for classes in given.classes:
        ours = given.bce * classes / size
        first = next((n for n, mean in enumerate(bce, 1) if mean <= ours), None)
        reached = f"{first} | {first * seconds / 60:.0f}" if first else f"not in {len(bce)} | "
        print(f"| {classes} | {ours:.4f} | {reached} |")
    return DONE


def by_pass(rows: list[metrics.Row], steps_per_epoch: int) -> list[float]:
    """The mean `bce` of each whole pass. Raises UserError where one has no row."""
    passes = np.array([(row["step"] - 1) // steps_per_epoch for row in rows])
    whole = rows[-1]["step"] // steps_per_epoch
    if without := set(range(whole)) - set(passes.tolist()):
        told = f"no row is of pass {min(without) + 1}, and a pass is {steps_per_epoch:,} steps"
        raise UserError(f"{told}: train with a train.log_every of fewer")
    values = np.array([row["bce"] for row in rows])
    return [float(values[passes == n].mean()) for n in range(whole)]


if __name__ == "__main__":
    sys.exit(main())
