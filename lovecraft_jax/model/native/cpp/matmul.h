// The matmuls outside of the time loops: all rows of a batch with a kernel, and the gradient of a kernel.
//
// Axes in names: N rows of a batch, K and C the rows and columns of the kernel that multiplies them; all float32.

#pragma once

#include <cstdint>
#include <vector>

#include "simd.h"

namespace {

constexpr int64_t PANEL_BLOCK = 512;   // rows of a panel that fit in a core's cache while many tiles read them
constexpr int64_t ROWS_PER_PART = 96;  // rows that a thread takes at a time: enough to make up for loading a panel

// A kernel is packed into panels: each holds the next MAX_TILE_VECTORS vectors of columns (the last one what is left),
// row after row, so that a tile reads it from the first float to the last.
inline int64_t panel_count(int64_t C) { return (vector_count(C) + MAX_TILE_VECTORS - 1) / MAX_TILE_VECTORS; }

// Packs one panel of a kernel [K, C] as [K, vectors, LANES]; lanes beyond C are 0.
inline void pack_panel(const float* kernel_KC, int64_t K, int64_t C, int64_t panel, float* to) {
  const int64_t begin = panel * MAX_TILE_VECTORS * LANES, end = min(C, begin + MAX_TILE_VECTORS * LANES);
  for (int64_t k = 0; k < K; ++k)
    for (int64_t c = begin; c < end; c += LANES, to += LANES) {
      __builtin_prefetch(kernel_KC + (k + 16) * C + c);
      store(to, load(kernel_KC + k * C + c, lanes_used(c, C)));
    }
}

// Packs one panel of the transpose of a kernel [C, K], in the same format. Goes through K in blocks of LANES: the cache
// has room for that many of all the panel's columns.
inline void pack_transposed_panel(const float* kernel_CK, int64_t K, int64_t C, int64_t panel, float* to) {
  const int64_t begin = panel * MAX_TILE_VECTORS * LANES;
  const int64_t width = min(MAX_TILE_VECTORS, vector_count(C - begin)) * LANES;
  for (int64_t block = 0; block < K; block += LANES)
    for (int64_t c = 0; c < width; ++c)
      for (int64_t k = block; k < min(block + LANES, K); ++k)
        to[k * width + c] = begin + c < C ? kernel_CK[(begin + c) * K + k] : 0.0f;
}

// to_NC = a_NK @ the packed kernel [K, C], plus bias_C unless that is null, plus what to_NC holds if `adds`.
struct Matmul {
  int64_t N, K, C;
  const float *a_NK, *packed, *bias_C;
  float* to_NC;
  bool adds = false;

  // Adds the rows of the kernel from `k` up to `k_end` to R rows by V vectors of the result.
  template <int R, int V>
  void compute_tile(int64_t row, int64_t column, int64_t k, int64_t k_end) const {
    Vector sums[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        const float* start = k || adds ? to_NC + (row + r) * C : bias_C;
        sums[r][v] = start ? load(start + at, lanes_used(at, C)) : Vector{};
      }
    add_matmul<R, V>(a_NK + row * K + k, K, packed + column * K + k * V * LANES, k_end - k, sums);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        store(to_NC + (row + r) * C + at, sums[r][v], lanes_used(at, C));
      }
  }

  // Computes the columns of a panel for the rows from `begin` up to `end`.
  void compute_panel(int64_t panel, int64_t begin, int64_t end) const {
    const int64_t column = panel * MAX_TILE_VECTORS * LANES;
    with_constant<MAX_TILE_VECTORS>(min(MAX_TILE_VECTORS, vector_count(C - column)), [&](auto V) {
      for (int64_t k = 0; k < K; k += PANEL_BLOCK)
        for_each_tile(begin, end, [&](auto R, int64_t row) {
          compute_tile<R, V>(row, column, k, min(K, k + PANEL_BLOCK));
        });
    });
  }

  // A part is a share of the rows with all of their columns.
  int64_t part_count() const { return (N + ROWS_PER_PART - 1) / ROWS_PER_PART; }

  void compute_part(int64_t part) const {
    for (int64_t panel = 0; panel < panel_count(C); ++panel)
      compute_panel(panel, N * part / part_count(), N * (part + 1) / part_count());
  }
};

// to_KC = a_NK.T @ b_NC: the gradient of a kernel, summed over the N rows that it was multiplied with. Panels of b are
// packed when they are needed.
struct MatmulTN {
  int64_t N, K, C, threads;
  const float *a_NK, *b_NC;
  float* to_KC;

  // Adds the rows of a and b from `n` up to `n_end` to R rows by V vectors of the result. `packed`: these rows of b.
  template <int R, int V>
  void compute_tile(int64_t row, int64_t column, int64_t n, int64_t n_end, const float* packed) const {
    Vector sums[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        sums[r][v] = n ? load(to_KC + (row + r) * C + at, lanes_used(at, C)) : Vector{};
      }
    for (; n < n_end; ++n) {
      Vector b[V];
      for (int v = 0; v < V; ++v, packed += LANES) b[v] = load(packed);
      for (int r = 0; r < R; ++r) {
        const Vector x = broadcast(a_NK[n * K + row + r]);
        for (int v = 0; v < V; ++v) sums[r][v] += x * b[v];
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        const int64_t at = column + v * LANES;
        store(to_KC + (row + r) * C + at, sums[r][v], lanes_used(at, C));
      }
  }

  // A part is a panel of b with all columns of a. Where that gives too few parts for the threads, the columns of a are
  // divided as well, and each part packs its panel again.
  int64_t part_count() const {
    return panel_count(C) * min((K + ROWS_PER_PART - 1) / ROWS_PER_PART, 1 + 2 * threads / panel_count(C));
  }

  void compute_part(int64_t part) const {
    const int64_t panel = part % panel_count(C), share = part / panel_count(C), shares = part_count() / panel_count(C);
    const int64_t column = panel * MAX_TILE_VECTORS * LANES, begin = K * share / shares, end = K * (share + 1) / shares;
    std::vector<float> packed(PANEL_BLOCK * MAX_TILE_VECTORS * LANES);
    with_constant<MAX_TILE_VECTORS>(min(MAX_TILE_VECTORS, vector_count(C - column)), [&](auto V) {
      for (int64_t n = 0, n_end; n < N; n = n_end) {
        n_end = min(N, n + PANEL_BLOCK);
        pack_panel(b_NC + n * C, n_end - n, C, panel, packed.data());
        for_each_tile(begin, end,
                      [&](auto R, int64_t row) { compute_tile<R, V>(row, column, n, n_end, packed.data()); });
      }
    });
  }
};

}  // namespace
