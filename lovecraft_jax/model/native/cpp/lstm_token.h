// One token of each of S streams through a layer, as decode.py has it.
//
// The kernel comes packed as [columns, X + H, 4, LANES], a column being the gates of as many units as a vector has
// lanes: it is read from the first float to the last.
//
// Axes in names: S streams, X features from the layer below, H units, G gates (4H, in the order i, f, g, o), V
// vocabulary; all float32.

#pragma once

#include <cstdint>

#include "simd.h"
#include "lstm_step.h"

namespace {

// One layer. Each stream's gates begin as a row of gates_VG: that of its id, or where no ids are given the first.
struct Layer {
  int64_t S, X, H;
  const int32_t* ids_S;
  const float *gates_VG, *packed, *below_SX, *c_SH, *h_SH;
  float *next_c_SH, *next_h_SH;

  template <int R>
  void tile(int64_t row, int64_t column) const {
    const int64_t unit = column * LANES, count = held(unit, H);
    const float* kernel = packed + column * (X + H) * GATES * LANES;
    Vector sums[R][GATES];
    for (int r = 0; r < R; ++r)
      for (int gate = 0; gate < GATES; ++gate)
        sums[r][gate] = load(gates_VG + ((ids_S ? ids_S[row + r] : 0) * GATES + gate) * H + unit, count);
    add_product<R, GATES>(below_SX + row * X, X, kernel, X, sums);
    add_product<R, GATES>(h_SH + row * H, H, kernel + X * GATES * LANES, H, sums);
    for (int r = 0; r < R; ++r) {
      const int64_t at = (row + r) * H + unit;
      const Activated a(sums[r], load(c_SH + at, count));
      store(next_c_SH + at, a.c, count);
      store(next_h_SH + at, a.h, count);
    }
  }

  int64_t columns() const { return vectors(H); }

  void column(int64_t n) const {
    tiles(0, S, [&](auto R, int64_t row) { tile<R>(row, n); });
  }
};

}  // namespace
