"""The page's tokenizers, in Node, against Python's: the same ids, texts and costs of any text, the same prompts and
the same rare words."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lovecraft_jax.data.bpe_tokenizer import BpeTokenizer
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import Cleaning, make_cleaning
from lovecraft_jax.data.corpus import HERE
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.pretokens import split_prompt, split_short
from lovecraft_jax.data.speller import Speller
from lovecraft_jax.data.tokenizer import Tokenizer, load_tokenizer
from lovecraft_jax.data.word_classes import FORMS, classify, compose
from lovecraft_jax.data.word_tokenizer import WordTokenizer

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")

RELATIVE = 1e-9
ASCII, UNICODE = make_cleaning("ascii"), make_cleaning("unicode")
CHANGED = "\u0295\u10fc\ua7f2\ua7f3\ua7f4\uab69"
"""Lower case in some versions of Unicode only. Others that differ are of category Cn in the older version."""
TRAIN = (
    "The old house by the sea.\n\n\nThe house was dark, and nobody walked to the sea.\n\n\nA Ghost walked there.\n"
    "1928\n12\n1928 12 007 10\n--IA! isn't \u00e9t\u00e9 \uffee \U00010400 \U00010428\U0001f419 \u0915\u093f"
)
"""With pretokens that JavaScript would sort as numbers, and such as its strings do not have in code-point order."""
PIECES = [
    "the", " house", " sea", "\n\n\n", " walking", " Xy'z", "don'", ",", " 1928", "12", " ", "  ", "\t", "\x1c", "\x85",
    "\u00a0", "\u2028", "\ufeff", "\u3000", "\r\n", "\r", "e\u0301", "\u00e9", "\u00c6", "\U0001f419", "\U00010400",
    "\u0915\u093f", "\u0663", "\u2167", "\u00bd", "_", "--", "<unused>", "\u1100\u1161\u11a8", "\u01c5", "NASA", " McX",
]  # fmt: skip
CHARS = st.characters(exclude_categories=("Cs", "Cn"), exclude_characters=CHANGED)
TEXTS = st.text(CHARS) | st.lists(st.sampled_from(PIECES)).map("".join)
RARE = ("spell", "cluster", "class", "unk", "drop")
POLICIES = [(rare, 2) for rare in RARE] + [(rare, 1) for rare in ("spell", "unk")]
WORDS = {
    "words-empty": WordTokenizer.of("", UNICODE, "spell", 1, 1000),
    "words-full": WordTokenizer.of(TRAIN, UNICODE, "spell", 1, len(FORMS) + 9),
} | {
    f"words-{cleaning.alphabet}-{rare}-{least}": WordTokenizer.of(cleaning.apply(TRAIN)[0], cleaning, rare, least, 1000)
    for cleaning in (ASCII, UNICODE)
    for rare, least in POLICIES
}
BUILT: dict[str, Tokenizer] = {
    "chars-ascii": CharTokenizer.of(ASCII.apply(TRAIN)[0], ASCII),
    "chars-unicode": CharTokenizer.of(TRAIN, UNICODE),
    "bpe-ascii": BpeTokenizer.of(ASCII.apply(TRAIN)[0] * 9, ASCII, 150),
    "bpe-unicode": BpeTokenizer.of(TRAIN * 9, UNICODE, 400),
    **WORDS,
}


class Node:
    """A process that has the page's tokenizers, and these as JavaScript objects, by their names or numbers."""

    def __init__(self, built: dict[str, Tokenizer]) -> None:
        script = Path(__file__).with_name("js_tokenizer_node.mjs")
        self.process = subprocess.Popen(
            ["node", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        self.objects = {name: self.load(tokenizer.dumps()) for name, tokenizer in built.items()}

    def load(self, saved: str) -> int:
        return self.make("makeTokenizer", json.loads(saved))

    def make(self, name: str, *args: Any) -> int:
        return self._ask(make=name, args=args)

    def call(self, name: str, *args: Any, on: str | int | None = None) -> Any:
        return self._ask(call=name, args=args, on=self.objects.get(on, on))

    def get(self, name: str, on: str | int) -> Any:
        return self._ask(get=name, on=self.objects.get(on, on))

    def _ask(self, **message: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({key: value for key, value in message.items() if value is not None}) + "\n")
        self.process.stdin.flush()
        result = json.loads(self.process.stdout.readline())
        if isinstance(result, dict) and "error" in result:
            raise ValueError(result["error"])
        return result


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """One process for all texts."""
    made = Node(BUILT)
    yield made
    made.process.communicate(timeout=60)


def check_encoding(node: Node, on: str | int, tokenizer: Tokenizer, text: str) -> None:
    tokens, expected = node.call("encode", text, on=on), tokenizer.encode(text)
    assert [token["id"] for token in tokens if token["id"] >= 0] == expected.ids.tolist()
    assert "".join(token["text"] for token in tokens) == text
    assert sum(token["nats"] for token in tokens) == pytest.approx(expected.extra_nats, rel=RELATIVE)
    spelled = expected.spelled
    if spelled.left_out:
        found = [token for token in tokens if token["id"] < 0]
        before = itertools.accumulate((token["id"] >= 0 for token in tokens), initial=0)
        assert [n for n, token in zip(before, tokens, strict=False) if token["id"] < 0] == spelled.at_R.tolist()
    else:
        found = [tokens[n] for n in spelled.at_R]
        assert [len(token["text"]) for token in tokens] == tokenizer.lengths(expected).tolist()
        assert not any(token["nats"] for n, token in enumerate(tokens) if n not in spelled.at_R) or not spelled.texts
    assert [token["text"] for token in found] == list(spelled.texts)
    assert [token["nats"] for token in found] == pytest.approx(spelled.nats_R.tolist(), rel=RELATIVE)


def check_prompt(node: Node, on: str | int, tokenizer: Tokenizer, text: str) -> None:
    found, expected = node.call("encodePrompt", text, on=on), tokenizer.encode_prompt(text)
    assert found["ids"] == expected.ids.tolist()
    assert [(cut["kept"], bytes(cut["begun"]), cut["allowed"]) for cut in found["cuts"]] == [
        (cut.kept, cut.begun, cut.allowed_V.astype(int).tolist()) for cut in expected.cuts
    ]
    assert [cut["nats"] for cut in found["cuts"]] == pytest.approx([cut.nats for cut in expected.cuts], rel=RELATIVE)


def generated_in_node(node: Node, on: str | int, token: int, seed: tuple[int, ...], temperature: float) -> bytes:
    """A generated id by the random numbers that Python takes for the first id of a text."""
    uniform = np.random.default_rng((*seed, 0)).random(1000).tolist()
    return bytes(node.call("generatedBytes", token, {"uniform": uniform}, temperature, on=on))


@pytest.mark.parametrize("alphabet", ["ascii", "unicode", "own"])
@settings(deadline=None)
@given(
    text=TEXTS
    | st.text(st.characters(min_codepoint=0x80, max_codepoint=0x2100))
    | st.text("ae\u0301\u0323\u1100\u1161\u11a7\u11a8")
)
def test_a_text_is_cleaned_as_in_python(node: Node, alphabet: str, text: str) -> None:
    own = Cleaning("own", {"a": "\U0001f419x", "\U0001f419": "", "1": "one"}, None)
    cleaning = own if alphabet == "own" else make_cleaning(alphabet)
    on = node.make("Cleaning", dataclasses.asdict(cleaning))
    assert node.call("apply", text, on=on) == cleaning.apply(text)[0]
    assert node.call("lost", text, on=on) == cleaning.lost(text)
    assert node.get("alphabetSize", on=on) == cleaning.alphabet_size


def test_every_character_belongs_to_the_same_pretokens_and_classes_as_in_python(node: Node) -> None:
    """Every 97th of the ideographs and syllables of Chinese and Korean, which are tens of thousands alike."""
    alike = [range(0x3400, 0xA000), range(0xAC00, 0xD7A4), range(0x17000, 0x18D00), range(0x20000, 0x32000)]
    skipped = {n for block in alike for n in block if n % 97}
    chars = [
        chr(n) for n in range(0x110000) if n not in skipped and unicodedata.category(chr(n)) not in ("Cs", "Cn", "Co")
    ]
    assert len(chars) > 30_000
    text = "".join(f"a{c}a {c}'{c} 1{c}.{c} {c}\n" for c in ["\ue000", *chars])
    assert node.call("splitPretokens", text) == split_short(text)
    words = [
        before + c + after for c in chars if c not in CHANGED for before, after in ((" ", ""), ("A", ""), ("", "ring"))
    ]
    found = node.call("map", "classify", words)
    assert [(one["classIndex"], one["stem"]) for one in found] == list(map(classify, words))


@settings(deadline=None)
@given(text=TEXTS)
def test_a_text_has_the_same_pretokens_and_classes_as_in_python(node: Node, text: str) -> None:
    pretokens = split_short(text)
    assert node.call("splitPretokens", text) == pretokens
    assert node.call("splitPrompt", text) == split_prompt(text)
    for found, word in zip(node.call("map", "classify", pretokens), pretokens, strict=True):
        assert (found["classIndex"], found["stem"]) == classify(word)
        assert node.call("compose", found["classIndex"], found["stem"]) == compose(*classify(word)) == word


@pytest.mark.parametrize("name", BUILT)
def test_a_tokenizer_has_the_same_size_and_the_same_text_for_each_id(node: Node, name: str) -> None:
    tokenizer = BUILT[name]
    for property_name, expected in (
        ("level", tokenizer.level),
        ("size", tokenizer.size),
        ("startId", tokenizer.start_id),
    ):
        assert node.get(property_name, on=name) == expected
    is_class = np.arange(tokenizer.size) < getattr(tokenizer, "first_word", 1)
    for one in range(tokenizer.size):
        shown, description = node.call("tokenText", one, on=name), node.call("describeClass", one, on=name)
        assert bool(description) == (is_class[one] and one != UNKNOWN_ID)
        if is_class[one]:
            assert shown == ""
        else:
            assert shown == tokenizer.decode(np.array([one]))
            assert generated_in_node(node, name, one, (0,), 1.0) == tokenizer.generated_bytes(np.array([one]))
    assert generated_in_node(node, name, UNKNOWN_ID, (0,), 1.0) == tokenizer.generated_bytes(np.array([UNKNOWN_ID]))


@pytest.mark.parametrize("name", BUILT)
@settings(deadline=None, max_examples=30)
@given(text=TEXTS)
def test_a_text_has_the_same_tokens_and_costs_as_in_python(node: Node, name: str, text: str) -> None:
    check_encoding(node, name, BUILT[name], BUILT[name].cleaning.apply(text)[0])


@pytest.mark.parametrize("name", BUILT)
@settings(deadline=None, max_examples=50)
@given(
    text=TEXTS
    | st.sampled_from(["", "by the old ho", "the house", "the house ", "isn'", "x", "Xyz", " ", "a\n", "th\u00e9"])
)
def test_a_prompt_has_the_same_ids_and_cuts_as_in_python(node: Node, name: str, text: str) -> None:
    text = BUILT[name].cleaning.apply(text)[0]
    check_prompt(node, name, BUILT[name], text)
    assert node.call("unseen", text, on=name) == BUILT[name].unseen(text)


@pytest.mark.parametrize("name", ["chars-unicode", "bpe-unicode", "words-unicode-spell-2"])
def test_halves_of_a_character_are_unseen(node: Node, name: str) -> None:
    text = "the \udcff sea\ud801 \udcff\U0001f419"
    assert node.call("unseen", text, on=name) == BUILT[name].unseen(text) == ["\udcff", "\ud801"]


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 3.0])
def test_rare_words_of_every_class_are_generated_as_in_python(node: Node, name: str, temperature: float) -> None:
    tokenizer = WORDS[name]
    for one, seed in itertools.product(range(1, tokenizer.first_word), range(2)):
        expected = tokenizer.generated_bytes(np.array([one]), (seed,), temperature=temperature)
        assert generated_in_node(node, name, one, (seed,), temperature) == expected
        if temperature == 0:  # nothing is drawn
            assert bytes(node.call("generatedBytes", one, None, 0, on=name)) == expected


