// Kernels of clusters: CTAs exchange their columns of the state through distributed shared memory, once per time step.
// With C = 1 no SM waits for another.
#pragma once
#include "mma.cuh"

namespace lstm {

__device__ __forceinline__ int cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The address of another CTA's shared memory.
__device__ __forceinline__ uint32_t remote(uint32_t address, int rank) {
  uint32_t r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
  return r;
}
// Stores to a CTA's shared memory that count bytes at a barrier there: no fence, no cluster-wide barrier.
__device__ __forceinline__ void store_remote(uint32_t address, uint4 v, uint32_t barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];"
               :: "r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_init(uint32_t barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.mbarrier_init.release.cluster;" :: "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ bool barrier_test(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
               "selp.u32 %0, 1, 0, p;\n\t}"
               : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  return done;
}

// Sends this CTA's columns of the next state to the other CTAs and, as `out`, to global memory, and waits for theirs.
// `use` counts the uses of the buffer `next`. A peer may write into that buffer: what it has received from all others
// proves that all their warps have read what was there before.
template <class F>
__device__ __forceinline__ void exchange(const Thread& t, bf16* next, uint32_t barrier, int use, int rank, bf16* out,
                                         int step, int B, int row0, bool is_last) {
  __syncthreads();
  if (F::C > 1 && !is_last) {
    uint32_t base = (uint32_t)__cvta_generic_to_shared(next);
    if (t.tid == 0) barrier_expect(barrier, F::CHUNKS * 16 * (F::C - 1));
    constexpr int ALL = F::CHUNKS * (F::C - 1);
    UNROLL for (int first = 0; first < ALL; first += F::THREADS) {
      int i = first + t.tid;
      int peer = i / F::CHUNKS;
      peer += peer >= rank;
      int offset = chunk_offset<F>(i % F::CHUNKS, rank);
      if (first + F::THREADS <= ALL || i < ALL)
        store_remote(remote(base + 2 * offset, peer), *(const uint4*)(next + offset), remote(barrier, peer));
    }
  }
  UNROLL for (int first = 0; first < F::CHUNKS; first += F::THREADS) {
    int chunk = first + t.tid;
    if (first + F::THREADS <= F::CHUNKS || chunk < F::CHUNKS)
      *(uint4*)(out + chunk_global<F>(chunk, rank, step, B, row0)) =
          *(const uint4*)(next + chunk_offset<F>(chunk, rank));
  }
  if (F::C > 1 && !is_last) {
    if (!barrier_test(barrier, use & 1)) {
      long long start = clock64();
      while (!barrier_test(barrier, use & 1)) trap_if_late(start);
    }
    __syncwarp();
  }
}

// Barriers for the two buffers of the state; all CTAs of the cluster have started.
template <class F> __device__ __forceinline__ uint32_t start_cluster(const Thread& t, unsigned char* smem) {
  const uint32_t barriers = (uint32_t)__cvta_generic_to_shared(smem + F::BARRIERS_AT);
  if (F::C > 1 && t.tid == 0) {
    barrier_init(barriers);
    barrier_init(barriers + 8);
  }
  __syncthreads();
  if (F::C > 1) cluster_sync();
  return barriers;
}
// No CTA ends while others may still write to its shared memory.
template <class F> __device__ __forceinline__ void end_cluster() {
  if (F::C > 1) {
    __syncwarp();
    cluster_sync();
  }
}

template <class F, class X>
__global__ void __launch_bounds__(F::THREADS, 1) forward_kernel(FwdArgs a) {
  extern __shared__ __align__(16) unsigned char smem[];
  bf16* state = (bf16*)smem;  // two
  uint4* wsm = (uint4*)(smem + F::WEIGHTS_AT);
  float* red = (float*)(smem + F::RED_AT);
  float* bias = (float*)(smem + F::BIAS_AT);
  const Thread t = make_thread<F>(threadIdx.x);
  const int rank = F::C > 1 ? cluster_rank() : 0, row0 = (blockIdx.x / F::C) * F::NB, unit0 = rank * F::UC;
  const bool owner = owns<F>(t);
  FwdState<F, X> s;
  Weights<F> w;
  load_weights<F>(a.weights, t, rank, w, wsm);
  fwd_fill<F>(t, a, row0, unit0, state, bias);
  if (owner) fwd_start<F, X>(s, t, a, row0, unit0);
  const uint32_t barriers = start_cluster<F>(t, smem);
#pragma unroll 1
  for (int step = 0; step < a.T; step++) {
    bf16* now = state + (step & 1) * (F::STATE / 2);
    bf16* next = state + ((step + 1) & 1) * (F::STATE / 2);
    FwdState<F, X> ahead;
    if (owner) fwd_prefetch<F, X>(ahead, t, a, row0, unit0, step + 1 < a.T ? step + 1 : step);
    clear<F>(s);
    multiply<F>(s, t, w, wsm, now, 0, F::KPW);
    if (F::KS > 1) {
      write_partial<F>(s, t, red);
      __syncthreads();
    }
    if (owner) fwd_cell<F, X>(s, t, red, bias, next, unit0, F::LD);
    if (owner) fwd_store<F, X>(s, t, a, row0, unit0, step);
    exchange<F>(t, next, barriers + 8 * (step & 1), step >> 1, rank, a.h, step, a.B, row0, step == a.T - 1);
    UNROLL for (int n = 0; n < F::EPT; n++) s.x[n] = ahead.x[n];
  }
  end_cluster<F>();
}

template <class F>
__global__ void __launch_bounds__(F::THREADS, 1) backward_kernel(BwdArgs a) {
  extern __shared__ __align__(16) unsigned char smem[];
  bf16* state = (bf16*)smem;  // two
  uint4* wsm = (uint4*)(smem + F::WEIGHTS_AT);
  float* red = (float*)(smem + F::RED_AT);
  const Thread t = make_thread<F>(threadIdx.x);
  const int rank = F::C > 1 ? cluster_rank() : 0, row0 = (blockIdx.x / F::C) * F::NB, unit0 = rank * F::UC;
  const bool owner = owns<F>(t);
  BwdState<F> s;
  Weights<F> w;
  load_weights<F>(a.weights, t, rank, w, wsm);
  if (owner) bwd_start<F>(s, t, a, row0, unit0);
  const uint32_t barriers = start_cluster<F>(t, smem);
#pragma unroll 1
  for (int step = a.T - 1; step >= 0; step--) {
    bf16* now = state + (step & 1) * (F::STATE / 2);
    bf16* next = state + ((step + 1) & 1) * (F::STATE / 2);
    if (owner) bwd_prefetch<F>(s, t, a, row0, unit0, step ? step - 1 : 0);
    if (step < a.T - 1) {
      clear<F>(s);
      multiply<F>(s, t, w, wsm, now, 0, F::KPW);
      if (F::KS > 1) {
        write_partial<F>(s, t, red);
        __syncthreads();
      }
    }
    if (owner) bwd_cell<F>(s, t, red, next, unit0, step == a.T - 1, F::LD);
    int n = a.T - 1 - step;
    exchange<F>(t, next, barriers + 8 * (n & 1), n >> 1, rank, a.dgates, step, a.B, row0, step == 0);
    if (owner) bwd_advance<F>(s);
  }
  if (owner) bwd_finish<F>(s, t, a, row0, unit0);
  end_cluster<F>();
}

}  // namespace lstm
