"""Steps as characters, epochs, seconds and rates, and the matmul peak, which is measured once for each machine."""

import json
import math
import time
from contextlib import ExitStack
from pathlib import Path

import jax
import pytest

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.training import throughput
from lovecraft_jax.training.display import Display
from lovecraft_jax.training.progress import Progress
from lovecraft_jax.training.throughput import MatmulPeak, Throughput

CORPUS = {"characters": {"train": 3000, "valid": 30}, "tokens": {"train": 1000, "valid": 11}}
"""Three characters a token."""


def test_characters_and_epochs_are_those_of_the_tokens_that_the_batches_make(capsys: pytest.CaptureFixture) -> None:
    progress = Progress.of(4, 30, CORPUS)
    assert (progress.tokens_per_step, progress.chars_per_step) == (120, 360)
    assert progress.bpc(3 * math.log(2)) == pytest.approx(1)
    assert progress.bpc(6 * math.log(2)) == pytest.approx(2)
    assert progress.steps_per_epoch == 8  # 33 slices of 30 tokens in rows of 4
    assert progress.epochs(12) == 1.5
    with ExitStack() as stack:
        Display(0, 16, progress, stack).show(12, 2.0, 90.0, due=True)
    assert capsys.readouterr().err == "step 12/16  epoch 1.50  train 2.000 bpc  90 chars/s  0:00:16 left\n"


def test_of_the_shorter_tokens_of_dropout_a_step_has_fewer_characters_and_an_epoch_as_many_steps() -> None:
    progress = Progress.of(4, 30, CORPUS | {"tokens_with_dropout": 1500})
    assert (progress.tokens_per_step, progress.chars_per_step, progress.steps_per_epoch) == (120, 240, 8)
    assert progress.bpc(2 * math.log(2)) == pytest.approx(1)


def test_a_corpus_json_without_tokens_is_one_of_characters() -> None:
    old = Progress.of(4, 25, {"characters": CORPUS["characters"]})
    assert (old.tokens, old.chars_per_step, old.steps_per_epoch) == (3000, 100, 30)


def test_a_run_is_as_long_as_its_steps_or_else_its_epochs() -> None:
    progress = Progress.of(4, 30, CORPUS)
    train = Config.of(tiny.get_config()).replace(**{"train.steps": 7, "train.epochs": 2.4}).train
    assert progress.total_steps(train) == 7
    train = Config.of(tiny.get_config()).replace(**{"train.steps": 0, "train.epochs": 2.4}).train
    assert progress.total_steps(train) == 20


def test_seconds_are_those_of_the_training_rows() -> None:
    rows = [
        {"step": 10, "split": "train", "chars_per_second": 300.0},
        {"step": 10, "split": "valid", "scoring": "scheduled"},
        {"step": 30, "split": "train", "chars_per_second": 600.0},
        {"step": 31, "split": "train", "chars_per_second": None},
    ]
    assert Progress.of(4, 25, CORPUS).seconds(rows) == pytest.approx(10 + 10)


def test_rates_are_of_the_steps_since_the_clock_started_without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    rates = Throughput(chars_per_step=50, flops_per_step=1000)
    rates.start(10)
    now[0] += 4
    assert rates.rates(20, restart=False) == {"chars_per_second": 125, "flops_per_second": 2500}
    now[0] += 1
    with rates.paused():
        now[0] += 7
    assert rates.rates(20, restart=True)["chars_per_second"] == 100
    now[0] += 1
    assert rates.rates(24, restart=True)["chars_per_second"] == 200


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(throughput, "PEAK_SECONDS", 0.01)
    return tmp_path


def test_the_peak_is_measured_once_and_kept_for_all_devices_of_a_cpu(cache: Path) -> None:
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

    eight = MatmulPeak(jax.devices(), "float32")
    assert not eight.is_to_be_measured(1.0)
    assert eight.share(measured / 4) == pytest.approx(0.25)
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
