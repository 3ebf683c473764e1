"""The table of n-grams over tokens and policies, on the bundled tales."""

import pytest

from experiments.words import ngram
from experiments.words.settings import MIN_COUNTS, RARE, SIZES
from lovecraft_jax.runtime.errors import DONE
from tests.experiments.conftest import Main


@pytest.mark.slow
def test_every_setting_is_scored_with_its_spelling_on_top_of_its_ids(run_main: Main) -> None:
    code, out, _ = run_main(ngram, "--corpus=bundled")
    rows = [line.strip("| ").split(" | ") for line in out.splitlines()[2:]]
    assert (code, len(rows)) == (DONE, 1 + len(SIZES) + len(RARE) + len(MIN_COUNTS))
    by_label = {label: (float(bpc), float(alone)) for label, _, _, _, bpc, alone, _ in rows}
    assert by_label["words, spell"] == by_label["words, 2 or more"]
    for label, (bpc, alone) in by_label.items():
        assert (bpc > alone + 0.1) if label.startswith("words") else (bpc == alone), label
