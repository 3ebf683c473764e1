"""The sample and evaluate commands: what they print is what the Python API gives."""

import errno
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lovecraft_jax import cli
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.inference.scoring import Score
from lovecraft_jax.run import load_run
from tests.conftest import ROOT
from tests.helpers.runs import started

pytestmark = pytest.mark.usefixtures("unoptimized")

TALE = Path(__file__).parents[1] / "lovecraft_jax" / "data" / "tales" / "office_hours.txt"
PROMPT, LENGTH = "The house", 60


def test_it_prints_the_prompt_and_what_the_python_api_generates(plain: str, trained: Path) -> None:
    (text,) = load_run(trained).generate(PROMPT, LENGTH, seed=0, sampling=Sampling(temperature=0.7))
    assert plain == PROMPT + text + "\n"
    assert len(text) == LENGTH


@pytest.mark.slow
def test_streaming_prints_the_same_text_and_so_does_the_first_of_several_samples(
    plain: str, sample: Callable[..., str]
) -> None:
    assert sample("--stream") == plain
    first, second = sample("--samples=2").removesuffix("\n").split("\n---\n")
    assert first == plain.removesuffix("\n")
    assert second != first


@pytest.mark.slow
def test_an_interrupted_stream_ends_its_line(trained: Path) -> None:
    flags = (f"--workdir={trained}", "--stream", "--temperature=0", "--length=10000000")
    with started("lovecraft_jax.sample", *flags) as process:
        assert process.stdout.read(100)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, "interrupted\n")
    assert output.endswith("\n")


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


@pytest.mark.slow
def test_evaluates_score_of_the_test_split_is_the_final_score_of_training(command: Callable, trained: Path) -> None:
    final = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    corpus = json.loads((trained / "corpus.json").read_text())
    done = command("evaluate", f"--workdir={trained}")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    result = json.loads(done.stdout)
    assert {key: result[key] for key in ("split", "step", "scoring")} == {
        "split": "test",
        "step": 40,
        "scoring": "static",
    }
    assert "bce" not in result
    for key in ("loss", "bpc", "perplexity"):
        assert result[key] == pytest.approx(final[key], rel=1e-9)
    assert result["tokens"] == result["characters"] == corpus["characters"]["test"]


@pytest.mark.slow
def test_a_text_file_scores_as_it_does_from_python(command: Callable, trained: Path, tmp_path: Path) -> None:
    text = TALE.read_text()[:1500]
    assert all(ord(char) < 128 for char in text)
    file = tmp_path / "tale.txt"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # as editors on Windows save it
    run = load_run(trained, 30)
    score = run.score(run.encode(text), bce=True)
    result = json.loads(
        command("evaluate", f"--workdir={trained}", f"--text={file}", "--checkpoint=30", "--bce").stdout
    )
    assert (result["text"], result["step"]) == (str(file), 30)
    assert result["tokens"] == result["characters"] == 1500
    assert result["loss"] == pytest.approx(score.nats / 1500, rel=1e-6)
    assert result["bpc"] == pytest.approx(result["loss"] / math.log(2), rel=1e-9)
    assert result["bce"] == pytest.approx(score.bce, rel=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]), rel=1e-9)


@pytest.mark.slow
def test_float64_in_the_environment_changes_nothing(plain: str, command: Callable, trained: Path) -> None:
    flags = (f"--workdir={trained}", f"--prompt={PROMPT}", f"--length={LENGTH}")
    assert command("sample", *flags, env={"JAX_ENABLE_X64": "1"}).stdout == plain


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_ENABLE_X64", "maybe"), ("JAX_NUM_CPU_DEVICES", "abc"), ("JAX_PLATFORMS", "abacus")]
)
def test_nonsense_in_a_variable_of_jax_gives_one_line(command: Callable, trained: Path, name: str, value: str) -> None:
    done = command("sample", f"--workdir={trained}", env={name: value})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert value in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("line", ["sample --stream --workdir={0}", "train --config=configs/tiny.py --workdir={0}"])
def test_results_that_cannot_be_printed_give_one_line_that_names_standard_output(
    line: str, trained: Path, tmp_path: Path
) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", *f"lovecraft_jax.{line.format(workdir)}".split()],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("standard output: cannot be written (No space left on device)")
    assert "Traceback" not in done.stderr


def test_a_file_of_the_user_gives_one_line_and_a_fault_of_ours_a_traceback(capsys: pytest.CaptureFixture) -> None:
    assert cli.report_errors(lambda: open("no/such.txt").close() or 0) == 2
    assert "no/such.txt" in capsys.readouterr().err
    with pytest.raises(OSError, match="Bad address"):
        cli.report_errors(lambda: _raise(OSError(errno.EFAULT, "Bad address")))


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [("", 0, ""), ("| true", 1, ""), ("train --help", 2, "python -m lovecraft_jax.train --help")],
)
def test_the_list_of_commands(line: str, code: int, message: str) -> None:
    pipe = ["bash", "-c", f'"$0" -m lovecraft_jax {line}; exit ${{PIPESTATUS[0]}}', sys.executable]
    done = subprocess.run(pipe, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.count("\n") == bool(message)
    assert done.stderr.endswith(message + "\n" * bool(message))


def _raise(error: Exception) -> int:
    raise error


def test_the_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert Score(nats=7.1e3, tokens=10, chars=10, vocab_size=2).perplexity == math.inf


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
