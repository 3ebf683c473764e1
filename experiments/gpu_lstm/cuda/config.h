// The sizes of a kernel, and which thread computes what. Everything here and in cell.h runs on host and device, so that
// emulate.cpp checks the index arithmetic on a CPU.
//
// A cluster of C CTAs (thread blocks), or without a cluster a group of C, owns 8 * NT rows of the batch. Each CTA owns
// UC = HP / C units and keeps their part of the recurrent matrix on the chip: as fragments of mma.sync m16n8k16 in
// registers, and what does not fit there in shared memory. The weights are operand A (M: gates or units), the state is
// operand B (N: 8 rows): h forward, the gradient of the gates backward.
//
// Layouts; HP are the units padded to a multiple of 32, with zeros in the padding; gates i, f, g, o are innermost:
//   weights bf16 [HP (from), HP (to), 4]; gates_x bf16 or float [T, B, HP, 4]; gates, dgates bf16 [T, B, HP, 4];
//   h, dh bf16 [T, B, HP]; c float [T, B, HP]; bias float [HP, 4]; c0, h0 and gradients of carries float [B, HP].
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#define HD __host__ __device__ __forceinline__
#else
#define HD inline
struct uint2 { uint32_t x, y; };
struct uint4 { uint32_t x, y, z, w; };
struct float4 { float x, y, z, w; };
#endif
#define UNROLL _Pragma("unroll")