LETTERS = st.sampled_from("ab'c \u00e9\U0001f419\U00010400")


@settings(deadline=None, max_examples=50)
@given(
    words=st.lists(st.tuples(st.text(LETTERS, min_size=1), st.integers(0, 3)), min_size=1, max_size=60),
    others=st.lists(st.text(LETTERS | CHARS, min_size=1), min_size=1),
    letters=st.sampled_from([None, 1, 5, 6]),
    uniform=st.lists(st.floats(0, 1, exclude_max=True), min_size=12, max_size=12),
)
def test_a_model_of_spelling_gives_the_same_costs_classes_and_words(
    node: Node, words: list[tuple[str, int]], others: list[str], letters: int | None, uniform: list[float]
) -> None:
    texts, classes = [word for word, _ in words], [one for _, one in words]
    expected = Speller(texts, classes, 4, 1000, letters)
    on = node.make("Speller", texts, classes, 4, 1000, letters)
    asked = texts + others
    for one in range(4):
        found = node.call("nats", asked, [one] * len(asked), on=on)
        assert found == pytest.approx(expected.nats(asked, [one] * len(asked)).tolist(), rel=RELATIVE)
        for temperature in (0.0, 0.5, 2.0):
            word = node.call("generate", one, {"uniform": uniform}, 12, temperature, on=on)
            assert word == expected.generate(one, _Uniform(uniform), 12, temperature)
    assert node.call("likeliestClasses", asked, on=on) == expected.likeliest_classes(asked)


