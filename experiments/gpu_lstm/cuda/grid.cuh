// Kernels for matrices that need many SMs: a group of C CTAs exchanges the state through global memory, as the outputs
// themselves, with one barrier of the group per time step. All CTAs must be on the chip at once: a cooperative launch.
#pragma once
#include "mma.cuh"

namespace lstm {

__device__ __forceinline__ void group_arrive(unsigned* counter, int tid) {
  __syncthreads();
  if (tid == 0) {
    __threadfence();
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(counter) : "memory");
  }
}
__device__ __forceinline__ void group_wait(unsigned* counter, unsigned target, int tid) {
  if (tid == 0) {
    unsigned seen;
    long long start = clock64();
    while (true) {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
      if (seen >= target) break;
      trap_if_late(start);
    }
  }
  __syncthreads();
}
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
}
template <int N> __device__ __forceinline__ void copies_pending() {
  asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}
// Loads from L2, where the other SMs' stores are.
__device__ __forceinline__ uint4 load_l2(const void* from) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from)
               : "memory");
  return v;
}

template <class F, class X>
__global__ void __launch_bounds__(F::THREADS, 1) forward_grid_kernel(FwdArgs a, unsigned* counters) {
  extern __shared__ __align__(16) unsigned char smem[];
  bf16* state = (bf16*)smem;
  float* red = (float*)(smem + F::RED_AT);  // where the state was
  uint4* wsm = (uint4*)(smem + F::WEIGHTS_AT);
  float* bias = (float*)(smem + F::BIAS_AT);
  const Thread t = make_thread<F>(threadIdx.x);
  const int rank = blockIdx.x % F::C, row0 = (blockIdx.x / F::C) * F::NB, unit0 = rank * F::UC;
  unsigned* counter = counters + 32 * (blockIdx.x / F::C);
  FwdState<F, X> s;
  Weights<F> w;
  load_weights<F>(a.weights, t, rank, w, wsm);
  fwd_fill<F>(t, a, row0, unit0, state, bias);
  fwd_start<F, X>(s, t, a, row0, unit0);
  __syncthreads();
  constexpr int PARTS = 4, PER = F::KPW / PARTS;  // the state comes in parts of PER pairs of k tiles for each warp
  static_assert(F::KPW % PARTS == 0, "parts");
  const uint32_t state_at = (uint32_t)__cvta_generic_to_shared(state);
#pragma unroll 1
  for (int step = 0; step < a.T; step++) {
    if (step) {
      const bf16* from = a.h + ((size_t)(step - 1) * a.B + row0) * F::HP;
      UNROLL for (int part = 0; part < PARTS; part++) {
        constexpr int ROW = 4 * PER * F::KS, ALL = F::NB * ROW;  // chunks of 16 bytes of a row and of a part
        UNROLL for (int first = 0; first < ALL; first += F::THREADS) {
          int i = first + t.tid, row = i / ROW, in_row = i % ROW;
          int column = 32 * ((in_row / (4 * PER)) * F::KPW + part * PER) + 8 * (in_row % (4 * PER));
          copy_async(state_at + 2 * (row * F::LD + column), from + row * F::HP + column);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
      }
    }
    clear<F>(s);
    UNROLL for (int part = 0; part < PARTS; part++) {
      if (part == 0) copies_pending<3>();
      if (part == 1) copies_pending<2>();
      if (part == 2) copies_pending<1>();
      if (part == 3) copies_pending<0>();
      __syncthreads();
      multiply<F>(s, t, w, wsm, state, part * PER, (part + 1) * PER);
    }
    __syncthreads();
    write_partial<F>(s, t, red);
    __syncthreads();
    fwd_cell<F, X>(s, t, red, bias, a.h + ((size_t)step * a.B + row0) * F::HP, unit0, F::HP);
    if (step + 1 < a.T) group_arrive(counter, t.tid);
    fwd_store<F, X>(s, t, a, row0, unit0, step);
    if (step + 1 < a.T) {
      fwd_prefetch<F, X>(s, t, a, row0, unit0, step + 1);
      group_wait(counter, F::C * (step + 1), t.tid);
    }
  }
}

template <class F>
__global__ void __launch_bounds__(F::THREADS, 1) backward_grid_kernel(BwdArgs a, unsigned* counters) {
  extern __shared__ __align__(16) unsigned char smem[];
  float* red = (float*)(smem + F::RED_AT);
  uint4* wsm = (uint4*)(smem + F::WEIGHTS_AT);
  const Thread t = make_thread<F>(threadIdx.x);
  const int rank = blockIdx.x % F::C, row0 = (blockIdx.x / F::C) * F::NB, unit0 = rank * F::UC;
  unsigned* counter = counters + 32 * (blockIdx.x / F::C);
  BwdState<F> s;
  Weights<F> w;
  load_weights<F>(a.weights, t, rank, w, wsm);
  bwd_start<F>(s, t, a, row0, unit0);
  __syncthreads();
#pragma unroll 1
  for (int step = a.T - 1; step >= 0; step--) {
    if (step < a.T - 1) {
      const bf16* state = a.dgates + ((size_t)(step + 1) * a.B + row0) * F::K;
      constexpr int AHEAD = 2;  // pairs of k tiles that are loaded ahead
      uint4 b[AHEAD + 1][F::NT];
      UNROLL for (int kp = 0; kp < AHEAD; kp++)
        UNROLL for (int n = 0; n < F::NT; n++) b[kp][n] = load_l2(state + b_index<F>(t, kp, n));
      clear<F>(s);
      UNROLL for (int kp = 0; kp < F::KPW; kp++) {
        if (kp + AHEAD < F::KPW) {
          UNROLL for (int n = 0; n < F::NT; n++)
            b[(kp + AHEAD) % (AHEAD + 1)][n] = load_l2(state + b_index<F>(t, kp + AHEAD, n));
        }
        multiply_pair<F>(s, t, w, wsm, kp, b[kp % (AHEAD + 1)]);
      }
      write_partial<F>(s, t, red);
      __syncthreads();
    }
    Thread again = make_thread<F>(threadIdx.x);  // recomputed, so that addresses take no registers during the matmul
    asm volatile("" : "+r"(again.g), "+r"(again.q), "+r"(again.ks), "+r"(again.group));
    bwd_cell<F>(s, again, red, a.dgates + ((size_t)step * a.B + row0) * F::K, unit0, step == a.T - 1, F::K);
    if (step) {
      group_arrive(counter, t.tid);
      bwd_prefetch<F>(s, again, a, row0, unit0, step - 1);
      bwd_advance<F>(s);
      group_wait(counter, F::C * (a.T - step), t.tid);
    }
  }
  bwd_finish<F>(s, t, a, row0, unit0);
}

}  // namespace lstm
