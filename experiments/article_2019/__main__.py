"""The article of 2019 asked what went wrong; this measures it: `python -m experiments.article_2019 [NAME ...]`.

Every setting trains for the same time, that which a lone seed takes on one core, with three seeds. NAME is a question
or a setting; all of them where none is given. As many train side by side as there are cores. It goes on where it was
stopped, tells its total first, and writes what there is so far: rows.csv, table.csv, table.md and article.svg.
"""

import argparse
import datetime
import functools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.article_2019 import experiments, figure, jobs, results, table
from experiments.article_2019.options import at_least, folder, not_empty
from experiments.article_2019.plan import Plan
from experiments.article_2019.training import MEASURED
from lovecraft_jax import cli
from lovecraft_jax.data import corpus
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, UserError
from lovecraft_jax.runtime.files import locked_workdir

OVERHEAD = 40.0
"""Seconds of a core that a run takes besides its training: to start, compile, score, write and be measured."""
LOGS = "logs"
PACE_SECONDS = 8.0
"""For which a setting trains to find out how fast it does, or as long as the runs where that is less."""
SMOKE = {"seconds": 1.0, "seeds": 1, "corpus": "bundled", "workdir": Path("runs/article-smoke")}


def main() -> int:
    """Returns an exit code."""
    known = [*experiments.questions(), *experiments.settings()]
    parser = argparse.ArgumentParser(
        "python -m experiments.article_2019", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known).replace("%", "%%"))
    parser.add_argument("--seconds", type=at_least(0.1, float, 1e6), default=300.0, help="of training, for each run")
    parser.add_argument("--seeds", type=at_least(1), default=3, metavar="N")
    parser.add_argument("--jobs", type=at_least(0), default=0, help="settings side by side; 0: one for each core")
    parser.add_argument("--corpus", type=not_empty, default="auto", help="as data.corpus")
    together = "seeds of a setting as one program; auto: on an accelerator, where that is faster"
    parser.add_argument("--together", choices=("auto", "yes", "no"), default="auto", help=together)
    parser.add_argument("--workdir", type=folder, default=Path("runs/article"), help="where the runs are kept")
    parser.add_argument(
        "--to", type=folder, help="for rows, tables, figure; rows there tell the steps; --workdir by default"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="all of it within ten minutes, which shows only that it works"
    )
    parser.add_argument("--draw", action="store_true", help="train nothing, only draw again what the rows in --to say")
    given = parser.parse_args()
    if given.smoke:
        parser.set_defaults(**SMOKE)
        given = parser.parse_args()
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"unknown {' '.join(unknown)}: expected some of {', '.join(known)}")
    return cli.report_errors(lambda: _draw(given) if given.draw else _train_and_draw(given))


def _train_and_draw(given: argparse.Namespace) -> int:
    to, logs = _folder(given), given.workdir / LOGS
    with _written(to):
        to.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=to).close()  # now, and not after hours
    found = corpus.load(given.corpus)  # once, before many workers do
    with locked_workdir(str(given.workdir)):
        with _written(logs):
            logs.mkdir(exist_ok=True)
        rows = [*results.read(to), *_measured(given.workdir)]
        about = {"corpus": found.sha256[: results.SHORT], "seconds": given.seconds}
        for row in rows:
            results.check_same(results.name(row), row, about)
        given.corpus = found.name
        code = _train(_settings(given.names or experiments.questions()), given, Plan(given.workdir, about, rows))
        results.keep(to, _measured(given.workdir))
    if results.read(to):
        _draw(given)
    if code == INTERRUPTED:
        log("interrupted; what was trained is saved: the same command goes on")
    return code


def _draw(given: argparse.Namespace) -> int:
    to = _folder(given)
    rows = results.read(to)
    if not (found := results.lines(rows)):
        raise UserError(f"{to}: no {results.ROWS} with rows there to draw; train first, or name another folder by --to")
    for row in rows:
        results.check_same(results.name(row), row, {key: rows[0].get(key) for key in ("corpus", "seconds")})
    with _written(to):
        table.write(to, found)
        figure.draw(to / figure.FILE, found)
    log(f"{to}: {results.ROWS}, {table.FILE}.csv, {table.FILE}.md, {figure.FILE}")
    return DONE


def _folder(given: argparse.Namespace) -> Path:
    """Where the results go."""
    to: Path = given.to or given.workdir
    return to


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Raises UserError where that cannot be."""
    try:
        yield
    except OSError as error:
        told = f"{error.filename or folder}: cannot be written ({error.strerror or error})"
        raise UserError(f"{told}; name a folder of yours") from None


def _settings(names: Iterable[str]) -> list[str]:
    """Each once, in order."""
    questions = experiments.questions()
    of_names = ([rung.setting for rung in questions[name].rungs] if name in questions else [name] for name in names)
    return list(dict.fromkeys(setting for of_name in of_names for setting in of_name))


def _measured(folder: Path) -> list[results.Row]:
    return [row for path in sorted(folder.glob(f"*/{MEASURED}")) for row in results.read_json(path)]


def _train(settings: Sequence[str], given: argparse.Namespace, plan: Plan) -> int:
    """Finds out how fast each setting trains, then trains for as many steps as that is in --seconds."""
    folder, places = given.workdir, jobs.places(given.jobs)
    left = {setting: _missing(folder, setting, given.seeds) for setting in settings}
    left = {setting: seeds for setting, seeds in left.items() if seeds}

    def to_do() -> str:
        runs = sum(map(len, left.values()))
        time = datetime.timedelta(seconds=round(runs * (given.seconds + OVERHEAD) / len(places)))
        return f"{runs} runs left, {time} with {len(places)} at once"

    def job(task: str, setting: str, done: Callable[[str, str], None], *more: str) -> jobs.Job:
        log = folder / LOGS / f"{setting}.log"
        return jobs.Job(task, setting, given.corpus, more, log, functools.partial(done, setting))

    log(f"settings: {len(settings)}, seeds of each: {given.seeds}, training of each: {given.seconds:g} s; {to_do()}")

    def paced(setting: str, told: str) -> None:
        plan.add(setting, float(told))
        log(f"{setting}: {float(told):.2f} steps a second")

    def trained(setting: str, _: str) -> None:
        del left[setting]
        log(f"{setting}: done; {to_do()}")

    seconds = min(PACE_SECONDS, given.seconds)
    to_pace = dict.fromkeys(experiments.paced_as(each) for each in left if not plan.steps(each))
    code = jobs.run([job("pace", each, paced, str(seconds)) for each in to_pace], places)
    if code == INTERRUPTED:
        return code
    to_train = [
        job("train", each, trained, str(steps), str(given.seconds), str(folder), given.together, *map(str, left[each]))
        for each in left
        if (steps := plan.steps(each))
    ]
    code_of_training = jobs.run(to_train, places)
    return code_of_training if code_of_training == INTERRUPTED else code or code_of_training


def _missing(folder: Path, setting: str, seeds: int) -> list[int]:
    return [seed for seed in range(seeds) if not (folder / f"{setting}-{seed}" / MEASURED).exists()]


if __name__ == "__main__":
    sys.exit(main())
