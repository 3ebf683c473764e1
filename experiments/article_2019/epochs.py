"""The epoch at which a run trained with binary cross-entropy first reaches one of the article's losses:

python -m experiments.article_2019.epochs --workdir=runs/c100-article --bce=0.0244

For each epoch Keras printed the mean over its batches, taken while they trained, and over the vocabulary, whose size
the article does not give. With a vocabulary of another size the same model's loss is ours times our size divided by
that one: characters that never occur cost nothing. metrics.jsonl has the loss of the last dispatch of every `log_every`
steps.
"""

import argparse
import json
import sys

import numpy as np

from experiments.study.options import at_least, not_empty
from experiments.study.results import report_damage
from lovecraft_jax import cli
from lovecraft_jax.data.tokenizer import load_tokenizer
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.runtime.files import read_rows, resolve_path
from lovecraft_jax.training import metrics
from lovecraft_jax.training.progress import Progress


def main() -> int:
    """Prints, for each vocabulary size, the equivalent loss in ours and the first epoch at or below it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=not_empty, required=True, help="a run of an :article variant")
    parser.add_argument("--bce", type=at_least(1e-9, float), required=True, help="the article's loss")
    sizes = "vocabulary sizes that the article may have had"
    parser.add_argument("--classes", nargs="+", type=at_least(2), default=[60, 70, 80, 90], help=sizes)
    speed = "characters per second; by default the median of the run's own rows"
    parser.add_argument("--speed", type=at_least(1.0, float), help=speed)
    args = parser.parse_args()
    return cli.report_errors(lambda: _print(args))


def _print(args: argparse.Namespace) -> int:
    path = resolve_path(args.workdir)
    if not (path / "config.json").exists():
        raise UserError(f"--workdir={args.workdir}: there is no run; give the directory of one")
    with report_damage(path, "give the directory of a run"):
        config, corpus = (json.loads((path / f"{name}.json").read_text()) for name in ("config", "corpus"))
        size = load_tokenizer((path / "vocab.json").read_text()).size
        rows = [row for row in read_rows(path / metrics.FILE) if row["split"] == "train" and row.get("bce") is not None]
        progress = Progress.of(config["data"]["batch_size"], config["data"]["seq_len"], corpus)
        steps, chars = progress.steps_per_epoch, progress.chars_per_step
        if not rows or rows[-1]["step"] < steps:
            reason = f"its train rows have no `bce` of a whole epoch ({steps:,} steps)"
            raise UserError(f"--workdir={args.workdir}: {reason}; give a longer run of an :article variant")
        bce = by_epoch(rows, steps)
        seconds = steps * chars / (args.speed or float(np.median([row["chars_per_second"] for row in rows])))
    print(f"{len(bce)} epochs of {steps:,} steps and {seconds:.1f} s; the last has {bce[-1]:.4f} over {size} classes\n")
    print("| classes | in ours | first epoch | minutes |\n|---|---|---|---|")
    for classes in args.classes:
        ours = args.bce * classes / size
        first = next((n for n, mean in enumerate(bce, 1) if mean <= ours), None)
        reached = f"{first} | {first * seconds / 60:.0f}" if first else f"not in {len(bce)} | "
        print(f"| {classes} | {ours:.4f} | {reached} |")
    return DONE


def by_epoch(rows: list[metrics.Row], steps_per_epoch: int) -> list[float]:
    """Returns the mean `bce` of each whole epoch. Raises UserError if an epoch has no row."""
    epochs = np.array([(row["step"] - 1) // steps_per_epoch for row in rows])
    whole = rows[-1]["step"] // steps_per_epoch
    if empty := set(range(whole)) - set(epochs.tolist()):
        reason = f"epoch {min(empty) + 1} has no row, and an epoch is {steps_per_epoch:,} steps"
        raise UserError(f"{reason}: train with a train.log_every of fewer")
    values = np.array([row["bce"] for row in rows])
    return [float(values[epochs == n].mean()) for n in range(whole)]


if __name__ == "__main__":
    sys.exit(main())
