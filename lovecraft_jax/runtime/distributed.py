"""Many processes as one run: how they find each other, what they agree on, and how they leave.

Each computes its own rows of every batch. Process 0 alone prints, and writes all but the checkpoints, which all write
together. With one process everything here comes to nothing.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lovecraft_jax.runtime.console import log, silence
from lovecraft_jax.runtime.errors import FAILED, INTERRUPTED, RunError, UserError

HEARTBEAT_SECONDS = 20
"""After so long without a sign from a process it counts as lost, and JAX aborts the others."""
SHUTDOWN_SECONDS = 5
"""How long a process that is done waits for the others to be."""

Result = TypeVar("Result")

_THREADS = Path("/proc/self/task")
_LOST = ("Gloo", "coordination", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "Connection closed", "NCCL")
"""What the exceptions say that a computation or a checkpoint raises when another process is gone."""


def start(address: str | None, count: int | None, number: int | None, start_timeout: int) -> None:
    """Joins `count` processes as the one of this number, at `address` (host:port, of process 0); all None: as a TPU
    pod, Slurm, Kubernetes or Open MPI tell. To be called before JAX looks for devices.

    Raises UserError where it is not told, and none of these is found. JAX aborts the process (exit code 134) where the
    others have not come after `start_timeout` seconds.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which `Stop` listens for
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        told = f"--coordinator_address={address} --num_processes={count} --process_id={number}"
        told = told if address else "--distributed: no TPU pod, Slurm, Kubernetes or Open MPI job found"
        way = "give --coordinator_address=HOST:PORT, --num_processes and --process_id"
        way = "is the port free there, and are all given the same?" if address else way
        raise UserError(f"{told} ({str(error).splitlines()[0][:200]}); {way}") from None


def find_devices() -> None:
    """Lets JAX look for devices, after `start` where there are many processes. Raises RuntimeError."""
    before = _threads()
    jax.devices()
    if count() == 1:
        return
    _make_gloo_give_way(before)
    if not is_main_process():
        silence()
    # What libraries print of themselves, as Gloo does, is no result: standard output is ours alone.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def _make_gloo_give_way(before: set[str]) -> None:
    """Gloo, by which CPUs sum, has made a thread that polls without a pause. Where it shares the process's one core
    with the computing it must give way at once: else each sum waits for the scheduler's next tick, 4 ms, and a step of
    c150 in two processes for eleven of them (AMD EPYC, Linux 6.18)."""
    if jax.default_backend() != "cpu" or not before or len(os.sched_getaffinity(0)) > 1:
        return
    unnamed = (_THREADS / str(os.getpid()) / "comm").read_text()  # as the first thread; libtpu's have names
    for _ in range(100):  # it may not have begun yet
        for thread in _threads() - before:
            with suppress(OSError):
                polls = "epoll" in (_THREADS / thread / "wchan").read_text()
                if polls and (_THREADS / thread / "comm").read_text() == unnamed:
                    os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
                    return
        time.sleep(0.001)


def _threads() -> set[str]:
    """Of this process, where the system tells."""
    return set(os.listdir(_THREADS)) if _THREADS.exists() else set()


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_main_process() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """What every process gave, anything that JSON holds, in their order. All must call it."""
    if count() == 1:
        return [value]
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(mine)))
    padded = np.pad(mine, (0, int(lengths.max()) - len(mine)))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def on_all_processes(work: Callable[[], Result]) -> Result:
    """Returns what `work` returns. Where it raises UserError in one process, all processes raise it."""
    told, result = None, None
    try:
        result = work()
    except UserError as error:
        told = str(error)
    for of_another in filter(None, gather(told)):
        raise UserError(told or of_another)
    return result  # type: ignore[return-value]


def assert_same_on_all_processes(values: dict[str, Any]) -> None:
    """Raises UserError in all processes, with the first difference, where one has other `values` than process 0."""
    of_all = gather(values)
    for number, other in enumerate(of_all):
        for name in sorted(of_all[0].keys() | other.keys()):
            if (here := other.get(name)) != (there := of_all[0].get(name)):
                raise UserError(f"{name} of process {number} is {here!r}, of process 0 {there!r}: give all the same")


def process_share(total: int) -> range:
    """This process's of so many things, shared out in order; where there are fewer than processes, perhaps none."""
    me = jax.process_index()
    return range(total * me // count(), total * (me + 1) // count())


def local_copy(tree: Any) -> Any:
    """Arrays that are whole on every device, as they lie on this process's first."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


class Stop:
    """Whether any process has had one of its `signals`. All ask before every dispatch, and hear of it before the same
    one, the next but one at the latest: nobody waits for the answer, which is one number summed beside the training.

    JAX's own way, `reached_preemption_sync_point`, misses signals where Orbax, at every save, asks it too.
    """

    def __init__(self, signals: list[int]) -> None:
        self._signals = signals
        self._answer: jax.Array | None = None
        mesh = Mesh(np.array(jax.devices()), ("all",))
        self._each = NamedSharding(mesh, PartitionSpec("all"))
        self._sum = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def requested(self) -> bool:
        """To be called before every dispatch."""
        if count() == 1:
            return bool(self._signals)
        mine = np.full(jax.local_device_count(), len(self._signals), np.int32)
        before = self._answer
        self._answer = self._sum(jax.make_array_from_process_local_data(self._each, mine))
        return before is not None and bool(before.addressable_data(0))


@contextmanager
def exit_on_peer_failure(last_saved: Callable[[], int | None], command: str) -> Iterator[None]:
    """Ends this process at once where it fails by itself, or where another one is lost: the tidy way out would wait for
    the others, who do not come. What all were told together is raised as ever."""
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        if count() == 1:
            raise
        first_line, saved = str(error).strip().partition("\n")[0][:300], last_saved()
        told, code = first_line if isinstance(error, RunError) else traceback.format_exc(), FAILED
        if any(sign in str(error) for sign in _LOST):
            way = "begins anew: nothing was saved yet" if saved is None else f"goes on from step {saved:,}"
            told = f"another process was lost ({first_line}); {command}, given to all, {way}"
            code = INTERRUPTED
        log(f"process {jax.process_index()}: {told}", always=True)
        sys.stdout.flush()
        os._exit(code)
