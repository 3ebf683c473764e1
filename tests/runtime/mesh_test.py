"""Which devices a batch is sharded over, and sums over them."""

import jax
import numpy as np
import pytest

from lovecraft_jax.runtime.mesh import (
    BY_ROW,
    BY_ROW_STACKED,
    REPLICATED,
    make_mesh,
    shard_rows,
    sharding,
    sum_over_devices,
)


@pytest.mark.parametrize(("batch_size", "count"), [(64, 8), (12, 6), (7, 7), (11, 1)])
def test_the_largest_number_of_cpu_devices_that_divides_the_batch_is_used(
    batch_size: int, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh = make_mesh(batch_size)
    assert mesh.devices.tolist() == jax.devices()[:count]
    output = capsys.readouterr()
    assert output.out == ""
    line = f"using {count} of 8 CPU devices: data.batch_size={batch_size} is divisible by no more\n"
    assert output.err == ("" if count == 8 else line)


def test_rows_are_sharded_in_order_and_all_else_is_replicated() -> None:
    mesh = make_mesh(16)
    rows = np.arange(32).reshape(16, 2)
    for spec, array, axis in ((BY_ROW, rows, 0), (BY_ROW_STACKED, rows.T, 1)):
        shards = [shard.data for shard in jax.device_put(array, sharding(mesh, spec)).addressable_shards]
        np.testing.assert_array_equal(np.concatenate(shards, axis=axis), array)
        assert [shard.shape for shard in shards] == [(2, 2)] * 8
    copies = jax.device_put(rows, sharding(mesh, REPLICATED)).addressable_shards
    assert [shard.data.shape for shard in copies] == [(16, 2)] * 8


def test_each_device_has_its_own_rows_and_the_sum_over_all() -> None:
    mesh = make_mesh(16)

    def local(row_B: jax.Array, one: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return row_B * one, *sum_over_devices((row_B.sum(), one))

    each = shard_rows(mesh, local, in_specs=(BY_ROW, REPLICATED), out_specs=(BY_ROW, REPLICATED, REPLICATED))
    rows, rows_total, devices = jax.jit(each)(np.arange(16), np.int32(1))
    np.testing.assert_array_equal(rows, np.arange(16))
    assert (int(rows_total), int(devices)) == (120, 8)
