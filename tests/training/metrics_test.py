"""Rows of metrics.jsonl and scalars of TensorBoard, on a disk and on an object store, before and after a resume."""

import json
import math
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import open_file

from lovecraft_jax.runtime.files import Row
from lovecraft_jax.training.metrics import FILE, MetricsWriter, upload_events
from tests.helpers import store


def test_rows_can_be_read_as_soon_as_they_are_written(workdir: epath.Path) -> None:
    rows = [
        {"step": 10, "split": "train", "loss": 2.5, "bpc": 3.25},
        {"step": 20, "split": "valid", "scoring": "scheduled", "loss": 1 / 3},
    ]
    writer = MetricsWriter(workdir, 0)
    writer.write(rows[0])
    assert _rows(workdir) == rows[:1]
    writer.write(rows[1], rows[0])
    assert _rows(workdir) == [rows[0], rows[1], rows[0]]
    writer.close()


def test_resuming_removes_the_rows_that_will_be_written_again(workdir: epath.Path) -> None:
    kept = [
        {"step": 10, "split": "train", "loss": 2.5},
        {"step": 20, "split": "valid", "scoring": "scheduled", "loss": 2.25},
        {"step": 20, "split": "train", "loss": 2.0},
    ]
    removed = [
        {"step": 20, "split": "test", "scoring": "final", "loss": 2.125},
        {"step": 21, "split": "train", "loss": 1.5},
        {"step": 30, "split": "valid", "scoring": "scheduled", "loss": 1.0},
    ]
    lines = [json.dumps(row) + "\n" for row in (kept[0], removed[1], kept[1], removed[0], kept[2], removed[2])]
    (workdir / FILE).write_text("".join(lines) + '{"step": 20, "split": "tr')
    writer = MetricsWriter(workdir, 20)
    assert _rows(workdir) == kept
    writer.write(removed[1])
    writer.close()
    assert _rows(workdir) == [*kept, removed[1]]


def test_numbers_that_are_not_finite_are_null(workdir: epath.Path) -> None:
    writer = MetricsWriter(workdir, 0)
    writer.write({"step": 1, "split": "train", "loss": math.nan, "bpc": math.inf, "grad_norm": -math.inf, "lr": 0.5})
    writer.close()
    assert _rows(workdir) == [
        {"step": 1, "split": "train", "loss": None, "bpc": None, "grad_norm": None, "lr": 0.5},
    ]
    assert _scalars(workdir) == {("train/lr", 1): 0.5}


def test_numbers_in_a_nested_row_are_scalars_of_their_own(workdir: epath.Path) -> None:
    writer = MetricsWriter(workdir, 0)
    tensors = {"lstm_0/kernel_h": {"grad_rms": 0.25, "update_rms": math.nan}}
    writer.write({"step": 1, "split": "train", "loss": 2.5, "tensors": tensors})
    writer.close()
    assert _rows(workdir)[0]["tensors"] == {"lstm_0/kernel_h": {"grad_rms": 0.25, "update_rms": None}}
    assert _scalars(workdir) == {("train/loss", 1): 2.5, ("train/tensors/lstm_0/kernel_h/grad_rms", 1): 0.25}


def test_tensorboard_tags_are_split_scoring_and_key(workdir: epath.Path) -> None:
    writer = MetricsWriter(workdir, 0)
    writer.write({"step": 10, "split": "train", "loss": 2.5, "bpc": 3.75, "note": "text"})
    writer.write(
        {"step": 20, "split": "valid", "scoring": "scheduled", "bpc": 3.5},
        {"step": 20, "split": "test", "scoring": "final", "bpc": 3.25},
    )
    writer.close()
    assert _scalars(workdir) == {
        ("train/loss", 10): 2.5,
        ("train/bpc", 10): 3.75,
        ("valid/scheduled/bpc", 20): 3.5,
        ("test/final/bpc", 20): 3.25,
    }


def test_events_survive_an_object_store_that_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.use(tmp_path)
    path = epath.Path("gs://bucket/runs/a/tensorboard/events")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError

    upload_events()
    file = open_file(str(path))  # as tensorboardX does
    file.write(b"one ")
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "pipe_file", fail)
        file.flush()  # must not raise: tensorboardX's thread would end, and training wait for its full queue
    file.write(b"two ")
    file.flush()
    assert path.read_bytes() == b"one two "
    file.write(b"three")
    file.close()
    assert path.read_bytes() == b"one two three"


def test_resuming_purges_tensorboard_after_the_restored_step(workdir: epath.Path) -> None:
    writer = MetricsWriter(workdir, 20)
    writer.write({"step": 30, "split": "train", "loss": 2.5})
    writer.close()
    starts = [event.step for event in _events(workdir) if event.session_log.status == SessionLog.START]
    assert starts == [21]  # purged from here on: step 20 itself stays


def test_importing_the_package_registers_nothing_with_tensorboardx() -> None:
    check = "import sys, tensorboardX.record_writer as r; before = dict(r.REGISTERED_FACTORIES); "
    check += "import lovecraft_jax.training.loop; sys.exit(r.REGISTERED_FACTORIES != before)"
    assert subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.mark.parametrize("step", [0, 5])
def test_opening_creates_the_file(workdir: epath.Path, step: int) -> None:
    MetricsWriter(workdir, step).close()
    assert _rows(workdir) == []


def _rows(workdir: epath.Path) -> list[Row]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (workdir / FILE).read_text().splitlines()]


def _scalars(workdir: epath.Path) -> dict[tuple[str, int], float]:
    return {(value.tag, event.step): value.simple_value for event in _events(workdir) for value in event.summary.value}


def _events(workdir: epath.Path) -> Iterator[Event]:
    """Yields every record of the event files: length (8 bytes), its CRC (4), an Event, its CRC (4)."""
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            yield Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