namespace lstm {

typedef uint16_t bf16;  // the bits

// Forward, K runs over units, and a warp owns the 4 gates of 8 units: two tiles of M = 16. Backward, K runs over the
// gates of all units, and a warp owns 16 units: one tile. With GRID, CTAs exchange through global memory (grid.cuh).
template <int HP_, int C_, int NT_, bool GRID_, bool BWD_, int KS_, int KR_, int PW_> struct Config {
  static constexpr int HP = HP_, C = C_, NT = NT_;
  static constexpr bool GRID = GRID_, BWD = BWD_;
  static constexpr int KS = KS_;  // splits of K over warps
  static constexpr int KR = KR_;  // pairs of k tiles that a warp keeps in registers
  static constexpr int PW = PW_;  // a warp owns PW times as many units
  static constexpr int UC = HP / C;  // units of a CTA
  static constexpr int NB = 8 * NT;  // rows of a CTA
  static constexpr int K = BWD ? 4 * HP : HP;
  // Row stride of the state in shared memory, without bank conflicts.
  static constexpr int LD = K + (K % 64 == 0 && !(GRID && BWD) ? 32 : 0);
  static constexpr int KPW = K / 32 / KS;                   // pairs of k tiles of a warp
  static constexpr int MT = BWD ? PW : 2 * PW;              // M tiles of a warp
  static constexpr int G = (BWD ? UC / 16 : UC / 8) / PW;   // groups of warps, each of KS warps
  static constexpr int WARPS = G * KS, THREADS = 32 * WARPS;
  static constexpr int JA = WARPS <= 8 && !GRID ? 2 : 1;    // accumulators per tile: independent chains of mma
  static constexpr int E = (BWD ? 4 * NT : 2 * NT) * PW;    // elements (unit, row) of a lane, over all splits of K
  static constexpr int EPT = E >= KS ? E / KS : 1;          // elements of a thread
  static constexpr int SLICE = BWD ? 4 * UC : UC;           // columns of the state that a CTA computes
  static constexpr int CHUNKS = NB * SLICE / 8;             // of 16 bytes
  static_assert(HP % 32 == 0 && HP % C == 0 && UC % (BWD ? 16 : 8) == 0, "units");
  static_assert(K % (32 * KS) == 0 && KR >= 1 && KR <= KPW && (E % KS == 0 || KS % E == 0), "splits of K");

  // Shared memory in bytes. A cluster holds two states, the weights, partial sums (RED), the bias, and two barriers.
  // A group holds one state forward and none backward, and its partial sums come where the state was.
  static constexpr int STATE = NB * LD * 2;
  static constexpr int WEIGHTS = WARPS * (KPW - KR) * MT * 2 * 32 * 16;
  static constexpr int RED = KS > 1 ? G * KS * E * (BWD ? 1 : 4) * 32 * 4 : 0;
  static constexpr int BIAS = BWD ? 0 : UC * 16;
  static constexpr int GROUP_STATE = BWD ? 0 : STATE;
  static constexpr int WEIGHTS_AT = !GRID ? 2 * STATE : GROUP_STATE > RED ? GROUP_STATE : RED;
  static constexpr int RED_AT = GRID ? 0 : WEIGHTS_AT + WEIGHTS;
  static constexpr int BIAS_AT = WEIGHTS_AT + WEIGHTS + (GRID ? 0 : RED);
  static constexpr int BARRIERS_AT = BIAS_AT + BIAS;
  static constexpr int SMEM = BARRIERS_AT + (GRID ? 0 : 16);
};

struct Thread {
  int tid, lane, g, q, warp, group, ks;  // lane = 4 g + q, as in the fragments; warp = ks * G + group
};
template <class F> HD Thread make_thread(int tid) {
  Thread t;
  t.tid = tid;
  t.lane = tid & 31;
  t.g = t.lane >> 2;
  t.q = t.lane & 3;
  t.warp = tid >> 5;
  t.group = t.warp % F::G;
  t.ks = t.warp / F::G;
  return t;
}

// A lane has elements e = 0 .. E - 1. Of these a thread owns EPT from t.ks * EPT on, if there are so many.
template <class F> HD bool owns(const Thread& t) {
  return t.ks * F::EPT < F::E;
}
template <class F> HD int unit_of(const Thread& t, int e) {  // within the CTA
  return F::BWD ? 16 * (F::PW * t.group + e / (4 * F::NT)) + t.g + 8 * ((e >> 1) & 1)
                : 8 * (F::PW * t.group + e / (2 * F::NT)) + t.g;
}
template <class F> HD int row_of(const Thread& t, int e) {  // within the cluster
  return 8 * ((F::BWD ? e >> 2 : e >> 1) % F::NT) + 2 * t.q + (e & 1);
}
// Index of a unit at a time step in [T, B, HP].
template <class F> HD size_t at(int step, int B, int row, int unit) {
  return ((size_t)step * B + row) * F::HP + unit;
}

// Fragments of A for one pair of k tiles. Tile j's columns 2q + {0, 1} are k = 32 kp + 8q + 4j + {0, 1}, its columns
// 2q + 8 + {0, 1} are two further on: so a lane's fragments of B for both tiles are 16 adjacent bytes.
template <class F> HD void load_a(const bf16* weights, const Thread& t, int rank, int kp, uint32_t (&w)[F::MT][2][4]) {
  int k = 32 * (t.ks * F::KPW + kp) + 8 * t.q;
  UNROLL for (int p = 0; p < F::PW; p++) {
    if (F::BWD) {
      UNROLL for (int r = 0; r < 2; r++) {
        int unit = rank * F::UC + 16 * (F::PW * t.group + p) + t.g + 8 * r;
        uint4 v = *(const uint4*)(weights + (size_t)unit * 4 * F::HP + k);
        w[p][0][r] = v.x;
        w[p][0][2 + r] = v.y;
        w[p][1][r] = v.z;
        w[p][1][2 + r] = v.w;
      }
    } else {
      constexpr int S = F::BWD ? 1 : 2;  // tiles of 8 units: gates i and f, then g and o
      int unit = rank * F::UC + 8 * (F::PW * t.group + p) + t.g;
      UNROLL for (int j = 0; j < 2; j++) UNROLL for (int half = 0; half < 2; half++) {
        const bf16* from = weights + ((size_t)(k + 4 * j + 2 * half) * F::HP + unit) * 4;
        uint2 first = *(const uint2*)from, second = *(const uint2*)(from + 4 * F::HP);  // k and k + 1
        w[S * p][j][2 * half] = (first.x & 0xffffu) | second.x << 16;
        w[S * p][j][2 * half + 1] = first.x >> 16 | (second.x & 0xffff0000u);
        w[S * p + S - 1][j][2 * half] = (first.y & 0xffffu) | second.y << 16;
        w[S * p + S - 1][j][2 * half + 1] = first.y >> 16 | (second.y & 0xffff0000u);
      }
    }
  }
}
// Where the fragments of a pair beyond KR are in shared memory, in uint4.
template <class F> HD int weights_index(const Thread& t, int kp, int m, int j) {
  return (((t.warp * (F::KPW - F::KR) + kp - F::KR) * F::MT + m) * 2 + j) * 32 + t.lane;
}
// Where a lane's fragments of B are in the state, in bf16: 16 bytes from there, for both tiles of the pair.
template <class F> HD int b_index(const Thread& t, int kp, int nt) {
  return (8 * nt + t.g) * F::LD + 32 * (t.ks * F::KPW + kp) + 8 * t.q;
}
template <class F> HD int red_index(const Thread& t, int ks, int e, int gate) {
  return (((t.group * F::KS + ks) * F::E + e) * (F::BWD ? 1 : 4) + gate) * 32 + t.lane;
}
// A CTA's columns of the state, in chunks of 16 bytes: where a chunk is in shared memory, and in the output.
template <class F> HD int chunk_offset(int chunk, int rank) {
  return (chunk / (F::SLICE / 8)) * F::LD + rank * F::SLICE + (chunk % (F::SLICE / 8)) * 8;
}
template <class F> HD size_t chunk_global(int chunk, int rank, int step, int B, int row0) {
  return ((size_t)step * B + row0 + chunk / (F::SLICE / 8)) * F::K + rank * F::SLICE + (chunk % (F::SLICE / 8)) * 8;
}

// The two kernels of a layer: what they share, then splits of K, pairs of k tiles in registers and PW of each.
template <int HP_, int C_, int NT_, bool GRID_, int KS_FWD, int KR_FWD, int PW_FWD, int KS_BWD, int KR_BWD, int PW_BWD>
struct Kernels {
  static constexpr int HP = HP_, C = C_, NT = NT_;
  static constexpr bool GRID = GRID_;
  using Forward = Config<HP, C, NT, GRID, false, KS_FWD, KR_FWD, PW_FWD>;
  using Backward = Config<HP, C, NT, GRID, true, KS_BWD, KR_BWD, PW_BWD>;
};
using Cluster160x1 = Kernels<160, 1, 1, false, 1, 2, 1, 2, 5, 1>;
using Cluster160x2 = Kernels<160, 2, 1, false, 1, 5, 1, 4, 5, 1>;
using Cluster160x5 = Kernels<160, 5, 1, false, 1, 5, 1, 4, 5, 1>;
using Cluster512x16 = Kernels<512, 16, 1, false, 4, 4, 1, 8, 8, 1>;        // 8 rows
using Cluster512x16Rows16 = Kernels<512, 16, 2, false, 4, 3, 1, 8, 8, 1>;
using Grid1024 = Kernels<1024, 32, 4, true, 4, 3, 2, 8, 6, 2>;             // 32 rows
#define LSTM_KERNELS(X) \
  X(Cluster160x1) X(Cluster160x2) X(Cluster160x5) X(Cluster512x16) X(Cluster512x16Rows16) X(Grid1024)

}  // namespace lstm
