// The recurrent matmul with weights that stay on the chip.
#pragma once
#include "cell.h"
#ifdef LSTM_ON_CPU
#include "cuda_on_cpu.h"
#else
#include "ptx.cuh"
#endif

namespace lstm {

template <class F> using Weights = uint32_t[F::KEPT][F::TILES][2][4];

template <class F>
__device__ __forceinline__ void load_weights(const Value* of_all, const Thread& t, const Place& p, Weights<F>& w,
                                             uint4* wsm) {
  const Value* weights = of_all + 4 * (size_t)p.member * F::PADDED * F::PADDED;
  UNROLL for (int kp = 0; kp < F::KEPT; kp++) load_a<F>(weights, t, p.rank, kp, w[kp]);
  for (int kp = F::KEPT; kp < F::PAIRS; kp++) {
    uint32_t a[F::TILES][2][4];
    load_a<F>(weights, t, p.rank, kp, a);
    UNROLL for (int m = 0; m < F::TILES; m++)
      UNROLL for (int j = 0; j < 2; j++)
        wsm[weights_index<F>(t, kp, m, j)] = uint4{a[m][j][0], a[m][j][1], a[m][j][2], a[m][j][3]};
  }
  // Opaque to the compiler, which would otherwise load them anew in every time step.
  UNROLL for (int kp = 0; kp < F::KEPT; kp++)
    UNROLL for (int m = 0; m < F::TILES; m++)
      UNROLL for (int j = 0; j < 2; j++)
        UNROLL for (int r = 0; r < 4; r++) make_opaque(w[kp][m][j][r]);
}

template <class F, class S> __device__ __forceinline__ void clear(S& s) {
  UNROLL for (int j = 0; j < F::CHAINS; j++)
    UNROLL for (int m = 0; m < F::TILES; m++)
      UNROLL for (int n = 0; n < F::ROW_TILES; n++)
        UNROLL for (int r = 0; r < 4; r++) s.acc[j][m][n][r] = 0.0f;
}

// Adds one pair of k tiles; b are the lane's fragments of the state.
template <class F, class S>
__device__ __forceinline__ void multiply_pair(S& s, const Thread& t, const Weights<F>& w, const uint4* wsm, int kp,
                                              const uint4 (&b)[F::ROW_TILES]) {
  UNROLL for (int j = 0; j < 2; j++) UNROLL for (int m = 0; m < F::TILES; m++) {
    uint32_t a[4];
    if (kp < F::KEPT) {
      UNROLL for (int r = 0; r < 4; r++) a[r] = w[kp < F::KEPT ? kp : 0][m][j][r];
    } else {
      uint4 v = wsm[weights_index<F>(t, kp, m, j)];
      a[0] = v.x;
      a[1] = v.y;
      a[2] = v.z;
      a[3] = v.w;
    }
    UNROLL for (int n = 0; n < F::ROW_TILES; n++)
      mma(s.acc[j % F::CHAINS][m][n], a, j ? b[n].z : b[n].x, j ? b[n].w : b[n].y);
  }
}
// Adds pairs `from` .. `to` - 1, with the state in shared memory.
template <class F, class S>
__device__ __forceinline__ void multiply(S& s, const Thread& t, const Weights<F>& w, const uint4* wsm,
                                         const Value* state, int from, int to) {
  UNROLL for (int kp = from; kp < to; kp++) {
    uint4 b[F::ROW_TILES];
    UNROLL for (int n = 0; n < F::ROW_TILES; n++) b[n] = *(const uint4*)(state + b_index<F>(t, kp, n));
    multiply_pair<F>(s, t, w, wsm, kp, b);
  }
}

}  // namespace lstm
