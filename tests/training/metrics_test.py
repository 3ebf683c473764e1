import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import open_file

from lovecraft_jax.training.metrics import FILE, MetricsWriter, Row
from tests.helpers import store


def test_rows_are_there_as_soon_as_they_are_written(workdir: epath.Path) -> None:
    rows = [
        {"step": 10, "split": "train", "loss": 2.5, "bpc": 3.25},
        {"step": 20, "split": "valid", "scoring": "scheduled", "loss": 1 / 3},
    ]
    writer = _writer(workdir, 0)
    writer.write(rows[0])
    assert _rows(workdir) == rows[:1]
    writer.write(rows[1], rows[0])
    assert _rows(workdir) == [rows[0], rows[1], rows[0]]
    writer.close()


def test_a_start_removes_the_rows_that_it_will_write_again(workdir: epath.Path) -> None:
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
    writer = _writer(workdir, 20)
    assert _rows(workdir) == kept
    writer.write(removed[1])
    writer.close()
    assert _rows(workdir) == [*kept, removed[1]]


def test_what_is_not_finite_is_null(workdir: epath.Path) -> None:
    writer = _writer(workdir, 0)
    writer.write({"step": 1, "split": "train", "loss": math.nan, "bpc": math.inf, "grad_norm": -math.inf, "lr": 0.5})
    writer.close()
    assert _rows(workdir) == [
        {"step": 1, "split": "train", "loss": None, "bpc": None, "grad_norm": None, "lr": 0.5},
    ]
    assert _scalars(workdir) == {("train/lr", 1): 0.5}


def test_tensorboard_shows_every_number_under_its_split(workdir: epath.Path) -> None:
    writer = _writer(workdir, 0)
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


def test_a_store_out_of_reach_costs_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.use(tmp_path)
    path = epath.Path("gs://bucket/runs/a/tensorboard/events")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError

    file = open_file(str(path))  # as tensorboardX does
    file.write(b"one ")
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "pipe_file", fail)
        file.flush()  # raises nothing: its thread would die, and training wait for a queue that nobody empties
    file.write(b"two ")
    file.flush()
    assert path.read_bytes() == b"one two "
    file.write(b"three")
    file.close()
    assert path.read_bytes() == b"one two three"


def test_tensorboard_is_told_to_forget_what_comes_after_the_restored_step(workdir: epath.Path) -> None:
    writer = _writer(workdir, 20)
    writer.write({"step": 30, "split": "train", "loss": 2.5})
    writer.close()
    starts = [event.step for event in _events(workdir) if event.session_log.status == SessionLog.START]
    assert starts == [21]  # purges from there on: step 20 itself stays


@pytest.mark.parametrize("step", [0, 5])
def test_a_start_with_no_file_makes_one(workdir: epath.Path, step: int) -> None:
    _writer(workdir, step).close()
    assert _rows(workdir) == []


def _writer(workdir: epath.Path, step: int) -> MetricsWriter:
    return MetricsWriter(workdir, step)


def _rows(workdir: epath.Path) -> list[Row]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (workdir / FILE).read_text().splitlines()]


def _scalars(workdir: epath.Path) -> dict[tuple[str, int], float]:
    return {(value.tag, event.step): value.simple_value for event in _events(workdir) for value in event.summary.value}


def _events(workdir: epath.Path) -> Iterator[Event]:
    """Every record of the event files: length (8 bytes), its CRC (4), an Event, its CRC (4)."""
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            yield Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
