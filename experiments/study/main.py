"""The command of a study: trains every setting with several seeds, and makes tables and a figure of the results."""

import argparse
import datetime
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.study import figure, jobs, results, samples, table
from experiments.study.options import at_least, folder, not_empty
from experiments.study.plan import Plan
from experiments.study.study import Row, Study
from experiments.study.training import MEASURED
from lovecraft_jax import cli
from lovecraft_jax.data import corpus
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, UserError
from lovecraft_jax.runtime.files import locked_workdir

ABOUT = """
Trains every setting with three seeds and the same time each, counted as the time of one seed on one core. NAME is a
question or a setting; by default all of them. As many settings train in parallel as there are cores. An interrupted
command continues where it stopped. Prints how long it will take, and saves the results so far as rows.csv, table.csv,
table.md, a figure and, where the study has samples, samples.md.
"""
LOGS = "logs"
THROUGHPUT_SECONDS = 8.0
"""How long the throughput of a setting is measured; as long as a run if runs are shorter."""
SMOKE = {"seconds": 1.0, "seeds": 1, "corpus": "bundled"}


def run_study(study: Study, about: str) -> int:
    """Parses the flags and returns an exit code. `about`: what the study is, for --help."""
    args = parse_flags(study, about)
    return cli.report_errors(lambda: _draw(study, args) if args.draw else _train_and_draw(study, args))


def parse_flags(study: Study, about: str = "") -> argparse.Namespace:
    """Returns the command's flags, with the defaults of --smoke where that is given."""
    known = [*(question.name for question in study.questions), *study.configs]
    parser = argparse.ArgumentParser(
        f"python -m {study.package}",
        description=about + ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known).replace("%", "%%"))
    parser.add_argument("--seconds", type=at_least(0.1, float, 1e6), default=300.0, help="training time of each run")
    parser.add_argument("--seeds", type=at_least(1), default=3, metavar="N", help="number of seeds of each setting")
    parser.add_argument("--jobs", type=at_least(0), default=0, help="settings in parallel; 0: one for each core")
    parser.add_argument("--corpus", type=not_empty, default="auto", help="as data.corpus")
    stacked = "train the seeds of a setting as one program; auto: on an accelerator, where that is faster"
    parser.add_argument("--stacked", choices=("auto", "yes", "no"), default="auto", help=stacked)
    parser.add_argument("--workdir", type=folder, default=Path(f"runs/{study.name}"), help="folder of the runs")
    parser.add_argument(
        "--to",
        type=folder,
        help="folder of rows.csv, tables and figure, by default --workdir; settings that have rows there train for as "
        "many steps as those",
    )
    parser.add_argument("--smoke", action="store_true", help="everything in under ten minutes, to check that it works")
    parser.add_argument("--draw", action="store_true", help="train nothing, redraw table and figure from rows.csv")
    args = parser.parse_args()
    if args.smoke:
        parser.set_defaults(**SMOKE, workdir=Path(f"runs/{study.name}-smoke"))
        args = parser.parse_args()
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"unknown {' '.join(unknown)}: expected some of {', '.join(known)}")
    return args


def _train_and_draw(study: Study, args: argparse.Namespace) -> int:
    to, logs = _output_folder(args), args.workdir / LOGS
    with _writing_to(to):
        to.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=to).close()  # fails now instead of after hours of training
    loaded = corpus.load(args.corpus)  # once, before many workers do
    with locked_workdir(str(args.workdir)):
        with _writing_to(logs):
            logs.mkdir(exist_ok=True)
        rows = [*results.read(study, to), *_finished(study, args.workdir)]
        about = {"corpus": loaded.sha256[: results.SHORT], "seconds": args.seconds}
        for row in rows:
            results.check_same(results.name(row), row, about)
        args.corpus = loaded.name
        code = _train(study, _settings(study, args.names), args, Plan(study, args.workdir, about, rows))
        results.merge(study, to, _finished(study, args.workdir))
    if results.read(study, to) and (missing := _save_results(study, to)):
        log(f"{to}: {missing}")
    if code == INTERRUPTED:
        log("interrupted and saved: the same command continues")
    return code


def _draw(study: Study, args: argparse.Namespace) -> int:
    to = _output_folder(args)
    if missing := _save_results(study, to):
        raise UserError(f"{to}: {missing}")
    return DONE


def _save_results(study: Study, to: Path) -> str:
    """Saves samples, tables and figure of the rows in `to`. Returns what is missing for tables and figure; "" where
    they are saved."""
    rows = results.read(study, to)
    if not rows:
        return f"no {results.ROWS} with rows to draw; train first, or name another folder by --to"
    for row in rows:
        results.check_same(results.name(row), row, {key: rows[0].get(key) for key in ("corpus", "seconds")})
    lines = results.lines(study, rows)
    with _writing_to(to):
        samples.write(study, to, rows)
        if lines:
            table.write(study, to, lines)
            figure.draw(to / f"{study.name}.svg", lines)
    if not lines:
        alone = list(dict.fromkeys(row["setting"] for row in rows))
        settings = {question.name: {entry.setting for entry in question.entries} for question in study.questions}
        asking = [name for name, asked in settings.items() if asked & {*alone}]
        return f"rows of {', '.join(alone)} alone compare nothing; train another setting of {' or '.join(asking)}"
    log(f"{to}: {results.ROWS}, tables and figure")
    return ""


