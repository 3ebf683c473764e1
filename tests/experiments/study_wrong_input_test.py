"""Wrong input to a study, here `experiments.article_2019`, is an error of one line and changes no file."""

from pathlib import Path

import pytest

from experiments.article_2019 import __main__ as article
from experiments.study import jobs, results
from lovecraft_jax.data import corpus
from lovecraft_jax.runtime.errors import WRONG_INPUT
from lovecraft_jax.runtime.files import locked_workdir
from tests.experiments.conftest import Main

pytestmark = pytest.mark.slow

CORPUS = corpus.load("bundled").sha256[: results.SHORT]
HEADER = "setting,seed,text,valid_bpc,corpus,seconds,steps\n"
FILES = {
    "file": "",
    "odd/rows.csv/": "",
    "held/": "",
    "damaged/rows.csv": HEADER + "clip,0\n",
    "half/clip-0/measured.json": '[{"setting"',
    "twice/rows.csv": HEADER + f"clip,0,written,2.5,{CORPUS},8.0,40\n" * 2,
    "mixed/rows.csv": HEADER + "carry,0,written,2.5,0123,8.0,40\nclip,0,written,2.5,4567,8.0,40\n",
    "other/rows.csv": HEADER + "carry,0,written,2.5,0123,8.0,40\n",
    "longer/rows.csv": HEADER + f"carry,0,written,2.5,{CORPUS},8.0,40\n",
    "uneven/rows.csv": HEADER + f"rate-0.001,0,written,2.5,{CORPUS},8.0,40\nforget-0,0,written,2.5,{CORPUS},8.0,60\n",
    "full/rows.csv": HEADER + f"carry,0,written,2.5,{CORPUS},8.0,40\nclip,0,written,2.5,{CORPUS},8.0,40\n",
    "full/table.md/": "",
    "full/logs": "",
    "plan/plan.json": f'{{"corpus": "{CORPUS}", "seconds": 8.0, "steps": {{"article": 40}}}}',
    "senseless/plan.json": '{"steps": {"article": -20}}',
}
"""Contents by file name; names that end in a slash are folders."""
WRONG = {
    "unknown name": ("ladder latter", "unknown latter: expected some of ladder, "),
    "no seeds": ("--seeds=0", "--seeds: 0: expected int from 1 to "),
    "too many seconds": ("--seconds=1e300", "--seconds: 1e300: expected float from 0.1 to 1e+06"),
    "no such corpus": ("--corpus={0}/nowhere", "{0}/nowhere: no such file"),
    "an empty corpus": ("--corpus=", "--corpus: it is empty: give it a value"),
    "a bucket": ("--workdir=gs://a/b", "--workdir: gs://a/b: expected a folder on a disk"),
    "no rows": ("--draw", "{0}: no rows.csv with rows to draw; train first"),
    "a file for a folder": ("--to={0}/file", "{0}/file: cannot be written"),
    "a folder for rows": ("--draw --to={0}/odd", "{0}/odd/rows.csv: damaged (IsADirectoryError"),
    "damaged rows": ("--draw --to={0}/damaged", "{0}/damaged/rows.csv: damaged (ValueError: rows of another"),
    "rows twice": ("--draw --to={0}/twice", "damaged (ValueError: a seed of a setting twice); restore it, or name"),
    "rows of two corpora": ("--draw --to={0}/mixed", "clip, seed 0: corpus 4567, expected 0123; the two cannot"),
    "a folder for a table": ("--draw --to={0}/full", "{0}/full: cannot be written ("),
    "a file for logs": ("--workdir={0}/full", "{0}/full/logs: cannot be written (File exists)"),
    "damaged runs": ("--workdir={0}/half", "{0}/half/clip-0/measured.json: damaged (JSONDecodeError"),
    "a damaged plan": ("--workdir={0}/senseless", "{0}/senseless/plan.json: damaged (ValueError: article: -20)"),
    "a plan for another time": ("--workdir={0}/plan --seconds=9", "{0}/plan/plan.json: seconds 8.0, expected 9.0; "),
    "other steps": ("--workdir={0}/uneven --seconds=8", "forget-0, seed 0: steps 60, expected 40; the two"),
    "another corpus": ("--workdir={0}/other", "carry, seed 0: corpus 0123, expected "),
    "another time": ("--workdir={0}/longer --seconds=9", "carry, seed 0: seconds 8.0, expected 9.0; the two"),
    "in use": ("--workdir={0}/held", "workdir={0}/held: in use"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_an_error_of_one_line(
    case: str, tmp_path: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in FILES.items():
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.write_text(text)
    flags, message = (text.format(tmp_path) for text in WRONG[case])
    monkeypatch.setattr(jobs, "find_slots", lambda jobs: [""])
    with locked_workdir(str(tmp_path / "held")):
        code, _, errors = run_main(article, "--corpus=bundled", f"--workdir={tmp_path}", *flags.split())
    assert code == WRONG_INPUT
    assert message in errors.splitlines()[-1]
    assert all((tmp_path / name).read_text() == text for name, text in FILES.items() if not name.endswith("/"))
