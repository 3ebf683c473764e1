"""Which devices a batch is sharded over, and sums over them."""

import jax
import numpy as np
import pytest

from lovecraft_jax.runtime.mesh import BY_ROW, REPLICATED, make_mesh, shard_rows, sum_over_devices


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


def test_each_device_has_its_own_rows_and_the_sum_over_all() -> None:
    mesh = make_mesh(16)

    def local(row_B: jax.Array, one: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return row_B * one, *sum_over_devices((row_B.sum(), one))

    each = shard_rows(mesh, local, in_specs=(BY_ROW, REPLICATED), out_specs=(BY_ROW, REPLICATED, REPLICATED))
    rows, rows_total, devices = jax.jit(each)(np.arange(16), np.int32(1))
    np.testing.assert_array_equal(rows, np.arange(16))
    assert (int(rows_total), int(devices)) == (120, 8)
