"""The folder for the Hugging Face Hub: its tokenizer gives our ids, its card is what the Hub reads, nothing is lost."""

import dataclasses
import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from etils import epath
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs import tiny
from lovecraft_jax.config import DataConfig
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.corpus import load
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.pretokens import split_short
from lovecraft_jax.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from lovecraft_jax.export.hub import FILES, check_folder, write_hub_folder
from lovecraft_jax.export.hub_tokenizer import char_class, make_library_tokenizer
from lovecraft_jax.export.safetensors_file import read_file
from lovecraft_jax.export.weights import Portable, portable
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.small_runs import LEVELS
from tests.helpers.untrained import random_variables

TEXT = "The old house, it's\n\nOLD and SEEMED rather old 12 the house\nthe hounds barking the Don't house The Xyz"
UNCLEANED = (
    "The \u201cold\u201d house\u2014it\u2019s\r\n\rna\u00efve: e\u0301\ttext[1] \\ ^-& \u2603 \u200b\u00a0\ufb01n\x0c"
)
# The library's Unicode is older than Python's: it does not know how newer marks compose.
TEXTS = st.text(st.characters(max_codepoint=0x7EF) | st.sampled_from(TEXT + UNCLEANED + "नमस्ते\u1100\u1161\U0001f419"))
SCORES = [
    {"split": "valid", "scoring": "final", "bpc": 1.74, "checkpoint": 40},
    {"split": "test", "scoring": "final", "bpc": 1.757, "checkpoint": 40},
    {"split": "valid", "scoring": "adaptive", "bpc": None, "checkpoint": 40},
    {"split": "test", "scoring": "adaptive", "bpc": 1.692, "checkpoint": 40},
]
BASELINES = {"uniform": 6.3, "ngram": 1.85, "ngram_test": 1.87, "ngram_order": 8, "ppmd": 1.81, "ppmd_test": 1.82}


def _tokenizer(level: str, alphabet: str = "ascii") -> Tokenizer:
    cleaning = make_cleaning(alphabet)
    config = DataConfig(corpus="bundled", regime="stream", alphabet=alphabet, seq_len=1, batch_size=1, **LEVELS[level])
    return build_tokenizer(config, TEXT, cleaning)


def _model(level: str = "chars", facts: dict[str, Any] | None = None, **changes: Any) -> Portable:
    """A small model with random weights, trained on the bundled tales as far as `facts` say."""
    config, tokenizer = tiny.get_config(), _tokenizer(level)
    config.data.update(LEVELS[level])
    config.model.update(changes)
    model = make_model(config, tokenizer.size)
    characters = {"train": 173_390, "valid": 9_000, "test": 9_500}
    corpus = {"name": "bundled", "sha256": load("bundled").sha256, "characters": characters}
    found = portable(Run(config, tokenizer, model, random_variables(model), 40, corpus))
    known = {"metrics": SCORES, "baselines": BASELINES, "versions": {"jax": "0.10.2", "hardware": "1 x CPU"}}
    return dataclasses.replace(found, facts=found.facts | known | (facts or {}))


def _card(model: Portable, folder: Path, dtype: str = "float32") -> ModelCard:
    write_hub_folder(model, epath.Path(folder), dtype)
    return ModelCard((folder / "README.md").read_text(), ignore_metadata_errors=False)


@functools.cache
def _library(level: str, alphabet: str = "ascii") -> tuple[Tokenizer, tokenizers.Tokenizer, int]:
    """A tokenizer, its like in the `tokenizers` library, and the id of what that does not know."""
    tokenizer = _tokenizer(level, alphabet)
    return tokenizer, *make_library_tokenizer(tokenizer)


@pytest.mark.parametrize("alphabet", ["ascii", "unicode"])
@settings(deadline=None, max_examples=60)
@given(text=TEXTS)
@example(text=TEXT)
@example(text=UNCLEANED)
@example(text="नमस्ते [unknown] [rare: Capital] <unused>")
def test_the_library_cleans_a_text_and_gives_the_same_ids(text: str, alphabet: str) -> None:
    for level in LEVELS:
        ours, library, unknown = _library(level, alphabet)
        cleaned, _ = ours.cleaning.apply(text)
        assert library.normalizer
        assert library.normalizer.normalize_str(text) == cleaned
        encoded, ids = ours.encode(cleaned), library.encode(text).ids
        assert library.encode(cleaned).ids == ids
        if ours.level != "words":
            assert ids == encoded.ids.tolist()
        elif encoded.spelled.left_out:
            assert [one for one in ids if one] == encoded.ids.tolist()
        else:
            expected = encoded.ids.copy()
            expected[encoded.spelled.at_R] = unknown
            assert ids == expected.tolist()


@pytest.mark.parametrize("level", ["chars", "bpe", "no rare words"])
def test_the_library_gives_back_the_text_of_ids(level: str) -> None:
    ours, library, _ = _library(level)
    text = "the old house\n\nit's" if level != "no rare words" else "The old house the\n\n"
    assert library.decode(ours.encode(text).ids.tolist()) == text


