"""The sample command: what it prints, in both modes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lovecraft_jax.inference.generate import Sampling
from lovecraft_jax.run import load_run

PROMPT, LENGTH = "The house", 60


def test_it_prints_the_prompt_and_length_new_characters(plain: str) -> None:
    assert plain.startswith(PROMPT)
    assert plain.endswith("\n")
    assert len(plain) == len(PROMPT) + LENGTH + 1


def test_it_prints_what_the_python_api_generates(plain: str, trained: Path) -> None:
    (text,) = load_run(trained).generate(PROMPT, LENGTH, seed=0, sampling=Sampling(temperature=0.7))
    assert plain == PROMPT + text + "\n"


@pytest.mark.slow
def test_streaming_prints_the_same_text_and_so_does_the_first_of_several_samples(
    plain: str, sample: Callable[..., str]
) -> None:
    assert sample("--stream") == plain
    first, second = sample("--samples=2").removesuffix("\n").split("\n---\n")
    assert first == plain.removesuffix("\n")
    assert second != first
    assert second.startswith(PROMPT)


@pytest.mark.slow
def test_json_is_one_line_with_prompt_samples_seed_and_step(sample: Callable[..., str]) -> None:
    output = sample("--json", "--samples=2", "--seed=7", "--checkpoint=30", "--top_k=1")
    assert output.count("\n") == 1
    result = json.loads(output)
    first, second = result.pop("samples")
    assert result == {"prompt": PROMPT, "seed": 7, "step": 30}
    assert first == second  # top_k=1 is greedy
    assert len(first) == LENGTH


@pytest.mark.slow
def test_teacher_forcing_prints_the_likeliest_character_after_the_true_ones_of_its_window(
    command: Callable, trained: Path
) -> None:
    forced = ("--mode=teacher_forced", f"--workdir={trained}", "--length=100", "--seed=3", "--split=valid")
    as_json, lines = command("sample", *forced, "--json"), command("sample", *forced)
    result = json.loads(as_json.stdout)
    run = load_run(trained)
    T, start, truth = run.config.data.seq_len, result["offset"], run.tokenizer.decode(run.split("valid").ids)
    assert (result["source"], result["seq_len"], result["seed"], result["step"]) == ("valid", T, 3, 40)
    assert result["text"] == truth[start : start + 100]
    assert 100 * result["right"] == sum(a == b for a, b in zip(result["text"], result["likeliest"], strict=True))
    for n in (0, 1, T - 1, T, T + 1, 99):  # what the model generates next after the true part of the window
        window = truth[start - 1 + n // T * T : start + n]
        assert run.generate(window, length=1, sampling=Sampling(temperature=0.0)) == [result["likeliest"][n]]

    pairs = [pair.split("\n") for pair in lines.stdout.removesuffix("\n\n").split("\n\n")]
    true, likeliest = ("".join(column) for column in zip(*pairs, strict=True))
    assert (true, likeliest) == tuple(result[key].replace("\n", "¶") for key in ("text", "likeliest"))
    assert f"valid from token {start:,} on" in lines.stderr


@pytest.mark.slow
def test_teacher_forcing_predicts_a_file_from_its_beginning(command: Callable, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "tale.txt").write_text("The house was silent, and the moor.")
    flags = ("--mode=teacher_forced", f"--workdir={trained}", f"--text={tmp_path / 'tale.txt'}", "--json")
    for more, predicted in (["--length=20"], "he house was silent,"), ([], "he house was silent, and the moor."):
        result = json.loads(command("sample", *flags, *more).stdout)
        assert (result["text"], result["offset"]) == (predicted, 1)


@pytest.fixture(scope="module")
def sample(command: Callable, trained: Path) -> Callable[..., str]:
    """Runs the command; returns its standard output."""

    def run(*flags: str) -> str:
        done = command("sample", f"--workdir={trained}", f"--prompt={PROMPT}", f"--length={LENGTH}", *flags)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


@pytest.fixture(scope="module")
def plain(sample: Callable[..., str]) -> str:
    return sample()
