"""One setting in its own process: `python -m experiments.article_2019.worker TASK SETTING CORE CORPUS ARGUMENT ...`.

The process binds itself to CORE, unless that is empty. TASK is "throughput" or "train":
throughput SECONDS: prints the training steps per second, measured for SECONDS.
train STEPS SECONDS FOLDER STACKED SEED ...: trains the seeds and measures them. SECONDS is how long the steps should
take, FOLDER holds the runs, STACKED is yes, no or auto: whether to train the seeds as one program.
"""

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.parent import terminate_with_parent


def main(task: str, setting: str, core: str, corpus: str, arguments: Sequence[str]) -> int:
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
    if task == "throughput":
        return cli.report_errors(lambda: print(training.steps_per_second(config, float(arguments[0]))) or 0)
    steps, seconds, folder, stacked, *seeds = arguments
    config.train.steps = int(steps)
    train = functools.partial(training.train, setting, config, float(seconds), Path(folder), stacked)
    return cli.report_errors(lambda: train([int(seed) for seed in seeds]))


if __name__ == "__main__":
    _, task, setting, core, corpus, *arguments = sys.argv
    sys.exit(main(task, setting, core, corpus, arguments))