class _Uniform(np.random.Generator):
    """Gives these numbers."""

    def __init__(self, numbers: list[float]) -> None:
        super().__init__(np.random.PCG64(0))
        self._numbers = iter(numbers)

    def random(self) -> float:
        return next(self._numbers)


@pytest.fixture(scope="module")
def tales() -> tuple[str, str]:
    """English, to learn from, and other."""
    texts = [ASCII.apply(path.read_text())[0] for path in sorted((HERE / "tales").glob("*.txt"))]
    return "\n\n\n".join(texts[3:8]), "\n\n\n".join(texts[:3])


@pytest.mark.parametrize("rare", [RARE[0], *(pytest.param(rare, marks=pytest.mark.slow) for rare in RARE[1:])])
def test_english_is_encoded_and_spelled_as_in_python(node: Node, tales: tuple[str, str], rare: str) -> None:
    tokenizer = WordTokenizer.of(tales[0], ASCII, rare, 3, 1 << 20)
    on = node.load(tokenizer.dumps())
    check_encoding(node, on, tokenizer, tales[1])
    for end in range(2000, 2040):
        check_prompt(node, on, tokenizer, tales[1][1900:end])
    for one in range(1, tokenizer.first_word):
        for temperature in (0.0, 0.8):
            expected = tokenizer.generated_bytes(np.array([one]), (one,), temperature=temperature)
            assert generated_in_node(node, on, one, (one,), temperature) == expected


