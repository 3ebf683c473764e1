import pytest

from lovecraft_jax.stylometry.text import PREPOSITIONS, PRONOUNS, ngrams, sentences, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The half-mad man--he--didn't!", ["The", "half", "mad", "man", "he", "didn't"]),
        ("'Tis Danforth's\nR'lyeh; o'er 3rd '28", ["Tis", "Danforth's", "R'lyeh", "o'er", "rd"]),
        ("the hounds' _x_", ["the", "hounds", "x"]),
        ("\u0426\u0430\u0440\u044c, na\u00efve; don\u2019t", ["\u0426\u0430\u0440\u044c", "na\u00efve", "don\u2019t"]),
        (" \n1,2. --", []),
    ],
)  # fmt: skip
def test_words_are_sequences_of_letters_with_apostrophes_inside(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It came. It went!", ["It came.", "It went!"]),
        ("It came. it went... and stayed", ["It came. it went... and stayed"]),
        ('"Who?" he cried. "You!" (So.) -1 was it.', ['"Who?" he cried.', '"You!"', "(So.)", "-1 was it."]),
        ("Dr. West met Mr. H. P. Hale. No. 3 was his", ["Dr. West met Mr. H. P. Hale.", "No. 3 was his"]),
        ("A TITLE\n\nIt came\nin.\n\n\n* * *\n\nEnd", ["A TITLE", "It came\nin.", "End"]),
        ("At 2.30 I.", ["At 2.30 I."]),
        ("...", []),
    ],
)
def test_sentences_end_at_stops_and_blank_lines_but_not_after_titles_and_initials(text: str, found: list[str]) -> None:
    assert sentences(text) == found


def test_ngrams_by_hand() -> None:
    assert ngrams("abcd", 2) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert ngrams("ab", 3) == []


def test_function_words_are_single_lower_case_words() -> None:
    for word in PRONOUNS | PREPOSITIONS:
        assert words(word) == [word.lower()]
    assert not PRONOUNS & PREPOSITIONS
