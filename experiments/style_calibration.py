"""Measures how often the authorship decision is right: `python -m experiments.style_calibration`.

Each round leaves every tale out once, a few at a time. The author's profile is built from the remaining tales, so the
tales left out neither fit nor calibrate it. One excerpt of each, at a random place, is then tested. At the 5 % level,
95 of 100 should be accepted. Imitations are tested in the same numbers; none of them should be accepted.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.study import options
from lovecraft_jax import cli
from lovecraft_jax.data import corpus
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.splits import split
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.stylometry.authorship import PIECE_LENGTHS, SIGNIFICANCE_LEVEL, Author

MakeText = Callable[[str, str, int, random.Random], str]
"""(a tale that was left out, the remaining tales, length, rng) -> a text of that length."""


def main() -> int:
    """Prints, for each text length, how many texts of each kind are accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="lovecraft", help="as data.corpus")
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        default=PIECE_LENGTHS,
        choices=PIECE_LENGTHS,
        help="text lengths in characters",
    )
    parser.add_argument(
        "--rounds", type=options.at_least(1), default=2, help="number of rounds; each leaves every tale out once"
    )
    parser.add_argument("--out", type=options.at_least(1), default=5, help="number of tales left out at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", nargs="*", type=Path, default=[], help="files whose excerpts are tested as well")
    args = parser.parse_args()
    loaded = corpus.load(args.corpus)
    splits = split(loaded, make_cleaning("ascii"))
    tales = {name: text for part in splits.by_tale.values() for name, text in part.items()}
    kinds = {**KINDS, **{str(path): _from_file(path) for path in args.texts}}
    if loaded.sha256 == corpus.load("bundled").sha256:
        del kinds[OTHERS]
    print("| characters | text | accepted | out of | |\n|---|---|---|---|---|")
    for length in args.lengths:
        rng = random.Random(args.seed)
        p_values: dict[str, list[float]] = {kind: [] for kind in kinds}
        for out in _left_out(sorted(name for name in tales if len(tales[name]) >= length), args, rng):
            rest = {name: text for name, text in tales.items() if name not in out}
            held_out = [name for part in ("valid", "test") for name in splits.tales[part] if name in rest]
            author = Author(rest, held_out)
            for name in out:
                for kind, make_text in kinds.items():
                    comparison = author.compare(make_text(tales[name], "\n\n\n".join(rest.values()), length, rng))
                    if comparison.reason or comparison.length != length:
                        parser.error(f"too few tales are left to test {length:,} characters: use a lower --out")
                    p_values[kind] += comparison.p_values
        for kind, values in p_values.items():
            accepted = sum(p > SIGNIFICANCE_LEVEL for p in values)
            print(f"| {length:,} | {kind} | {accepted} | {len(values)} | {accepted / len(values):.1%} |", flush=True)
    return DONE


def _left_out(names: list[str], args: argparse.Namespace, rng: random.Random) -> Iterator[list[str]]:
    for _ in range(args.rounds):
        rng.shuffle(names)
        yield from (names[start : start + args.out] for start in range(0, len(names), args.out))


def _excerpt(tale: str, rest: str, length: int, rng: random.Random) -> str:
    start = rng.randrange(len(tale) - length + 1)
    return tale[start : start + length]


def _characters_shuffled(tale: str, rest: str, length: int, rng: random.Random) -> str:
    return "".join(rng.sample(_excerpt(tale, rest, length, rng), length))


def _words_shuffled(tale: str, rest: str, length: int, rng: random.Random) -> str:
    tokens = _excerpt(tale, rest, length, rng).split(" ")
    return " ".join(rng.sample(tokens, len(tokens)))


def _unigrams(tale: str, rest: str, length: int, rng: random.Random) -> str:
    return " ".join(rng.choices(rest.split(), k=length))[:length]


def _bundled(tale: str, rest: str, length: int, rng: random.Random) -> str:
    return _excerpt("\n\n\n".join(other.text for other in corpus.load("bundled").tales), rest, length, rng)


def _from_file(path: Path) -> MakeText:
    text = make_cleaning("ascii").apply(path.read_text("utf-8"))[0]
    if len(text) < max(PIECE_LENGTHS):
        raise UserError(f"--texts {path}: {len(text):,} characters; expected {max(PIECE_LENGTHS):,} or more")
    return lambda tale, rest, length, rng: _excerpt(text, rest, length, rng)


OTHERS = "excerpts of the bundled tales (other authors)"
KINDS: dict[str, MakeText] = {
    "excerpts of the tales left out": _excerpt,
    "the same, characters shuffled": _characters_shuffled,
    "the same, words shuffled": _words_shuffled,
    "words sampled by their frequency in the other tales": _unigrams,
    OTHERS: _bundled,
}


if __name__ == "__main__":
    sys.exit(cli.report_errors(main))
