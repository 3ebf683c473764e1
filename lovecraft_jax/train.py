"""python -m lovecraft_jax.train --config=configs/c150.py: trains, or goes on with, one run."""

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.training import loop


def main() -> int:
    """Flags to `loop.train`."""
    config = cli.required("config", "configs/c150.py")
    workdir = cli.given("workdir") or cli.default_workdir()
    return loop.train(config, workdir, cli.cores(), flags.FLAGS.take_over, flags.FLAGS.profile)


if __name__ == "__main__":
    cli.define_train_flags()
    flags.DEFINE_integer("profile", 0, "Training steps to trace into WORKDIR/profile; 0: none.", lower_bound=0)
    cli.run(main)
