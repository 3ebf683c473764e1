// CUDA on a CPU, as far as the kernels need it, to run their very source: every thread is a fiber. Fibers run in random
// order until they wait, shared memory starts as NaN, and what is asynchronous on a GPU (stores to other CTAs, copies)
// happens at a random time before it is waited for. So a missing barrier shows in the results for some seeds, and a
// barrier that nobody reaches as a deadlock. What is not checked is the memory model: a fence too few changes nothing.
#pragma once
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "config.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (cpu::machine().now->thread)
#define blockIdx (cpu::machine().now->block)
#define SHARED_MEMORY(name) unsigned char* name = cpu::machine().now->cta->shared
#define __syncthreads() cpu::wait_at(cpu::machine().now->cta->all)
#define __syncwarp() cpu::wait_at(cpu::machine().now->warp->all)

namespace cpu {

struct Index { int x, y; };
struct Fiber;
// A barrier of so many fibers.
struct Barrier {
  size_t count = 0;
  std::vector<Fiber*> waiting;
};
// What the lanes of a warp give each other.
struct Warp {
  Barrier all;
  uint32_t value[32];
  float* d[32];
  const uint32_t* a[32];
  uint32_t b[32][2];
};
// A barrier in shared memory (mbarrier) for one arrival and the bytes that it expects.
struct ByteBarrier {
  int arrivals = 1, bytes = 0;
  uint32_t phase = 0;
};
struct Cta {
  std::vector<uint4> memory;
  unsigned char* shared;
  Barrier all;
  std::vector<Warp> warps;
  const Warp* slow = nullptr;  // hardly runs as long as another warp can, so that a barrier too few shows
  std::map<uint32_t, ByteBarrier> barriers;
};
struct Fiber {
  Index thread, block;
  int rank, lane;
  Cta* cta;
  Warp* warp;
  std::vector<std::vector<std::function<void()>>> copies{1};  // groups of this thread, the last one not committed
  std::vector<char> stack;
  ucontext_t start;
  jmp_buf at;
  bool started = false, done = false;
};
struct Machine {
  std::vector<Cta> ctas;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> ready, polling;
  std::vector<std::function<void()>> under_way;  // stores to other CTAs
  Barrier cluster;
  Fiber* now = nullptr;
  std::function<void()> kernel;
  jmp_buf scheduler;
  std::mt19937 random;
  bool progress = false;
};
inline Machine& machine() {
  static Machine m;
  return m;
}

// Gives control back to the scheduler.
inline void yield() {
  Machine& m = machine();
  if (!_setjmp(m.now->at)) _longjmp(m.scheduler, 1);
}
inline void wait_at(Barrier& barrier) {
  Machine& m = machine();
  barrier.waiting.push_back(m.now);
  if (barrier.waiting.size() == barrier.count) {
    m.ready.insert(m.ready.end(), barrier.waiting.begin(), barrier.waiting.end());
    barrier.waiting.clear();
    m.progress = true;
  }
  yield();
}
// For a fiber that has looked for something in vain: it looks again once no other can run.
inline void poll() {
  machine().polling.push_back(machine().now);
  yield();
}
inline void enter() {
  machine().kernel();
  machine().now->done = true;
  machine().progress = true;
  _longjmp(machine().scheduler, 1);
}
template <class Work> void take_random(std::vector<Work>& all, Work& one) {
  std::swap(all[machine().random() % all.size()], all.back());
  one = std::move(all.back());
  all.pop_back();
}

// A fiber that is ready. Once a slow warp has run, another one of its CTA may be slow.
inline Fiber* take_fiber() {
  Machine& m = machine();
  auto random = [&](size_t count) { return m.random() % count; };
  auto is_slow = [](const Fiber* fiber) { return fiber->warp == fiber->cta->slow; };
  size_t n = random(m.ready.size());
  for (int tries = 0; tries < 20 && is_slow(m.ready[n]); tries++) n = random(m.ready.size());
  Fiber* fiber = m.ready[n];
  m.ready[n] = m.ready.back();
  m.ready.pop_back();
  if (is_slow(fiber) && random(32) == 0) fiber->cta->slow = &fiber->cta->warps[random(fiber->cta->warps.size())];
  return fiber;
}

// Runs a kernel for the CTAs of one cluster or group.
inline void run(std::function<void()> kernel, int ctas, int threads, int shared, int first_block, int member,
                int seed) {
  Machine& m = machine();
  m.kernel = kernel;
  m.random.seed(seed);
  m.ctas = std::vector<Cta>(ctas);
  m.fibers.clear();
  m.cluster.count = (size_t)ctas * threads;
  for (int rank = 0; rank < ctas; rank++) {
    Cta& cta = m.ctas[rank];
    cta.memory.assign(shared / 16 + 1, uint4{~0u, ~0u, ~0u, ~0u});
    cta.shared = (unsigned char*)cta.memory.data();
    cta.all.count = threads;
    cta.warps = std::vector<Warp>(threads / 32);
    for (auto& warp : cta.warps) warp.all.count = 32;
    cta.slow = &cta.warps[m.random() % cta.warps.size()];
    for (int tid = 0; tid < threads; tid++) {
      auto fiber = std::make_unique<Fiber>();
      fiber->thread = {tid, 0};
      fiber->block = {first_block + rank, member};
      fiber->rank = rank;
      fiber->lane = tid % 32;
      fiber->cta = &cta;
      fiber->warp = &cta.warps[tid / 32];
      fiber->stack.resize(1 << 16);
      m.ready.push_back(fiber.get());
      m.fibers.push_back(std::move(fiber));
    }
  }
  size_t left = m.fibers.size();
  while (left) {
    if (!m.under_way.empty() && (m.ready.empty() || m.random() % 64 == 0)) {
      std::function<void()> store;
      take_random(m.under_way, store);
      store();
      m.progress = true;
    } else if (m.ready.empty()) {
      if (m.polling.empty() || !m.progress) {
        printf("deadlock: %zu threads wait\n", left);
        exit(1);
      }
      std::swap(m.ready, m.polling);
      m.progress = false;
    } else {
      m.now = take_fiber();
      if (!_setjmp(m.scheduler)) {
        if (m.now->started) _longjmp(m.now->at, 1);
        m.now->started = true;
        getcontext(&m.now->start);
        m.now->start.uc_stack.ss_sp = m.now->stack.data();
        m.now->start.uc_stack.ss_size = m.now->stack.size();
        makecontext(&m.now->start, enter, 0);
        setcontext(&m.now->start);
      }
      left -= m.now->done;
    }
  }
}

// Every lane's value, seen by all lanes.
inline uint32_t exchange_in_warp(uint32_t value, int lane) {
  Warp& warp = *machine().now->warp;
  warp.value[machine().now->lane] = value;
  wait_at(warp.all);
  value = warp.value[lane];
  wait_at(warp.all);
  return value;
}
inline void complete(ByteBarrier& barrier, int arrivals, int bytes) {
  barrier.arrivals -= arrivals;
  barrier.bytes += bytes;
  if (barrier.arrivals == 0 && barrier.bytes == 0) {
    barrier.arrivals = 1;
    barrier.phase ^= 1;
  }
}

}  // namespace cpu

inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline uint32_t __shfl_sync(unsigned, uint32_t value, int lane) { return cpu::exchange_in_warp(value, lane); }
inline float __shfl_xor_sync(unsigned, float value, int lanes) {
  uint32_t bits = cpu::exchange_in_warp(__float_as_uint(value), cpu::machine().now->lane ^ lanes);
  memcpy(&value, &bits, 4);
  return value;
}
inline long long clock64() { return 0; }
inline void __trap() { abort(); }

namespace lstm {

// The values in a register of an operand. Of float32 a GPU would use the bits of TF32 only: the others must be zero.
inline void split_register(uint32_t bits, float* to) {
#if LSTM_FLOAT32
  to[0] = from_bits(bits);
  if ((bits & 0x1fff) && to[0] == to[0]) {
    printf("an operand was not rounded to TF32: %.9g\n", to[0]);
    exit(1);
  }
#else
  to[0] = lo(bits);
  to[1] = hi(bits);
#endif
}

// As PTX documents the fragments (mma.m16n8k16 with 16-bit operands, mma.m16n8k8 with TF32); the last lane to arrive
// computes for all.
inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  cpu::Warp& warp = *cpu::machine().now->warp;
  const int lane = cpu::machine().now->lane;
  warp.d[lane] = d;
  warp.a[lane] = a;
  warp.b[lane][0] = b0;
  warp.b[lane][1] = b1;
  if (warp.all.waiting.size() == 31) {
    constexpr int N = PER_REGISTER, K = 8 * N;
    static float A[16][K], B[8][K];  // B is transposed
    for (int l = 0; l < 32; l++) {
      int g = l >> 2, q = l & 3;
      for (int r = 0; r < 4; r++) split_register(warp.a[l][r], &A[g + 8 * (r & 1)][N * (q + 4 * (r >> 1))]);
      for (int r = 0; r < 2; r++) split_register(warp.b[l][r], &B[g][N * (q + 4 * r)]);
    }
    for (int l = 0; l < 32; l++)
      for (int r = 0; r < 4; r++) {
        int row = (l >> 2) + 8 * (r >> 1), column = 2 * (l & 3) + (r & 1);
        for (int k = 0; k < K; k++) warp.d[l][r] += A[row][k] * B[column][k];
      }
  }
  cpu::wait_at(warp.all);
}
template <class Int> inline void make_opaque(Int&) {}
// The CTA's rank and the place in its memory.
inline uint32_t shared_address(const void* p) {
  const cpu::Fiber& now = *cpu::machine().now;
  return (uint32_t)now.rank << 24 | (uint32_t)((const unsigned char*)p - now.cta->shared);
}
inline void* at_address(uint32_t address) {
  return cpu::machine().ctas[address >> 24].shared + (address & 0xffffff);
}
inline cpu::ByteBarrier& barrier_at(uint32_t address) {
  return cpu::machine().ctas[address >> 24].barriers.at(address & 0xffffff);
}

