"""python -m lovecraft_jax.report --workdir=runs/c150: an HTML page about a run, or about several side by side."""

from absl import flags
from etils import epath

from lovecraft_jax import cli
from lovecraft_jax.report.collect import collect_run
from lovecraft_jax.report.page import render
from lovecraft_jax.report.palette import RUNS
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import resolve_path, write_text


def main() -> int:
    """Writes the page and prints its path."""
    F = flags.FLAGS
    workdirs = cli.required_flag("workdir", "runs/c150")
    if len(workdirs) > len(RUNS):
        raise UserError(f"--workdir given {len(workdirs)} times: expected at most {len(RUNS)} runs on a page")
    paths = [str(resolve_path(workdir)) for workdir in workdirs]
    if len(set(paths)) < len(paths):
        raise UserError(f"--workdir={' --workdir='.join(workdirs)}: one of them is given twice; leave it out")
    names = [path.rpartition("/")[-1] for path in paths]
    if len(set(names)) < len(names):
        names = paths
    if given := cli.optional_flag("to"):  # checked before the runs are analysed, which takes minutes
        _make_parent(resolve_path(given))
    corpus = cli.optional_flag("corpus")
    runs = [collect_run(workdir, F.checkpoint, name, corpus) for workdir, name in zip(workdirs, names, strict=True)]
    to = resolve_path(given or f"{paths[0]}/report/index.html")
    _make_parent(to)
    write_text(to, render(runs))
    print(to)
    return 0


def _make_parent(page: epath.Path) -> None:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{page}: cannot make its folder ({error.strerror}); give another with --to") from None
    if page.is_dir():
        raise UserError(f"{page}: a folder, expected a file; give --to={page}/index.html")


if __name__ == "__main__":
    cli.define_run_flags(several=True)
    flags.DEFINE_string("to", None, "The page to write; by default <workdir>/report/index.html of the first run.")
    cli.run(main)
