// One token of each of S streams through a layer, for the decoder of inference/decoder.py.
//
// Axes in names: S streams, X features from the layer below, H units, G gates (4H, in the order i, f, g, o), V
// vocabulary; all float32.

#pragma once

#include <cstdint>

#include "lstm_step.h"
#include "simd.h"

namespace {

// One layer. A stream's gates start as a row of start_VG: in the first layer the row of its token; in the others, which
// have no ids_S, the only row, which is the bias. `packed` is the kernel as [columns, X + H, 4, LANES], in the order in
// which it is read; a column is the four gates of LANES units.
struct TokenLayer {
  int64_t S, X, H;
  const int32_t* ids_S;
  const float *start_VG, *packed, *below_SX, *c_SH, *h_SH;
  float *next_c_SH, *next_h_SH;

  template <int R>
  void compute_tile(int64_t row, int64_t column) const {
    const int64_t unit = column * LANES, count = lanes_used(unit, H);
    const float* kernel = packed + column * (X + H) * GATES * LANES;
    Vector sums[R][GATES];
    for (int r = 0; r < R; ++r)
      for (int gate = 0; gate < GATES; ++gate)
        sums[r][gate] = load(start_VG + ((ids_S ? ids_S[row + r] : 0) * GATES + gate) * H + unit, count);
    add_matmul<R, GATES>(below_SX + row * X, X, kernel, X, sums);
    add_matmul<R, GATES>(h_SH + row * H, H, kernel + X * GATES * LANES, H, sums);
    for (int r = 0; r < R; ++r) {
      const int64_t at = (row + r) * H + unit;
      const Cell cell(sums[r], load(c_SH + at, count));
      store(next_c_SH + at, cell.c, count);
      store(next_h_SH + at, cell.h, count);
    }
  }

  int64_t column_count() const { return vector_count(H); }

  void compute_column(int64_t column) const {
    for_each_tile(0, S, [&](auto R, int64_t row) { compute_tile<R>(row, column); });
  }
};

}  // namespace
