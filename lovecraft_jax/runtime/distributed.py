"""Many processes as one run: how they find each other, what they check together, and how they exit.

Each computes its own rows of every batch. Process 0, the main process, alone prints, and writes all but the
checkpoints, which all write together. With one process these functions do nothing, or act on its own values.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lovecraft_jax.runtime.console import log, silence
from lovecraft_jax.runtime.errors import FAILED, INTERRUPTED, RunError, UserError

HEARTBEAT_SECONDS = 20  # without a heartbeat a process counts as lost after so long, and JAX aborts the others
SHUTDOWN_SECONDS = 5  # so long a process that is done waits for the others to be done

# Parts of the messages of exceptions that a computation or a checkpoint raises when another process is lost.
_PEER_FAILURES = ("Gloo", "coordination", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "Connection closed", "NCCL")

Result = TypeVar("Result")


def initialize(address: str | None, count: int | None, process_id: int | None, start_timeout: int) -> None:
    """Joins `count` processes as number `process_id`, with process 0 at `address` (host:port), before JAX looks for
    devices. All None: JAX takes them from a TPU pod, Slurm, Kubernetes or Open MPI. Raises UserError where none of
    these is found, or the address cannot be used. JAX aborts (exit code 134) after `start_timeout` seconds alone."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which `StopRequest` reads
    try:
        jax.distributed.initialize(
            address,
            count,
            process_id,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        if address is None:
            raise UserError(
                f"--distributed: no TPU pod, Slurm, Kubernetes or Open MPI job found ({reason}); "
                "give --coordinator_address=HOST:PORT, --num_processes and --process_id"
            ) from None
        raise UserError(
            f"--coordinator_address={address} --num_processes={count} --process_id={process_id} ({reason}); "
            "is the port free there, and do all processes have the same address and number?"
        ) from None


def find_devices() -> None:
    """Lets JAX look for devices; of many processes only the main one logs from then on. Raises RuntimeError."""
    jax.devices()
    if process_count() == 1:
        return
    if not is_main_process():
        silence()
    # Libraries print to standard output, as Gloo does; that is not a result: it goes to standard error from here on.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def process_count() -> int:
    """Returns the number of processes."""
    return jax.process_count()


def is_main_process() -> bool:
    """Whether this is process 0, which prints and writes for all."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Returns the `value` of every process, anything that JSON holds, in their order. All must call it."""
    if process_count() == 1:
        return [value]
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(encoded)))
    padded = np.pad(encoded, (0, int(lengths.max()) - len(encoded)))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def on_all_processes(work: Callable[[], Result]) -> Result:
    """Returns what `work` returns. Where it raises UserError in one process, all processes raise it."""
    message = None
    try:
        result = work()
    except UserError as error:
        message = str(error)
    if messages := list(filter(None, gather(message))):
        raise UserError(message or messages[0])
    return result


def assert_same_on_all_processes(values: dict[str, Any]) -> None:
    """Raises UserError in all processes, with the first difference, where one has other `values` than process 0."""
    gathered = gather(values)
    for number, other in enumerate(gathered):
        for name in sorted(gathered[0].keys() | other.keys()):
            if (here := other.get(name)) != (there := gathered[0].get(name)):
                raise UserError(f"{name} of process {number} is {here!r}, of process 0 {there!r}: give all the same")


def process_share(total: int) -> range:
    """Returns this process's share of range(total): contiguous, and empty for some where there are more processes."""
    index = jax.process_index()
    return range(total * index // process_count(), total * (index + 1) // process_count())


def local_copy(tree: Any) -> Any:
    """Returns replicated arrays as arrays on the first device of this process."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


class StopRequest:
    """Whether any process has received a signal, from the list that `collect_signals` fills in each.

    All processes call `received` before every dispatch and get the same answer, at most two dispatches after the
    signal: a sum over the devices, computed while they train. JAX's own `reached_preemption_sync_point` misses signals,
    because Orbax asks it too at every save.
    """

    def __init__(self, signals: list[int]) -> None:
        self._signals = signals
        self._sum: jax.Array | None = None
        mesh = Mesh(np.array(jax.devices()), ("all",))
        self._by_device = NamedSharding(mesh, PartitionSpec("all"))
        self._sum_over_devices = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def received(self) -> bool:
        """Whether to stop now. To be called before every dispatch, by all processes."""
        if process_count() == 1:
            return bool(self._signals)
        received = np.full(jax.local_device_count(), len(self._signals), np.int32)
        before = self._sum
        self._sum = self._sum_over_devices(jax.make_array_from_process_local_data(self._by_device, received))
        return before is not None and bool(before.addressable_data(0))


@contextmanager
def exit_on_peer_failure(last_saved: Callable[[], int | None], command: str) -> Iterator[None]:
    """Exits this process at once where it fails, or another one is lost: a regular exit would wait for the others, who
    do not come. UserErrors, which all processes raise together, are raised as usual. `last_saved` returns the step of
    the last checkpoint, and `command` is how the message calls what resumes the run."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if process_count() == 1:
            raise
        first_line, saved = str(error).strip().partition("\n")[0][:300], last_saved()
        message, code = first_line if isinstance(error, RunError) else traceback.format_exc(), FAILED
        if any(sign in str(error) for sign in _PEER_FAILURES):
            way = "starts from the beginning: nothing was saved yet" if saved is None else f"resumes at step {saved:,}"
            message = f"another process was lost ({first_line}); {command}, given to all, {way}"
            code = INTERRUPTED
        log(f"process {jax.process_index()}: {message}", always=True)
        sys.stdout.flush()
        os._exit(code)
