import dataclasses
import json
import unicodedata
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lovecraft_jax.data import characters
from lovecraft_jax.data.cleaning import PRINTABLE_ASCII, Cleaning, Counts, clean_all, make_cleaning
from lovecraft_jax.runtime.errors import UserError

ASCII, UNICODE = make_cleaning("ascii"), make_cleaning("unicode")
BOTH = pytest.mark.parametrize("cleaning", [ASCII, UNICODE], ids=["ascii", "unicode"])
# Any text at all, and texts dense in characters of the table.
TEXTS = st.text() | st.text(st.sampled_from("aeE\n\r\t\u00e9\u0301\u0323\ufeff\u201d\u2014\u2026\ufb01\u00df\u0434"))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("caf\u00e9 na\u00efve \u00c5ngstr\u00f6m", "cafe naive Angstrom"),
        ("\u2018a\u2019 \u201cb\u201d \u00abc\u00bb \u201ed\u201f", '\'a\' "b" "c" "d"'),
        ("1926\u20131928\u2014then\u2010now \u22121", "1926-1928--then-now -1"),
        ("and then\u2026", "and then..."),
        ("\ufb01nd \ufb02ow o\ufb00 a\ufb03x \ufb06em", "find flow off affix stem"),
        ("Cth\u00e6at \u0152uvre Stra\u00dfe \u00de\u00f3r \u0141\u00f3d\u017a", "Cthaeat OEuvre Strasse Thor Lodz"),
        ("a\u00a0b\u2003c\td", "a b c d"),
        ("page\fnext\u2028line\u2029end", "page\nnext\nline\n\nend"),
        ("soft\u00adhyphen\u200bzero", "softhyphenzero"),
        ("\uff21\uff01", "A!"),
        ("\u00bd \u00be 1\u20442", "1/2 3/4 1/2"),
        ("\ufeffa\ufeffb", "ab"),
    ],
)
def test_ascii_folds_marks_and_accents(text: str, cleaned: str) -> None:
    assert ASCII.apply(text)[0] == cleaned


@BOTH
def test_line_ends_of_every_system_and_composed_or_decomposed_accents_are_the_same_text(cleaning: Cleaning) -> None:
    text = "one\n\ntwo \u00e9\u00f1\u00c5\u1ec7\u01d6\n"
    cleaned, counts = cleaning.apply(text)
    assert cleaned.startswith("one\n\ntwo ")
    for same in (text.replace("\n", "\r\n"), text.replace("\n", "\r"), unicodedata.normalize("NFD", text)):
        assert cleaning.apply(same) == (cleaned, counts)


def test_an_accent_changes_no_letter() -> None:
    for char in map(chr, (*range(0xC0, 0x250), *range(0x1E00, 0x1F00))):
        base = unicodedata.normalize("NFD", char)[0]
        assert ASCII.apply(char)[0] == ASCII.apply(base)[0], f"U+{ord(char):04X} {char}"


@settings(deadline=None)
@given(TEXTS)
@example("e\ufeff\u0301")
@example("e\u200b\u0301")
@example("\r\ufeff\n")
def test_cleaning_twice_is_cleaning_once_and_ascii_has_only_characters_of_its_alphabet(text: str) -> None:
    for cleaning in (ASCII, UNICODE):
        once, _ = cleaning.apply(text)
        assert cleaning.apply(once) == (once, Counts(read=len(once), folded=0, dropped=0))
    assert set(ASCII.apply(text)[0]) <= set(PRINTABLE_ASCII)


def test_characters_read_folded_and_dropped_are_counted() -> None:
    # After NFC and line ends: e-acute, curly quote, a, newline, soft hyphen, two of Cyrillic, ellipsis.
    kept, counts = ASCII.apply("e\u0301\u2019a\r\n\u00ad\u0434\u0430\u2026")
    assert kept == "e'a\n..."
    assert counts == Counts(read=8, folded=4, dropped=2)
    assert UNICODE.apply("e\u0301\r\n\u0434\u201c\ufeff") == (
        "\u00e9\n\u0434\u201c\ufeff",
        Counts(5, folded=0, dropped=0),
    )


def test_dropped_characters_are_listed_once_in_order() -> None:
    assert ASCII.lost("a\u0434\u2026\u20ac\u0434e\u0301") == ["\u0434", "\u20ac"]
    assert UNICODE.lost("a\u0434\u20ac") == []


def test_counts_add_up_and_dropping_over_one_percent_is_an_error_that_names_the_remedy() -> None:
    texts, total = clean_all(["a" * 300 + "\u00e9", "b" * 300 + "\u0434", ""], ASCII)
    assert texts == ["a" * 300 + "e", "b" * 300, ""]
    assert total == Counts(read=602, folded=1, dropped=1)
    assert clean_all(["a" * 99 + "\u0434"], ASCII)[1].dropped == 1  # one in a hundred is allowed
    with pytest.raises(UserError, match=r"data\.alphabet=ascii.* 2 of 100 .*data\.alphabet=unicode"):
        clean_all(["a" * 98 + "\u0434" * 2], ASCII)
    with pytest.raises(UserError, match=r"allowed\): give another$"):
        clean_all(["\u0434"], ASCII, "give another")
    with pytest.raises(UserError):  # over all texts, not in each
        clean_all(["a" * 50, "a" * 48 + "\u0434" * 2], ASCII)


@settings(deadline=None)
@given(TEXTS)
@example("abc\n\u0301\u0323e\u0301")
@example("abcd\r\n\r\ne")
def test_long_texts_are_cleaned_in_pieces_as_the_whole_would_be(text: str) -> None:
    wholes = [cleaning.apply(text) for cleaning in (ASCII, UNICODE)]
    with mock.patch.object(characters, "PIECE", 3):
        assert [cleaning.apply(text) for cleaning in (ASCII, UNICODE)] == wholes
        cut, lines = list(characters.pieces(text)), list(characters.whole_lines(text))
    assert "".join(cut) == "".join(lines) == text
    assert all(len(piece) == 3 for piece in cut[:-1])
    assert all(len(piece) > 3 and piece.endswith("\n") for piece in lines[:-1])


@settings(deadline=None)
@given(TEXTS)
def test_another_program_can_clean_with_the_saved_table_alone(text: str) -> None:
    for cleaning in (ASCII, UNICODE):
        saved = json.loads(json.dumps(dataclasses.asdict(cleaning)))
        assert _another_program(saved, text) == cleaning.apply(text)[0]


def _another_program(saved: dict, text: str) -> str:
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    cleaned = []
    for char in text:
        for folded in saved["table"].get(char, char):
            if saved["keep"] is None or folded in saved["keep"]:
                cleaned.append(folded)
    return "".join(cleaned)
