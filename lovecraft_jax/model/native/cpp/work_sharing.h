// Work shared out among the threads that XLA gives a device.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "simd.h"
#include "xla/ffi/api/c_api.h"

namespace {

constexpr int PATIENCE = 1 << 12;  // looks at a counter, before a thread that waits lets others have the core

// Phases of a work, each of so many parts, of which none begins before all of the phase before it are done. A thread
// takes its own parts of every phase first, whose operands may lie in its core's cache, then those that nobody has
// taken, and waits only for such as others are at: so nothing can hang, however late a helper comes.
struct Work {
  const int64_t phases, parts;
  const std::function<void(int64_t phase, int64_t part)> do_part;
  std::vector<std::atomic<bool>> taken;
  std::atomic<int64_t> done{0};

  Work(int64_t phases, int64_t parts, std::function<void(int64_t, int64_t)> do_part)
      : phases(phases), parts(parts), do_part(std::move(do_part)), taken(phases * parts) {}

  void take_parts(int64_t first) {
    for (int64_t phase = 0; phase < phases; ++phase) {
      wait_for(phase * parts);
      for (int64_t n = 0; n < parts; ++n) {
        const int64_t part = (first + n) % parts;
        std::atomic<bool>& mine = taken[phase * parts + part];
        if (mine.load(std::memory_order_relaxed) || mine.exchange(true)) continue;
        do_part(phase, part);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  }

  void wait_for(int64_t count) const {
    for (int64_t tries = 0; done.load(std::memory_order_acquire) < count; ++tries)
      if (tries > 2 * PATIENCE)  // whoever has the part has lost its core, as under a quota
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      else if (tries > PATIENCE)
        std::this_thread::yield();
  }
};

// How many threads XLA gives this device.
int64_t threads(const XLA_FFI_CallFrame* call) {
  int64_t count = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, call->ctx, &count};
  call->api->XLA_FFI_ThreadPool_NumThreads(&args);
  return count;
}

// All phases, on this thread and on those that are free.
void share(const XLA_FFI_CallFrame* call, int64_t phases, int64_t parts,
           std::function<void(int64_t, int64_t)> do_part) {
  struct Helper {
    std::shared_ptr<Work> work;
    int64_t first;
  };
  const std::shared_ptr<Work> work(new Work(phases, parts, std::move(do_part)));
  // A helper that comes when all is over still finds the work, and nothing to do.
  const auto help = [](void* data) {
    const std::unique_ptr<Helper> helper(static_cast<Helper*>(data));
    helper->work->take_parts(helper->first);
  };
  const int64_t count = least(threads(call), parts);
  for (int64_t n = 1; n < count; ++n) {
    XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr, call->ctx, help,
                                          new Helper{work, n * parts / count}};
    call->api->XLA_FFI_ThreadPool_Schedule(&args);
  }
  work->take_parts(0);
  work->wait_for(phases * parts);
}

}  // namespace
