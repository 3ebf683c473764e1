"""One setting in its own process: `python -m experiments.study.worker STUDY TASK SETTING CORE CORPUS ARG ...`.

The process binds itself to CORE, unless that is empty. STUDY is the package of the study. TASK is "throughput" or
"train":
throughput SECONDS: prints the training steps per second, measured for SECONDS.
train STEPS SECONDS FOLDER STACKED SEED ...: trains the seeds and measures them. SECONDS is how long the steps should
take, FOLDER holds the runs, STACKED is yes, no or auto: whether to train the seeds as one program.
"""

import functools
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.parent import terminate_with_parent


def main(package: str, task: str, setting: str, core: str, corpus: str, arguments: Sequence[str]) -> int:
    """Returns an exit code."""
    terminate_with_parent()
    if core:  # before JAX starts its threads
        os.sched_setaffinity(0, {int(core)})
    from absl import logging

    from experiments.study import training
    from lovecraft_jax import cli
    from lovecraft_jax.runtime.compile_cache import enable_compile_cache

    logging.set_verbosity(logging.FATAL)
    enable_compile_cache()
    # By its name: an import statement would name every study here, and started as the study's own `__main__` this
    # process would have loaded JAX, with its threads, before it is bound to its core and to its parent.
    study = importlib.import_module(f"{package}.settings").get_study()
    config = study.config(setting)
    config.data.corpus = corpus
    if task == "throughput":
        return cli.report_errors(lambda: print(training.steps_per_second(config, float(arguments[0]))) or 0)
    steps, seconds, folder, stacked, *seeds = arguments
    config.train.steps = int(steps)
    train = functools.partial(training.train, study, setting, config, float(seconds), Path(folder), stacked)
    return cli.report_errors(lambda: train([int(seed) for seed in seeds]))


if __name__ == "__main__":
    _, package, task, setting, core, corpus, *arguments = sys.argv
    sys.exit(main(package, task, setting, core, corpus, arguments))
