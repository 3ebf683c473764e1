// SIMD vectors of floats, and the small matmul on a tile of them that all of the C++ is built from.
//
// A tile is a part of a result, up to MAX_TILE_ROWS rows by MAX_TILE_VECTORS vectors: its sums stay in registers.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

// Inlines regardless of the compiler's size limits, with which a tile takes a fifth longer.
#define INLINE inline __attribute__((always_inline))

namespace {

// LANES: the floats in one of the CPU's vector registers. MAX_TILE_ROWS: so many that a tile's sums leave registers
// free for the operands.
#if defined(__AVX512F__)
constexpr int LANES = 16, MAX_TILE_ROWS = 6;
#elif defined(__AVX__)
constexpr int LANES = 8, MAX_TILE_ROWS = 3;
#elif defined(__aarch64__)
constexpr int LANES = 4, MAX_TILE_ROWS = 6;
#else
constexpr int LANES = 4, MAX_TILE_ROWS = 2;
#endif
constexpr int GATES = 4, MAX_TILE_VECTORS = 4;

typedef float Vector __attribute__((vector_size(4 * LANES)));

// Loads the first `count` < LANES lanes and sets the others to 0. Copies halves, quarters, ... of a vector, whose sizes
// the compiler knows. Out of line, as only the last vector of a row needs it.
inline __attribute__((noinline)) Vector load_partial(const float* from, int64_t count) {
  Vector v{};
  char* to = reinterpret_cast<char*>(&v);
  for (int part = LANES / 2; part; part /= 2)
    if (count & part) {
      std::memcpy(to, from, 4 * part);
      to += 4 * part;
      from += part;
    }
  return v;
}

// Stores the first `count` < LANES lanes, in the same way.
inline __attribute__((noinline)) void store_partial(float* to, Vector v, int64_t count) {
  const char* from = reinterpret_cast<const char*>(&v);
  for (int part = LANES / 2; part; part /= 2)
    if (count & part) {
      std::memcpy(to, from, 4 * part);
      to += part;
      from += 4 * part;
    }
}

INLINE Vector load(const float* from, int64_t count = LANES) {
  if (count != LANES) return load_partial(from, count);
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store(float* to, Vector v, int64_t count = LANES) {
  if (count != LANES) return store_partial(to, v, count);
  std::memcpy(to, &v, sizeof v);
}

// x in every lane. x - 0 is always x and costs nothing; x + 0 turns -0 into 0, so the compiler has to compute it.
INLINE Vector broadcast(float x) { return x - Vector{}; }

// tanh with an error below 4e-7: the quotient of an odd and an even polynomial that is closest to tanh on [-9, 9]
// (relative error 2e-8 before rounding). Beyond that tanh is 1 or -1 in float32.
INLINE Vector tanh(Vector x) {
  constexpr float odd[] = {9.99999979e-01f, 1.33810245e-01f, 3.49558682e-03f, 2.06090615e-05f, 1.33546317e-08f};
  constexpr float even[] = {1.0f, 4.67143401e-01f, 2.58769771e-02f, 3.28563272e-04f, 7.77654643e-07f};
  x = x > broadcast(9) ? broadcast(9) : x;
  x = x < broadcast(-9) ? broadcast(-9) : x;
  const Vector square = x * x;
  Vector p = broadcast(odd[4]), q = broadcast(even[4]);
  for (int n = 3; n >= 0; --n) {
    p = p * square + odd[n];
    q = q * square + even[n];
  }
  return x * p / q;
}

INLINE Vector sigmoid(Vector x) { return 0.5f * tanh(0.5f * x) + 0.5f; }

// By value: std::min's references change what g++ inlines.
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a < b ? b : a; }

// The number of vectors that C columns fill, and the number of lanes in use in the one that starts at `column`.
inline int64_t vector_count(int64_t C) { return (C + LANES - 1) / LANES; }
inline int64_t lanes_used(int64_t column, int64_t C) { return min(LANES, C - column); }

// Calls `function` with n, from 1 to MAX, as a constant that the compiler knows.
template <int MAX, class Function>
inline void with_constant(int64_t n, const Function& function) {
  if (n == MAX) return function(std::integral_constant<int, MAX>{});
  if constexpr (MAX > 1) with_constant<MAX - 1>(n, function);
}

// Divides the rows from `row` up to `end` into tiles of nearly equal height, and calls `function` with the height of
// each, as a constant, and its first row.
template <class Function>
inline void for_each_tile(int64_t row, int64_t end, const Function& function) {
  while (row < end) {
    const int64_t tiles = (end - row + MAX_TILE_ROWS - 1) / MAX_TILE_ROWS, rows = (end - row + tiles - 1) / tiles;
    with_constant<MAX_TILE_ROWS>(rows, [&](auto R) { function(R, row); });
    row += rows;
  }
}

// sums [R rows, V vectors] += a [R, K] @ packed [K, V vectors]. The rows of a start `stride` floats apart.
template <int R, int V>
INLINE void add_matmul(const float* a, int64_t stride, const float* packed, int64_t K, Vector (&sums)[R][V]) {
  for (int64_t k = 0; k < K; ++k) {
    Vector b[V];
    for (int v = 0; v < V; ++v) b[v] = load(packed + (k * V + v) * LANES);
    for (int r = 0; r < R; ++r) {
      const Vector x = broadcast(a[r * stride + k]);
      for (int v = 0; v < V; ++v) sums[r][v] += x * b[v];
    }
  }
}

}  // namespace
