"""The word counts that the article printed, beside the author's and those of this project's models:
`python -m experiments.article_2019.counts [--rows=docs/article]`.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from experiments.article_2019 import settings
from experiments.study import options, results
from lovecraft_jax import cli
from lovecraft_jax.data import corpus
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.splits import split
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.stylometry.features import FEATURES, measure
from lovecraft_jax.stylometry.reference import Reference

ARTICLE = {"the": "740", "tion_end": "37", "tion_inside": "3", "ing": "115", "word_length": "mostly 2 to 5"}
"""The article's counts in 10,000 words, of its model with 125 units."""
TEXTS = (
    ("the article's recipe, predicting under the true text", settings.FIRST, "teacher_forced"),
    ("the same weights, generating", settings.FIRST, "written"),
    ("c150:plain, generating", settings.BEST, "written"),
)
"""Column header, setting and text of the rows to average."""
ONCE = ("once_distinct", "once_running")
"""Features that fall with the length of a text."""


def main() -> int:
    """Prints a table of the features that the article counted: of all tales together, and means over the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=options.folder, default=Path("docs/article"), help="a folder with rows.csv")
    parser.add_argument("--corpus", type=options.not_empty, default="lovecraft", help="as data.corpus")
    args = parser.parse_args()
    return cli.report_errors(lambda: _print(args.rows, args.corpus))


def _print(folder: Path, corpus_name: str) -> int:
    loaded = corpus.load(corpus_name)
    rows = results.read(settings.get_study(), folder)
    for row in rows:
        results.check_same(results.name(row), row, {"corpus": loaded.sha256[: results.SHORT]})
    if not rows:
        raise UserError(f"{folder}: no {results.ROWS} there; name a folder that has one by --rows")
    tales = split(loaded, make_cleaning("ascii")).by_tale
    held_out = tales["valid"] | tales["test"]
    everything = {**tales["train"], **held_out}
    author = measure("\n\n\n".join(everything.values()), Reference(tales["train"], held_out))
    header = ["", "unit", "the article", "the author", *(title for title, _, _ in TEXTS)]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for feature in filter(lambda feature: feature.article, FEATURES):
        means = [
            results.mean(feature.key, [row for row in rows if (row["setting"], row["text"]) == (setting, text)])
            for _, setting, text in TEXTS
        ]
        # A longer text has fewer words that occur once: the models' texts are pieces, the author's all tales together.
        values = author[feature.key], *([math.nan] * len(means) if feature.key in ONCE else means)
        cells = ["" if np.isnan(value) else f"{value:,.{feature.decimals}f}" for value in values]
        print("| " + " | ".join([feature.label, feature.unit, ARTICLE.get(feature.key, ""), *cells]) + " |")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
