"""python -m lovecraft_jax.report --workdir=runs/c150: a page about a run, or about several side by side."""

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.colours import RUNS
from lovecraft_jax.errors import UserError
from lovecraft_jax.findings import find
from lovecraft_jax.page import render
from lovecraft_jax.workdir import located, write_text


def main() -> int:
    """Writes the page and prints its path."""
    F = flags.FLAGS
    workdirs = [workdir.rstrip("/") for workdir in cli.required("workdir", "runs/c150")]
    if len(workdirs) > len(RUNS):
        raise UserError(f"--workdir given {len(workdirs)} times: a page holds up to {len(RUNS)} runs")
    names = [workdir.rpartition("/")[-1] for workdir in workdirs]
    if len(set(names)) < len(names):
        names = workdirs
    if len(set(names)) < len(names):
        raise UserError(f"--workdir={' --workdir='.join(workdirs)}: one of them is there twice")
    runs = [find(workdir, F.checkpoint, name) for workdir, name in zip(workdirs, names, strict=True)]
    to = located(cli.given("to") or f"{workdirs[0]}/report/index.html")
    to.parent.mkdir(parents=True, exist_ok=True)
    write_text(to, render(runs))
    print(to)
    return 0


if __name__ == "__main__":
    cli.define_run_flags(several=True)
    flags.DEFINE_string("to", None, "The page to write; <workdir>/report/index.html by default, of the first.")
    cli.run(main)
