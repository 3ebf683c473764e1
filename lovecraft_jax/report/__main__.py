"""python -m lovecraft_jax.report --workdir=runs/c150: an HTML page about a run, or about several side by side."""

import logging

from absl import flags
from etils import epath

from lovecraft_jax import cli
from lovecraft_jax.report.collect import collect_run
from lovecraft_jax.report.palette import RUNS
from lovecraft_jax.runtime.console import printable
from lovecraft_jax.runtime.errors import RunError, UserError
from lovecraft_jax.runtime.files import check_can_be_written, resolve_path, write_text
from lovecraft_jax.training.run_files import read_run_files


def main() -> int:
    """Writes the page and prints its path."""
    workdirs = cli.required_flag("workdir", "runs/c150")
    if len(workdirs) > len(RUNS):
        raise UserError(f"--workdir given {len(workdirs)} times: expected at most {len(RUNS)} runs on a page")
    paths = [str(resolve_path(workdir)) for workdir in workdirs]
    if len(set(paths)) < len(paths):
        raise UserError(f"--workdir={' --workdir='.join(workdirs)}: one of them is given twice; leave it out")
    names = [path.rpartition("/")[-1] for path in paths]
    if len(set(names)) < len(names):
        names = paths
    given = cli.optional_flag("to")
    to = resolve_path(given or f"{paths[0]}/report/index.html", "to")
    for path in paths:  # before the runs are analysed, which takes minutes
        read_run_files(epath.Path(path))
    check_can_be_written(to)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where its folders cannot be written it takes others
    from lovecraft_jax.report.page import render

    checkpoint, corpus = flags.FLAGS.checkpoint, cli.optional_flag("corpus")
    runs = [collect_run(workdir, checkpoint, name, corpus) for workdir, name in zip(workdirs, names, strict=True)]
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        write_text(to, render(runs))
    except OSError as error:
        raise RunError(f"{to}: cannot be written ({error.strerror}); give another place") from error
    print(printable(str(to)))
    return 0


if __name__ == "__main__":
    cli.define_run_flags("compares them on one page")
    flags.DEFINE_string("to", None, "The page to write; by default <workdir>/report/index.html of the first run.")
    cli.run(main)
