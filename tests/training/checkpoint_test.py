"""Checkpoints: which are kept, what counts as best, what a restore reads, and that damage is never restored."""

import gc
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training import checkpoint
from lovecraft_jax.training.checkpoint import Checkpoints, DamagedError, checksums

# Orbax does not wait for the other reads when one of them fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
def test_the_latest_and_the_best_are_kept_also_after_a_restart(tmp_path: Path) -> None:
    for scores, best, kept in (
        ({1: None, 2: math.nan}, None, [1, 2]),  # never best
        ({10: 2.0, 20: 1.0, 30: 3.0, 40: 4.0}, 20, [20, 30, 40]),
        ({50: 1.5, 60: None, 70: math.nan}, 20, [20, 60, 70]),
        ({80: 0.5, 90: 0.6}, 80, [80, 90]),
    ):
        checkpoints = _saved(tmp_path, scores, keep=2)
        assert (checkpoints.best_step, checkpoints.steps) == (best, kept)
        checkpoints.close()


def test_a_restore_returns_what_was_saved_and_reads_only_the_fields_that_its_target_has(tmp_path: Path) -> None:
    checkpoints = _saved(tmp_path, {10: 1.0})
    restored = checkpoints.restore(10, _target())
    assert (restored.step, restored.meta) == (10, {"note": "step 10"})
    assert isinstance(restored.state, State)
    assert checksums(restored.state) == checksums(_state(10))
    assert jax.random.uniform(restored.state.rng) == jax.random.uniform(_state(10).rng)
    _damage(tmp_path, 10, "flip")
    with pytest.raises(DamagedError):
        checkpoints.restore(10, _target())
    state = checkpoints.restore(10, Part(_target().step, _target().carry)).state
    assert isinstance(state, Part)
    assert checksums(state) == checksums(Part(_state(10).step, _state(10).carry))


def test_an_optional_field_is_saved_where_a_run_has_it_and_leaves_no_trace_where_not(tmp_path: Path) -> None:
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=3)
    average = {"average": _values()}, {"average": _shape(_values(), SingleDeviceSharding(jax.devices()[0]))}
    without, with_average = LaterState(**vars(_state(10))), LaterState(**vars(_state(30)) | average[0])
    for step, state in ((10, _state(10)), (20, without), (30, with_average)):
        checkpoints.save(step, state, {})
    assert checksums(without) == checksums(_state(10))
    for step, target in ((10, LaterState(**vars(_target()))), (20, LaterState(**vars(_target()))), (20, _target())):
        assert checksums(checkpoints.restore(step, target).state) == checksums(_state(10))
    restored = checkpoints.restore(30, LaterState(**vars(_target()) | average[1])).state
    assert checksums(restored) == checksums(with_average)


@pytest.mark.parametrize("other", ["shape", "missing", "more"])
def test_a_target_with_other_leaves_than_were_saved_is_refused(tmp_path: Path, other: str) -> None:
    checkpoints = _saved(tmp_path, {10: 1.0})
    target = _target()
    kernel = target.params["kernel"]
    wider = jax.ShapeDtypeStruct((32, 17), kernel.dtype, sharding=kernel.sharding)
    params = {
        "shape": target.params | {"kernel": wider},
        "missing": {"kernel": kernel},
        "more": target.params | {"gain": kernel},
    }
    error = UserError if other == "shape" else DamagedError  # a model of another size is not damaged
    with pytest.raises(error, match="step 10"):
        checkpoints.restore(10, target.replace(params=params[other]))


def test_a_state_sharded_over_eight_devices_restores_on_one_and_the_reverse(tmp_path: Path) -> None:
    one, eight = SingleDeviceSharding(jax.devices()[0]), _eight()
    checkpoints = Checkpoints(epath.Path(tmp_path))
    checkpoints.save(10, Part(None, jax.device_put(_values(), eight)), {})
    checkpoints.save(20, Part(None, jax.device_put(_values(), one)), {})
    for step, sharding in ((10, one), (20, eight)):
        x = checkpoints.restore(step, Part(None, _shape(_values(), sharding))).state.carry
        assert x.sharding == sharding
        np.testing.assert_array_equal(x, _values(), strict=True)


def test_checksums_are_the_same_under_any_sharding() -> None:
    everywhere = NamedSharding(_eight().mesh, PartitionSpec())
    for where in (_eight(), everywhere, SingleDeviceSharding(jax.devices()[3])):
        assert checksums({"x": jax.device_put(_values(), where)}) == checksums({"x": _values()})


def test_checksums_see_every_change() -> None:
    x = _values()
    nudged, negative, swapped = x.copy(), x.copy(), x.copy()
    nudged[5, 1] = np.nextafter(x[5, 1], np.float32(np.inf))
    negative[0, 0] = -0.0
    swapped[[0, 1]] = x[[1, 0]]
    others = [nudged, negative, swapped, x.reshape(4, 8), x.view(np.int32), x.astype(np.float16)]
    sums = {checksums({"x": value})["['x']"] for value in (x, *others)}
    assert len(sums) == 1 + len(others)
    assert checksums({"key": jax.random.key(0)}) != checksums({"key": jax.random.key(1)})


