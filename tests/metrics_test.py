import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog

from lovecraft_jax.metrics import FILE, MetricsWriter, Row


def test_rows_are_on_the_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    rows = [
        {"step": 10, "split": "train", "loss": 2.5, "bpc": 3.25},
        {"step": 20, "split": "valid", "scoring": "scheduled", "loss": 1 / 3},
    ]
    writer = _writer(tmp_path, 0)
    writer.write(rows[0])
    assert _rows(tmp_path) == rows[:1]
    writer.write(rows[1], rows[0])
    assert _rows(tmp_path) == [rows[0], rows[1], rows[0]]
    writer.close()


def test_a_start_removes_the_rows_that_it_will_write_again(tmp_path: Path) -> None:
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
    (tmp_path / FILE).write_text("".join(lines) + '{"step": 20, "split": "tr')
    writer = _writer(tmp_path, 20)
    assert _rows(tmp_path) == kept
    writer.write(removed[1])
    writer.close()
    assert _rows(tmp_path) == [*kept, removed[1]]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    writer = _writer(tmp_path, 0)
    writer.write({"step": 1, "split": "train", "loss": math.nan, "bpc": math.inf, "grad_norm": -math.inf, "lr": 0.5})
    writer.close()
    assert _rows(tmp_path) == [
        {"step": 1, "split": "train", "loss": None, "bpc": None, "grad_norm": None, "lr": 0.5},
    ]
    assert _scalars(tmp_path) == {("train/lr", 1): 0.5}


def test_tensorboard_shows_every_number_under_its_split(tmp_path: Path) -> None:
    writer = _writer(tmp_path, 0)
    writer.write({"step": 10, "split": "train", "loss": 2.5, "bpc": 3.75, "note": "text"})
    writer.write(
        {"step": 20, "split": "valid", "scoring": "scheduled", "bpc": 3.5},
        {"step": 20, "split": "test", "scoring": "final", "bpc": 3.25},
    )
    writer.close()
    assert _scalars(tmp_path) == {
        ("train/loss", 10): 2.5,
        ("train/bpc", 10): 3.75,
        ("valid/scheduled/bpc", 20): 3.5,
        ("test/final/bpc", 20): 3.25,
    }


def test_tensorboard_is_told_to_forget_what_comes_after_the_restored_step(tmp_path: Path) -> None:
    writer = _writer(tmp_path, 20)
    writer.write({"step": 30, "split": "train", "loss": 2.5})
    writer.close()
    starts = [event.step for event in _events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == [21]  # purges from there on: step 20 itself stays


@pytest.mark.parametrize("step", [0, 5])
def test_a_start_with_no_file_makes_one(tmp_path: Path, step: int) -> None:
    _writer(tmp_path, step).close()
    assert _rows(tmp_path) == []


def _writer(workdir: Path, step: int) -> MetricsWriter:
    return MetricsWriter(epath.Path(workdir), step)


def _rows(workdir: Path) -> list[Row]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (workdir / FILE).read_text().splitlines()]


def _scalars(workdir: Path) -> dict[tuple[str, int], float]:
    return {(value.tag, event.step): value.simple_value for event in _events(workdir) for value in event.summary.value}


def _events(workdir: Path) -> Iterator[Event]:
    """Every record of the event files: length (8 bytes), its CRC (4), an Event, its CRC (4)."""
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            yield Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
