"""Collectives and loops, parsed from a program that is short enough to check by eye."""

from launch.ahead.hlo import Collective, Loop, collectives, innermost_loops

PROGRAM = """HloModule jit_train_steps, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0:T(256)} parameter(0)
  ROOT %in_fusion = f32[8]{0:T(256)} all-reduce(%p), channel_id=1, to_apply=%add
}
%wrapped (w: bf16[4,150], v: pred[7]) -> (bf16[4,150], pred[7]) {
  %w = bf16[4,150]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %v = pred[7]{0} parameter(1)
  ROOT %in_async = (bf16[4,150]{1,0:T(8,128)(2,1)}, /*index=1*/pred[7]{0}) all-reduce(%w, %v), to_apply=%add
}, execution_thread="sparsecore"

%time_body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %h = f32[8]{0} get-tuple-element(%t), index=1
  %called = f32[8]{0} call(%h), to_apply=%branching
  ROOT %out = (s32[], f32[8]) tuple(%i, %called)
}
%branching (q: f32[8]) -> f32[8] {
  %q = f32[8]{0} parameter(0)
  %which = pred[] constant(true)
  ROOT %either = f32[8]{0} conditional(%which, %q, %q), branch_computations={%plain, %gathering}
}
%plain (r: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} parameter(0)
}
%gathering (s: f32[8]) -> f32[8] {
  %s = f32[8]{0} parameter(0)
  %gather-start = (f32[8]{0}, f32[32]{0}) all-gather-start(%s), dimensions={0}
  %gather-done = f32[32]{0} all-gather-done(%gather-start)
  ROOT %cut = f32[8]{0} slice(%gather-done), slice={[0:8]}
}
%more (m: (s32[], f32[8])) -> pred[] {
  %m = (s32[], f32[8]) parameter(0)
  %n = s32[] get-tuple-element(%m), index=0
  %voted = s32[] all-reduce(s32[] %n), to_apply=%add
  ROOT %less = pred[] compare(%voted, %n), direction=LT
}
%step_body (u: (s32[], f32[8])) -> (s32[], f32[8]) {
  %u = (s32[], f32[8]) parameter(0)
  %rows = bf16[4,150]{1,0:T(8,128)(2,1)} custom-call(), custom_call_target="rows"
  %flags = pred[7]{0} custom-call(), custom_call_target="flags"
  %start = ((), (), s32[]) async-start(), calls=%wrapped, metadata={op_name="psum"}
  %go = ((), (), s32[]) async-update(%start, %rows, %flags)
  %done = (bf16[4,150], pred[7]) async-done(%go), calls=%wrapped
  ROOT %inner = (s32[], f32[8]) while(%u), condition=%more, body=%time_body, metadata={op_name="jit(f)/while/while"}
}
%always (z: (s32[], f32[8])) -> pred[] {
  %z = (s32[], f32[8]) parameter(0)
  ROOT %yes = pred[] constant(true)
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(256)} parameter(0), metadata={op_name="all-reduce(x)"}
  %zero = s32[]{:T(128)} constant(0)
  %fusion = f32[8]{0:T(256)} fusion(%x), kind=kLoop, calls=%fused
  %first = (s32[], f32[8]) tuple(%zero, %fusion)
  %steps = (s32[], f32[8]) while(%first), condition=%always, body=%step_body, metadata={op_name="jit(f)/while"}
  ROOT %y = f32[8]{0} get-tuple-element(%steps), index=1
}
"""


def test_every_collective_is_found_once_with_its_size_and_loops() -> None:
    outer, both = ("jit(f)/while",), ("jit(f)/while", "jit(f)/while/while")
    assert collectives(PROGRAM) == [
        Collective("all-reduce", 1, 8, 32, ()),  # in a fusion
        Collective("all-reduce", 2, 4 * 150 + 7, 2 * 4 * 150 + 7, outer),  # in a computation that an async-start wraps
        Collective("all-reduce", 1, 1, 4, both),  # in a loop's condition
        Collective("all-gather", 1, 8, 32, both),  # in a branch of a computation that is called in a loop
    ]


def test_a_loop_without_a_name_counts_as_a_loop() -> None:
    nameless = PROGRAM.replace(', metadata={op_name="jit(f)/while/while"}', "")
    assert [one.loops for one in collectives(nameless)][2:] == [("jit(f)/while", "")] * 2


def test_the_innermost_loop_is_listed_with_what_an_iteration_runs() -> None:
    (loop,) = innermost_loops(PROGRAM)
    assert loop == Loop("jit(f)/while/while", 0, {"call": 1})
    assert loop.per_step(50) == 1


def test_operations_of_a_gpus_loop_are_told_apart_and_counted_a_time_step() -> None:
    program = """%slicing (a: f32[9,8]) -> f32[1,8] {
  %a = f32[9,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %cut = f32[1,8]{1,0} dynamic-slice(%a, %zero, %zero), dynamic_slice_sizes={1,8}
  ROOT %copied = f32[1,8]{1,0} copy(%cut)
}
%body (t: (s32[], f32[9,8])) -> (s32[], f32[9,8]) {
  %t = (s32[], f32[9,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %all = f32[9,8]{1,0} get-tuple-element(%t), index=1
  %slice = f32[1,8]{1,0} fusion(%all), kind=kCustom, calls=%slicing
  %product = (f32[1,8]{1,0}, s8[64]{0}) custom-call(%slice), custom_call_target="__cublas$lt$matmul"
  %again = (f32[1,8]{1,0}, s8[64]{0}) custom-call(%slice), custom_call_target="__cublas$lt$matmul"
  %activated = f32[9,8]{1,0} fusion(%product, %again), kind=kLoop, calls=%cell
  %next = s32[] fusion(%n), kind=kLoop, calls=%counting
  ROOT %out = (s32[], f32[9,8]{1,0}) tuple(%next, %activated)
}
%cell (b: f32[1,8]) -> f32[1,8] {
  ROOT %b = f32[1,8]{1,0} parameter(0)
}
%counting (c: s32[]) -> s32[] {
  ROOT %c = s32[] parameter(0)
}
ENTRY %main (x: f32[9,8]) -> (s32[], f32[9,8]) {
  %x = f32[9,8]{1,0} parameter(0)
  ROOT %loop = (s32[], f32[9,8]{1,0}) while(%x), body=%body, backend_config={"known_trip_count":{"n":"25"}}
}
"""
    (loop,) = innermost_loops(program)
    assert loop == Loop("", 25, {"copy": 1, "matmul": 2, "kernel": 1, "counter": 1})
    assert loop.per_step(50) == 2.5  # 25 iterations of 2 time steps
