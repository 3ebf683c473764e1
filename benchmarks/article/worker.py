"""One setting in a process of its own: `python -m benchmarks.article.worker TASK SETTING CORE MORE ...`.

With a CORE it is bound to that one of the CPU's. TASK is "pace", with the seconds to measure for, which prints the
steps of a second; or "train", with the steps, the folder for the runs and the seeds, which trains and measures them.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(task: str, setting: str, core: str, more: Sequence[str]) -> int:
    """Returns an exit code."""
    if core:  # before JAX starts its threads
        os.sched_setaffinity(0, {int(core)})
    from benchmarks.article import experiments, training
    from lovecraft_jax.cache import keep_programs
    from lovecraft_jax.errors import FAILED, WRONG_INPUT, RunError, UserError
    from lovecraft_jax.progress import say

    keep_programs()
    try:
        if task == "pace":
            print(training.pace(experiments.get_config(setting), float(more[0])))
            return 0
        steps, folder, *seeds = more
        return training.train(setting, int(steps), Path(folder), [int(seed) for seed in seeds])
    except (UserError, RunError) as error:
        say(str(error))
        return WRONG_INPUT if isinstance(error, UserError) else FAILED


if __name__ == "__main__":
    _, task, setting, core, *more = sys.argv
    sys.exit(main(task, setting, core, more))
