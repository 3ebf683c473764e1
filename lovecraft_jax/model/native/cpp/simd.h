// Vectors of as many floats as the CPU's registers hold, and what is done with tiles of them.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

// Where the compiler's own bounds would keep these out of line, a tile takes a fifth longer.
#define INLINE inline __attribute__((always_inline))

namespace {

// As many lanes as the CPU's vectors have, as many rows as its registers hold sums of, and one to spare for each
// operand.
#if defined(__AVX512F__)
constexpr int LANES = 16, MOST_ROWS = 6;
#elif defined(__AVX__)
constexpr int LANES = 8, MOST_ROWS = 3;
#elif defined(__aarch64__)
constexpr int LANES = 4, MOST_ROWS = 6;
#else
constexpr int LANES = 4, MOST_ROWS = 2;
#endif
constexpr int GATES = 4, MOST_VECTORS = 4;

typedef float Vector __attribute__((vector_size(4 * LANES)));

// The first `count` lanes of a vector, from memory and to it, by parts of a size known to the compiler; 0 in the
// others.
inline __attribute__((noinline)) Vector load_some(const float* from, int64_t count) {
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

inline __attribute__((noinline)) void store_some(float* to, Vector v, int64_t count) {
  const char* from = reinterpret_cast<const char*>(&v);
  for (int part = LANES / 2; part; part /= 2)
    if (count & part) {
      std::memcpy(to, from, 4 * part);
      to += part;
      from += 4 * part;
    }
}

INLINE Vector load(const float* from, int64_t count = LANES) {
  if (count != LANES) return load_some(from, count);
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

INLINE void store(float* to, Vector v, int64_t count = LANES) {
  if (count != LANES) return store_some(to, v, count);
  std::memcpy(to, &v, sizeof v);
}

INLINE Vector all(float x) { return x - Vector{}; }  // x + 0 would not do: of -0 it makes 0, so it costs an addition

// Within 4e-7 of tanh: the odd polynomial over the even one that is nearest to it up to 9 (relative error 2e-8 before
// rounding), beyond which it is 1.
INLINE Vector tanh(Vector x) {
  constexpr float over[] = {9.99999979e-01f, 1.33810245e-01f, 3.49558682e-03f, 2.06090615e-05f, 1.33546317e-08f};
  constexpr float under[] = {1.0f, 4.67143401e-01f, 2.58769771e-02f, 3.28563272e-04f, 7.77654643e-07f};
  x = x > all(9) ? all(9) : x;
  x = x < all(-9) ? all(-9) : x;
  const Vector square = x * x;
  Vector p = all(over[4]), q = all(under[4]);
  for (int n = 3; n >= 0; --n) {
    p = p * square + over[n];
    q = q * square + under[n];
  }
  return x * p / q;
}

INLINE Vector sigmoid(Vector x) { return 0.5f * tanh(0.5f * x) + 0.5f; }

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// How many vectors hold H units, and how many units the one from `unit` on holds.
inline int64_t vectors(int64_t H) { return (H + LANES - 1) / LANES; }
inline int64_t held(int64_t unit, int64_t H) { return least(LANES, H - unit); }

// Calls what is given with n, from 1 to MOST, as a constant.
template <int MOST, class Do>
inline void constant(int64_t n, const Do& with) {
  if (n == MOST) return with(std::integral_constant<int, MOST>{});
  if constexpr (MOST > 1) constant<MOST - 1>(n, with);
}

// Calls what is given with the height of one tile after the other, as a constant, and its first row: so that all are
// nearly of the same height.
template <class Do>
inline void tiles(int64_t row, int64_t last, const Do& with) {
  while (row < last) {
    const int64_t count = (last - row + MOST_ROWS - 1) / MOST_ROWS, rows = (last - row + count - 1) / count;
    constant<MOST_ROWS>(rows, [&](auto R) { with(R, row); });
    row += rows;
  }
}

// sums [R rows, N vectors] += a [R, K] @ packed [K, N vectors]; a's rows are so many apart.
template <int R, int N>
INLINE void add_product(const float* a, int64_t apart, const float* packed, int64_t K, Vector (&sums)[R][N]) {
  for (int64_t k = 0; k < K; ++k) {
    Vector b[N];
    for (int n = 0; n < N; ++n) b[n] = load(packed + (k * N + n) * LANES);
    for (int r = 0; r < R; ++r) {
      const Vector x = all(a[r * apart + k]);
      for (int n = 0; n < N; ++n) sums[r][n] += x * b[n];
    }
  }
}

}  // namespace