inline int cluster_rank() { return cpu::machine().now->rank; }
inline void cluster_sync() { cpu::wait_at(cpu::machine().cluster); }
inline uint32_t remote(uint32_t address, int rank) { return (uint32_t)rank << 24 | (address & 0xffffff); }
inline void store_remote(uint32_t address, uint4 v, uint32_t barrier) {
  cpu::machine().under_way.push_back([=] {
    memcpy(at_address(address), &v, 16);
    cpu::complete(barrier_at(barrier), 0, -16);
  });
}
inline void barrier_init(uint32_t barrier) {
  cpu::machine().ctas[barrier >> 24].barriers[barrier & 0xffffff] = cpu::ByteBarrier();
}
inline void barrier_expect(uint32_t barrier, uint32_t bytes) { cpu::complete(barrier_at(barrier), 1, bytes); }
inline bool barrier_test(uint32_t barrier, uint32_t parity) {
  if (barrier_at(barrier).phase != parity) return true;
  cpu::poll();
  return false;
}

inline void add_release(unsigned* counter) {
  ++*counter;
  cpu::machine().progress = true;
}
inline unsigned load_acquire(const unsigned* counter) {
  cpu::poll();
  return *counter;
}
inline void copy_async(uint32_t to, const void* from) {
  cpu::machine().now->copies.back().push_back([=] { memcpy(at_address(to), from, 16); });
}
inline void commit_copies() { cpu::machine().now->copies.emplace_back(); }
template <int N> inline void wait_for_copies() {
  auto& copies = cpu::machine().now->copies;
  while (copies.size() > N + 1) {
    for (auto& copy : copies.front()) copy();
    copies.erase(copies.begin());
  }
}
inline uint4 load_l2(const void* from) { return *(const uint4*)from; }
inline float load_l2_float(const float* from) { return *from; }

}  // namespace lstm
