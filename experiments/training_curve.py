"""Draws the training curve of a run: `python -m experiments.training_curve --workdir=runs/c150 --to=docs/c150.svg`."""

import json
import sys

from absl import app, flags
from etils import epath

from lovecraft_jax import cli
from lovecraft_jax.report.plots import TrainingCurve, training_curve
from lovecraft_jax.runtime.errors import DONE
from lovecraft_jax.runtime.files import read_rows
from lovecraft_jax.training.metrics import FILE
from lovecraft_jax.training.progress import Progress


def main() -> int:
    """Reads metrics.jsonl and baselines.json and saves the curve as an SVG."""
    workdir = epath.Path(flags.FLAGS.workdir)
    baselines = json.loads((workdir / "baselines.json").read_text())
    config, corpus = (json.loads((workdir / f"{name}.json").read_text()) for name in ("config", "corpus"))
    progress = Progress.of(config["data"]["batch_size"], config["data"]["seq_len"], corpus)
    run = TrainingCurve(workdir.name, read_rows(workdir / FILE), progress.chars_per_step, baselines)
    training_curve([run]).savefig(flags.FLAGS.to, metadata={"Date": None})
    return DONE


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The directory of a run.", required=True)
    flags.DEFINE_string("to", None, "The image file to save.", required=True)
    app.run(lambda argv: sys.exit(cli.report_errors(main)))
