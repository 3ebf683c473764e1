// The sizes of the kernels, and which thread computes what.
//
// A cluster of CTAs (thread blocks), or without a cluster a group of them, owns ROWS rows of the batch. Each CTA owns
// BLOCK_UNITS units and keeps their part of the recurrent matrix on the chip: as fragments of mma.sync in registers,
// and what does not fit there in shared memory. The weights are operand A (M: gates or units), the state is operand B
// (N: 8 rows): h forward, the gradient of the gates backward. A tile of k is 16 wide in bfloat16 (m16n8k16) and 8 in
// TF32 (m16n8k8), in both cases 32 bytes of a row of the state: a lane has as many registers of each operand.
//
// Layouts; P are the units PADDED with zeros; gates i, f, g, o are innermost (a coupled cell's i is zero):
//   weights Value [P (from), P (to), 4]; gates_x, gates, dz, dy Value [T, B, P, 4]; h, dh, state Value [T, B, P];
//   c float [T, B, P]; scale, bias float [P, 4]; inverse float [T, B, 4]; mask, c0, h0 and gradients of carries float
//   [B, P].
//
// model/cuda/division.py chooses the macros below.
#pragma once
#include "values.h"

namespace lstm {

// LSTM_NORM, of each gate over its units before its activation, and LSTM_INPUT_GATE.
constexpr int NO_NORM = 0, LAYER = 1, RMS = 2;
constexpr int OWN = 0, CAPPED = 1, COUPLED = 2;
constexpr float EPSILON = 1e-5f;  // model/normalization.py's

HD constexpr int larger(int a, int b) { return a > b ? a : b; }

// Forward, K runs over units, and a warp owns the 4 gates of 8 units: two tiles of M = 16. Backward, K runs over the
// gates of all units, and a warp owns 16 units: one tile. With GROUPED, CTAs exchange through L2 (group.cuh).
template <bool BWD_, int SPLITS_, int KEPT_, int WIDTH_> struct Config {
  static constexpr int UNITS = LSTM_UNITS, PADDED = LSTM_PADDED_UNITS, BLOCKS = LSTM_BLOCKS, ROW_TILES = LSTM_ROW_TILES;
  static constexpr bool GROUPED = LSTM_GROUPED, BWD = BWD_, MASK = LSTM_MASK;
  static constexpr int NORM = LSTM_NORM, INPUT_GATE = LSTM_INPUT_GATE;
  static constexpr bool SAVES = LSTM_SAVES;  // forward: all that the backward pass needs, else only h and the last c
  // Forward, h is stored as it is, or as the state of the matmul, or, with a mask, as both. A group exchanges the state
  // through memory, so in float32 it stores both.
  static constexpr bool STORES_H = MASK || FLOAT32, STORES_STATE = BWD || MASK || !FLOAT32;
  static constexpr bool HAS_STATE = MASK || (GROUPED && FLOAT32);
  static constexpr int SPLITS = SPLITS_;  // of K over warps
  static constexpr int KEPT = KEPT_;      // pairs of k tiles that a warp keeps in registers
  static constexpr int WIDTH = WIDTH_;    // a warp owns so many times as many units
  static constexpr int BLOCK_UNITS = PADDED / BLOCKS;
  static constexpr int ROWS = 8 * ROW_TILES;
  static constexpr int K = BWD ? 4 * PADDED : PADDED;
  // Row stride of the state in shared memory, without bank conflicts.
  static constexpr int STRIDE = K + (K * VALUE_BYTES % 128 == 0 && !(GROUPED && BWD) ? PAIR : 0);
  static constexpr int PAIRS = K / PAIR / SPLITS;              // pairs of k tiles of a warp
  static constexpr int TILES = BWD ? WIDTH : 2 * WIDTH;        // M tiles of a warp
  static constexpr int WARP_UNITS = (BWD ? 16 : 8) * WIDTH;    // units of a warp
  static constexpr int TEAMS = BLOCK_UNITS / WARP_UNITS;       // of SPLITS warps, which own the same units
  static constexpr int WARPS = TEAMS * SPLITS, THREADS = 32 * WARPS;
  static constexpr int CHAINS = WARPS <= 8 && ROW_TILES <= 2 ? 2 : 1;     // accumulators per tile, for independent mma
  static constexpr int ELEMENTS = (BWD ? 4 : 2) * ROW_TILES * WIDTH;        // (unit, row), of a lane, over all splits
  static constexpr int OWNED = ELEMENTS >= SPLITS ? ELEMENTS / SPLITS : 1;  // elements of a thread
  static constexpr int SLICE = (BWD ? 4 : 1) * BLOCK_UNITS;                 // columns of the state that a CTA computes
  static constexpr int CHUNKS = ROWS * SLICE / CHUNK;                       // of 16 bytes
  static_assert(PADDED % 32 == 0 && PADDED % BLOCKS == 0 && BLOCK_UNITS % WARP_UNITS == 0, "units");
  static_assert(K % (PAIR * SPLITS) == 0 && KEPT >= 1 && KEPT <= PAIRS, "pairs");
  static_assert(ELEMENTS % SPLITS == 0 || SPLITS % ELEMENTS == 0, "splits of K");
  static_assert(!GROUPED || ELEMENTS >= SPLITS, "all threads of a group have elements");

  // Sums over all units that a norm needs for each row: of squares, and of the values themselves, of four gates.
  static constexpr int SUMS = NORM == NO_NORM ? 0 : NORM == RMS ? 4 : 8;
  static constexpr int CONTRIBUTIONS = ELEMENTS / (2 * ROW_TILES) * TEAMS;  // of warps to a row's sums
  static constexpr int RANKS = GROUPED ? 1 : BLOCKS;  // parts of a row's sums in shared memory

  // Shared memory in bytes. A cluster holds two states, the weights, partial sums of the matmul (PARTIAL), scale and
  // bias, sums of the norm (PARTS of each warp, SUMS of each CTA), and three barriers. A group holds one state forward
  // and none backward; there PARTIAL reuses the state's memory, and so do PARTS and SUMS.
  static constexpr int STATE = ROWS * STRIDE * VALUE_BYTES;
  static constexpr int WEIGHTS = WARPS * (PAIRS - KEPT) * TILES * 2 * 32 * 16;
  static constexpr int PARTIAL = SPLITS > 1 ? TEAMS * SPLITS * ELEMENTS * (BWD ? 1 : 4) * 32 * 4 : 0;
  static constexpr int AFFINE = NORM != NO_NORM ? 2 * BLOCK_UNITS * 16 : BWD ? 0 : BLOCK_UNITS * 16;
  static constexpr int GROUP_STATE = BWD ? 0 : STATE, NORM_SUMS = 4 * SUMS * ROWS * (CONTRIBUTIONS + RANKS);
  static constexpr int WEIGHTS_AT = GROUPED ? larger(GROUP_STATE, larger(PARTIAL, NORM_SUMS)) : 2 * STATE;
  static constexpr int PARTIAL_AT = GROUPED ? 0 : WEIGHTS_AT + WEIGHTS;
  static constexpr int AFFINE_AT = WEIGHTS_AT + WEIGHTS + (GROUPED ? 0 : PARTIAL);
  static constexpr int PARTS_AT = GROUPED ? PARTIAL_AT : AFFINE_AT + AFFINE;
  static constexpr int SUMS_AT = PARTS_AT + 4 * SUMS * CONTRIBUTIONS * ROWS;
  static constexpr int BARRIERS_AT = SUMS_AT + 4 * SUMS * RANKS * ROWS;
  static constexpr int SMEM = GROUPED ? AFFINE_AT + AFFINE : BARRIERS_AT + 32;
};

using Forward = Config<false, LSTM_SPLITS_FORWARD, LSTM_KEPT_FORWARD, LSTM_WIDTH>;
using Backward = Config<true, LSTM_SPLITS_BACKWARD, LSTM_KEPT_BACKWARD, LSTM_WIDTH>;
static_assert(Forward::THREADS == LSTM_THREADS_FORWARD && Forward::SMEM == LSTM_SHARED_FORWARD, "division.py, forward");
static_assert(Backward::THREADS == LSTM_THREADS_BACKWARD && Backward::SMEM == LSTM_SHARED_BACKWARD,
              "division.py, backward");

struct Thread {
  int tid, lane, g, q, warp, team, split;  // lane = 4 g + q, as in the fragments; warp = split * TEAMS + team
};
template <class F> HD Thread make_thread(int tid) {
  Thread t;
  t.tid = tid;
  t.lane = tid & 31;
  t.g = t.lane >> 2;
  t.q = t.lane & 3;
  t.warp = tid >> 5;
  t.team = t.warp % F::TEAMS;
  t.split = t.warp / F::TEAMS;
  return t;
}

// A lane has elements e = 0 .. ELEMENTS - 1. Of these a thread owns OWNED from t.split * OWNED on, if there are so
// many: all threads of a warp do, or none.
template <class F> HD bool owns(const Thread& t) { return t.split * F::OWNED < F::ELEMENTS; }
// Which of the units that a lane has for one row.
template <class F> HD int part_of(int e) {
  return F::BWD ? e / (4 * F::ROW_TILES) * 2 + ((e >> 1) & 1) : e / (2 * F::ROW_TILES);
}
template <class F> HD int unit_of(const Thread& t, int e) {  // within the CTA
  return F::BWD ? 16 * (F::WIDTH * t.team + e / (4 * F::ROW_TILES)) + t.g + 8 * ((e >> 1) & 1)
                : 8 * (F::WIDTH * t.team + e / (2 * F::ROW_TILES)) + t.g;
}
template <class F> HD int row_of(const Thread& t, int e) {  // within the cluster
  return 8 * ((F::BWD ? e >> 2 : e >> 1) % F::ROW_TILES) + 2 * t.q + (e & 1);
}

// Fragments of A for one pair of k tiles. A lane's columns of tile j (2q + {0, 1} and 2q + 8 + {0, 1} in bfloat16, q
// and q + 4 in TF32) are CHUNK / 2 adjacent k from PAIR kp + CHUNK q + CHUNK / 2 j on: so its fragments of B for both
// tiles are 16 adjacent bytes.
template <class F>
HD void load_a(const Value* weights, const Thread& t, int rank, int kp, uint32_t (&w)[F::TILES][2][4]) {
  int k = PAIR * (t.split * F::PAIRS + kp) + CHUNK * t.q;
  UNROLL for (int p = 0; p < F::WIDTH; p++) {
    if (F::BWD) {
      UNROLL for (int r = 0; r < 2; r++) {
        int unit = rank * F::BLOCK_UNITS + 16 * (F::WIDTH * t.team + p) + t.g + 8 * r;
        uint4 v = load_operands(weights + (size_t)unit * 4 * F::PADDED + k);
        w[p][0][r] = v.x;
        w[p][0][2 + r] = v.y;
        w[p][1][r] = v.z;
        w[p][1][2 + r] = v.w;
      }
    } else {
      constexpr int S = F::BWD ? 1 : 2;  // tiles of 8 units: gates i and f, then g and o
      int unit = rank * F::BLOCK_UNITS + 8 * (F::WIDTH * t.team + p) + t.g;
      UNROLL for (int j = 0; j < 2; j++) UNROLL for (int half = 0; half < 2; half++) {
        const size_t from = k + PER_REGISTER * (2 * j + half);
        uint4 v = load_gates(weights + (from * F::PADDED + unit) * 4, 4 * F::PADDED);
        w[S * p][j][2 * half] = v.x;
        w[S * p][j][2 * half + 1] = v.y;
        w[S * p + S - 1][j][2 * half] = v.z;
        w[S * p + S - 1][j][2 * half + 1] = v.w;
      }
    }
  }
}
// Where the fragments of a pair beyond KEPT are in shared memory, in uint4.
template <class F> HD int weights_index(const Thread& t, int kp, int m, int j) {
  return (((t.warp * (F::PAIRS - F::KEPT) + kp - F::KEPT) * F::TILES + m) * 2 + j) * 32 + t.lane;
}
// Where a lane's fragments of B are in the state: 16 bytes from there, for both tiles of the pair.
template <class F> HD int b_index(const Thread& t, int kp, int nt) {
  return (8 * nt + t.g) * F::STRIDE + PAIR * (t.split * F::PAIRS + kp) + CHUNK * t.q;
}
template <class F> HD int partial_index(const Thread& t, int split, int e, int gate) {
  return (((t.team * F::SPLITS + split) * F::ELEMENTS + e) * (F::BWD ? 1 : 4) + gate) * 32 + t.lane;
}
// Where a warp puts its contribution to a row's sums. Sums of a rank are [ROWS, SUMS].
template <class F> HD int contribution_index(const Thread& t, int e, int sum) {
  return ((part_of<F>(e) * F::TEAMS + t.team) * F::ROWS + row_of<F>(t, e)) * F::SUMS + sum;
}
// A CTA's columns of the state, in chunks of 16 bytes: where a chunk is in shared memory, and in the output's rows.
template <class F> HD int chunk_offset(int chunk, int rank) {
  return (chunk / (F::SLICE / CHUNK)) * F::STRIDE + rank * F::SLICE + (chunk % (F::SLICE / CHUNK)) * CHUNK;
}
template <class F> HD size_t chunk_global(int chunk, int rank) {
  return (size_t)(chunk / (F::SLICE / CHUNK)) * F::K + rank * F::SLICE + (chunk % (F::SLICE / CHUNK)) * CHUNK;
}

}  // namespace lstm
