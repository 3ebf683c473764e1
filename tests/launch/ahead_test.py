"""Ahead-of-time compilation with the compilers of TPUs and, if it is installed, of NVIDIA GPUs."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs import c150, tiny
from launch.ahead import compile as ahead
from launch.ahead import report
from launch.ahead.compile import DISPATCH, Compiled, Memory
from launch.ahead.hlo import Collective
from launch.ahead.topologies import Topology, find
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.mesh import AXIS, BY_ROW, REPLICATED, make_mesh, shard_rows

pytestmark = [pytest.mark.slow, pytest.mark.aot]
V, STEPS = 80, 40


@pytest.fixture(scope="module")
def v5e() -> Iterator[Topology]:
    """Four chips on one host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        yield _find("v5e:2x2")


def test_c150_has_one_all_reduce_of_all_gradients_a_step_outside_of_its_loops_and_fits(v5e: Topology) -> None:
    config = Config.of(c150.get_config("quick")).replace(**{"data.batch_size": 64 * v5e.chips})
    compiled, model = ahead.compile_config(config, V, STEPS, v5e), config.model
    widths = [model.embed] + [model.units] * (model.layers - 1)
    parameters = sum((width + model.units + 2) * 4 * model.units for width in widths)
    parameters += V * model.embed + (model.units + 1) * V
    (found,) = compiled.collectives
    # The gradients, the sum of the nats and that of the weights, in float32.
    arrays = 4 * model.layers + 3 + 2
    assert found == Collective("all-reduce", arrays, parameters + 2, 4 * (parameters + 2), (DISPATCH,))
    assert not ahead.in_a_loop(found)
    memory = compiled.memory
    assert isinstance(memory, Memory)
    assert 0 < memory.padding < memory.arguments < memory.total < v5e.memory == 16 * 2**30
    assert memory.total == memory.arguments + memory.results + memory.temporaries + memory.code


def test_a_dispatch_of_one_step_has_no_loop_over_steps(v5e: Topology) -> None:
    config = Config.of(tiny.get_config()).replace(**{"train.steps_per_dispatch": 1})
    compiled = ahead.compile_config(config, V, STEPS, v5e)
    assert [one.loops for one in compiled.collectives] == [()]
    assert not ahead.in_a_loop(compiled.collectives[0])
    assert "1 all-reduce a step (" in report.lines(report.Result(v5e, 8, 1, compiled))
    assert "1 all-reduce a dispatch (" in report.lines(report.Result(v5e, 8, 5, compiled))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_collective_in_the_loop_over_time_is_reported(v5e: Topology, steps: int) -> None:
    compiled = ahead.compile_program(_lower_psum_at_every_time_step(v5e, steps))
    assert [one.kind for one in compiled.collectives if ahead.in_a_loop(one)] == ["all-reduce"]
    text = report.lines(report.Result(v5e, 8, steps, compiled))
    assert "BUT 1 all-reduce (256 numbers, 1 KiB) in a loop of the step" in text


def _lower_psum_at_every_time_step(topology: Topology, steps: int) -> jax.stages.Lowered:
    """Lowers a `train_steps` that sums [2, 128] float32 over the devices at each of five time steps."""
    mesh = make_mesh(8, topology.devices)

    def local(x_BD: jax.Array) -> jax.Array:
        over_time = lambda h, _: (jnp.tanh(jax.lax.psum(h, AXIS)), None)  # noqa: E731
        return jax.lax.scan(over_time, x_BD, None, 5)[0]

    def train_steps(x_BD: jax.Array) -> jax.Array:
        step = shard_rows(mesh, local, BY_ROW, BY_ROW)
        return jax.lax.scan(lambda h, _: (step(h) * 2, None), x_BD, None, steps)[0]

    rows = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=NamedSharding(mesh, BY_ROW))
    return jax.jit(train_steps).trace(rows).lower()


