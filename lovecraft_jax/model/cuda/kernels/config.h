// The sizes of the kernels, and which thread computes what.
//
// A cluster of C CTAs (thread blocks), or without a cluster a group of C, owns 8 * NT rows of the batch. Each CTA owns
// UC = HP / C units and keeps their part of the recurrent matrix on the chip: as fragments of mma.sync in registers,
// and what does not fit there in shared memory. The weights are operand A (M: gates or units), the state is operand B
// (N: 8 rows): h forward, the gradient of the gates backward. A tile of k is 16 wide in bfloat16 (m16n8k16) and 8 in
// TF32 (m16n8k8), in both cases 32 bytes of a row of the state: a lane has as many registers of each operand.
//
// Layouts; HP are the units padded with zeros; gates i, f, g, o are innermost (a coupled cell's i is zero):
//   weights Value [HP (from), HP (to), 4]; gates_x, gates, dz, dy Value [T, B, HP, 4]; h, dh, state Value [T, B, HP];
//   c float [T, B, HP]; scale, bias float [HP, 4]; inverse float [T, B, 4]; mask, c0, h0 and gradients of carries float
//   [B, HP].
//
// model/cuda/division.py chooses the macros below.
#pragma once
#include "values.h"

namespace lstm {

// LSTM_NORM, of each gate over its units before its activation, and LSTM_INPUT_GATE.
constexpr int NO_NORM = 0, LAYER = 1, RMS = 2;
constexpr int OWN = 0, CAPPED = 1, COUPLED = 2;
constexpr float EPSILON = 1e-5f;                 // model/normalization.py's

HD constexpr int larger(int a, int b) { return a > b ? a : b; }

// Forward, K runs over units, and a warp owns the 4 gates of 8 units: two tiles of M = 16. Backward, K runs over the
// gates of all units, and a warp owns 16 units: one tile. With GROUPED, CTAs exchange through L2 (group.cuh).
template <bool BWD_, int KS_, int KR_, int PW_> struct Config {
  static constexpr int H = LSTM_UNITS, HP = LSTM_PADDED_UNITS, C = LSTM_BLOCKS, NT = LSTM_ROW_TILES;
  static constexpr bool GROUPED = LSTM_GROUPED, BWD = BWD_, MASK = LSTM_MASK;
  static constexpr int NORM = LSTM_NORM, INPUT_GATE = LSTM_INPUT_GATE;
  static constexpr bool SAVES = LSTM_SAVES;  // forward: all that the backward pass needs, else only h and the last c
  // Forward, h is stored as it is, or as the state of the matmul, or, with a mask, as both. A group exchanges the state
  // through memory, so in float32 it stores both.
  static constexpr bool STORES_H = MASK || FLOAT32, STORES_STATE = BWD || MASK || !FLOAT32;
  static constexpr bool HAS_STATE = MASK || (GROUPED && FLOAT32);
  static constexpr int KS = KS_;  // splits of K over warps
  static constexpr int KR = KR_;  // pairs of k tiles that a warp keeps in registers
  static constexpr int PW = PW_;  // a warp owns PW times as many units
  static constexpr int UC = HP / C;  // units of a CTA
  static constexpr int NB = 8 * NT;  // rows of a CTA
  static constexpr int K = BWD ? 4 * HP : HP;
  // Row stride of the state in shared memory, without bank conflicts.
  static constexpr int LD = K + (K * VALUE_BYTES % 128 == 0 && !(GROUPED && BWD) ? PAIR : 0);
  static constexpr int KPW = K / PAIR / KS;                 // pairs of k tiles of a warp
  static constexpr int MT = BWD ? PW : 2 * PW;              // M tiles of a warp
  static constexpr int G = (BWD ? UC / 16 : UC / 8) / PW;   // groups of warps, each of KS warps
  static constexpr int WARPS = G * KS, THREADS = 32 * WARPS;
  static constexpr int JA = WARPS <= 8 && NT <= 2 ? 2 : 1;    // accumulators per tile: independent chains of mma
  static constexpr int E = (BWD ? 4 * NT : 2 * NT) * PW;    // elements (unit, row) of a lane, over all splits of K
  static constexpr int EPT = E >= KS ? E / KS : 1;          // elements of a thread
  static constexpr int SLICE = BWD ? 4 * UC : UC;           // columns of the state that a CTA computes
  static constexpr int CHUNKS = NB * SLICE / CHUNK;         // of 16 bytes
  static_assert(HP % 32 == 0 && HP % C == 0 && UC % (BWD ? 16 : 8) == 0 && (BWD ? UC / 16 : UC / 8) % PW == 0, "units");
  static_assert(K % (PAIR * KS) == 0 && KR >= 1 && KR <= KPW && (E % KS == 0 || KS % E == 0), "splits of K");
  static_assert(!GROUPED || E >= KS, "all threads of a group have elements");

  // Sums over all units that a norm needs for each row: of squares, and of the values themselves, of four gates.
  static constexpr int SUMS = NORM == NO_NORM ? 0 : NORM == RMS ? 4 : 8;
  static constexpr int CONTRIBUTIONS = E / (2 * NT) * G;  // of lanes to a row's sums, after those of a warp are added
  static constexpr int RANKS = GROUPED ? 1 : C;              // parts of a row's sums in shared memory

  // Shared memory in bytes. A cluster holds two states, the weights, partial sums of the matmul (RED), scale and bias,
  // sums of the norm (PARTS of each warp, SUMS of each CTA), and three barriers. A group holds one state forward and
  // none backward; there RED reuses the state's memory, and so do PARTS and SUMS.
  static constexpr int STATE = NB * LD * VALUE_BYTES;
  static constexpr int WEIGHTS = WARPS * (KPW - KR) * MT * 2 * 32 * 16;
  static constexpr int RED = KS > 1 ? G * KS * E * (BWD ? 1 : 4) * 32 * 4 : 0;
  static constexpr int AFFINE = NORM != NO_NORM ? 2 * UC * 16 : BWD ? 0 : UC * 16;
  static constexpr int GROUP_STATE = BWD ? 0 : STATE, NORM_SUMS = 4 * SUMS * NB * (CONTRIBUTIONS + RANKS);
  static constexpr int WEIGHTS_AT = GROUPED ? larger(GROUP_STATE, larger(RED, NORM_SUMS)) : 2 * STATE;
  static constexpr int RED_AT = GROUPED ? 0 : WEIGHTS_AT + WEIGHTS;
  static constexpr int AFFINE_AT = WEIGHTS_AT + WEIGHTS + (GROUPED ? 0 : RED);
  static constexpr int PARTS_AT = GROUPED ? RED_AT : AFFINE_AT + AFFINE;
  static constexpr int SUMS_AT = PARTS_AT + 4 * SUMS * CONTRIBUTIONS * NB;
  static constexpr int BARRIERS_AT = SUMS_AT + 4 * SUMS * RANKS * NB;
  static constexpr int SMEM = GROUPED ? AFFINE_AT + AFFINE : BARRIERS_AT + 32;
};

using Forward = Config<false, LSTM_SPLITS_FORWARD, LSTM_KEPT_FORWARD, LSTM_WIDTH>;
using Backward = Config<true, LSTM_SPLITS_BACKWARD, LSTM_KEPT_BACKWARD, LSTM_WIDTH>;
static_assert(Forward::THREADS == LSTM_THREADS_FORWARD && Forward::SMEM == LSTM_SHARED_FORWARD, "division.py, forward");
static_assert(Backward::THREADS == LSTM_THREADS_BACKWARD && Backward::SMEM == LSTM_SHARED_BACKWARD,
              "division.py, backward");

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

// A lane has elements e = 0 .. E - 1. Of these a thread owns EPT from t.ks * EPT on, if there are so many: all threads
// of a warp do, or none.
template <class F> HD bool owns(const Thread& t) { return t.ks * F::EPT < F::E; }
// Which of the units that a lane has for one row.
template <class F> HD int part_of(int e) {
  return F::BWD ? e / (4 * F::NT) * 2 + ((e >> 1) & 1) : e / (2 * F::NT);
}
template <class F> HD int unit_of(const Thread& t, int e) {  // within the CTA
  return F::BWD ? 16 * (F::PW * t.group + e / (4 * F::NT)) + t.g + 8 * ((e >> 1) & 1)
                : 8 * (F::PW * t.group + e / (2 * F::NT)) + t.g;
}
template <class F> HD int row_of(const Thread& t, int e) {  // within the cluster
  return 8 * ((F::BWD ? e >> 2 : e >> 1) % F::NT) + 2 * t.q + (e & 1);
}

// Fragments of A for one pair of k tiles. A lane's columns of tile j (2q + {0, 1} and 2q + 8 + {0, 1} in bfloat16, q
// and q + 4 in TF32) are CHUNK / 2 adjacent k from PAIR kp + CHUNK q + CHUNK / 2 j on: so its fragments of B for both
// tiles are 16 adjacent bytes.
template <class F> HD void load_a(const Value* weights, const Thread& t, int rank, int kp, uint32_t (&w)[F::MT][2][4]) {
  int k = PAIR * (t.ks * F::KPW + kp) + CHUNK * t.q;
  UNROLL for (int p = 0; p < F::PW; p++) {
    if (F::BWD) {
      UNROLL for (int r = 0; r < 2; r++) {
        int unit = rank * F::UC + 16 * (F::PW * t.group + p) + t.g + 8 * r;
        uint4 v = load_operands(weights + (size_t)unit * 4 * F::HP + k);
        w[p][0][r] = v.x;
        w[p][0][2 + r] = v.y;
        w[p][1][r] = v.z;
        w[p][1][2 + r] = v.w;
      }
    } else {
      constexpr int S = F::BWD ? 1 : 2;  // tiles of 8 units: gates i and f, then g and o
      int unit = rank * F::UC + 8 * (F::PW * t.group + p) + t.g;
      UNROLL for (int j = 0; j < 2; j++) UNROLL for (int half = 0; half < 2; half++) {
        uint4 v = load_gates(weights + ((size_t)(k + PER_REGISTER * (2 * j + half)) * F::HP + unit) * 4, 4 * F::HP);
        w[S * p][j][2 * half] = v.x;
        w[S * p][j][2 * half + 1] = v.y;
        w[S * p + S - 1][j][2 * half] = v.z;
        w[S * p + S - 1][j][2 * half + 1] = v.w;
      }
    }
  }
}
// Where the fragments of a pair beyond KR are in shared memory, in uint4.
template <class F> HD int weights_index(const Thread& t, int kp, int m, int j) {
  return (((t.warp * (F::KPW - F::KR) + kp - F::KR) * F::MT + m) * 2 + j) * 32 + t.lane;
}
// Where a lane's fragments of B are in the state: 16 bytes from there, for both tiles of the pair.
template <class F> HD int b_index(const Thread& t, int kp, int nt) {
  return (8 * nt + t.g) * F::LD + PAIR * (t.ks * F::KPW + kp) + CHUNK * t.q;
}
template <class F> HD int red_index(const Thread& t, int ks, int e, int gate) {
  return (((t.group * F::KS + ks) * F::E + e) * (F::BWD ? 1 : 4) + gate) * 32 + t.lane;
}
// Where a warp puts its contribution to a row's sums. Sums of a rank are [NB, SUMS].
template <class F> HD int contribution_index(const Thread& t, int e, int sum) {
  return ((part_of<F>(e) * F::G + t.group) * F::NB + row_of<F>(t, e)) * F::SUMS + sum;
}
// A CTA's columns of the state, in chunks of 16 bytes: where a chunk is in shared memory, and in the output's rows.
template <class F> HD int chunk_offset(int chunk, int rank) {
  return (chunk / (F::SLICE / CHUNK)) * F::LD + rank * F::SLICE + (chunk % (F::SLICE / CHUNK)) * CHUNK;
}
template <class F> HD size_t chunk_global(int chunk, int rank) {
  return (size_t)(chunk / (F::SLICE / CHUNK)) * F::K + rank * F::SLICE + (chunk % (F::SLICE / CHUNK)) * CHUNK;
}

}  // namespace lstm
