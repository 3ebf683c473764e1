"""Rates over steps that take a known time, and the matmul peak, which is measured once for each machine."""

import json
import time
from pathlib import Path

import jax
import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.training import throughput
from lovecraft_jax.training.throughput import MatmulPeak, Throughput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(throughput, "PEAK_SECONDS", 0.01)
    return tmp_path


def test_rates_are_of_the_steps_since_the_clock_started(clock: list[float]) -> None:
    rates = Throughput(chars_per_step=50, flops_per_step=1000)
    rates.start(10)
    clock[0] += 4
    assert rates.rates(20, restart=False) == {"chars_per_second": 125, "flops_per_second": 2500}
    clock[0] += 1
    assert rates.rates(20, restart=True)["chars_per_second"] == 100
    clock[0] += 1
    assert rates.rates(24, restart=True)["chars_per_second"] == 200


def test_the_time_of_a_pause_is_left_out(clock: list[float]) -> None:
    rates = Throughput(50, 1000)
    rates.start(0)
    clock[0] += 1
    with rates.paused():
        clock[0] += 7
    clock[0] += 1
    assert rates.rates(4, restart=True)["chars_per_second"] == 100


def test_a_step_does_three_times_the_forward_matmuls() -> None:
    """By hand: 2 layers of 16 units on one-hot tokens, then 80 logits, two operations a multiply-add."""
    model = make_model(Config.of(tiny.get_config()), 80, "scan")
    assert model.flops_per_token() == 2 * (16 * 64 + (16 * 64 + 16 * 64) + 16 * 80)


def test_the_peak_is_measured_once_and_kept(cache: Path) -> None:
    devices = jax.devices()[:1]
    peak = MatmulPeak(devices, "float32")
    assert peak.is_to_be_measured(1.0)
    assert peak.share(1.0) is None
    peak.measure()
    assert not peak.is_to_be_measured(1.0)
    (file,) = (path for path in cache.rglob("*") if path.is_file())
    measured = json.loads(file.read_text())["flops_per_second"]
    assert measured > 1e8
    assert peak.share(measured / 4) == pytest.approx(0.25)
    assert str(peak).startswith(f"{measured / 1e9:,.0f} GFLOP/s in float32, kept in {file};")

    again = MatmulPeak(devices, "float32")
    assert not again.is_to_be_measured(1.0)
    assert again.share(measured / 4) == pytest.approx(0.25)
    assert MatmulPeak(devices, "bfloat16").is_to_be_measured(1.0)  # another peak


def test_a_peak_below_a_rate_that_was_reached_is_measured_again_and_the_higher_kept(cache: Path) -> None:
    devices = jax.devices()[:1]
    MatmulPeak(devices, "float32").measure()
    (file,) = (path for path in cache.rglob("*") if path.is_file())
    for low in ('{"flops_per_second": 1000.0}', '{"flops_per_se'):
        file.write_text(low)
        peak = MatmulPeak(devices, "float32")
        assert peak.is_to_be_measured(2000.0)
        peak.measure()
        assert json.loads(file.read_text())["flops_per_second"] > 1e8
        assert not peak.is_to_be_measured(1e30)  # only once a run
    file.write_text('{"flops_per_second": 1e30}')
    peak = MatmulPeak(devices, "float32")
    assert not peak.is_to_be_measured(2000.0)
    peak.measure()
    assert json.loads(file.read_text())["flops_per_second"] == 1e30


def test_the_devices_of_one_cpu_share_its_peak(cache: Path) -> None:
    one, eight = (MatmulPeak(jax.devices()[:count], "float32") for count in (1, 8))
    one.measure()
    assert not eight.is_to_be_measured(1.0)
    assert one.share(1e6) == eight.share(1e6)


def test_without_memory_for_a_matmul_there_is_no_peak(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(x: jax.Array) -> jax.Array:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(throughput, "_matmul", fail)
    peak = MatmulPeak(jax.devices()[:1], "float32")
    assert peak.is_to_be_measured(1.0)
    peak.measure()
    assert peak.share(1.0) is None
    assert str(peak).startswith("unknown")
    assert not peak.is_to_be_measured(1.0)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_cache_folder_that_cannot_be_written_costs_nothing_but_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    peak = MatmulPeak(jax.devices()[:1], "float32")
    peak.measure()
    assert peak.share(1.0) is not None
