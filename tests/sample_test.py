"""The sample command: what it prints, and that the same seed prints it again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lovecraft_jax.generate import Sampling
from lovecraft_jax.run import load_run

PROMPT, LENGTH = "The house", 60


def test_it_prints_the_prompt_and_as_many_new_characters_as_asked(plain: str) -> None:
    assert plain.startswith(PROMPT)
    assert plain.endswith("\n")
    assert len(plain) == len(PROMPT) + LENGTH + 1


def test_it_prints_what_the_python_api_writes(plain: str, trained: Path) -> None:
    (text,) = load_run(trained).write(PROMPT, LENGTH, seed=0, sampling=Sampling(temperature=0.7))
    assert plain == PROMPT + text + "\n"


def test_streaming_prints_the_same_text(plain: str, sample: Callable[..., str]) -> None:
    assert sample("--stream") == plain


def test_several_samples_are_separated_and_the_first_is_the_one(plain: str, sample: Callable[..., str]) -> None:
    first, second = sample("--samples=2").removesuffix("\n").split("\n---\n")
    assert first == plain.removesuffix("\n")
    assert second != first
    assert second.startswith(PROMPT)
    assert len(second) == len(first)


def test_json_is_one_line_with_all_that_was_asked(sample: Callable[..., str]) -> None:
    output = sample("--json", "--samples=2", "--seed=7", "--checkpoint=30", "--top_k=1")
    result = json.loads(output)
    assert output.count("\n") == 1
    assert result.keys() == {"prompt", "samples", "seed", "step"}
    assert (result["prompt"], result["seed"], result["step"]) == (PROMPT, 7, 30)
    first, second = result["samples"]
    assert first == second  # the likeliest of one leaves no choice
    assert len(first) == LENGTH


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
