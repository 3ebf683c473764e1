// Kernels for matrices that need many SMs, and for GPUs without clusters: a group of CTAs exchanges the state through
// global memory, as the outputs themselves, with one barrier of the group per time step. All CTAs must be on the chip
// at once: a cooperative launch.
#pragma once
#include "norm.cuh"

namespace lstm {

__device__ __forceinline__ void group_arrive(unsigned* counter, int tid) {
  __syncthreads();
  if (tid == 0) add_release(counter);
}
__device__ __forceinline__ void group_wait(const unsigned* counter, unsigned target, int tid) {
  if (tid == 0) {
    long long start = clock64();
    while (load_acquire(counter) < target) trap_if_late(start);
  }
  __syncthreads();
}

// Gives every CTA of the group the sums of all of them, [ROWS, SUMS], through global memory.
template <class F>
__device__ __forceinline__ void share_group_sums(const Thread& t, const float* parts, float* sums, float* shared_sums,
                                                 int rank, unsigned* counter, unsigned target) {
  constexpr int ALL = F::ROWS * F::SUMS;
  for (int i = t.tid; i < ALL; i += F::THREADS) shared_sums[rank * ALL + i] = sum_of_parts<F>(parts, i);
  group_arrive(counter, t.tid);
  group_wait(counter, target, t.tid);
  for (int i = t.tid; i < ALL; i += F::THREADS) {
    float v = 0;
    UNROLL for (int from = 0; from < F::BLOCKS; from++) v += load_l2_float(shared_sums + from * ALL + i);
    sums[i] = v;
  }
  __syncthreads();
}

// The counter of a group and, after it, the sums that its CTAs share; all groups of all members have their own.
template <class F, class A> __device__ __forceinline__ unsigned* group_scratch(const A& a, int member, int group) {
  constexpr int SIZE = 32 + F::BLOCKS * F::ROWS * F::SUMS;  // division.py
  return a.scratch + ((size_t)member * (a.B / F::ROWS) + group) * SIZE;
}

// The state of a time step comes in parts of PER pairs of k tiles for each warp. Five or seven pairs at once would
// spill registers where a warp has many units.
template <class F> struct Parts {
  static constexpr bool ONE_BY_ONE = F::WIDTH == 2 && F::ROW_TILES < 4;
  static constexpr int COUNT =
      F::PAIRS % 4 == 0 ? 4 : F::PAIRS % 3 == 0 ? 3 : F::PAIRS % 2 == 0 ? 2 : ONE_BY_ONE ? F::PAIRS : 1;
  static constexpr int PER = F::PAIRS / COUNT;
};
template <class F>
__device__ __forceinline__ void copy_part(const Thread& t, uint32_t to, const Value* from, int part) {
  constexpr int PER = Parts<F>::PER, ROW = 4 * PER * F::SPLITS, ALL = F::ROWS * ROW;  // chunks: of a row, a part
  UNROLL for (int first = 0; first < ALL; first += F::THREADS) {
    int i = first + t.tid, row = i / ROW, in_row = i % ROW;
    int column = PAIR * ((in_row / (4 * PER)) * F::PAIRS + part * PER) + CHUNK * (in_row % (4 * PER));
    if (first + F::THREADS <= ALL || i < ALL)
      copy_async(to + VALUE_BYTES * (row * F::STRIDE + column), from + row * F::PADDED + column);
  }
  commit_copies();
}
// Multiplies with part after part as it arrives.
template <class F, int PART, class S>
__device__ __forceinline__ void multiply_parts(S& s, const Thread& t, const Weights<F>& w, const uint4* wsm,
                                               const Value* state) {
  if constexpr (PART < Parts<F>::COUNT) {
    wait_for_copies<Parts<F>::COUNT - 1 - PART>();
    __syncthreads();
    multiply<F>(s, t, w, wsm, state, PART * Parts<F>::PER, (PART + 1) * Parts<F>::PER);
    multiply_parts<F, PART + 1>(s, t, w, wsm, state);
  }
}

// Forward and backward over all time steps, of the rows of one group, which is `block / BLOCKS`.
template <class F>
__device__ __forceinline__ void run_forward_in_group(const FwdArgs& a, unsigned char* smem, int block, int member) {
  Value* state = (Value*)smem;
  uint4* wsm = (uint4*)(smem + F::WEIGHTS_AT);
  float *partial = (float*)(smem + F::PARTIAL_AT), *affine = (float*)(smem + F::AFFINE_AT);
  float *parts = (float*)(smem + F::PARTS_AT), *sums = (float*)(smem + F::SUMS_AT);
  const Thread t = make_thread<F>(threadIdx.x);
  const int rank = block % F::BLOCKS;
  const Place p = make_place<F>(a, block, rank, member);
  unsigned* counter = group_scratch<F>(a, member, block / F::BLOCKS);
  unsigned arrivals = 0;
  Value* const states = F::HAS_STATE ? a.state : a.h;
  FwdState<F> s;
  Weights<F> w;
  load_weights<F>(a.weights, t, p, w, wsm);
  fwd_fill<F>(t, a, p, state, affine);
  fwd_start<F>(s, t, a, p);
  __syncthreads();
  const uint32_t state_at = shared_address(state);
#pragma unroll 1
  for (int step = 0; step < a.T; step++) {
    if (step) {
      const Value* from = states + rows_at<F::K>(a, p, step - 1);
      UNROLL for (int part = 0; part < Parts<F>::COUNT; part++) copy_part<F>(t, state_at, from, part);
    }
    clear<F>(s);
    multiply_parts<F, 0>(s, t, w, wsm, state);
    if (F::SPLITS > 1) {
      __syncthreads();  // `partial` is where the state was
      write_partial<F>(s, t, partial);
      __syncthreads();
    }
    fwd_gates<F>(s, t, partial);
    if (F::NORM != NO_NORM) {
      __syncthreads();  // `parts` are where `partial` or the state was
      contribute<F>(s, t, parts, true);
      share_group_sums<F>(t, parts, sums, (float*)(counter + 32), rank, counter, arrivals += F::BLOCKS);
      fwd_store_inverse<F>(t, a, p, sums, step);
    }
    fwd_cell<F>(s, t, affine, sums, states + rows_at<F::K>(a, p, step), p.unit0, F::PADDED);
    if (step + 1 < a.T) group_arrive(counter, t.tid);
    fwd_store<F>(s, t, a, p, step);
    if (step + 1 < a.T) {
      fwd_prefetch<F>(s, t, a, p, step + 1);
      group_wait(counter, arrivals += F::BLOCKS, t.tid);
    }
  }
}

template <class F>
__device__ __forceinline__ void run_backward_in_group(const BwdArgs& a, unsigned char* smem, int block, int member) {
  uint4* wsm = (uint4*)(smem + F::WEIGHTS_AT);
  float *partial = (float*)(smem + F::PARTIAL_AT), *affine = (float*)(smem + F::AFFINE_AT);
  float *parts = (float*)(smem + F::PARTS_AT), *sums = (float*)(smem + F::SUMS_AT);
  const Thread t = make_thread<F>(threadIdx.x);
  const int rank = block % F::BLOCKS;
  const Place p = make_place<F>(a, block, rank, member);
  unsigned* counter = group_scratch<F>(a, member, block / F::BLOCKS);
  unsigned arrivals = 0;
  BwdState<F> s;
  Weights<F> w;
  load_weights<F>(a.weights, t, p, w, wsm);
  fill_affine<F>(t, a, p, affine);
  bwd_start<F>(s, t, a, p);
  __syncthreads();
#pragma unroll 1
  for (int step = a.T - 1; step >= 0; step--) {
    if (step < a.T - 1) {
      const Value* state = a.dz + rows_at<F::K>(a, p, step + 1);
      constexpr int AHEAD = F::PAIRS < 2 ? F::PAIRS : 2;  // pairs of k tiles that are loaded ahead
      uint4 b[AHEAD + 1][F::ROW_TILES];
      UNROLL for (int kp = 0; kp < AHEAD; kp++)
        UNROLL for (int n = 0; n < F::ROW_TILES; n++) b[kp][n] = load_l2(state + b_index<F>(t, kp, n));
      clear<F>(s);
      UNROLL for (int kp = 0; kp < F::PAIRS; kp++) {
        if (kp + AHEAD < F::PAIRS) {
          UNROLL for (int n = 0; n < F::ROW_TILES; n++)
            b[(kp + AHEAD) % (AHEAD + 1)][n] = load_l2(state + b_index<F>(t, kp + AHEAD, n));
        }
        multiply_pair<F>(s, t, w, wsm, kp, b[kp % (AHEAD + 1)]);
      }
      write_partial<F>(s, t, partial);
      __syncthreads();
    }
    Thread again = make_thread<F>(threadIdx.x);  // recomputed, so that addresses take no registers during the matmul
    make_opaque(again.g), make_opaque(again.q), make_opaque(again.split), make_opaque(again.team);
    bwd_cell<F>(s, again, a, p, partial, affine, step);
    if (F::NORM != NO_NORM) {
      __syncthreads();  // `parts` are where `partial` was
      contribute<F>(s, again, parts, true);
      share_group_sums<F>(again, parts, sums, (float*)(counter + 32), rank, counter, arrivals += F::BLOCKS);
    }
    bwd_gates<F>(s, again, sums, a.dz + rows_at<F::K>(a, p, step), p.unit0, F::K);
    if (step) {
      group_arrive(counter, t.tid);
      bwd_prefetch<F>(s, again, a, p, step - 1);
      bwd_advance<F>(s);
      group_wait(counter, arrivals += F::BLOCKS, t.tid);
    }
  }
  bwd_finish<F>(s, t, a, p);
}

}  // namespace lstm
