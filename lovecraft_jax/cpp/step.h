// One time step of the LSTM, forward and back, tile by tile: a tile of the product goes through the activations while
// it is still in registers. It is some rows of the batch by 4 vectors: forward the four gates of as many units as a
// vector has lanes, backward four vectors of units.
//
// Both write over what they read: the gates take the place of what the input gave them, and dz theirs.
//
// Axes in names as in model.py: T time, B batch, H units, G gates (4H, in the order i, f, g, o); all float32.

#pragma once

#include <cstdint>

#include "lanes.h"

namespace {

// One time step forward. gates_BG comes as the input's part of them; h and c are those before the step.
struct Forward {
  int64_t B, H;
  const float *packed, *bias_G, *h_BH, *c_BH;
  float *gates_BG, *next_c_BH, *next_h_BH;

  template <int R>
  void tile(int64_t row, int64_t vector) const {
    const int64_t unit = vector * LANES, count = held(unit, H);
    Vector sums[R][GATES];
    for (int r = 0; r < R; ++r)
      for (int gate = 0; gate < GATES; ++gate) {
        sums[r][gate] = load(bias_G + gate * H + unit, count);
        // Wanted after the product: the long way from memory is over by then.
        __builtin_prefetch(gates_BG + ((row + r) * GATES + gate) * H + unit, 1);
      }
    add_product<R, GATES>(h_BH + row * H, packed + vector * H * GATES * LANES, H, sums);
    for (int r = 0; r < R; ++r) {
      const int64_t at = (row + r) * H + unit;
      float* gates = gates_BG + (row + r) * GATES * H + unit;
      for (int gate = 0; gate < GATES; ++gate) sums[r][gate] += load(gates + gate * H, count);
      const Vector i = sigmoid(sums[r][0]), f = sigmoid(sums[r][1]), g = tanh(sums[r][2]), o = sigmoid(sums[r][3]);
      const Vector c = f * load(c_BH + at, count) + i * g;
      store(gates, i, count);
      store(gates + H, f, count);
      store(gates + 2 * H, g, count);
      store(gates + 3 * H, o, count);
      store(next_c_BH + at, c, count);
      store(next_h_BH + at, o * tanh(c), count);
    }
  }

  template <int R = MOST_ROWS>
  void tile_of(int64_t rows, int64_t row, int64_t vector) const {
    if (rows == R) return tile<R>(row, vector);
    if constexpr (R > 1) tile_of<R - 1>(rows, row, vector);
  }

  int64_t columns() const { return vectors(H); }

  void column(int64_t vector, int64_t row, int64_t last) const {
    for (int64_t rows; row < last; row += rows) tile_of(rows = height(last - row), row, vector);
  }
};

// One time step back: gates_BG becomes the gradient of the gates before their activations, dz, from that of the step
// after it, whose part of dh is next_dz_BG @ kernel_h's transpose. After the last step there is none, but dh_BH.
struct Backward {
  int64_t B, H;
  const float *packed, *next_dz_BG, *dh_BH, *to_h_BH, *c_BH, *c_before_BH;
  float *gates_BG, *dc_BH;

  template <int R, int N>
  void tile(int64_t row, int64_t vector) const {
    Vector sums[R][N];
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n) {
        const int64_t unit = (vector + n) * LANES, at = (row + r) * H + unit;
        sums[r][n] = dh_BH ? load(dh_BH + at, held(unit, H)) : Vector{};
        __builtin_prefetch(to_h_BH + at);
        __builtin_prefetch(c_BH + at);
        __builtin_prefetch(c_before_BH + at);
        for (int gate = 0; gate < GATES; ++gate)
          __builtin_prefetch(gates_BG + ((row + r) * GATES + gate) * H + unit, 1);
      }
    if (next_dz_BG)
      add_product<R, N>(next_dz_BG + row * GATES * H, packed + vector * GATES * H * LANES, GATES * H, sums);
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n) {
        const int64_t unit = (vector + n) * LANES, at = (row + r) * H + unit, count = held(unit, H);
        float* gates = gates_BG + (row + r) * GATES * H + unit;
        const Vector i = load(gates, count), f = load(gates + H, count);
        const Vector g = load(gates + 2 * H, count), o = load(gates + 3 * H, count);
        const Vector tanh_c = tanh(load(c_BH + at, count)), dh = sums[r][n] + load(to_h_BH + at, count);
        const Vector dc = load(dc_BH + at, count) + dh * o * (1.0f - tanh_c * tanh_c);
        store(gates, dc * g * i * (1.0f - i), count);
        store(gates + H, dc * load(c_before_BH + at, count) * f * (1.0f - f), count);
        store(gates + 2 * H, dc * i * (1.0f - g * g), count);
        store(gates + 3 * H, dh * tanh_c * o * (1.0f - o), count);
        store(dc_BH + at, dc * f, count);
      }
  }

  template <int N, int R = MOST_ROWS>
  void tile_of(int64_t rows, int64_t row, int64_t vector) const {
    if (rows == R) return tile<R, N>(row, vector);
    if constexpr (R > 1) tile_of<N, R - 1>(rows, row, vector);
  }

  template <int N = MOST_VECTORS>
  void column_of(int64_t width, int64_t vector, int64_t row, int64_t last) const {
    if constexpr (N > 1)
      if (width < N) return column_of<N - 1>(width, vector, row, last);
    for (int64_t rows; row < last; row += rows) tile_of<N>(rows = height(last - row), row, vector);
  }

  int64_t columns() const { return (vectors(H) + MOST_VECTORS - 1) / MOST_VECTORS; }

  void column(int64_t n, int64_t row, int64_t last) const {
    column_of(vectors(H) - n * MOST_VECTORS, n * MOST_VECTORS, row, last);
  }
};

}  // namespace
