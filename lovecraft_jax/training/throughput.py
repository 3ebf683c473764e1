"""How fast a run trains: characters and FLOPs per second, and their share of the device's measured matmul peak."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.runtime.cache_folder import cache_folder
from lovecraft_jax.runtime.files import Row, write_json
from lovecraft_jax.runtime.hardware import core_count, machine

PEAK_SECONDS = 0.4  # how long matmuls of the last size are repeated; the fastest counts, as other work only slows them
LONG_ENOUGH = 0.005  # seconds of a matmul from which a larger one would be no more efficient


class Throughput:
    """A clock for training steps. The time of evaluations and of everything inside `paused` is left out."""

    def __init__(self, chars_per_step: float, flops_per_step: float) -> None:
        self._chars_per_step, self._flops_per_step = chars_per_step, flops_per_step

    def start(self, step: int) -> None:
        self._began, self._first_step = time.perf_counter(), step

    def rates(self, step: int, restart: bool) -> Row:
        """Returns chars_per_second and flops_per_second since the clock started, and restarts it if asked."""
        now = time.perf_counter()
        steps_per_second = (step - self._first_step) / (now - self._began)
        if restart:
            self._began, self._first_step = now, step
        return {
            "chars_per_second": self._chars_per_step * steps_per_second,
            "flops_per_second": self._flops_per_step * steps_per_second,
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - began


class MatmulPeak:
    """FLOPs per second that matmuls reach on `devices` with operands of `dtype`: measured once for each kind of
    machine, on one device, kept in the user's cache folder, and multiplied by the number of accelerators. A CPU's
    matmul uses all of its cores by itself."""

    def __init__(self, devices: Sequence[jax.Device], dtype: str) -> None:
        is_cpu = devices[0].platform == "cpu"
        self._device, self._dtype = jax.local_devices()[0], dtype
        self._devices = jax.process_count() if is_cpu else len(devices)
        kind = f"cpu-{core_count()}" if is_cpu else devices[0].device_kind.replace(" ", "_").replace("/", "_")
        self._file = cache_folder() / "matmul_peak" / f"{machine()}-{kind}-{dtype}.json"
        self._known: float | None = None
        self._is_measured = False

    def is_to_be_measured(self, flops_per_second: float) -> bool:
        """Whether to call `measure`, once: the peak is unknown, or below `flops_per_second` as on a busy machine."""
        if self._known is None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                self._known = float(json.loads(self._file.read_text())["flops_per_second"])
        return not self._is_measured and (self._known is None or flops_per_second > self._known * self._devices)

    def measure(self) -> None:
        """Measures the peak in half a second, in which nothing else should compute, unless there is no memory left."""
        self._is_measured = True
        with suppress(jax.errors.JaxRuntimeError):
            self._known = max(self._known or 0.0, _fastest_matmul(self._device, self._dtype))
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._file, {"flops_per_second": self._known})

    def __str__(self) -> str:
        if not self._known:
            return "unknown: there was no memory left to measure it"
        speed = f"{self._known / 1e9:,.0f} GFLOP/s in {self._dtype}"
        return f"{speed}, kept in {self._file}; if the machine was busy, delete that file to measure again"

    def share(self, flops_per_second: float) -> float | None:
        """Returns the share of the peak (model FLOPs utilization), None where it could not be measured."""
        return flops_per_second / (self._known * self._devices) if self._known else None


def _fastest_matmul(device: jax.Device, dtype: str) -> float:
    """FLOPs per second of the fastest of some square matmuls, of the size that takes LONG_ENOUGH or of 8192 rows."""
    values = np.random.default_rng(0).standard_normal(65_537).astype(np.float32)  # zeros would draw less power
    rows, best = 512 if device.platform == "cpu" else 2048, 0.0
    while True:
        x = jax.device_put(np.resize(values, (rows, rows)), device).astype(dtype)
        seconds = [_time_matmul(x) for _ in range(4)][1:]  # the first one compiles
        is_last = min(seconds) > LONG_ENOUGH or rows >= 8192
        stop = time.perf_counter() + PEAK_SECONDS
        while is_last and time.perf_counter() < stop:
            seconds.append(_time_matmul(x))
        best = max(best, 2 * rows**3 / min(seconds))
        if is_last:
            return best
        rows *= 2


def _time_matmul(x: jax.Array) -> float:
    began = time.perf_counter()
    _matmul(x).block_until_ready()
    return time.perf_counter() - began


@jax.jit
def _matmul(x: jax.Array) -> jax.Array:
    return jnp.dot(x, x)