def test_the_library_marks_rare_words_and_what_is_no_token_in_the_text_of_ids() -> None:
    ours, library, _ = _library("spell")
    ids = ours.encode("the house it's\nOld the").ids.tolist()
    marked = "[unknown][rare: word] house [rare: apostrophe][rare: newlines][rare: Capital] the"
    assert library.decode([UNKNOWN_ID, *ids]) == marked


def test_a_rare_word_gets_the_class_that_most_rare_words_of_the_training_text_have() -> None:
    tokenizer, _, unknown = _library("spell")
    rare = [tokenizer.encode(word).ids[0] for word in split_short(TEXT) if len(tokenizer.encode(word).spelled.texts)]
    assert unknown == np.bincount(rare).argmax() > 0
    assert _library("unk")[2] == 1
    assert _library("drop")[2] == 0


def test_no_text_that_replaces_a_character_is_replaced_itself() -> None:
    cleaning = make_cleaning("ascii")  # the normalizer replaces one after the other, the cleaning all at once
    assert not set("".join(cleaning.table.values())) & cleaning.table.keys()


def test_the_class_of_a_regular_expression_matches_exactly_its_characters() -> None:
    for chars in ("abcxyz", "]^-[&\\", "a-", '\n !"#é☃', "&&", "+,-./"):
        pattern = re.compile(f"[{char_class(chars)}]")
        assert {chr(one) for one in range(0x3000) if pattern.match(chr(one))} == set(chars)
    assert char_class("\n" + "".join(map(chr, range(32, 127)))) == "\n -~"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("changes", [{"norm": "batch_input"}, {"norm": "rms_gates"}], ids=str)
