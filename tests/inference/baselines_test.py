"""Baselines against values worked out by hand, and the process and cache in which they are computed."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lovecraft_jax.data import corpus
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.word_tokenizer import WordTokenizer
from lovecraft_jax.inference import baselines
from lovecraft_jax.inference.baselines import Baselines
from lovecraft_jax.inference.ngram import token_probs


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def tales() -> list[str]:
    return [tale.text for tale in corpus.load("bundled").tales]


def test_uniform_counts_the_characters_of_training_and_one_for_the_rest() -> None:
    assert baselines.uniform("abca") == 2.0  # a, b, c, any other
    assert baselines.uniform("a" * 50) == 1.0


def test_unigram_is_the_smoothed_frequency_in_training() -> None:
    # Training counts, plus one each: a 4, b 3, and 1 for all that was never seen; 8 together.
    assert baselines.unigram("aaabb", "a") == pytest.approx(1.0, rel=1e-12)
    assert baselines.unigram("aaabb", "z") == pytest.approx(3.0, rel=1e-12)
    assert baselines.unigram("aaabb", "abz") == pytest.approx((1 + math.log2(8 / 3) + 3) / 3, rel=1e-12)


def test_ppmd_of_a_text_primed_with_itself_is_nearly_zero(tales: list[str]) -> None:
    text = "".join(tales[:10])
    unprimed, primed = baselines.ppmd("", text), baselines.ppmd(text, text)
    assert 0 < primed < 0.2 * unprimed  # PPMd is never certain of a character


def test_ppmd_of_noise_is_its_entropy() -> None:
    noise = "".join(np.random.default_rng(0).choice(list("abcd"), 20_000))  # two bits each
    assert baselines.ppmd(noise[:10_000], noise[10_000:]) == pytest.approx(2.0, rel=0.1)


def test_an_unknown_character_costs_the_ngrams_its_token_and_its_spelling() -> None:
    train, ascii = "abba" * 20, make_cleaning("ascii")
    known = baselines.ngram(train, "z", "zaz", ascii)
    # Both tokenized texts differ from those of a smaller alphabet in nothing but what spelling costs.
    other = dataclasses.replace(ascii, keep="abz")
    spelt = baselines.ngram(train, "z", "zaz", other)
    assert len(ascii.keep) == 96
    for name in ("ngram", "word_ngram"):
        assert known[name] - spelt[name] == pytest.approx(math.log2(96 / 3), rel=1e-12)
        assert known[f"{name}_test"] - spelt[f"{name}_test"] == pytest.approx(math.log2(96 / 3) * 2 / 3, rel=1e-12)
    assert known["ngram"] > math.log2(96) + 1


def test_the_ngram_of_words_needs_the_bits_of_its_ids_and_of_what_is_spelled(tales: list[str]) -> None:
    train, test, ascii = "".join(tales[:15]), tales[16], make_cleaning("ascii")
    valid = train[20_000:22_000]  # known, for which the longest context is best
    known, tokenizer = baselines.ngram(train, valid, test, ascii), WordTokenizer.of(train, ascii, "spell", 2, 1 << 20)
    bits = {}
    for order in range(1, 6):
        for name, text in (("word_ngram", valid), ("word_ngram_test", test)):
            encoded = tokenizer.encode(text)
            given = tokenizer.encode(train).ids, [encoded.ids], tokenizer.size, tokenizer.start_id, order
            *_, (probs,) = token_probs(*given)
            bits[name, order] = (encoded.extra_nats - np.log(probs).sum()) / math.log(2) / len(text)
    assert known["word_ngram_order"] == min(range(1, 6), key=lambda order: bits["word_ngram", order]) == 5
    for name in ("word_ngram", "word_ngram_test"):
        assert known[name] == pytest.approx(bits[name, known["word_ngram_order"]], rel=1e-12)


def test_a_text_that_is_too_long_for_the_ngrams_has_the_other_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "NGRAM_CHARS", 79)
    assert baselines.ngram("abba" * 20, "a", "b", make_cleaning("ascii")) == {}


def test_labels_say_what_adapts_and_those_of_earlier_runs_have_no_ngrams() -> None:
    earlier = {"uniform": 6.0, "unigram": 4.0, "ppmd": 1.5}
    assert baselines.labelled_scores(earlier) == {"uniform": 6.0, "unigram": 4.0, "PPMd (adaptive)": 1.5}
    assert baselines.comparison_lines(earlier) == []
    known = earlier | {"ngram": 1.75, "ngram_test": 1.8, "ngram_order": 8, "ppmd_test": 1.6}
    assert baselines.labelled_scores(known) == baselines.labelled_scores(earlier) | {
        "8-gram of characters (static)": 1.75
    }
    assert len(baselines.comparison_lines(known)) == 2
    known |= {"word_ngram": 1.7, "word_ngram_test": 1.9, "word_ngram_order": 4}
    assert list(baselines.labelled_scores(known).values()) == [6.0, 4.0, 1.75, 1.7, 1.5]
    static, of_words, adaptive = baselines.comparison_lines(known)
    assert static == "8-gram of characters (static): valid 1.7500, test 1.8000 bpc"
    assert of_words == "4-gram of words (static): valid 1.7000, test 1.9000 bpc"
    assert adaptive.startswith("PPMd (adaptive: it learns ")


def test_baselines_are_computed_in_another_process_and_cached_unless_damaged(cache: Path, tales: list[str]) -> None:
    texts, ascii = {"train": "".join(tales[:20]), "valid": tales[0], "test": tales[21]}, make_cleaning("ascii")
    train, valid, test = texts.values()
    assert len(train) > 1 << 16  # more than a pipe holds
    expected = {
        "uniform": baselines.uniform(train),
        "unigram": baselines.unigram(train, valid),
        **baselines.ngram(train, valid, test, ascii),
        "ppmd": baselines.ppmd(train, valid),
        "ppmd_test": baselines.ppmd(train, test),
    }
    first = Baselines(texts, ascii)
    assert first.wait(120) == first.result() == expected
    first.close()
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert len(files) == 1

    again = Baselines(texts, ascii)
    assert again.result() == expected  # at once, from the cache
    again.close()
    for others, cleaning in (
        ({"train": train + valid[:100], "valid": valid[100:], "test": test}, ascii),  # the same text, split elsewhere
        (texts | {"test": tales[22]}, ascii),
        (texts, make_cleaning("unicode")),
    ):
        other = Baselines(others, cleaning)
        other.close()
        assert other.result() is None
    assert [path for path in cache.rglob("*") if path.is_file()] == files

    files[0].write_text('{"uniform": 1.5')  # damaged
    damaged = Baselines(texts, ascii)
    assert damaged.wait(120) == expected
    damaged.close()


def test_closing_ends_the_process(cache: Path) -> None:
    work = Baselines({"train": "ab" * 3_000_000, "valid": "ab" * 300_000, "test": "ba"}, make_cleaning("ascii"))
    process = work._process
    assert isinstance(process, subprocess.Popen)
    assert process.poll() is None
    work.close()
    assert process.returncode == -9
    assert work.wait(60) is None
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    work.close()  # again


def test_the_process_loads_no_jax() -> None:
    """It runs beside the training, and jax would reserve the device's memory."""
    check = "import sys, lovecraft_jax.inference.baselines; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[2], check=False).returncode == 0
