// Kernels of clusters: CTAs exchange their columns of the state through distributed shared memory, once per time step.
// With one CTA no SM waits for another.
#pragma once
#include "norm.cuh"

namespace lstm {

// Waits until the bytes of a barrier's use, from 0 on, have arrived.
__device__ __forceinline__ void wait(uint32_t barrier, int use) {
  if (!barrier_test(barrier, use & 1)) {
    long long start = clock64();
    while (!barrier_test(barrier, use & 1)) trap_if_late(start);
  }
  __syncwarp();
}

// Sends this CTA's columns of the next state to the other CTAs and, as `out`, to global memory, and waits for theirs.
// `use` counts the uses of the buffer `next`. A peer may write into that buffer: what it has received from all others
// proves that all their warps have read what was there before.
template <class F>
__device__ __forceinline__ void exchange(const Thread& t, Value* next, uint32_t barrier, int use, int rank, Value* out,
                                         bool is_last) {
  __syncthreads();
  if (F::BLOCKS > 1 && !is_last) {
    uint32_t base = shared_address(next);
    if (t.tid == 0) barrier_expect(barrier, F::CHUNKS * 16 * (F::BLOCKS - 1));
    constexpr int ALL = F::CHUNKS * (F::BLOCKS - 1);
    UNROLL for (int first = 0; first < ALL; first += F::THREADS) {
      int i = first + t.tid;
      int peer = i / F::CHUNKS;
      peer += peer >= rank;
      int offset = chunk_offset<F>(i % F::CHUNKS, rank);
      if (first + F::THREADS <= ALL || i < ALL)
        store_remote(remote(base + VALUE_BYTES * offset, peer), *(const uint4*)(next + offset), remote(barrier, peer));
    }
  }
  UNROLL for (int first = 0; F::STORES_STATE && first < F::CHUNKS; first += F::THREADS) {
    int chunk = first + t.tid;
    if (first + F::THREADS <= F::CHUNKS || chunk < F::CHUNKS)
      *(uint4*)(out + chunk_global<F>(chunk, rank)) =
          *(const uint4*)(next + chunk_offset<F>(chunk, rank));
  }
  if (F::BLOCKS > 1 && !is_last) wait(barrier, use);
}

// Gives every CTA the sums of all CTAs, [BLOCKS, ROWS, SUMS]. `use` counts the uses of the barrier. A peer may write
// its sums of the next time step: it then has this CTA's state, which was sent after these were read.
template <class F>
__device__ __forceinline__ void share_sums(const Thread& t, const float* parts, float* sums, uint32_t barrier, int use,
                                           int rank) {
  constexpr int ALL = F::ROWS * F::SUMS;  // whole warps
  static_assert(ALL % 32 == 0, "rows");
  if (F::BLOCKS > 1 && t.tid == 0) barrier_expect(barrier, 4 * ALL * F::BLOCKS);
  for (int i = t.tid; i < ALL; i += F::THREADS) {
    const float v = sum_of_parts<F>(parts, i);
    if (F::BLOCKS == 1) {
      sums[i] = v;
    } else {  // four lanes gather 16 bytes, and each sends them to every fourth CTA
      uint32_t four[4];
      UNROLL for (int k = 0; k < 4; k++) four[k] = __shfl_sync(0xffffffffu, __float_as_uint(v), (t.lane & ~3) + k);
      const uint32_t to = shared_address(sums + rank * ALL + (i & ~3));
      for (int peer = t.lane & 3; peer < F::BLOCKS; peer += 4)
        store_remote(remote(to, peer), uint4{four[0], four[1], four[2], four[3]}, remote(barrier, peer));
    }
  }
  if (F::BLOCKS == 1) {
    __syncthreads();
  } else {
    wait(barrier, use);
  }
}

// Barriers for the two buffers of the state, and for the norm's sums; all CTAs of the cluster have started.
template <class F> __device__ __forceinline__ uint32_t start_cluster(const Thread& t, unsigned char* smem) {
  const uint32_t barriers = shared_address(smem + F::BARRIERS_AT);
  if (F::BLOCKS > 1 && t.tid == 0) {
    barrier_init(barriers);
    barrier_init(barriers + 8);
    barrier_init(barriers + 16);
  }
  __syncthreads();
  if (F::BLOCKS > 1) cluster_sync();
  return barriers;
}
// No CTA ends while others may still write to its shared memory.
template <class F> __device__ __forceinline__ void end_cluster() {
  if (F::BLOCKS > 1) {
    __syncwarp();
    cluster_sync();
  }
}

// The matmul with all of a state; its sums are with the threads, or with several splits of K in `partial`.
template <class F, class S>
__device__ __forceinline__ void multiply_state(S& s, const Thread& t, const Weights<F>& w, const uint4* wsm,
                                               const Value* state, float* partial) {
  clear<F>(s);
  multiply<F>(s, t, w, wsm, state, 0, F::PAIRS);
  if (F::SPLITS > 1) {
    write_partial<F>(s, t, partial);
    __syncthreads();
  }
}

// Forward and backward over all time steps, of the rows of one cluster.
template <class F> __device__ __forceinline__ void run_forward_in_cluster(const FwdArgs& a, unsigned char* smem) {
  // As in the three functions below, not in a struct: with one, the kernels for 512 units spill registers.
  Value* state = (Value*)smem;  // two
  uint4* wsm = (uint4*)(smem + F::WEIGHTS_AT);
  float *partial = (float*)(smem + F::PARTIAL_AT), *affine = (float*)(smem + F::AFFINE_AT);
  float *parts = (float*)(smem + F::PARTS_AT), *sums = (float*)(smem + F::SUMS_AT);
  const Thread t = make_thread<F>(threadIdx.x);
  const int rank = F::BLOCKS > 1 ? cluster_rank() : 0;
  const Place p = make_place<F>(a, blockIdx.x, rank, blockIdx.y);
  const bool owner = owns<F>(t);
  FwdState<F> s;
  Weights<F> w;
  load_weights<F>(a.weights, t, p, w, wsm);
  fwd_fill<F>(t, a, p, state, affine);
  if (owner) fwd_start<F>(s, t, a, p);
  const uint32_t barriers = start_cluster<F>(t, smem);
#pragma unroll 1
  for (int step = 0; step < a.T; step++) {
    Value* now = state + (step & 1) * (F::STATE / VALUE_BYTES);
    Value* next = state + ((step + 1) & 1) * (F::STATE / VALUE_BYTES);
    FwdState<F> ahead;
    if (owner) fwd_prefetch<F>(ahead, t, a, p, step + 1 < a.T ? step + 1 : step);
    multiply_state<F>(s, t, w, wsm, now, partial);
    if (owner) fwd_gates<F>(s, t, partial);
    if (F::NORM != NO_NORM) {
      contribute<F>(s, t, parts, owner);
      share_sums<F>(t, parts, sums, barriers + 16, step, rank);
      fwd_store_inverse<F>(t, a, p, sums, step);
    }
    if (owner) fwd_cell<F>(s, t, affine, sums, next, p.unit0, F::STRIDE);
    if (owner) fwd_store<F>(s, t, a, p, step);
    Value* out = (F::MASK ? a.state : a.h) + rows_at<F::K>(a, p, step);
    exchange<F>(t, next, barriers + 8 * (step & 1), step >> 1, rank, out, step == a.T - 1);
    UNROLL for (int n = 0; n < F::OWNED; n++) s.x[n] = ahead.x[n];
  }
  end_cluster<F>();
}

template <class F> __device__ __forceinline__ void run_backward_in_cluster(const BwdArgs& a, unsigned char* smem) {
  Value* state = (Value*)smem;  // two
  uint4* wsm = (uint4*)(smem + F::WEIGHTS_AT);
  float *partial = (float*)(smem + F::PARTIAL_AT), *affine = (float*)(smem + F::AFFINE_AT);
  float *parts = (float*)(smem + F::PARTS_AT), *sums = (float*)(smem + F::SUMS_AT);
  const Thread t = make_thread<F>(threadIdx.x);
  const int rank = F::BLOCKS > 1 ? cluster_rank() : 0;
  const Place p = make_place<F>(a, blockIdx.x, rank, blockIdx.y);
  const bool owner = owns<F>(t);
  BwdState<F> s;
  Weights<F> w;
  load_weights<F>(a.weights, t, p, w, wsm);
  fill_affine<F>(t, a, p, affine);
  if (owner) bwd_start<F>(s, t, a, p);
  const uint32_t barriers = start_cluster<F>(t, smem);
#pragma unroll 1
  for (int step = a.T - 1; step >= 0; step--) {
    Value* now = state + (step & 1) * (F::STATE / VALUE_BYTES);
    Value* next = state + ((step + 1) & 1) * (F::STATE / VALUE_BYTES);
    const int n = a.T - 1 - step;
    if (owner) bwd_prefetch<F>(s, t, a, p, step ? step - 1 : 0);
    if (n > 0) multiply_state<F>(s, t, w, wsm, now, partial);
    if (owner) bwd_cell<F>(s, t, a, p, partial, affine, step);
    if (F::NORM != NO_NORM) {
      contribute<F>(s, t, parts, owner);
      share_sums<F>(t, parts, sums, barriers + 16, n, rank);
    }
    if (owner) bwd_gates<F>(s, t, sums, next, p.unit0, F::STRIDE);
    exchange<F>(t, next, barriers + 8 * (n & 1), n >> 1, rank, a.dz + rows_at<F::K>(a, p, step), step == 0);
    if (owner) bwd_advance<F>(s);
  }
  if (owner) bwd_finish<F>(s, t, a, p);
  end_cluster<F>();
}

}  // namespace lstm
