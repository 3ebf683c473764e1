// The products outside of the loops: of many rows with a kernel, and the gradient of a kernel.

#pragma once

#include <cstdint>
#include <vector>

#include "simd.h"

namespace {

constexpr int64_t DEPTH = 512;     // rows of a panel that stay in a core's cache while tile after tile reads them
constexpr int64_t SOME_ROWS = 96;  // that a thread takes at a time: enough for a panel to be worth reading

// Panels of 4 vectors, the last of what is left, in which C columns lie.
inline int64_t panels(int64_t C) { return (vectors(C) + MOST_VECTORS - 1) / MOST_VECTORS; }

// One panel of a kernel [K, C] to [K, vectors, LANES], with zeros at the end.
inline void pack(const float* kernel_KC, int64_t K, int64_t C, int64_t panel, float* to) {
  const int64_t first = panel * MOST_VECTORS * LANES, last = least(C, first + MOST_VECTORS * LANES);
  for (int64_t k = 0; k < K; ++k)
    for (int64_t c = first; c < last; c += LANES, to += LANES) {
      __builtin_prefetch(kernel_KC + (k + 16) * C + c);
      store(to, load(kernel_KC + k * C + c, held(c, C)));
    }
}

// One panel of the transpose of a kernel [C, K], likewise.
inline void pack_transpose(const float* kernel_CK, int64_t K, int64_t C, int64_t panel, float* to) {
  const int64_t first = panel * MOST_VECTORS * LANES;
  const int64_t width = least(MOST_VECTORS, vectors(C - first)) * LANES;
  for (int64_t some = 0; some < K; some += LANES)  // of which a cache has room for all columns
    for (int64_t c = 0; c < width; ++c)
      for (int64_t k = some; k < least(some + LANES, K); ++k)
        to[k * width + c] = first + c < C ? kernel_CK[(first + c) * K + k] : 0.0f;
}

// to_NC = a_NK @ the packed kernel [K, C] + the bias, if there is one.
struct Product {
  int64_t N, K, C;
  const float *a_NK, *packed, *bias_C;
  float* to_NC;

  template <int R, int V>
  void tile(int64_t row, int64_t column, int64_t k, int64_t last) const {
    Vector sums[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        const float* start = k ? to_NC + (row + r) * C : bias_C;
        sums[r][v] = start ? load(start + at, held(at, C)) : Vector{};
      }
    add_product<R, V>(a_NK + row * K + k, K, packed + column * K + k * V * LANES, last - k, sums);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        store(to_NC + (row + r) * C + at, sums[r][v], held(at, C));
      }
  }

  // Of the rows from `first` on.
  void panel(int64_t p, int64_t first, int64_t last) const {
    const int64_t column = p * MOST_VECTORS * LANES;
    constant<MOST_VECTORS>(least(MOST_VECTORS, vectors(C - column)), [&](auto V) {
      for (int64_t k = 0; k < K; k += DEPTH)
        tiles(first, last, [&](auto R, int64_t row) { tile<R, V>(row, column, k, least(K, k + DEPTH)); });
    });
  }

  int64_t parts() const { return (N + SOME_ROWS - 1) / SOME_ROWS; }

  void part(int64_t n) const {
    for (int64_t p = 0; p < panels(C); ++p) panel(p, N * n / parts(), N * (n + 1) / parts());
  }
};

// sum_RC = a_NR's transpose @ b_NC: the gradient of a kernel, from all N rows that went through it. A panel of b is
// packed as it comes.
struct Outer {
  int64_t N, R, C, threads;
  const float *a_NR, *b_NC;
  float* sum_RC;

  template <int M, int V>
  void tile(int64_t row, int64_t column, int64_t n, int64_t last, const float* packed) const {
    Vector sums[M][V];
    for (int r = 0; r < M; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        sums[r][v] = n ? load(sum_RC + (row + r) * C + at, held(at, C)) : Vector{};
      }
    for (; n < last; ++n) {
      Vector b[V];
      for (int v = 0; v < V; ++v, packed += LANES) b[v] = load(packed);
      for (int r = 0; r < M; ++r) {
        const Vector x = all(a_NR[n * R + row + r]);
        for (int v = 0; v < V; ++v) sums[r][v] += x * b[v];
      }
    }
    for (int r = 0; r < M; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        store(sum_RC + (row + r) * C + at, sums[r][v], held(at, C));
      }
  }

  // Each is a panel of b by all of a's columns; by some, which packs the panel anew, only where threads would be idle.
  int64_t parts() const { return panels(C) * least((R + SOME_ROWS - 1) / SOME_ROWS, 1 + 2 * threads / panels(C)); }

  void part(int64_t n) const {
    const int64_t p = n % panels(C), count = parts() / panels(C), row = n / panels(C);
    const int64_t column = p * MOST_VECTORS * LANES, first_row = R * row / count, last_row = R * (row + 1) / count;
    std::vector<float> packed(DEPTH * MOST_VECTORS * LANES);
    constant<MOST_VECTORS>(least(MOST_VECTORS, vectors(C - column)), [&](auto V) {
      for (int64_t k = 0, last; k < N; k = last) {
        last = least(N, k + DEPTH);
        pack(b_NC + k * C, last - k, C, p, packed.data());
        tiles(first_row, last_row, [&](auto M, int64_t r) { tile<M, V>(r, column, k, last, packed.data()); });
      }
    });
  }
};

}  // namespace
