"""The cores of a CPU as devices: one thread each, rows in order, the same results, exact resuming."""

import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.training import cpu_devices
from tests.helpers.runs import assert_same_run


def test_each_core_has_a_client_of_its_own_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    make = cpu_devices.xla_client.make_cpu_client
    monkeypatch.setattr(
        cpu_devices.xla_client, "make_cpu_client", lambda **k: threads.append(os.environ["NPROC"]) or make(**k)
    )
    cpu_devices._make_client.cache_clear()
    monkeypatch.setenv("NPROC", "7")
    devices = cpu_devices.core_devices(3)
    assert (threads, os.environ["NPROC"]) == (["1", "1", "1"], "7")
    assert len({id(device.client) for device in devices}) == 3
    assert jax.devices()[0].client not in {device.client for device in devices}
    assert cpu_devices.core_devices(2) == devices[:2]
    monkeypatch.delenv("NPROC")
    cpu_devices.core_devices(4)
    assert "NPROC" not in os.environ


def test_put_rows_sends_each_core_its_rows_of_every_step() -> None:
    tokens_KBT = np.arange(2 * 6 * 3, dtype=np.uint8).reshape(2, 6, 3)
    batches = Batch(tokens_KBT, tokens_KBT + 1, np.ones_like(tokens_KBT), np.zeros((2, 6), bool))
    devices = cpu_devices.core_devices(3)
    placed = cpu_devices.put_rows(devices, batches)
    for part, device in zip(placed, devices, strict=True):
        assert {leaf.device for leaf in part} == {device}
    for whole, *parts in zip(batches, *placed, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.slow
def test_two_cores_equal_one_and_resume_bit_for_bit(trained: Path, command: Callable, tmp_path: Path) -> None:
    flags = ["--config=configs/tiny.py", "--num_cpu_devices=2"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    done = command("train", *flags, f"--workdir={whole}")
    assert done.returncode == 0, done.stderr
    assert "devices     2 x cpu" in done.stderr
    for more in (["--config.train.stop_at_step=20"], []):
        done = command("train", *flags, f"--workdir={halves}", *more)
        assert done.returncode == 0, done.stderr
    assert_same_run(halves, whole)
    assert (whole / "samples" / "best.txt").read_text() == (trained / "samples" / "best.txt").read_text()


def test_best_core_count_depends_on_size_and_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, batch_size, units, count in (
        (6, 64, 150, 6),
        (6, 64, 16, 1),
        (1, 64, 150, 1),
        (64, 64, 256, 8),
        (2, 4, 256, 1),
        (2, 64, 512, 1),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        config = tiny.get_config()
        config.model.backend = "fused"
        config.model.units, config.data.batch_size, config.data.seq_len = units, batch_size, 50
        assert cpu_devices.best_core_count(config) == count
