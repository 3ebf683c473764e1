"""Rows of metrics.jsonl and scalars of TensorBoard, on a disk and on an object store, before and after a resume."""

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

from lovecraft_jax.training.metrics import FILE, MetricsWriter, format_scores, upload_events
from tests.helpers import store
from tests.helpers.runs import all_rows


def test_rows_can_be_read_as_soon_as_they_are_written(workdir: epath.Path) -> None:
    rows = [
        {"step": 10, "split": "train", "loss": 2.5, "bpc": 3.25},
        {"step": 20, "split": "valid", "scoring": "scheduled", "loss": 1 / 3},
    ]
    writer = MetricsWriter(workdir, 0)
    assert (workdir / FILE).read_text() == ""
    writer.write(rows[0])
    assert all_rows(workdir) == rows[:1]
    writer.write(rows[1], rows[0])
    assert all_rows(workdir) == [rows[0], rows[1], rows[0]]
    writer.close()


def test_resuming_removes_the_rows_that_will_be_written_again(workdir: epath.Path) -> None:
    kept = [
        {"step": 10, "split": "train", "loss": 2.5},
        {"step": 20, "split": "valid", "scoring": "scheduled", "loss": 2.25},
        {"step": 20, "split": "train", "loss": 2.0},
    ]
    removed = [
        {"step": 20, "split": "test", "scoring": "final", "loss": 2.125},
        {"step": 20, "split": "test", "scoring": "adaptive", "loss": 2.0},
        {"step": 21, "split": "train", "loss": 1.5},
        {"step": 30, "split": "valid", "scoring": "scheduled", "loss": 1.0},
    ]
    lines = [json.dumps(row) + "\n" for row in (kept[0], removed[2], kept[1], *removed[:2], kept[2], removed[3])]
    (workdir / FILE).write_text("".join(lines) + '{"step": 20, "split": "tr')
    writer = MetricsWriter(workdir, 20)
    assert all_rows(workdir) == kept
    writer.write(removed[2])
    writer.close()
    assert all_rows(workdir) == [*kept, removed[2]]
    starts = [event.step for event in _events(workdir) if event.session_log.status == SessionLog.START]
    assert starts == [21]  # TensorBoard drops what it has from here on: step 20 itself stays


def test_finite_numbers_are_scalars_tagged_by_split_scoring_and_key_and_others_are_null(workdir: epath.Path) -> None:
    tensors = {"lstm_0/kernel_h": {"grad_rms": 0.25, "update_rms": math.nan}}
    train = {"step": 10, "split": "train", "loss": 2.5, "bpc": math.inf, "note": "text", "tensors": tensors}
    test = {"step": 20, "split": "test", "scoring": "final", "bpc": 3.25, "grad_norm": -math.inf}
    writer = MetricsWriter(workdir, 0)
    writer.write(train, test)
    writer.close()
    nulls = {"bpc": None, "tensors": {"lstm_0/kernel_h": {"grad_rms": 0.25, "update_rms": None}}}
    assert all_rows(workdir) == [train | nulls, test | {"grad_norm": None}]
    values = [(event.step, value) for event in _events(workdir) for value in event.summary.value]
    assert {(value.tag, step): value.simple_value for step, value in values} == {
        ("train/loss", 10): 2.5,
        ("train/tensors/lstm_0/kernel_h/grad_rms", 10): 0.25,
        ("test/final/bpc", 20): 3.25,
    }


def test_a_score_that_is_not_finite_can_be_read_again_and_shown(workdir: epath.Path) -> None:
    written = [
        {"step": 8, "split": split, "scoring": "final", "bpc": bpc}
        for split, bpc in (("valid", 1.5), ("test", math.inf))
    ]
    writer = MetricsWriter(workdir, 0)
    writer.write(*written)
    writer.close()
    shown = "valid 1.5000 bpc  test not finite bpc"
    assert format_scores(written) == format_scores(all_rows(workdir)) == shown


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


def _events(workdir: epath.Path) -> Iterator[Event]:
    """Yields every record of the event files: length (8 bytes), its CRC (4), an Event, its CRC (4)."""
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            yield Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