def test_every_file_is_there_and_the_config_says_what_is_in_the_weights(
    changes: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    model = _model(**changes)
    write_hub_folder(model, epath.Path(tmp_path / "new" / "hub"), dtype)
    folder = tmp_path / "new" / "hub"
    assert {file.name for file in folder.iterdir()} == set(FILES)
    config = json.loads((folder / "config.json").read_text())
    given_metadata, tensors = read_file(folder / "model.safetensors")
    stored = json.loads(given_metadata["settings"])
    assert stored.items() <= config.items()
    assert config["layout"] == given_metadata["layout"]
    assert (config["layout"] == "torch") is ("rnn.weight_ih_l0" in tensors)
    assert (config["token_level"], config["vocab_size"]) == ("chars", load_tokenizer(model.tokenizer).size)
    assert load_tokenizer((folder / "vocab.json").read_text()).dumps() == model.tokenizer
    read = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert read.encode("old\u2014").ids == load_tokenizer(model.tokenizer).encode("old--").ids.tolist()
    assert json.loads((folder / "tokenizer.json").read_text())["added_tokens"] == []
    compile((folder / "pytorch_model.py").read_text(), "pytorch_model.py", "exec")


def test_the_hub_reads_the_scores_and_what_kind_each_is(tmp_path: Path) -> None:
    card = _card(_model(), tmp_path)
    results = {(one.dataset_split, one.metric_name): one.metric_value for one in card.data.eval_results}
    assert results == {
        ("valid", "bits per character, static"): 1.74,
        ("test", "bits per character, static"): 1.757,
        ("test", "bits per character, adaptive: dynamic evaluation"): 1.692,
    }
    assert {one.metric_type for one in card.data.eval_results} == {"bits-per-character"}
    assert card.data.model_name == "model"
    assert (card.data.license, card.data.language, card.data.library_name) == ("apache-2.0", "en", "lovecraft_jax")
    assert card.data.pipeline_tag == "text-generation"
    assert {"lstm", "character-level", "pytorch"} <= set(card.data.tags)


def test_static_and_adaptive_scores_stand_in_different_tables(tmp_path: Path) -> None:
    text = _card(_model(), tmp_path).text
    static, adaptive = re.split("Adaptive scores", text.split("Static scores")[1].split("## Data")[0])
    assert "| **this model** | 1.740 | 1.757 |" in static
    assert "| 8-gram of characters | 1.850 | 1.870 |" in static
    assert "| all characters equally likely | 6.300 |  |" in static
    assert "| **this model**, adaptive: dynamic evaluation |  | 1.692 |" in adaptive
    assert "| PPMd, a file compressor | 1.810 | 1.820 |" in adaptive
    assert "gram" not in adaptive
    assert "PPMd" not in static


def test_weights_of_fewer_bits_have_their_own_score_and_an_unscored_checkpoint_that_of_the_export(
    tmp_path: Path,
) -> None:
    scores = {"split": "test", "dtype": "int8", "float32": 1.9, "stored": 1.905}
    card = _card(_model(facts={"metrics": [], "scores": scores}), tmp_path, "int8")
    results = {(one.dataset_split, one.metric_name): one.metric_value for one in card.data.eval_results}
    assert results == {
        ("test", "bits per character, static"): 1.9,
        ("test", "bits per character, static, with the weights as stored here"): 1.905,
    }
    assert "| **this model**, stored as int8 |  | 1.905 |" in card.text
    again = _card(_model(facts={"metrics": [], "baselines": {}}), tmp_path)
    assert not again.data.eval_results
    assert "have not been scored" in again.text


def test_a_text_of_ones_own_has_no_licence_until_the_exporter_states_it(tmp_path: Path) -> None:
    corpus = {"name": "my `novel`\n.txt", "sha256": "0", "characters": {"train": 900_000, "valid": 9, "test": 9}}
    splits = {"splits": {"train": ["secret"], "valid": ["secret"], "test": ["secret"]}}
    card = _card(_model(facts={"corpus": corpus | splits}), tmp_path)
    assert card.data.license == "unknown"
    assert card.data.language is None
    assert r"To be stated by whoever publishes this model:** what it was trained on (`my 'novel'\n.txt`)" in card.text
    assert "Lovecraft" not in card.text.replace("lovecraft_jax", "")
    assert "secret" not in card.text
    bundled = _card(_model(), tmp_path).text
    assert "48 tales" in bundled
    assert "To be stated" not in bundled


def test_the_card_of_lovecrafts_tales_names_their_licence_and_what_they_teach(tmp_path: Path) -> None:
    sha256 = "f945e1de4ee1e115fa1016991d3e2efed9acd73a94e6ca28d4515ef4a8dbd05c"  # as in every corpus.json of them
    text = _card(_model(facts={"corpus": {"name": "mine", "sha256": sha256}}), tmp_path).text
    assert "67 tales by H. P. Lovecraft" in text
    assert "in the public domain" in text
    assert "racist" in text


def test_names_from_outside_do_not_break_the_front_matter(tmp_path: Path) -> None:
    card = _card(_model(facts={"name": 'a: "b"\n--- {x} \u2603 #'}), tmp_path)
    assert card.data.model_name == 'a: "b"\\n--- {x} \u2603 #'


def test_no_file_has_a_path_of_this_machine(tmp_path: Path) -> None:
    config = tiny.get_config()
    tokenizer, corpus = _tokenizer("chars"), {"name": "/home/someone/mine", "path": "/home/someone/mine"}
    config.data.corpus = corpus["path"]
    model = make_model(config, tokenizer.size)
    workdir = epath.Path(tmp_path / "someone" / "runs" / "a")
    run = Run(config, tokenizer, model, random_variables(model), 1, corpus, workdir)
    write_hub_folder(portable(run), epath.Path(tmp_path / "hub"))
    for file in (tmp_path / "hub").iterdir():
        assert b"someone" not in file.read_bytes(), file


@pytest.mark.parametrize("level", ["bpe", "spell", "unk", "drop"])
def test_the_card_says_what_the_librarys_tokenizer_cannot(level: str, tmp_path: Path) -> None:
    text = _card(_model(level), tmp_path).text
    unknown = _library(level)[2]
    assert ("In training each had the id of its class" in text) is (level == "spell")
    assert ("it gives a rare word the id 0. Remove these" in text) is (level == "drop")
    assert (f"It gives every rare word the id {unknown}, as in training" in text) is (level == "unk")
    assert ("torch safetensors tokenizers" in text) is (level == "bpe")


def test_an_imported_run_says_that_its_training_is_not_all_known(tmp_path: Path) -> None:
    text = _card(_model(facts={"versions": {"imported_from": "theirs.safetensors"}}), tmp_path).text
    assert "imported from a file, `theirs.safetensors`" in text


def test_an_earlier_export_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    write_hub_folder(_model("bpe"), epath.Path(tmp_path))
    (tmp_path / ".gitattributes").write_text("x")
    write_hub_folder(_model(), epath.Path(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["token_level"] == "chars"
    assert {file.name for file in tmp_path.iterdir()} == {*FILES, ".gitattributes"}


def test_files_that_no_export_wrote_are_in_the_way_and_nothing_is_written(tmp_path: Path) -> None:
    model = _model()
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"its README\.md is not from an earlier export"):
        write_hub_folder(model, epath.Path(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')  # of another library
    with pytest.raises(UserError, match=r"its config\.json is not from"):
        write_hub_folder(model, epath.Path(tmp_path))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "README.md": "mine",
        "config.json": '{"model_type": "gpt2"}',
    }
    (tmp_path / "config.json").write_text('{"library_name": "lovecraft_jax"}')
    (tmp_path / "vocab.json").mkdir()
    with pytest.raises(UserError, match=r"vocab\.json: a folder, expected a file"):
        write_hub_folder(model, epath.Path(tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(UserError, match="hub: a file, expected a folder; give another place"):
        check_folder(epath.Path(tmp_path / "hub"))
    with pytest.raises(UserError, match="cannot be written"):
        check_folder(epath.Path(tmp_path / "hub" / "below"))


@pytest.mark.slow
def test_pytorch_runs_the_folder_as_its_card_says(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = _card(_model(), tmp_path).text
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].replace("length=500", "length=20")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout)) == (0, 21), done.stderr
