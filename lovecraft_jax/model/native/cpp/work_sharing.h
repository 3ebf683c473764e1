// Shares work among the threads that XLA gives a device.

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

constexpr int SPINS = 1 << 12;  // reads of a counter before a waiting thread yields its core

// Work in phases, each of `parts` parts. A phase begins when all parts of the one before it are done.
//
// A thread first takes its own parts of a phase (the same ones in every phase, as their operands may be in its core's
// cache), then those that no other thread has taken. It only waits for parts that another thread is computing, so that
// nothing hangs, however late a thread arrives.
struct Work {
  const int64_t phases, parts;
  const std::function<void(int64_t phase, int64_t part)> compute_part;
  std::vector<std::atomic<bool>> taken;
  std::atomic<int64_t> done{0};

  Work(int64_t phases, int64_t parts, std::function<void(int64_t, int64_t)> compute_part)
      : phases(phases), parts(parts), compute_part(std::move(compute_part)), taken(phases * parts) {}

  // Takes parts of all phases until none is left, in each phase beginning with `first`.
  void take_parts(int64_t first) {
    for (int64_t phase = 0; phase < phases; ++phase) {
      wait_until_done(phase * parts);
      for (int64_t n = 0; n < parts; ++n) {
        const int64_t part = (first + n) % parts;
        std::atomic<bool>& is_taken = taken[phase * parts + part];
        if (is_taken.load(std::memory_order_relaxed) || is_taken.exchange(true)) continue;
        compute_part(phase, part);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  }

  // Waits until `count` parts are done, all phases together.
  void wait_until_done(int64_t count) const {
    for (int64_t tries = 0; done.load(std::memory_order_acquire) < count; ++tries)
      if (tries > 2 * SPINS)  // the thread with the part has lost its core, as it may in a container with a CPU quota
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      else if (tries > SPINS)
        std::this_thread::yield();
  }
};

// The number of threads that XLA gives this device.
int64_t thread_count(const XLA_FFI_CallFrame* call) {
  int64_t count = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, call->ctx, &count};
  call->api->XLA_FFI_ThreadPool_NumThreads(&args);
  return count;
}

// Calls compute_part(phase, part) for all parts, on this thread and the free ones. Returns when all are done.
void run_in_parallel(const XLA_FFI_CallFrame* call, int64_t phases, int64_t parts,
                     std::function<void(int64_t, int64_t)> compute_part) {
  struct Helper {
    std::shared_ptr<Work> work;
    int64_t first;
  };
  const std::shared_ptr<Work> work(new Work(phases, parts, std::move(compute_part)));
  // A helper owns a share of the work: one that starts after all is done still finds it, and finds nothing to do.
  const auto help = [](void* data) {
    const std::unique_ptr<Helper> helper(static_cast<Helper*>(data));
    helper->work->take_parts(helper->first);
  };
  const int64_t count = min(thread_count(call), parts);
  for (int64_t n = 1; n < count; ++n) {
    XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr, call->ctx, help,
                                          new Helper{work, n * parts / count}};
    call->api->XLA_FFI_ThreadPool_Schedule(&args);
  }
  work->take_parts(0);
  work->wait_until_done(phases * parts);
}

}  // namespace
