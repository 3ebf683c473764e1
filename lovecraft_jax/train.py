"""python -m lovecraft_jax.train --config=configs/c150.py: trains a run, or resumes it."""

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.training import loop


def main() -> int:
    """Passes the flags to `loop.train` and returns its exit code."""
    config = cli.required_flag("config", "configs/c150.py")
    workdir = cli.optional_flag("workdir") or cli.default_workdir()
    return loop.train(config, workdir, flags.FLAGS.take_over, flags.FLAGS.profile)


if __name__ == "__main__":
    cli.define_train_flags()
    cli.run(main)
