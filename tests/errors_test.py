"""Wrong input gives one line that names it and exit code 2: every flag, setting and file that can be wrong."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lovecraft_jax.runtime.files import locked_workdir

ROOT = Path(__file__).parents[1]

FORCED = "sample --workdir={trained} --mode=teacher_forced "
# Command lines and what their one line must name. {tiny} is the flag of the tiny config, {trained} a finished run,
# {held} a workdir in use, {files} the folder of `_make_files`.
WRONG: dict[str, tuple[str, list[str]]] = {
    "no config": ("train", ["--config", "configs/c150.py"]),
    "no such config file": ("train --config=configs/c999.py", ["configs/c999.py"]),
    "unknown variant": ("train --config=configs/c150.py:huge", ["'huge'", "quick"]),
    "a key of earlier versions": ("train {tiny} --config.train.eval_lanes=8", ["config.train.eval_rows"]),
    "two configs": ("train {tiny} {tiny}", ["{tiny}: given a second time"]),
    "misspelt key": ("train {tiny} --config.model.unit=3", ["unit", "units"]),
    "a config that is not Python": ("train --config={files}/short.txt", ["config", "SyntaxError"]),
    "a config that imports what is not there": ("train --config={files}/missing.py", ["ModuleNotFoundError", "moon"]),
    "a config that ends Python": ("train --config={files}/ends.py", ["ends.py", "SystemExit: 3"]),
    "a config that returns nothing": ("train --config={files}/nothing.py", ["nothing.py", "get_config", "NoneType"]),
    "a word for a number": ("train {tiny} --config.model.units=banana", ["config.model.units", "banana"]),
    "a list of values": (
        "train {tiny} --config.optimizer.lr=0.1,0.2",
        ["0.1,0.2", "lovecraft_jax.sweep takes several"],
    ),
    "more rows than the text has tokens": ("train {tiny} --config.data.batch_size=100000", ["800,000", "173,390"]),
    "unknown flag": ("train {tiny} --fast", ["fast"]),
    "no such corpus": ("train {tiny} --config.data.corpus={files}/nowhere.txt", ["{files}/nowhere.txt"]),
    "empty corpus": ("train {tiny} --config.data.corpus={files}/empty.txt", ["{files}/empty.txt", "no text"]),
    "binary corpus": ("train {tiny} --config.data.corpus={files}/binary.txt", ["{files}/binary.txt", "binary"]),
    "corpus in Latin-1": ("train {tiny} --config.data.corpus={files}/latin1.txt", ["latin1.txt", "UTF-8", "byte 3"]),
    "unknown optimizer": ("train {tiny} --config.optimizer.name=adagrad", ["expected adam, adamw or sgd"]),
    "corpus too short": ("train {tiny} --config.data.corpus={files}/short.txt", ["64 tokens", "36"]),
    "corpus beyond the alphabet": ("train {tiny} --config.data.corpus={files}/greek.txt", ["alphabet=unicode"]),
    "more scored rows than tokens": ("train {tiny} --config.train.eval_rows=1000000", ["eval_rows=1000000"]),
    "empty workdir": ("train {tiny} --workdir=", ["--workdir="]),
    "workdir under a file": ("train {tiny} --workdir={files}/short.txt/run", ["--workdir={files}/short.txt/run"]),
    "workdir that is a file": ("train {tiny} --workdir={files}/short.txt", ["short.txt", "is a file or a broken link"]),
    "workdir that is a broken link": (
        "train {tiny} --workdir={files}/broken",
        ["broken", "is a file or a broken link"],
    ),
    "a run without its config.json": (
        "train {tiny} --workdir={files}/headless",
        ["{files}/headless", "config.json is missing", "put config.json back"],
    ),
    "workdir that is a pattern": ("train {tiny} --workdir={files}/run[1]", ["{files}/run[1]", "without [, * and ?"]),
    "workdir on another store": ("train {tiny} --workdir=s3://bucket/a", ["expected a folder, or gs://bucket/folder"]),
    "workdir in use": ("train {tiny} --workdir={held}", ["--workdir={held}", "in use"]),
    "run of another config": (
        "train {tiny} --workdir={trained} --config.model.units=24 --config.seed=1 --config.train.keep=3",
        ["--workdir={trained}", "(seed: 0 -> 1; model.units: 16 -> 24)"],
    ),
    "run of another corpus": (
        "train {tiny} --workdir={trained} --config.data.corpus={files}/other.txt",
        ["data.corpus={files}/other.txt", "another text", "bundled"],
    ),
    "a prompt outside the vocabulary": ("train {tiny} --config.sample.prompt=a~b", ["config.sample.prompt='a~b'"]),
    "a negative number of steps to trace": ("train {tiny} --profile=-1", ["profile"]),
    "more units than fit": ("train {tiny} --config.model.units=1000000000", ["model.units=1000000000", "1 to 1048576"]),
    "no TPU": ("train {tiny} --platform=tpu", ["--platform=tpu"]),
    "a sweep of no config": ("sweep --config.optimizer.lr=0.1,0.2", ["--config is missing"]),
    "a sweep with a value out of range": ("sweep {tiny} --config.optimizer.lr=0.1,-1", ["lr=-1.0", "above 0"]),
    "a sweep with too many rows": ("sweep {tiny} --config.train.eval_rows=8,1000000", ["eval_rows=1000000"]),
    "a sweep with a misspelt key": ("sweep {tiny} --config.model.unit=3,4", ["unit", "units"]),
    "a sweep over seeds as a setting": ("sweep {tiny} --config.seed=0,1", ["--seeds"]),
    "a sweep over too much": (
        "sweep {tiny} --config.model.units=8,9,10 --seeds=5000",
        ["3 model.units", "15,000 runs"],
    ),
    "a sweep of no seeds": ("sweep {tiny} --seeds=0", ["--seeds=0"]),
    "a sweep in a workdir in use": ("sweep {tiny} --workdir={held}", ["--workdir={held}", "in use"]),
    "a run in a sweep's workdir": ("train {tiny} --workdir={files}/sweep", ["{files}/sweep: a sweep is in it"]),
    "a sweep in a run's workdir": ("sweep {tiny} --workdir={trained}", ["--workdir={trained}", "a run is in it"]),
    "a stack of less than a run": ("sweep {tiny} --stack=-1", ["stack"]),
    "no workdir": ("sample", ["--workdir"]),
    "an empty config": ("train --config=", ["--config= is empty"]),
    "a workdir that is a text": ("sample --workdir={files}/short.txt", ["not a run", "short.txt"]),
    "a report whose second run is missing": (
        "report --workdir={trained} --workdir={files}/nowhere",
        ["{files}/nowhere: not a run"],
    ),
    "a tokenizer of other types": ("sample --workdir={files}/retyped", ["its vocab.json cannot be read"]),
    "a run without its text's hash": ("evaluate --workdir={files}/unhashed", ["corpus.json", "no sha256 in it"]),
    "rows that are not UTF-8": ("train {tiny} --workdir={files}/garbled", ["metrics.jsonl: damaged in line 1"]),
    "a prompt to stream outside the vocabulary": ("sample --workdir={trained} --stream --prompt=a~b", ["a~b"]),
    "more epochs than are allowed": ("train {tiny} --config.train.epochs=2e9", ["at least 0 and below 1e+09"]),
    "no such workdir": ("sample --workdir={files}/nowhere", ["{files}/nowhere"]),
    "workdir of no run": ("sample --workdir={files}", ["{files}", "config.json"]),
    "a run whose config has a wrong value": (
        "sample --workdir={files}/wrong",
        ["{files}/wrong/config.json: config.model.units='banana'"],
    ),
    "run without checkpoints": ("sample --workdir={files}/fresh", ["{files}/fresh", "checkpoint"]),
    "no such checkpoint": ("sample --workdir={trained} --checkpoint=7", ["--checkpoint=7", "30, 40"]),
    "negative temperature": ("sample --workdir={trained} --temperature=-1", ["--temperature=-1"]),
    "top_p of 0": ("sample --workdir={trained} --top_p=0", ["--top_p=0"]),
    "seed over 32 bits": ("sample --workdir={trained} --seed=4294967296", ["--seed=4294967296"]),
    "more samples than fit": (
        "sample --workdir={trained} --samples=2147483647",
        ["--samples=2147483647", "1 to 1048576"],
    ),
    "two samples as a stream": ("sample --workdir={trained} --stream --samples=2", ["--stream", "--samples"]),
    "an ensemble of two vocabularies": (
        "sample --workdir={trained} --workdir={files}/letters",
        ["--workdir={files}/letters", "chars[", "that of {trained}", "the same vocabulary and cleaning"],
    ),
    "an ensemble of two splits": (
        "evaluate --workdir={trained} --workdir={files}/halves",
        ["--workdir={files}/halves", "characters.test is 7,", "the same corpus and split"],
    ),
    "a step that one of two runs lacks": (
        "sample --workdir={trained} --workdir={files}/letters --checkpoint=30",
        ["--checkpoint=30: {files}/letters has"],
    ),
    "prompt beyond the alphabet": ("sample --workdir={trained} '--prompt=The Ω'", ["--prompt='The Ω'", "'Ω'"]),
    "more than the text has": (FORCED + "--text={files}/short.txt --length=40", ["--length=40"]),
    "an empty name of a text to predict": (FORCED + "--text=", ["--text= is empty"]),
    "a text with nothing to predict": (FORCED + "--text={files}/letter.txt", ["has nothing to predict"]),
    "sampling with teacher forcing": (FORCED + "--temperature=0.7", ["--temperature with --mode=teacher_forced"]),
    "a split without teacher forcing": ("sample --workdir={trained} --split=test", ["--split with --mode=free"]),
    "empty text": ("evaluate --workdir={trained} --text={files}/empty.txt", ["{files}/empty.txt", "no text"]),
    "text beyond the alphabet": (
        "evaluate --workdir={trained} --text={files}/greek.txt",
        ["data.alphabet=ascii", "give a text in the run's alphabet, or a run"],
    ),
    "text and split": ("evaluate --workdir={trained} --text=x.txt --split=test", ["--text", "--split"]),
    "a text in the home folder": ("evaluate --workdir={trained} --text=~/no.txt", ["{home}/no.txt"]),
    "a config in the home folder": ("train --config=~/no.py", ["{home}/no.py"]),
    "a workdir that is not UTF-8": ("train {tiny} --workdir={files}/caf\udce9", ["caf\\xe9: not UTF-8"]),
    "no address of the others": ("train {tiny} --process_id=1", ["--coordinator_address is missing"]),
    "an address without a port": (
        "train {tiny} --coordinator_address=localhost --num_processes=2 --process_id=0",
        ["expected HOST:PORT"],
    ),
    "a process too many": (
        "train {tiny} --coordinator_address=localhost:1 --num_processes=2 --process_id=2",
        ["expected 0 to 1"],
    ),
    "no cluster": ("train {tiny} --distributed", ["--distributed: no TPU pod, Slurm"]),
}

# Imports what every command imports, once, and then forks a process for each command line. These exit without the
# interpreter's shutdown, which takes longer than all else: 40 command lines take as long as two processes.
STARTER = """
import json, os, runpy, sys, traceback
from lovecraft_jax import cli, run