@pytest.mark.parametrize("as_strings", [False, True])
def test_english_is_segmented_as_in_python(node: Node, tales: tuple[str, str], as_strings: bool) -> None:
    tokenizer = BpeTokenizer.of(tales[0], ASCII, 2000)
    saved = json.loads(tokenizer.dumps())
    if as_strings:  # as versions of the library before 0.20 wrote merges
        saved["tokenizer"]["model"]["merges"] = [" ".join(pair) for pair in saved["tokenizer"]["model"]["merges"]]
    on = node.load(json.dumps(saved))
    check_encoding(node, on, tokenizer, tales[1])
    for end in range(2000, 2040):
        check_prompt(node, on, tokenizer, tales[1][1900:end])


def test_what_can_be_one_pretoken_at_the_end_of_a_prompt_is_two_for_byte_pairs(node: Node) -> None:
    """Python's library splits what it is given: the merge of "n'" is not for the end of "xn'"."""
    tokenizer = BpeTokenizer.of("an'a bn'b cn'c dn'd" * 9, ASCII, 98)
    on = node.load(tokenizer.dumps())
    assert "n'" in {node.call("tokenText", one, on=on) for one in range(tokenizer.size)}
    for text in ("xn'", "xn'x", "an'"):
        check_encoding(node, on, tokenizer, text)
        check_prompt(node, on, tokenizer, text)


def test_a_pretoken_of_a_hundred_thousand_characters_takes_no_longer_than_as_many_words(node: Node) -> None:
    tokenizer = BpeTokenizer.of("-" * 1000 + " the sea" * 9, ASCII, 150)
    on = node.load(tokenizer.dumps())
    check_encoding(node, on, tokenizer, "-" * 100_003)
    check_encoding(node, "words-ascii-spell-2", BUILT["words-ascii-spell-2"], "ha" * 50_000)


def test_a_file_of_an_earlier_version_is_read_as_in_python(node: Node) -> None:
    saved = json.loads(BUILT["words-ascii-spell-2"].dumps())
    for name in ("letters", "n_classes", "clusters"):
        del saved[name]
    text = ASCII.apply(TRAIN[::-1])[0]
    tokenizer = load_tokenizer(json.dumps(saved))
    check_encoding(node, node.load(json.dumps(saved)), tokenizer, text)
    assert tokenizer.encode(text).extra_nats != BUILT["words-ascii-spell-2"].encode(text).extra_nats
    with pytest.raises(ValueError, match="it has 9 classes of rare words, this version of the package has"):
        node.load(json.dumps(saved | {"n_classes": 9}))
    with pytest.raises(ValueError, match='unknown level "syllables"'):
        node.load(json.dumps(saved | {"level": "syllables"}))
