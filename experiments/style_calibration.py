"""Whether the verdict on style keeps its word: `python -m experiments.style_calibration`.

In every round each tale is left out once, a few at a time: an author is made of the rest, so that what is left out
fitted and calibrated nothing, and a cut of each, at a random place, is judged. At the 5 % level 95 in 100 should be
accepted. As many imitations are judged beside them; of these none should be.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from lovecraft_jax.data import corpus
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.splits import split
from lovecraft_jax.stylometry.authorship import PIECE_LENGTHS, SIGNIFICANCE_LEVEL, Author

Write = Callable[[str, str, int, random.Random], str]
"""(a tale that is left out, the other tales, length, rng) -> a text of that length."""


def main() -> None:
    """Prints, for each length of a piece, how many of each kind of text are accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="lovecraft", help="as data.corpus")
    parser.add_argument("--lengths", nargs="+", type=int, default=PIECE_LENGTHS, help="characters of a piece")
    parser.add_argument("--rounds", type=int, default=2, help="in which every tale is left out once")
    parser.add_argument("--out", type=int, default=5, help="tales left out at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", nargs="*", type=Path, default=[], help="files, cuts of which are judged too")
    given = parser.parse_args()
    splits = split(corpus.load(given.corpus), make_cleaning("ascii"))
    tales = {name: text for part in splits.by_tale.values() for name, text in part.items()}
    kinds = {**KINDS, **{str(path): _from_file(path) for path in given.texts}}
    if given.corpus == "bundled":
        del kinds[OTHERS]
    print("| characters | text | accepted | of | |\n|---|---|---|---|---|")
    for length in given.lengths:
        rng = random.Random(given.seed)
        p_values: dict[str, list[float]] = {kind: [] for kind in kinds}
        for out in _left_out(sorted(name for name in tales if len(tales[name]) >= length), given, rng):
            rest = {name: text for name, text in tales.items() if name not in out}
            author = Author(rest, [name for part in ("valid", "test") for name in splits.tales[part]])
            for name in out:
                for kind, write in kinds.items():
                    found = author.compare(write(tales[name], "\n\n\n".join(rest.values()), length, rng))
                    if found.reason or found.length != length:
                        parser.error(f"too few tales are left to judge {length:,} characters by; leave fewer --out")
                    p_values[kind] += found.p_values
        for kind, values in p_values.items():
            accepted = sum(p > SIGNIFICANCE_LEVEL for p in values)
            print(f"| {length:,} | {kind} | {accepted} | {len(values)} | {accepted / len(values):.1%} |", flush=True)


def _left_out(names: list[str], given: argparse.Namespace, rng: random.Random) -> Iterator[list[str]]:
    for _ in range(given.rounds):
        rng.shuffle(names)
        yield from (names[start : start + given.out] for start in range(0, len(names), given.out))


def _cut(tale: str, rest: str, length: int, rng: random.Random) -> str:
    start = rng.randrange(len(tale) - length + 1)
    return tale[start : start + length]


def _letters_shuffled(tale: str, rest: str, length: int, rng: random.Random) -> str:
    return "".join(rng.sample(_cut(tale, rest, length, rng), length))


def _words_shuffled(tale: str, rest: str, length: int, rng: random.Random) -> str:
    tokens = _cut(tale, rest, length, rng).split(" ")
    return " ".join(rng.sample(tokens, len(tokens)))


def _unigrams(tale: str, rest: str, length: int, rng: random.Random) -> str:
    return " ".join(rng.choices(rest.split(), k=length))[:length]


def _bundled(tale: str, rest: str, length: int, rng: random.Random) -> str:
    return _cut("\n\n\n".join(other.text for other in corpus.load("bundled").tales), rest, length, rng)


def _from_file(path: Path) -> Write:
    return lambda tale, rest, length, rng: _cut(path.read_text(), rest, length, rng)


OTHERS = "cuts of the bundled tales, which are by others"
KINDS: dict[str, Write] = {
    "cuts of the tales left out": _cut,
    "the same, their characters shuffled": _letters_shuffled,
    "the same, their words shuffled": _words_shuffled,
    "words by their frequency in the other tales": _unigrams,
    OTHERS: _bundled,
}


if __name__ == "__main__":
    main()
