"""The pass at which a run trained by binary cross-entropy first reaches a figure of the article's:

python -m benchmarks.article.passes --workdir=runs/c100-article --bce=0.0244

Keras printed for every epoch the mean over its batches while they trained, and over the vocabulary, and nobody knows
how many characters the article's had. In a vocabulary of another size the same model's figure is ours times our size
over that one: characters that never come cost nothing. Of every `log_every` steps metrics.jsonl has the last dispatch.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from lovecraft_jax import metrics
from lovecraft_jax.vocab import load
from lovecraft_jax.workdir import located, read_rows


def main() -> None:
    """Prints a table: classes, our figure for the article's, the first pass at or under it, and how long that takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="of a run of an :article variant")
    parser.add_argument("--bce", type=float, required=True, help="the article's figure")
    parser.add_argument("--classes", nargs="+", type=int, default=[60, 70, 80, 90])
    parser.add_argument("--speed", type=float, help="characters a second; the median of the run's own rows by default")
    given = parser.parse_args()
    path = located(given.workdir)
    config, corpus = (json.loads((path / f"{name}.json").read_text()) for name in ("config", "corpus"))
    size = load((path / "vocab.json").read_text()).size
    rows = [row for row in read_rows(path / metrics.FILE) if row["split"] == "train" and row.get("bce") is not None]
    if not rows:
        parser.error(f"--workdir={given.workdir}: no row of training has `bce`; give a run of an :article variant")
    data, characters = config["data"], corpus["characters"]["train"]
    steps = characters // data["seq_len"] // data["batch_size"]
    seconds = (
        steps
        * data["seq_len"]
        * data["batch_size"]
        / (given.speed or float(np.median([row["chars_per_second"] for row in rows])))
    )
    bce = by_pass(rows, steps)
    print(f"{len(bce)} passes of {steps:,} steps and {seconds:.1f} s; the last has {bce[-1]:.4f} over {size} classes\n")
    print("| classes | in ours | first pass | minutes |\n|---|---|---|---|")
    for classes in given.classes:
        ours = given.bce * classes / size
        first = next((n for n, mean in enumerate(bce, 1) if mean <= ours), None)
        reached = f"{first} | {first * seconds / 60:.0f}" if first else f"not in {len(bce)} | "
        print(f"| {classes} | {ours:.4f} | {reached} |")


def by_pass(rows: list[metrics.Row], steps_per_pass: int) -> list[float]:
    """The mean `bce` of each whole pass."""
    passes = np.array([(row["step"] - 1) // steps_per_pass for row in rows])
    whole = rows[-1]["step"] // steps_per_pass
    values = np.array([row["bce"] for row in rows])
    return [float(values[passes == n].mean()) for n in range(whole)]


if __name__ == "__main__":
    main()