for line in sys.stdin:
    output, errors, command, *flags = json.loads(line)
    child = os.fork()
    if not child:
        for path, number in ((output, 1), (errors, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        sys.argv[1:] = flags
        code = 0
        try:
            runpy.run_module("lovecraft_jax." + command, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = 1
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gives_one_line_that_names_it_and_exit_code_2(
    case: str, results: dict[str, tuple], places: dict
) -> None:
    _check(*results[case], [name.format(**places) for name in WRONG[case][1]])


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same_one_line(command: Callable, places: dict[str, str]) -> None:
    line, names = WRONG["binary corpus"]
    done = command(*line.format(**places).split(), f"--workdir={places['files']}/runs/own")
    _check(done.returncode, done.stdout, done.stderr, [name.format(**places) for name in names])


def test_wrong_input_leaves_no_folder(results: dict[str, tuple], places: dict) -> None:
    assert results
    assert not (Path(places["files"]) / "runs").exists()


def _check(code: int, output: str, errors: str, names: list[str]) -> None:
    lines = [line for line in errors.splitlines() if "WARNING" not in line]
    assert code == 2, errors
    assert len(lines) == 1, errors
    for name in names:
        assert name in lines[0]
    assert output == ""


@pytest.fixture(scope="module")
def places(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The values of the placeholders in WRONG."""
    folder = tmp_path_factory.mktemp("files")
    _make_files(folder, trained)
    tiny = "--config=configs/tiny.py"
    return {
        "tiny": tiny,
        "trained": str(trained),
        "files": str(folder),
        "held": str(folder / "held"),
        "home": os.path.expanduser("~"),
    }


@pytest.fixture(scope="module")
def results(places: dict[str, str]) -> dict[str, tuple[int, str, str]]:
    """Exit code, standard output and standard error of every command line in WRONG."""
    cases = {name: shlex.split(line.format(**places)) for name, (line, _) in WRONG.items()}
    outputs = {
        name: [f"{places['files']}/{number}.{end}" for end in ("out", "err")] for number, name in enumerate(cases)
    }
    jobs = []
    for name, (command, *given) in cases.items():
        if command == "train" and not any(flag.startswith("--workdir") for flag in given):
            given = [*given, f"--workdir={places['files']}/runs/{len(jobs)}"]
        jobs.append(json.dumps([*outputs[name], command, *given]))
    with locked_workdir(places["held"]):
        done = subprocess.run(
            [sys.executable, "-c", STARTER],
            input="\n".join(jobs),
            cwd=ROOT,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
    codes = dict(zip(cases, map(int, done.stdout.split()), strict=True))
    return {name: (codes[name], *(Path(file).read_text() for file in outputs[name])) for name in cases}


def _make_files(folder: Path, trained: Path) -> None:
    """Texts that cannot be a corpus, a run that was killed before its first checkpoint, one whose config has a wrong
    value, and two that do not fit to the trained one: of other characters, and of another split."""
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    (folder / "latin1.txt").write_bytes("café au lait".encode("latin-1"))
    (folder / "short.txt").write_text("The house stood where no house could be.")
    (folder / "letter.txt").write_text("T")
    (folder / "missing.py").write_text("import moon")
    (folder / "ends.py").write_text("raise SystemExit(3)")
    (folder / "nothing.py").write_text("def get_config():\n    pass")
    (folder / "other.txt").write_text("The house stood where no house could be.\n" * 100)
    (folder / "greek.txt").write_text("ἄνδρα μοι ἔννεπε, μοῦσα, πολύτροπον " * 100)
    (folder / "sweep").mkdir()
    (folder / "sweep" / "results.json").write_text("[]")
    fresh = folder / "fresh"
    fresh.mkdir()
    for name in ("config", "vocab", "corpus"):
        (fresh / f"{name}.json").write_bytes((trained / f"{name}.json").read_bytes())
    wrong = shutil.copytree(fresh, folder / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"model": config["model"] | {"units": "banana"}}))
    (folder / "broken").symlink_to(folder / "nowhere")
    copies = ("letters", "halves", "headless", "retyped", "unhashed", "garbled")
    letters, halves, headless, retyped, unhashed, garbled = (shutil.copytree(trained, folder / name) for name in copies)
    (headless / "config.json").unlink()
    shutil.rmtree(letters / "checkpoints" / "30")
    vocab, corpus = (json.loads((trained / f"{name}.json").read_text()) for name in ("vocab", "corpus"))
    (retyped / "vocab.json").write_text(json.dumps(vocab | {"chars": [1, 2]}))
    (letters / "vocab.json").write_text(json.dumps(vocab | {"chars": vocab["chars"][:-1] + "~"}))
    (unhashed / "corpus.json").write_text(
        json.dumps({**corpus, "sha256": None} | {"name": "a"}).replace("sha256", "sha")
    )
    (garbled / "metrics.jsonl").write_bytes(b'{"st\xffep": 2}\n' + (trained / "metrics.jsonl").read_bytes())
    (halves / "corpus.json").write_text(json.dumps(corpus | {"characters": corpus["characters"] | {"test": 7}}))
