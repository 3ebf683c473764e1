// One time step of the LSTM, forward and back, tile by tile: a tile of the product goes through the activations while
// it is still in registers. It is some rows of the batch by 4 vectors: forward the four gates of as many units as a
// vector has lanes, backward four vectors of units.
//
// Both write over what they read: the gates take the place of what the input gave them, and dz theirs.
//
// Axes in names as in model.py: T time, B batch, H units, G gates (4H, in the order i, f, g, o); all float32.

#pragma once

#include <cstdint>

#include "simd.h"

namespace {

// The gates after their activations, and the next c and h.
struct Activated {
  Vector i, f, g, o, c, h;

  Activated(const Vector (&gates)[GATES], Vector c_before)
      : i(sigmoid(gates[0])),
        f(sigmoid(gates[1])),
        g(tanh(gates[2])),
        o(sigmoid(gates[3])),
        c(f * c_before + i * g),
        h(o * tanh(c)) {}
};

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
    add_product<R, GATES>(h_BH + row * H, H, packed + vector * H * GATES * LANES, H, sums);
    for (int r = 0; r < R; ++r) {
      const int64_t at = (row + r) * H + unit;
      float* gates = gates_BG + (row + r) * GATES * H + unit;
      for (int gate = 0; gate < GATES; ++gate) sums[r][gate] += load(gates + gate * H, count);
      const Activated a(sums[r], load(c_BH + at, count));
      store(gates, a.i, count);
      store(gates + H, a.f, count);
      store(gates + 2 * H, a.g, count);
      store(gates + 3 * H, a.o, count);
      store(next_c_BH + at, a.c, count);
      store(next_h_BH + at, a.h, count);
    }
  }

  int64_t columns() const { return vectors(H); }

  void column(int64_t vector, int64_t first, int64_t last) const {
    tiles(first, last, [&](auto R, int64_t row) { tile<R>(row, vector); });
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
      add_product<R, N>(next_dz_BG + row * GATES * H, GATES * H, packed + vector * GATES * H * LANES, GATES * H, sums);
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

  int64_t columns() const { return (vectors(H) + MOST_VECTORS - 1) / MOST_VECTORS; }

  void column(int64_t n, int64_t first, int64_t last) const {
    const int64_t vector = n * MOST_VECTORS;
    constant<MOST_VECTORS>(least(MOST_VECTORS, vectors(H) - vector),
                           [&](auto N) { tiles(first, last, [&](auto R, int64_t row) { tile<R, N>(row, vector); }); });
  }
};

}  // namespace
