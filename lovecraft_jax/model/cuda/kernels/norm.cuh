// The sums over the units of a row that a norm needs, within a CTA, always in the same order, so that a run repeats;
// and what ends a wait.
#pragma once
#include "mma.cuh"

namespace lstm {

// A barrier that takes ten seconds ends the kernel with an error instead of hanging the GPU.
__device__ __forceinline__ void trap_if_late(long long start) {
  if (clock64() - start > 20000000000LL) __trap();
}

// Adds up each element's terms over the lanes of a warp that have the same row, and puts the sums into shared memory.
template <class F, class S>
__device__ __forceinline__ void contribute(const S& s, const Thread& t, float* parts, bool owner) {
  if (owner) {
    UNROLL for (int n = 0; n < F::OWNED; n++) UNROLL for (int sum = 0; sum < F::SUMS; sum++) {
      float v = norm_term(s, t, n, sum);
      UNROLL for (int lanes = 4; lanes < 32; lanes *= 2) v += __shfl_xor_sync(0xffffffffu, v, lanes);
      if (t.g == 0) parts[contribution_index<F>(t, t.split * F::OWNED + n, sum)] = v;
    }
  }
  __syncthreads();
}
// The i-th of the CTA's ROWS * SUMS sums, from what its warps have contributed.
template <class F> __device__ __forceinline__ float sum_of_parts(const float* parts, int i) {
  float v = 0;
  UNROLL for (int k = 0; k < F::CONTRIBUTIONS; k++) v += parts[k * F::ROWS * F::SUMS + i];
  return v;
}

}  // namespace lstm
