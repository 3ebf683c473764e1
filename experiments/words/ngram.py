"""Compares tokens and policies for rare words by n-grams, in two minutes: `python -m experiments.words.ngram`.

The n-grams are interpolated and have modified Kneser-Ney smoothing (lovecraft_jax/inference/ngram.py). They know the
training text alone; their order is the best on valid. Scores are bits per character with spelling included, as in the
study, which trains networks.
"""

import argparse
import math
import sys
from collections.abc import Iterator

from configs import words
from experiments.study.options import not_empty
from experiments.words.settings import ALL_WORDS, MIN_COUNTS, RARE, SIZES
from lovecraft_jax import cli
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.inference.ngram import MAX_ORDER, best_order
from lovecraft_jax.runtime.errors import DONE

HEADER = ("tokens", "ids", "order", "rare tokens, valid", "bpc, valid", "of it the ids", "bpc, test")


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=not_empty, default="auto", help="as data.corpus")
    args = parser.parse_args()
    return cli.report_errors(lambda: _print(args.corpus))


def _print(corpus: str) -> int:
    base = Config.of(words.get_config()).replace(**{"data.corpus": corpus, "data.vocab_size": ALL_WORDS})
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for label, config in _settings(base):
        print("| " + " | ".join([label, *_cells(config)]) + " |", flush=True)
    return DONE


def _settings(base: Config) -> Iterator[tuple[str, Config]]:
    yield "characters", base.replace(**{"data.level": "chars"})
    for size in SIZES:
        yield f"{size:,} subwords", base.replace(**{"data.level": "bpe", "data.vocab_size": size})
    for rare in RARE:
        yield f"words, {rare}", base.replace(**{"data.rare": rare})
    for count in MIN_COUNTS:
        yield f"words, {count} or more", base.replace(**{"data.min_count": count})


def _cells(config: Config) -> list[str]:
    data = dataset.prepare(config)
    train, valid, test = (data.encoded[part] for part in ("train", "valid", "test"))
    ids, tokenizer = (train.ids, valid.ids, test.ids), data.tokenizer
    order, *nats = best_order(*ids, tokenizer.size, tokenizer.start_id, MAX_ORDER)
    bits = 1 / math.log(2)
    whole = [(cost + text.extra_nats) / text.n_chars * bits for cost, text in zip(nats, (valid, test), strict=True)]
    alone = nats[0] / valid.n_chars * bits
    rare = len(valid.spelled.texts)
    share = rare / max(1, len(valid.ids) + rare * valid.spelled.left_out)
    return [f"{tokenizer.size:,}", str(order), f"{share:.1%}", f"{whole[0]:.3f}", f"{alone:.3f}", f"{whole[1]:.3f}"]


if __name__ == "__main__":
    sys.exit(main())
