// One time step of an LSTM layer, forward and backward.
//
// Both compute a tile of the matmul with kernel_h and apply the cell to it while it is still in registers. Forward, a
// tile is some rows of the batch by the four gates of LANES units; backward, some rows by up to four vectors of units.
//
// Both overwrite what they read: forward the input's part of the gates becomes the activated gates, backward these
// become dz, the gradient of the gates before their activations.
//
// Axes in names: B batch, H units, G gates (4H, in the order i, f, g, o); all float32.

#pragma once

#include <cstdint>

#include "simd.h"

namespace {

// The LSTM cell for a vector of units: the activated gates and the next c and h.
struct Cell {
  Vector i, f, g, o, c, h;

  Cell(const Vector (&gates)[GATES], Vector c_before)
      : i(sigmoid(gates[0])),
        f(sigmoid(gates[1])),
        g(tanh(gates[2])),
        o(sigmoid(gates[3])),
        c(f * c_before + i * g),
        h(o * tanh(c)) {}
};

// One time step forward. gates_BG holds the input's part of the gates before, the activated gates after. `packed` is
// kernel_h as [vectors of units, H, 4, LANES].
struct ForwardStep {
  int64_t B, H;
  const float *packed, *bias_G, *h_BH, *c_BH;
  float *gates_BG, *next_c_BH, *next_h_BH;

  template <int R>
  void compute_tile(int64_t row, int64_t vector) const {
    const int64_t unit = vector * LANES, count = lanes_used(unit, H);
    Vector sums[R][GATES];
    for (int r = 0; r < R; ++r)
      for (int gate = 0; gate < GATES; ++gate) {
        sums[r][gate] = load(bias_G + gate * H + unit, count);
        // Needed after the matmul; fetched from memory meanwhile.
        __builtin_prefetch(gates_BG + ((row + r) * GATES + gate) * H + unit, 1);
      }
    add_matmul<R, GATES>(h_BH + row * H, H, packed + vector * H * GATES * LANES, H, sums);
    for (int r = 0; r < R; ++r) {
      const int64_t at = (row + r) * H + unit;
      float* gates = gates_BG + (row + r) * GATES * H + unit;
      for (int gate = 0; gate < GATES; ++gate) sums[r][gate] += load(gates + gate * H, count);
      const Cell cell(sums[r], load(c_BH + at, count));
      store(gates, cell.i, count);
      store(gates + H, cell.f, count);
      store(gates + 2 * H, cell.g, count);
      store(gates + 3 * H, cell.o, count);
      store(next_c_BH + at, cell.c, count);
      store(next_h_BH + at, cell.h, count);
    }
  }

  // A column is a vector of units with all of its gates.
  int64_t column_count() const { return vector_count(H); }

  // Computes a column for the rows from `begin` up to `end`.
  void compute_column(int64_t column, int64_t begin, int64_t end) const {
    for_each_tile(begin, end, [&](auto R, int64_t row) { compute_tile<R>(row, column); });
  }
};

// One time step backward. gates_BG holds the activated gates before, dz after; dc_BH holds dc of this step before, of
// the step before it after. The gradient of h is the sum of out_dh_BH, which comes from the layer's output, and of what
// comes from the next step: next_dz_BG @ kernel_h.T. The last step has no next one: there next_dz_BG is null and
// last_dh_BH, else null, takes its place. `packed` is kernel_h.T in panels (matmul.h).
struct BackwardStep {
  int64_t B, H;
  const float *packed, *next_dz_BG, *last_dh_BH, *out_dh_BH, *c_BH, *c_before_BH;
  float *gates_BG, *dc_BH;

  template <int R, int V>
  void compute_tile(int64_t row, int64_t vector) const {
    Vector sums[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t unit = (vector + v) * LANES, at = (row + r) * H + unit;
        sums[r][v] = last_dh_BH ? load(last_dh_BH + at, lanes_used(unit, H)) : Vector{};
        __builtin_prefetch(out_dh_BH + at);
        __builtin_prefetch(c_BH + at);
        __builtin_prefetch(c_before_BH + at);
        for (int gate = 0; gate < GATES; ++gate)
          __builtin_prefetch(gates_BG + ((row + r) * GATES + gate) * H + unit, 1);
      }
    if (next_dz_BG)
      add_matmul<R, V>(next_dz_BG + row * GATES * H, GATES * H, packed + vector * GATES * H * LANES, GATES * H, sums);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t unit = (vector + v) * LANES, at = (row + r) * H + unit, count = lanes_used(unit, H);
        float* gates = gates_BG + (row + r) * GATES * H + unit;
        const Vector i = load(gates, count), f = load(gates + H, count);
        const Vector g = load(gates + 2 * H, count), o = load(gates + 3 * H, count);
        const Vector tanh_c = tanh(load(c_BH + at, count)), dh = sums[r][v] + load(out_dh_BH + at, count);
        const Vector dc = load(dc_BH + at, count) + dh * o * (1.0f - tanh_c * tanh_c);
        store(gates, dc * g * i * (1.0f - i), count);
        store(gates + H, dc * load(c_before_BH + at, count) * f * (1.0f - f), count);
        store(gates + 2 * H, dc * i * (1.0f - g * g), count);
        store(gates + 3 * H, dh * tanh_c * o * (1.0f - o), count);
        store(dc_BH + at, dc * f, count);
      }
  }

  // A column is a panel of units.
  int64_t column_count() const { return (vector_count(H) + MAX_TILE_VECTORS - 1) / MAX_TILE_VECTORS; }

  // Computes a column for the rows from `begin` up to `end`.
  void compute_column(int64_t column, int64_t begin, int64_t end) const {
    const int64_t vector = column * MAX_TILE_VECTORS;
    with_constant<MAX_TILE_VECTORS>(min(MAX_TILE_VECTORS, vector_count(H) - vector), [&](auto V) {
      for_each_tile(begin, end, [&](auto R, int64_t row) { compute_tile<R, V>(row, vector); });
    });
  }
};

}  // namespace
