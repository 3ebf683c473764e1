// The gradient of a kernel.

#pragma once

#include <cstdint>

#include "lanes.h"

namespace {

constexpr int64_t DEPTH = 512;  // rows of b of which a panel stays in a core's cache while all of a goes by

// sum_RC = a_NR's transpose @ b_NC: the gradient of a kernel, from all N rows that went through it. As they lie,
// without packing: a tile takes some of a's columns by 4 vectors of b's.
struct Outer {
  int64_t N, R, C;
  const float *a_NR, *b_NC;
  float* sum_RC;

  template <int M, int V>
  void tile(int64_t row, int64_t column, int64_t n, int64_t last) const {
    Vector sums[M][V];
    for (int r = 0; r < M; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        sums[r][v] = n ? load(sum_RC + (row + r) * C + at, held(at, C)) : Vector{};
      }
    // Beyond the end of its last row there is nothing of b to be read, nor of a narrow b a vector's width before that.
    if (C >= LANES)
      for (; n < last - 1; ++n) add<M, V>(row, column, n, LANES, sums);
    for (; n < last; ++n) add<M, V>(row, column, n, held(column + (V - 1) * LANES, C), sums);
    for (int r = 0; r < M; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        store(sum_RC + (row + r) * C + at, sums[r][v], held(at, C));
      }
  }

  template <int M, int V>
  void add(int64_t row, int64_t column, int64_t n, int64_t count, Vector (&sums)[M][V]) const {
    Vector b[V];
    for (int v = 0; v < V; ++v) b[v] = load(b_NC + n * C + column + v * LANES, v == V - 1 ? count : LANES);
    for (int r = 0; r < M; ++r) {
      const Vector x = all(a_NR[n * R + row + r]);
      for (int v = 0; v < V; ++v) sums[r][v] += x * b[v];
    }
  }

  int64_t panels() const { return (vectors(C) + MOST_VECTORS - 1) / MOST_VECTORS; }

  void panel(int64_t p) const {
    const int64_t column = p * MOST_VECTORS * LANES;
    constant<MOST_VECTORS>(least(MOST_VECTORS, vectors(C - column)), [&](auto V) {
      for (int64_t n = 0; n < N; n += DEPTH)
        tiles(0, R, [&](auto M, int64_t row) { tile<M, V>(row, column, n, least(N, n + DEPTH)); });
    });
  }
};

}  // namespace
