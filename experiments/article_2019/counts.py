"""The article's counts of its model's output, beside the author's and this project's:
`python -m experiments.article_2019.counts [--rows=docs/article]`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from experiments.article_2019 import experiments, options, results
from lovecraft_jax import cli
from lovecraft_jax.data import corpus
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.splits import split
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.stylometry.features import FEATURES, measure
from lovecraft_jax.stylometry.reference import Reference

ARTICLE = {"the": "740", "tion_end": "37", "tion_inside": "3", "ing": "115", "word_length": "mostly 2 to 5"}
"""As it printed them, of 10,000 words; of its model of 125 units."""
TEXTS = (
    ("the article's recipe, guessing under the text", experiments.LADDER[0][0], "teacher_forced"),
    ("the same weights, writing", experiments.LADDER[0][0], "written"),
    ("c150, writing", experiments.BEST, "written"),
)
"""Head, setting and text of the rows."""


def main() -> int:
    """Prints a table of the figures that the article counted: the author's of all tales together, the others means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=options.folder, default=Path("docs/article"), help="a folder with rows.csv")
    parser.add_argument("--corpus", type=options.not_empty, default="lovecraft", help="as data.corpus")
    given = parser.parse_args()
    return cli.report_errors(lambda: _print(given.rows, given.corpus))


def _print(folder: Path, of_corpus: str) -> int:
    found = corpus.load(of_corpus)
    rows = results.read(folder)
    for row in rows:
        results.check_same(results.name(row), row, {"corpus": found.sha256[: results.SHORT]})
    if not rows:
        raise UserError(f"{folder}: no {results.ROWS} there; name a folder that has one by --rows")
    tales = split(found, make_cleaning("ascii")).by_tale
    held_out = tales["valid"] | tales["test"]
    everything = {**tales["train"], **held_out}
    author = measure("\n\n\n".join(everything.values()), Reference(tales["train"], held_out))
    heads = ["", "unit", "the article", "the author", *(head for head, _, _ in TEXTS)]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for figure in filter(lambda figure: figure.article, FEATURES):
        means = [
            results.mean(figure.key, [row for row in rows if (row["setting"], row["text"]) == (setting, text)])
            for _, setting, text in TEXTS
        ]
        shown = ["" if np.isnan(value) else f"{value:,.{figure.decimals}f}" for value in (author[figure.key], *means)]
        print("| " + " | ".join([figure.label, figure.unit, ARTICLE.get(figure.key, ""), *shown]) + " |")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
