from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lovecraft_jax.data.batches import Batch, Batches
from lovecraft_jax.runtime.errors import UserError

REGIMES = pytest.mark.parametrize("regime", ["stream", "window"])


def positions(length: int, batch_size: int, seq_len: int, regime: str, seed: int = 3) -> Batches:
    """Batches of a text in which every token's id is its position."""
    return Batches(np.arange(length, dtype=np.uint16), batch_size, seq_len, regime, seed)


SIZES = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(0, 60)).filter(lambda s: s[0] > 1 or s[2] > 0)


@settings(deadline=None)
@given(SIZES, st.integers(0, 5), st.integers(0, 2**31 - 1))
def test_streams_cover_the_text_in_order_and_windows_are_slices_of_it(
    sizes: tuple[int, int, int], epoch: int, seed: int
) -> None:
    B, T, spare = sizes
    N = B * T + spare
    for regime in ("stream", "window"):
        batches = positions(N, B, T, regime, seed)
        x_KBT = batches.at(epoch * batches.steps_per_epoch, batches.steps_per_epoch).x_BT.astype(int)
        # Of streams, row after row, each over all its steps.
        pieces = x_KBT.transpose(1, 0, 2).reshape(1, -1) if regime == "stream" else x_KBT.reshape(-1, T)
        np.testing.assert_array_equal(pieces, (pieces[:, :1] + np.arange(pieces.shape[1])) % N)
        assert len(np.unique(pieces)) == pieces.size == N - N % (B * T)


@REGIMES
@pytest.mark.parametrize("more", [-15, 0, 30])
def test_where_epochs_have_their_own_ids_each_is_cut_from_them_and_has_as_many_steps(regime: str, more: int) -> None:
    def ids_of_epoch(epoch: int, half_over: bool) -> np.ndarray:
        half_over_at[epoch, half_over] += 1
        return 1000 * epoch + np.arange(103 + more * epoch, dtype=np.uint16)

    half_over_at = Counter[tuple[int, bool]]()
    batches = Batches(np.arange(103, dtype=np.uint16), 4, 5, regime, 3, ids_of_epoch)
    assert batches.steps_per_epoch == 5
    x_KBT = batches.at(0, 15).x_BT.astype(int)
    assert half_over_at == {(epoch, half_over): 2 if half_over else 3 for epoch in range(3) for half_over in (0, 1)}
    for epoch in range(3):
        own_KBT, N = x_KBT[5 * epoch : 5 * epoch + 5] - 1000 * epoch, 103 + more * epoch
        assert own_KBT.min() >= 0
        assert own_KBT.max() < N
        np.testing.assert_array_equal(own_KBT, (own_KBT[..., :1] + np.arange(5)) % N)
        assert len(np.unique(own_KBT)) == min(100, N)
        joined = own_KBT.transpose(1, 0, 2).ravel()
        assert regime == "window" or list(joined) == list((joined[0] + np.arange(100)) % N)


@REGIMES
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_targets_are_the_inputs_shifted_by_one(regime: str, dtype: type) -> None:
    batch = Batches(np.arange(103, dtype=dtype), 4, 5, regime, 3).at(0, 12)
    np.testing.assert_array_equal(batch.y_BT.astype(int), (batch.x_BT.astype(int) + 1) % 103)
    np.testing.assert_array_equal(batch.x_BT[..., 1:], batch.y_BT[..., :-1])
    np.testing.assert_array_equal(batch.weight_BT, np.ones((12, 4, 5), np.uint8), strict=True)
    assert batch.x_BT.dtype == batch.y_BT.dtype == dtype


def test_the_carry_is_reset_where_an_epoch_of_streams_begins_and_in_every_window() -> None:
    batches = positions(103, 4, 5, "stream")
    assert batches.steps_per_epoch == 5  # 103 // 5 slices in 4 rows
    expected = np.array([[k in (0, 5, 10)] * 4 for k in range(12)])
    np.testing.assert_array_equal(batches.at(0, 12).reset_B, expected, strict=True)
    np.testing.assert_array_equal(positions(103, 4, 5, "window").at(0, 12).reset_B, np.ones((12, 4), bool), strict=True)


@REGIMES
def test_a_batch_depends_only_on_its_step_and_a_process_gets_its_own_rows(regime: str) -> None:
    def fresh() -> Batches:
        return positions(103, 4, 5, regime)

    whole, used = fresh().at(0, 17), fresh()
    single_steps = [(step, 1) for step in (16, 3, 9, 0, 4, 5, 3)]  # across epochs, backwards, one again
    for begin, count in (*single_steps, (0, 7), (7, 10), (4, 2)):  # and dispatches that cross the ends of epochs
        for rows in (slice(None), slice(0, 2), slice(3, 4)):
            found = used.at(begin, count, rows)
            for name in Batch._fields:
                expected = getattr(whole, name)[begin : begin + count, rows]
                np.testing.assert_array_equal(getattr(found, name), expected, strict=True, err_msg=name)


@REGIMES
def test_epochs_and_seeds_differ_and_leave_no_position_untrained(regime: str) -> None:
    batches = positions(103, 4, 5, regime)  # an epoch leaves 3 positions of 103 out
    epochs = [batches.at(5 * epoch, 5).x_BT for epoch in range(20)]
    assert len({x[0, 0, 0] for x in epochs}) > 10
    assert len(np.unique(epochs[0])) == 100
    assert len(np.unique(epochs)) == 103
    assert not np.array_equal(positions(103, 4, 5, regime, seed=4).at(0, 5).x_BT, epochs[0])


def test_windows_come_in_another_order_in_each_epoch() -> None:
    batches = positions(1000, 4, 5, "window")
    starts = [batches.at(50 * epoch, 50).x_BT[..., 0].reshape(-1).astype(int) for epoch in range(3)]
    orders = {tuple((of_epoch - of_epoch[0]) % 1000) for of_epoch in starts}  # whatever the epoch's offset
    assert len(orders) == 3
    assert all(list(order) != sorted(order) for order in orders)


@pytest.mark.parametrize(("batch_size", "seq_len"), [(4, 6), (24, 1), (1, 23)])
def test_a_text_too_short_for_a_step_is_an_error_with_the_numbers(batch_size: int, seq_len: int) -> None:
    tokens = batch_size * seq_len
    with pytest.raises(UserError, match=rf"batch_size={batch_size} x data.seq_len={seq_len} is {tokens} .* has 23"):
        positions(23, batch_size, seq_len, "stream")
