"""The cores of a CPU as devices: one thread each, the same results, and when how many of them are used."""

import os
from pathlib import Path

import jax
import pytest

from configs import tiny
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training import cpu_devices
from lovecraft_jax.training.compiled import make_program
from tests.helpers.runs import rows, train_tiny


def test_each_core_has_a_client_of_its_own_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    make, threads = cpu_devices.xla_client.make_cpu_client, []
    counted = lambda **options: threads.append(os.environ["NPROC"]) or make(**options)  # noqa: E731
    monkeypatch.setattr(cpu_devices.xla_client, "make_cpu_client", counted)
    cpu_devices._make_client.cache_clear()
    monkeypatch.setenv("NPROC", "7")
    devices = cpu_devices.core_devices(3)
    assert (threads, os.environ["NPROC"]) == (["1", "1", "1"], "7")
    assert len({jax.devices()[0].client, *(device.client for device in devices)}) == 4
    assert cpu_devices.core_devices(2) == devices[:2]
    monkeypatch.delenv("NPROC")
    cpu_devices.core_devices(4)
    assert "NPROC" not in os.environ


@pytest.mark.slow
def test_a_run_on_two_cores_equals_one_on_one_device(trained: Path, tmp_path: Path) -> None:
    assert "devices     2 x cpu" in train_tiny(tmp_path, "--num_cpu_devices=2")
    assert (tmp_path / "samples" / "best.txt").read_text() == (trained / "samples" / "best.txt").read_text()
    losses, expected = ([row.get("loss", 0.0) for row in rows(workdir)] for workdir in (tmp_path, trained))
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("cores", "batch_size", "units", "norm", "count"),
    [
        (6, 64, 150, "none", 6),
        (6, 64, 16, "none", 1),
        (1, 64, 150, "none", 1),
        (64, 64, 256, "none", 8),
        (2, 4, 256, "none", 1),
        (2, 64, 512, "none", 1),
        (6, 64, 150, "layer", 6),
        (6, 64, 150, "batch", 1),
    ],
)
def test_best_core_count_depends_on_size_rows_and_norm(
    monkeypatch: pytest.MonkeyPatch, cores: int, batch_size: int, units: int, norm: str, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    config = tiny.get_config()
    config.model.update({"backend": "fused", "units": units, "norm": norm})
    config.data.update({"batch_size": batch_size, "seq_len": 50})
    assert cpu_devices.best_core_count(config) == count


def test_the_batch_norms_are_refused_on_several_cores() -> None:
    config = tiny.get_config()
    config.model.norm = "batch"
    with pytest.raises(UserError, match="norm='batch' on 2 cores"):
        make_program(config, vocab_size=11, total_steps=40, cores=2)
