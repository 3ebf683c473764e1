"""A mesh of devices with one axis, over which the rows of a batch are sharded; all else is replicated."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import UserError

AXIS = "data"
REPLICATED = PartitionSpec()
BY_ROW = PartitionSpec(AXIS)
BY_ROW_STACKED = PartitionSpec(None, AXIS)  # of arrays [K, B, ...], the rows of K steps


def make_mesh(batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of all devices. Of the CPU devices of one process it takes the largest number that divides the
    batch; other devices must divide it. Raises UserError where they do not."""
    devices = list(jax.devices() if devices is None else devices)
    # By process, whose rows are then one slice of the batch: the ids of a TPU host's devices are not consecutive.
    devices.sort(key=lambda device: (device.process_index, device.id))
    if devices[0].platform == "cpu" and len({device.process_index for device in devices}) == 1:
        devices = devices[: _largest_divisor(batch_size, len(devices))]
    count = len(devices)
    if batch_size % count:
        raise UserError(f"data.batch_size={batch_size} is not divisible by {count} devices: use a multiple of {count}")
    return Mesh(np.array(devices), (AXIS,))  # not jax.make_mesh: its axes are Explicit, which nn.Embed does not take


def _largest_divisor(batch_size: int, most: int) -> int:
    """Returns the largest number up to `most` that divides the batch; logs a line where it is less than `most`."""
    count = max(n for n in range(1, min(most, batch_size) + 1) if batch_size % n == 0)
    if count < most:
        log(f"using {count} of {most} CPU devices: data.batch_size={batch_size} is divisible by no more")
    return count


def process_rows(mesh: Mesh, batch_size: int) -> slice:
    """Returns the rows of a batch that the devices of this process hold."""
    held = [n for n, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    rows = batch_size // mesh.size
    return slice(held[0] * rows, (held[-1] + 1) * rows)


def put_process_rows(mesh: Mesh, batches: Any) -> Any:
    """Returns K steps' batches as global arrays over the mesh, from the rows that this process holds."""
    by_row = sharding(mesh, BY_ROW_STACKED)
    if not mesh.is_multi_process:
        return jax.device_put(batches, by_row)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(by_row, leaf), batches)


def sharding(mesh: Mesh, spec: PartitionSpec) -> NamedSharding:
    """Returns the sharding of arrays with `spec`."""
    return NamedSharding(mesh, spec)


def shard_rows(mesh: Mesh, local: Callable, in_specs: object, out_specs: object) -> Callable:
    """Returns a function that runs `local` on each device's own rows; `local` may call the sums below."""
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def sum_over_devices(tree: Any) -> Any:
    """Returns the sum of `tree` over the devices: the one collective of a training step without batch norms, as XLA
    combines the sums of all arrays into one all-reduce."""
    return jax.lax.psum(tree, AXIS)


def mean_over_devices(tree: Any) -> Any:
    """Returns the mean of `tree` over the devices."""
    return jax.lax.pmean(tree, AXIS)