def test_a_flipped_byte_is_never_restored(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoints = _saved(tmp_path, {10: 1.0, 20: 2.0})
    good = {step: checksums(_state(step)) for step in (10, 20)}
    fallbacks = 0
    for file in _files(tmp_path, 20, "state"):
        before = file.read_bytes()
        for place in {len(before) // 3, len(before) // 2, len(before) - 1}:
            file.write_bytes(before[:place] + bytes([before[place] ^ 0x10]) + before[place + 1 :])
            restored = checkpoints.restore_newest(_target())
            assert restored is not None
            assert checksums(restored.state) == good[restored.step], f"{file} at byte {place}"
            fallbacks += restored.step == 10
        file.write_bytes(before)
    reported = capsys.readouterr().err
    assert fallbacks > 5
    assert reported.count("damaged checkpoint, step 20") == fallbacks
    assert "damaged checkpoint, step 10" not in reported


def test_the_step_asked_for_is_tried_first_then_the_newest_and_only_damaged_ones_are_an_error(tmp_path: Path) -> None:
    assert Checkpoints(epath.Path(tmp_path)).restore_newest(_target()) is None
    checkpoints = _saved(tmp_path, {10: 1.0, 20: None, 30: None})
    for newest, damage in ((10, "truncate"), (30, "delete"), (20, "empty")):
        restored = checkpoints.restore_newest(_target(), first=10)
        assert restored is not None
        assert restored.step == newest
        assert checksums(restored.state) == checksums(_state(newest))
        _damage(tmp_path, newest, damage)
        with pytest.raises(DamagedError, match=f"step {newest}"):
            checkpoints.restore(newest, _target())
    with pytest.raises(UserError, match=f"{tmp_path}.*all 3 checkpoints are damaged"):
        checkpoints.restore_newest(_target(), first=10)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "_METADATA"), ValueError("PERMISSION_DENIED: [OS error] d/1")]
)
def test_what_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def forbidden(*_: object) -> None:
        raise error

    checkpoints = _saved(tmp_path, {10: 1.0})
    monkeypatch.setattr(checkpoint, "_read", forbidden)
    with pytest.raises(UserError, match=r"(?i)step 10: .*permission"):
        checkpoints.restore_newest(_target())


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["delete", "truncate"])
def test_a_damaged_score_does_not_lose_the_state(tmp_path: Path, damage: str) -> None:
    _saved(tmp_path, {10: 1.0, 20: 2.0}).close()
    _damage(tmp_path, 20, damage, "metrics")
    checkpoints = Checkpoints(epath.Path(tmp_path))
    restored = checkpoints.restore_newest(_target())
    assert checkpoints.best_step == 10
    assert restored is not None
    assert checksums(restored.state) == checksums(_state(restored.step))


def test_a_deleted_step_can_be_saved_again(tmp_path: Path) -> None:
    checkpoints = _saved(tmp_path, {10: 1.0, 20: None})
    checkpoints.delete_after(10)
    assert checkpoints.steps == [10]
    checkpoints.save(20, _state(77), {})
    checkpoints.wait()
    assert checksums(checkpoints.restore(20, _target()).state) == checksums(_state(77))


def test_an_unfinished_save_is_not_a_checkpoint(tmp_path: Path) -> None:
    _saved(tmp_path, {10: 1.0, 20: None}).close()
    folder = tmp_path / "checkpoints"
    unfinished = (folder / "20").rename(folder / "20.orbax-checkpoint-tmp")
    reader = Checkpoints(epath.Path(tmp_path), read_only=True)
    assert reader.steps == [10]
    assert unfinished.exists()  # its writer may still be running
    owner = _saved(tmp_path, {20: None})
    assert owner.steps == [10, 20]
    owner.close()
    assert not unfinished.exists()


@pytest.fixture(autouse=True)
def _collect_failed_reads() -> Iterator[None]:
    """Frees the reads that Orbax left behind, within the test that started them."""
    yield
    gc.collect()


def _saved(path: Path, scores: dict[int, float | None], keep: int = 2) -> Checkpoints:
    """Returns checkpoints with a different state at every step, saved with these bits per character."""
    checkpoints = Checkpoints(epath.Path(path), keep=keep)
    for step, bpc in scores.items():
        checkpoints.save(step, _state(step), {"note": f"step {step}"}, bpc)
    checkpoints.wait()
    return checkpoints


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    carry: Any
    rng: Any


@flax.struct.dataclass
class LaterState(State):
    """What State may become in a later version."""

    average: Any = None


@flax.struct.dataclass
class Part:
    step: Any
    carry: Any


def _state(step: int) -> State:
    kernel = jax.random.normal(jax.random.key(step), (32, 16))
    carry = ((kernel[1], kernel[2]),)
    return State(jnp.int32(step), {"kernel": kernel, "bias": kernel[0]}, carry, jax.random.key(step + 1))


def _target() -> State:
    device = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: _shape(leaf, device), _state(0))


def _shape(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _values() -> np.ndarray:
    return np.arange(32, dtype=np.float32).reshape(8, 4) / 3


def _eight() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))


def _files(path: Path, step: int, item: str) -> list[Path]:
    return sorted(file for file in (path / "checkpoints" / str(step) / item).rglob("*") if file.is_file())


def _damage(path: Path, step: int, damage: str, item: str = "state") -> None:
    """Damages the largest file of a checkpoint's item: for the state, the one with its arrays."""
    file = max(_files(path, step, item), key=lambda file: (file.name == item, file.stat().st_size))
    content = file.read_bytes()
    half = len(content) // 2
    if damage == "delete":
        file.unlink()
    else:
        flipped = content[:half] + bytes([content[half] ^ 0x10]) + content[half + 1 :]
        file.write_bytes({"truncate": content[:half], "empty": b"", "flip": flipped}[damage])
