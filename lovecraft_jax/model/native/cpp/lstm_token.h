// One token of each of S streams through a layer, for the decoder of inference/decoder.py.
//
// Axes in names: S streams, X features from the layer below, H units, N gates (i, f, g, o, or f, g, o), G gates times
// units, V vocabulary; all float32.

#pragma once

#include <cstdint>

#include "lstm_step.h"
#include "lstm_variants.h"
#include "simd.h"

namespace {

// One layer. A stream's gates start as a row of start_VG: that of its token, or the only row in a layer that does not
// take the token and has no ids_S. `packed` is the kernel as [columns, X + H, N, LANES], in the order in which it is
// read; a column is the gates of LANES units.
//
// In a plain layer a column ends with the cell, and gates_SG is null. In others (lstm_variants.h) it ends with the gates
// before norm and activation, in gates_SG, and `finish_row` is a second stage.
struct TokenLayer {
  Variant variant;
  int64_t X;
  const int32_t* ids_S;
  const float *start_VG, *packed, *below_SX, *c_SH, *h_SH;
  float *gates_SG, *next_c_SH, *next_h_SH;

  template <int R, int N>
  void compute_tile(int64_t row, int64_t column) const {
    const int64_t H = variant.H, unit = column * LANES, count = lanes_used(unit, H);
    const float* kernel = packed + column * (X + H) * N * LANES;
    Vector sums[R][N];
    for (int r = 0; r < R; ++r)
      for (int gate = 0; gate < N; ++gate)
        sums[r][gate] = load(start_VG + ((ids_S ? ids_S[row + r] : 0) * N + gate) * H + unit, count);
    add_matmul<R, N>(below_SX + row * X, X, kernel, X, sums);
    add_matmul<R, N>(h_SH + row * H, H, kernel + X * N * LANES, H, sums);
    for (int r = 0; r < R; ++r) {
      if (gates_SG) {
        for (int gate = 0; gate < N; ++gate) store(gates_SG + ((row + r) * N + gate) * H + unit, sums[r][gate], count);
      } else if constexpr (N == GATES) {
        const int64_t at = (row + r) * H + unit;
        const Cell cell(sums[r], load(c_SH + at, count));
        store(next_c_SH + at, cell.c, count);
        store(next_h_SH + at, cell.h, count);
      }
    }
  }

  int64_t column_count() const { return vector_count(variant.H); }

  void compute_column(int64_t column) const {
    for_each_tile(0, variant.B, [&](auto R, int64_t row) {
      variant.N == GATES ? compute_tile<R, GATES>(row, column) : compute_tile<R, GATES - 1>(row, column);
    });
  }

  void finish_row(int64_t row) const {
    VariantForward{variant, nullptr, c_SH, h_SH, gates_SG, next_c_SH, next_h_SH, nullptr, nullptr}.compute_row(row);
  }
};

}  // namespace
