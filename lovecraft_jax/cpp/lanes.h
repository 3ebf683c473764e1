// Vectors of as many floats as the CPU's registers hold, and what is done with tiles of them.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

// As many lanes as the CPU's vectors have, as many rows as its registers hold sums of, and one to spare for each
// operand.
#if defined(__AVX512F__)
constexpr int LANES = 16, MOST_ROWS = 6;
#elif defined(__AVX__)
constexpr int LANES = 8, MOST_ROWS = 3;
#else
constexpr int LANES = 4, MOST_ROWS = 6;
#endif
constexpr int GATES = 4, MOST_VECTORS = 4;

typedef float Vector __attribute__((vector_size(4 * LANES)));

// The first `count` lanes of a vector, from memory and to it; 0 in the others.
inline Vector load(const float* from, int64_t count = LANES) {
  Vector v{};
  if (count == LANES) {
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  char* to = reinterpret_cast<char*>(&v);
  for (int part = LANES / 2; part; part /= 2)  // by parts of a size known to the compiler
    if (count & part) {
      std::memcpy(to, from, 4 * part);
      to += 4 * part;
      from += part;
    }
  return v;
}

inline void store(float* to, Vector v, int64_t count = LANES) {
  if (count == LANES) {
    std::memcpy(to, &v, sizeof v);
    return;
  }
  const char* from = reinterpret_cast<const char*>(&v);
  for (int part = LANES / 2; part; part /= 2)
    if (count & part) {
      std::memcpy(to, from, 4 * part);
      to += part;
      from += 4 * part;
    }
}

inline Vector all(float x) { return x - Vector{}; }  // x + 0 would not do: of -0 it makes 0, so it costs an addition

// Within 4e-7 of tanh: the odd polynomial over the even one that is nearest to it up to 9 (relative error 2e-8 before
// rounding), beyond which it is 1.
inline Vector tanh(Vector x) {
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

inline Vector sigmoid(Vector x) { return 0.5f * tanh(0.5f * x) + 0.5f; }

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// How many vectors hold H units, and how many units the one from `unit` on holds.
inline int64_t vectors(int64_t H) { return (H + LANES - 1) / LANES; }
inline int64_t held(int64_t unit, int64_t H) { return least(LANES, H - unit); }

// Rows of the next tile, so that all are nearly the same height.
inline int64_t height(int64_t rows) {
  const int64_t tiles = (rows + MOST_ROWS - 1) / MOST_ROWS;
  return (rows + tiles - 1) / tiles;
}

// sums [R rows, N vectors] += a [R, K] @ packed [K, N vectors]; a's rows are K apart.
template <int R, int N>
inline void add_product(const float* a, const float* packed, int64_t K, Vector (&sums)[R][N]) {
  for (int64_t k = 0; k < K; ++k) {
    Vector b[N];
    for (int n = 0; n < N; ++n) b[n] = load(packed + (k * N + n) * LANES);
    for (int r = 0; r < R; ++r) {
      const Vector x = all(a[r * K + k]);
      for (int n = 0; n < N; ++n) sums[r][n] += x * b[n];
    }
  }
}

}  // namespace