def _output_folder(args: argparse.Namespace) -> Path:
    to: Path = args.to or args.workdir
    return to


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Raises UserError if the block cannot create its files."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename or folder}: cannot be written ({error.strerror or error})"
        raise UserError(f"{reason}; name a folder that you may write to") from None


def _settings(study: Study, names: Sequence[str]) -> list[str]:
    """Returns the settings of questions and settings, by default of all questions, in order, without repetition."""
    by_question = {question.name: [entry.setting for entry in question.entries] for question in study.questions}
    by_name = (by_question.get(name, [name]) for name in names or by_question)
    return list(dict.fromkeys(setting for settings in by_name for setting in settings))


def _finished(study: Study, folder: Path) -> list[Row]:
    return [row for path in sorted(folder.glob(f"*/{MEASURED}")) for row in results.read_json(study, path)]


def _train(study: Study, settings: Sequence[str], args: argparse.Namespace, plan: Plan) -> int:
    """Measures the throughput of each setting, then trains it for as many steps as fit into --seconds. Returns an exit
    code."""
    slots = jobs.find_slots(args.jobs)
    left = {setting: _missing_seeds(args.workdir, setting, args.seeds) for setting in settings}
    left = {setting: seeds for setting, seeds in left.items() if seeds}
    about = f"{len(settings)} settings, {args.seeds} seeds each, {args.seconds:g} s of training each"
    log(f"{about}; {_remaining(study, args, left, slots)}")
    code = _measure_throughputs(study, args, plan, left, slots)
    if code == INTERRUPTED:
        return code
    training_code = _train_settings(study, args, plan, left, slots)
    return training_code if training_code == INTERRUPTED else code or training_code


def _measure_throughputs(
    study: Study, args: argparse.Namespace, plan: Plan, settings: Iterable[str], slots: Sequence[str]
) -> int:
    """Measures the throughputs that the steps of the settings need, and adds them to the plan. Returns an exit code."""
    throughputs, unmeasured = dict[str, float](), plan.to_measure(settings)

    def add_throughput(setting: str, output: str) -> None:
        throughputs.update(dict.fromkeys(unmeasured if args.smoke else [setting], float(output)))
        log(f"{setting}: {float(output):.2f} steps a second")

    seconds = min(THROUGHPUT_SECONDS, args.seconds)
    # A smoke run, for want of time, trains all settings for as many steps as fit for one.
    measured = unmeasured[-1:] if args.smoke else unmeasured
    to_measure = [_make_job(study, args, "throughput", each, add_throughput, str(seconds)) for each in measured]
    code = jobs.run(to_measure, slots)
    plan.add(throughputs)
    return code


def _train_settings(
    study: Study, args: argparse.Namespace, plan: Plan, left: dict[str, list[int]], slots: Sequence[str]
) -> int:
    """Trains the seeds that are `left` of each setting that has steps, and removes a setting from `left` when it is
    done. Returns an exit code."""

    def mark_done(setting: str, _: str) -> None:
        del left[setting]
        log(f"{setting}: done; {_remaining(study, args, left, slots)}")

    options = str(args.seconds), str(args.workdir), args.stacked
    to_train = [
        _make_job(study, args, "train", each, mark_done, str(steps), *options, *map(str, left[each]))
        for each in left
        if (steps := plan.steps(each))
    ]
    return jobs.run(to_train, slots)


def _make_job(
    study: Study,
    args: argparse.Namespace,
    task: str,
    setting: str,
    on_success: Callable[[str, str], None],
    *arguments: str,
) -> jobs.Job:
    """Returns the job of a task. `on_success` is called with the setting and the job's output."""
    log_file, on_output = args.workdir / LOGS / f"{setting}.log", functools.partial(on_success, setting)
    return jobs.Job(study.package, task, setting, args.corpus, arguments, log_file, on_output)


def _remaining(study: Study, args: argparse.Namespace, left: Mapping[str, Sequence[int]], slots: Sequence[str]) -> str:
    """Returns how many runs are left, and the time they take, as part of a line of the log."""
    runs = sum(map(len, left.values()))
    time = datetime.timedelta(seconds=round(runs * (args.seconds + study.overhead) / len(slots)))
    return f"{runs} runs left, {time} with {len(slots)} in parallel"


def _missing_seeds(folder: Path, setting: str, seeds: int) -> list[int]:
    return [seed for seed in range(seeds) if not (folder / f"{setting}-{seed}" / MEASURED).exists()]
