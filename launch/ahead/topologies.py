"""Devices to compile for, by the name of their machine: TPUs through libtpu, GPUs through JAX's CUDA plugin."""

import dataclasses
import re
from typing import Any

import jax
from jax.experimental import topologies

from launch.ahead.nvidia import GPUS
from lovecraft_jax.runtime.errors import UserError

EXAMPLES = "v5e:2x2, v5e:16x16, v6e:4x4, v5p:2x2x1, v4:2x2x2, tpu7x:2x2x1, h100:8, h100:2x8"
MISSING = {
    "tpu": "libtpu is not installed: pip install -r requirements.txt 'jax[tpu]'",
    "cuda": "JAX's CUDA plugin is not installed: pip install -r requirements.txt 'jax[cuda13]', or, to compile "
    "only, jax-cuda13-plugin and jax-cuda13-pjrt alone",
}
HBM = {
    "TPU v2": 16,
    "TPU v3": 32,
    "TPU v4": 32,
    "TPU v5 lite": 16,
    "TPU v5": 95,
    "TPU v6 lite": 32,
    "TPU7x": 192,
}
"""GiB of a chip, by libtpu's name for it: docs.cloud.google.com/tpu/docs/{v3,v4,v5e,v5p,v6e,tpu7x}; v2 in
Jouppi et al. 2020, "A Domain-Specific Supercomputer for Training Deep Neural Networks"."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine to compile for.

    `devices` as JAX counts them: TPU v2, v3, v4 and 7x have two per chip. `memory`: bytes of a device, 0 if unknown.
    """

    name: str
    devices: list[jax.Device]
    chips: int
    memory: int

    @property
    def kind(self) -> str:
        """The vendor's name of the devices."""
        return self.devices[0].device_kind

    @property
    def hosts(self) -> int:
        """The number of hosts, each with one process."""
        return len({device.process_index for device in self.devices})


def find(name: str) -> Topology:
    """Returns the topology of a name as in EXAMPLES: TPUs with the chips along each axis, GPUs with their number on one
    host or with hosts x GPUs.

    Raises UserError if there is no such topology or its compiler is not installed.
    """
    family, _, axes = name.partition(":")
    if family in GPUS:
        return _gpus(name, family, axes)
    if not re.fullmatch(r"(v\d\w*|tpu\w+):\d+(x\d+)*", name):
        raise UserError(f"--topology={name}: expected a name such as {EXAMPLES}")
    # libtpu must know if there are fewer chips than a host has.
    single = {"chips_per_host_bounds": [1, 1, 1]} if re.fullmatch("1(x1)*", axes) else {}
    devices = _devices(name, "tpu", topology_name=name, **single)
    chips = len({tuple(device.coords) for device in devices})
    memory = HBM.get(devices[0].device_kind, 0) * 2**30 * chips // len(devices)
    return Topology(name, devices, chips, memory)


def _gpus(name: str, family: str, axes: str) -> Topology:
    if not re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", axes):
        raise UserError(f"--topology={name}: expected {family}:8 (one host of eight) or {family}:2x8 (two such hosts)")
    hosts, _, each = axes.rpartition("x")
    gpu = GPUS[family]
    shape = f"1x{hosts or 1}x{each}"  # slices, hosts, GPUs of a host
    devices = _devices(name, "cuda", target_config=gpu.target_config(), topology=shape)
    return Topology(name, devices, len(devices), gpu.memory)


def _devices(name: str, platform: str, **options: Any) -> list[Any]:
    try:
        return topologies.get_topology_desc(platform=platform, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"--topology={name}: no such topology ({reason}); expected one such as {EXAMPLES}") from None
    except (RuntimeError, NotImplementedError):
        raise UserError(f"--topology={name}: {MISSING[platform]}") from None
