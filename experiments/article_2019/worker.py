"""One setting in a process of its own: `python -m experiments.article_2019.worker TASK SETTING CORE CORPUS MORE ...`.

With a CORE it is bound to that one of the CPU's. TASK is "pace", with the seconds to measure for, which prints the
steps of a second; or "train", with the steps, the seconds that these should take, the folder for the runs, whether to
train the seeds `together`, and the seeds, which trains and measures them.
"""

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lovecraft_jax.runtime.signals import terminate_with_parent


def main(task: str, setting: str, core: str, corpus: str, more: Sequence[str]) -> int:
    """Returns an exit code."""
    terminate_with_parent()
    if core:  # before JAX starts its threads
        os.sched_setaffinity(0, {int(core)})
    from absl import logging

    from experiments.article_2019 import experiments, training
    from lovecraft_jax import cli
    from lovecraft_jax.runtime.compile_cache import enable_compile_cache

    logging.set_verbosity(logging.FATAL)
    enable_compile_cache()
    config = experiments.get_config(setting)
    config.data.corpus = corpus
    if task == "pace":
        return cli.report_errors(lambda: print(training.pace(config, float(more[0]))) or 0)
    steps, seconds, folder, together, *seeds = more
    config.train.steps = int(steps)
    train = functools.partial(training.train, setting, config, float(seconds), Path(folder), together)
    return cli.report_errors(lambda: train([int(seed) for seed in seeds]))


if __name__ == "__main__":
    _, task, setting, core, corpus, *more = sys.argv
    sys.exit(main(task, setting, core, corpus, more))
