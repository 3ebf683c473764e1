"""python -m lovecraft_jax.train --config=configs/c150.py: trains, or goes on with, one run."""

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.training import loop


def main() -> int:
    """Flags to `loop.train`."""
    config = cli.required("config", "configs/c150.py")
    return loop.train(config, cli.given("workdir") or cli.default_workdir(), cli.cores(), flags.FLAGS.profile)


if __name__ == "__main__":
    cli.define_train_flags()
    cli.run(main)
