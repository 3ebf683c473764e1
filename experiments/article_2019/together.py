"""Seeds of one setting as one program, each kept as a run of its own, which `loop.train` takes over at any step.

For accelerators, which so small a model leaves mostly idle. A CPU is at work already: of c150 one core of an AMD EPYC
(Zen 5) does 27 steps a second one seed after another, and of three seeds vmapped 12.4 (each seed's counted), 13.6 with
the layer in XLA.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import DropoutRates
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED
from lovecraft_jax.runtime.files import locked_workdir
from lovecraft_jax.runtime.mesh import make_mesh
from lovecraft_jax.runtime.signals import collect_signals
from lovecraft_jax.training.compiled import COMPILER_OPTIONS, TrainSteps, dispatch_steps
from lovecraft_jax.training.loop import Training
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.step import make_train_step, make_train_steps


def train(configs: Mapping[Path, ConfigDict]) -> int:
    """Trains runs that differ in their seeds alone, by their workdirs, up to their last step, on one device.

    Returns DONE, when what is left, the final scores at least, is `loop.train`'s to do: all of it for runs that stand
    at different steps, as a kill may leave them. INTERRUPTED after a signal. Raises as `loop.train`.
    """
    with collect_signals() as signals, ExitStack() as stack:
        runs = []
        for workdir, config in configs.items():
            path = stack.enter_context(locked_workdir(str(workdir)))
            runs.append(Training(Config.of(config), path, signals, stack, 1))
        if len({run.step for run in runs}) > 1:
            log(f"{', '.join(map(str, configs))}: at different steps, so they go on one after another")
            return DONE
        with runs[0].report_disk_errors():
            return _train(runs, signals) if runs[0].step < runs[0].total else DONE


def _train(runs: list[Training], signals: list[int]) -> int:
    first, device = runs[0], jax.devices()[0]
    K, step, total = dispatch_steps(first.config), first.step, first.total
    train_steps, parts = _program(first, device), _parts(len(runs))
    state = _stacked([jax.device_put(run.state, device) for run in runs])
    for run in runs:
        run.open()
    batches = _batches(runs, step, K)
    while step < total and not signals:
        state, metrics = train_steps(state, batches)
        step = min((step // K + 1) * K, total)
        if step < total:
            batches = _batches(runs, step, K)  # while the device is at work
        for run, (own_state, own_metrics) in zip(runs, parts((state, metrics)), strict=True):
            run.after(step, own_state, own_metrics)
    for run in runs:
        run.save()
        run.checkpoints.wait()
    log(f"{len(runs)} seeds together: {'interrupted at' if step < total else 'up to'} step {step:,}, saved")
    return INTERRUPTED if step < total else DONE


def _program(run: Training, device: jax.Device) -> TrainSteps:
    """Jitted: (state, batches) -> (state, metrics) of K steps, all with a leading axis of seeds; the state is
    donated."""
    optimizer = make_optimizer(run.config.optimizer, run.total)
    model = make_model(run.config, run.data.tokenizer.size)
    steps = make_train_steps(make_train_step(model, optimizer, make_mesh(run.config.data.batch_size, [device])))
    rates = DropoutRates.of(run.config.model)
    with_rates = lambda state, batches: steps(state, batches, rates)  # noqa: E731
    return jax.jit(jax.vmap(with_rates), donate_argnums=0, compiler_options=COMPILER_OPTIONS.get(device.platform))


@jax.jit
def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _parts(count: int) -> Callable[[Any], list[Any]]:
    def part(tree: Any, n: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[n], tree)

    return jax.jit(lambda tree: [part(tree, n) for n in range(count)])


def _batches(runs: list[Training], step: int, K: int) -> Batch:
    """The batches of the dispatch from `step`: [S, K, ...]."""
    count = min((step // K + 1) * K, runs[0].total) - step
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(run.batches.at(step, count) for run in runs))
