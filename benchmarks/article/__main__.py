"""The article of 2019 asked what went wrong; this measures it: `python -m benchmarks.article [NAME ...]`.

Every setting trains for the same time, that which a lone seed takes on one core, with three seeds. NAME is a question
or a setting; all of them where none is given. As many train side by side as there are cores. It goes on where it was
stopped, tells its total first, and writes what there is so far: rows.csv, table.csv, table.md and article.svg.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.article import experiments, figure, jobs, results
from benchmarks.article.training import DISPATCH, MEASURED
from lovecraft_jax.errors import DONE
from lovecraft_jax.progress import say

OVERHEAD = 40.0
"""Seconds of a core that a run takes besides its training: to start, compile, score, write and be measured."""
PACE_SECONDS = 8.0
"""For which a setting trains to find out how fast it does, or as long as the runs where that is less."""
SMOKE_SECONDS = 2.0


def main() -> int:
    """Returns an exit code."""
    known = [*experiments.questions(), *experiments.settings()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, for each run")
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 100), metavar="N")
    parser.add_argument("--jobs", type=int, default=0, help="settings side by side; one for each core by default")
    parser.add_argument("--workdir", type=Path, default=Path("runs/article"), help="where the runs are kept")
    parser.add_argument("--to", type=Path, help="a folder for rows, tables and figure; --workdir by default")
    parser.add_argument("--smoke", action="store_true", help="all of it in ten minutes, which shows only that it works")
    parser.add_argument("--draw", action="store_true", help="train nothing, only draw again what the rows in --to say")
    given = parser.parse_args()
    if given.smoke:
        given.seconds, given.seeds, given.workdir = SMOKE_SECONDS, 1, Path(f"{given.workdir}-smoke")
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"unknown {' '.join(unknown)}: expected some of {', '.join(known)}")
    to, code = given.to or given.workdir, DONE
    if not given.draw:
        code = _train(_settings(given.names or experiments.questions()), given)
        results.keep(to, _measured(given.workdir))
    if found := results.lines(results.read(to)):
        results.write_table(to, found)
        figure.draw(to / figure.FILE, found)
        say(f"{to}: {results.ROWS}, {results.TABLE}.csv, {results.TABLE}.md, {figure.FILE}")
    return code


def _settings(names: Iterable[str]) -> list[str]:
    """Each once, in order."""
    questions = experiments.questions()
    of_names = ([rung.setting for rung in questions[name].rungs] if name in questions else [name] for name in names)
    return list(dict.fromkeys(setting for of_name in of_names for setting in of_name))


def _measured(folder: Path) -> list[results.Row]:
    return [row for path in sorted(folder.glob(f"*/{MEASURED}")) for row in json.loads(path.read_text())]


def _train(settings: Sequence[str], given: argparse.Namespace) -> int:
    """Finds out how fast each setting trains, then trains for as many steps as that is in --seconds."""
    folder, places = given.workdir, jobs.places(given.jobs)
    left = {setting: _missing(folder, setting, given.seeds) for setting in settings}
    left = {setting: seeds for setting, seeds in left.items() if seeds}

    def to_do() -> str:
        runs = sum(map(len, left.values()))
        hours = runs * (given.seconds + OVERHEAD) / len(places) / 3600
        return f"{runs} runs are left, {hours:.1f} hours with {len(places)} at once"

    def job(task: str, setting: str, done: Callable[[str, str], None], *more: str) -> jobs.Job:
        log = folder / "logs" / f"{setting}.log"
        return jobs.Job(task, setting, more, log, functools.partial(done, setting))

    say(f"{len(settings)} settings of {given.seeds} seeds, each run {given.seconds:g} s of training; {to_do()}")
    paces_at = folder / "pace.json"
    paces: dict[str, float] = json.loads(paces_at.read_text()) if paces_at.exists() else {}

    def paced(setting: str, told: str) -> None:
        paces[setting] = float(told)
        paces_at.write_text(json.dumps(paces, indent=1) + "\n")
        say(f"{setting}: {paces[setting]:.2f} steps a second")

    def trained(setting: str, _: str) -> None:
        del left[setting]
        say(f"{setting}: done; {to_do()}")

    seconds = min(PACE_SECONDS, given.seconds)
    to_pace = dict.fromkeys(pace_of for each in left if (pace_of := experiments.paced_as(each)) not in paces)
    if code := jobs.run([job("pace", each, paced, str(seconds)) for each in to_pace], places):
        return code
    steps = {
        each: max(1, round(given.seconds * paces[experiments.paced_as(each)] / DISPATCH)) * DISPATCH for each in left
    }
    to_train = [
        job("train", each, trained, str(steps[each]), str(folder), *map(str, seeds)) for each, seeds in left.items()
    ]
    return jobs.run(to_train, places)


def _missing(folder: Path, setting: str, seeds: int) -> list[int]:
    return [seed for seed in range(seeds) if not (folder / f"{setting}-{seed}" / MEASURED).exists()]


if __name__ == "__main__":
    sys.exit(main())