def test_padding_is_the_unused_part_of_tiles_of_8_by_128(v5e: Topology) -> None:
    mesh = Mesh(v5e.devices, (AXIS,))

    def shaped(shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    arguments = (
        shaped((64, 150), jnp.bfloat16, BY_ROW),  # 16 rows per chip: 16 x 256 x 2 bytes, 16 x 150 x 2 used
        shaped((), jax.random.key(0).dtype, REPLICATED),  # 128 x 4 bytes, 2 x 4 used
        shaped((7,), jnp.float32, REPLICATED),  # not used by the program, so it takes nothing
    )
    lowered = jax.jit(lambda b, key, _: (b.sum(), key)).trace(*arguments).lower()
    memory = ahead.compile_program(lowered).memory
    assert isinstance(memory, Memory)
    assert (memory.arguments, memory.padding) == (8192 + 512, 8192 + 512 - (4800 + 8))


def test_a_program_larger_than_the_data_sheets_memory_does_not_fit(v5e: Topology) -> None:
    memory = Memory(arguments=600, padding=100, results=100, temporaries=200, code=124)
    for available, fits in ((1024, True), (1023, False), (0, True)):
        result = report.Result(dataclasses.replace(v5e, memory=available), 256, 20, Compiled(1.0, memory, []))
        assert result.fits is fits
    small = dataclasses.replace(result, topology=dataclasses.replace(v5e, memory=1023))
    assert "needs 1 KiB of memory per device, TPU v5 lite has 1023 B;" in small.advice(Config.of(tiny.get_config()))


def test_total_steps_are_those_of_the_training_loop_and_at_least_one_an_epoch() -> None:
    config = Config.of(c150.get_config()).replace(**{"data.corpus": "bundled", "train.epochs": 2.5})
    data = dataset.prepare(config)
    ids, batches = data.encoded["train"].ids, dataset.make_batches(config, data)
    assert ahead.total_steps(config, len(ids)) == -(-5 * batches.steps_per_epoch // 2)
    config = config.replace(**{"data.batch_size": len(ids)})
    assert ahead.total_steps(config, len(ids)) == 3
    config = config.replace(**{"train.steps": 7})
    assert ahead.total_steps(config, len(ids)) == 7


def test_two_hosts_of_nvidia_gpus_have_one_all_reduce_a_step() -> None:
    two = _find("h100:2x8")
    assert (two.kind, two.chips, len(two.devices), two.hosts) == ("NVIDIA H100 80GB HBM3", 16, 16, 2)
    config = Config.of(tiny.get_config()).replace(**{"data.batch_size": 64 * two.chips})
    compiled = ahead.compile_config(config, V, STEPS, two)
    assert [(one.kind, one.loops) for one in compiled.collectives] == [("all-reduce", (DISPATCH,))]
    assert isinstance(compiled.memory, Memory)
    assert compiled.memory.padding == 0 < compiled.memory.temporaries < two.memory == 80 * 10**9


@pytest.mark.parametrize("settings", [{}, {"model.dtype": "bfloat16"}, {"model.norm": "rms_gates"}], ids=str)
def test_in_blocks_a_time_step_on_a_gpu_is_one_matmul_few_kernels_and_no_copy(settings: dict[str, Any]) -> None:
    one = _find("h100:1")
    config = Config.of(c150.get_config("plain")).replace(
        **{"train.steps": STEPS, "train.eval_every": STEPS, "model.backend": "blocks"} | settings
    )
    T = config.data.seq_len
    loops = [loop for loop in ahead.compile_config(config, V, STEPS, one).loops if "matmul" in loop.operations]
    assert len(loops) == 2 * config.model.layers
    for loop in loops:
        assert set(loop.operations) == {"matmul", "kernel", "counter"}
        assert loop.operations["matmul"] * loop.iterations == T
        assert loop.per_step(T) < (5 if config.model.norm == "rms_gates" else 3)


@pytest.mark.parametrize("settings", [{}, {"model.norm": "rms_gates"}], ids=str)
def test_as_a_wavefront_all_layers_on_a_gpu_are_one_loop_of_about_as_many_kernels_as_a_layer(
    settings: dict[str, Any],
) -> None:
    one = _find("h100:1")
    config = Config.of(c150.get_config("plain")).replace(
        **{"train.steps": STEPS, "train.eval_every": STEPS, "model.backend": "wavefront"} | settings
    )
    T = config.data.seq_len - 1  # in the first and in the last time step one layer runs
    loops = [loop for loop in ahead.compile_config(config, V, STEPS, one).loops if "matmul" in loop.operations]
    assert len(loops) == 2
    for loop in loops:
        assert set(loop.operations) == {"matmul", "kernel", "counter"}
        assert loop.operations["matmul"] * loop.iterations == T
        assert loop.per_step(T) < (5 if config.model.norm == "rms_gates" else 4)


def _find(name: str) -> Topology:
    try:
        return find(name)
    except UserError as error:
        pytest.skip(str(error))
