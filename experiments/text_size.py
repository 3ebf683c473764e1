"""Measures on small texts the rule of training/settings_by_size.py:
`python -m experiments.text_size --workdir=runs/text_size`.

Parts of the training tales are given to configs/c150.py as a user's own file. Around the epochs E and the dropout D
that the rule chooses for such a file, two sweeps train E / 2, E and 2 E with D, then D - 0.1, D and D + 0.1 with E; all
are scored on the ten held-out tales. The same command goes on where it was interrupted.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from configs import c150
from lovecraft_jax import cli
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.data.splits import BETWEEN_TALES
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import DONE
from lovecraft_jax.training.settings_by_size import choose_settings

FACTORS, OFFSETS = (0.5, 1.0, 2.0), (-0.1, 0.0, 0.1)
"""What the epochs of the rule are multiplied by, and what is added to its dropout."""
SETTINGS = ("train.epochs", "model.dropout")
ROWS = "rows.jsonl"

Row = dict[str, Any]


def main() -> int:
    """Trains what is missing, and prints a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/text_size"))
    parser.add_argument("--corpus", default="lovecraft", help="as data.corpus: what the parts are cut from")
    parser.add_argument("--sizes", nargs="+", type=int, default=[60_000, 300_000], help="characters")
    which = "which parts of a size: the first, the middle, the last"
    parser.add_argument("--cuts", nargs="+", type=int, default=[0, 1, 2], choices=(0, 1, 2), help=which)
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    texts = dataset.prepare(_config(args.corpus)).splits.text
    held_out = BETWEEN_TALES.join((texts["valid"], texts["test"]))
    for size in args.sizes:
        if size > len(texts["train"]):
            parser.error(f"--sizes {size}: the training text has {len(texts['train'])} characters; use fewer")
        rows = [row for cut in args.cuts for row in _measure(args, texts["train"], held_out, size, cut)]
        print(f"\n{size:,} characters, bits per character on the held-out tales\n{_table(rows)}", flush=True)
    return DONE


def _measure(args: argparse.Namespace, text: str, held_out: str, size: int, cut: int) -> list[Row]:
    """Returns a row for each run on a part of the text: the first, the middle or the last one of this size."""
    start = (len(text) - size) * cut // 2
    file, folder = args.workdir / f"{size}-{cut}.txt", args.workdir / f"{size}-{cut}"
    file.write_text(text[start : start + size], encoding="utf-8")
    config = _config(str(file))
    chosen, _ = choose_settings(config, dataset.prepare(config))
    E, D = chosen.train.epochs, chosen.model.dropout
    dropouts = [round(D + offset, 2) for offset in OFFSETS if D + offset >= 0]
    rows: dict[str, Row] = {}
    for epochs, rates in [([E * factor for factor in FACTORS], [D]), ([E], dropouts)]:
        for point in _sweep(file, folder, epochs, rates):
            settings = {name: float(point["settings"][name]) for name in SETTINGS}
            (run,) = point["runs"]
            relative = (settings["train.epochs"] / E, round(settings["model.dropout"] - D, 2))
            known = {"size": size, "cut": cut, "factor": relative[0], "offset": relative[1]} | settings
            rows[point["name"]] = _held_out_row(args.workdir / ROWS, run, known, held_out)
    return list(rows.values())


def _sweep(file: Path, folder: Path, epochs: list[float], dropouts: list[float]) -> list[Row]:
    """Trains the points of a grid that are not trained yet, and returns the sweep's results. Exits as the sweep does
    where it fails or is interrupted."""
    line = [sys.executable, "-m", "lovecraft_jax.sweep", "--config=configs/c150.py", f"--workdir={folder}"]
    grid = {"train.epochs": epochs, "model.dropout": dropouts}
    line += [f"--config.{name}={','.join(f'{value:g}' for value in values)}" for name, values in grid.items()]
    line += [f"--config.data.corpus={file}", "--config.train.adaptive=false"]
    if code := subprocess.run(line, check=False, stdout=sys.stderr).returncode:
        sys.exit(code)
    return json.loads((folder / "results.json").read_text())


def _held_out_row(file: Path, run: Row, known: Row, held_out: str) -> Row:
    """Returns `known` with the score of a run on the held-out tales, from the file of rows if it is there."""
    for line in file.read_text().splitlines() if file.exists() else []:
        if (row := json.loads(line))["workdir"] == run["workdir"]:
            return row | known
    trained = load_run(run["workdir"])
    score = trained.score(trained.encode(held_out))
    row = known | {"bpc": score.bpc, "valid": run["valid"], "minutes": run["minutes"], "workdir": run["workdir"]}
    with file.open("a") as rows:
        rows.write(json.dumps(row) + "\n")
    return row


def _table(rows: list[Row]) -> str:
    """Returns a line for each pair of factor and offset, with the mean over the parts and every part's score."""
    lines = ["| epochs | dropout | mean | of each part |", "|---|---|---|---|"]
    points: dict[tuple[float, float], list[Row]] = {}
    for row in rows:
        points.setdefault((row["factor"], row["offset"]), []).append(row)
    means = {point: statistics.fmean(row["bpc"] for row in same) for point, same in points.items()}
    for point in sorted(means, key=means.__getitem__):
        cells = [", ".join(sorted({f"{row[name]:g}" for row in points[point]})) for name in SETTINGS]
        scores = ", ".join(f"{row['bpc']:.3f}" for row in points[point])
        lines.append(f"| {' | '.join(cells)} | {means[point]:.3f} | {scores} |")
    return "\n".join(lines)


def _config(corpus: str) -> Config:
    return Config.of(c150.get_config()).replace(**{"data.corpus": corpus})


if __name__ == "__main__":
    sys.exit(cli.report_errors(main))
