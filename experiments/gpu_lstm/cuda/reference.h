// A plain LSTM layer in double, forward and backward, in the kernels' layouts, with operands as the kernels get them.
#pragma once
#include <vector>

#include "cell.h"

namespace reference {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;
using Halves = std::vector<lstm::bf16>;

struct Problem {
  int HP, H, T, B;
  Halves weights, gates_x, dh;
  Floats bias, c0, h0, dc_last, dh_last;
};

// Near a normal distribution: the sum of four bytes.
inline float normal(uint64_t& state) {
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  uint32_t r = (uint32_t)(state >> 32);
  return ((r & 255) + (r >> 8 & 255) + (r >> 16 & 255) + (r >> 24) - 510.0f) / 147.8f;
}

// Normal values in the first `used` of every `width`, zeros in the padding.
template <class V, class Value> void fill(V& v, size_t rows, int width, int used, Value value) {
  v.assign(rows * width, 0);
  for (size_t row = 0; row < rows; row++)
    for (int i = 0; i < used; i++) v[row * width + i] = value();
}
inline Problem make(int HP, int H, int T, int B, int seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 12345;
  auto value = [&] { return normal(state); };
  auto half = [&] { return lstm::round_bf16(normal(state)); };
  Problem p{HP, H, T, B};
  fill(p.weights, H, 4 * HP, 4 * H, [&] { return lstm::round_bf16(normal(state) * 1.3f / sqrtf(H)); });
  p.weights.resize((size_t)HP * HP * 4, 0);
  fill(p.gates_x, (size_t)T * B, 4 * HP, 4 * H, half);
  fill(p.dh, (size_t)T * B, HP, H, half);
  fill(p.bias, 1, 4 * HP, 4 * H, [&] { return 0.5f * normal(state); });
  fill(p.h0, B, HP, H, [&] { return lstm::widen(lstm::round_bf16(tanhf(normal(state)))); });
  for (Floats* v : {&p.c0, &p.dc_last, &p.dh_last}) fill(*v, B, HP, H, value);
  return p;
}

struct Result {
  Doubles h, c, dgates, dc0;  // of some rows only
};

inline double sigmoid(double x) { return 1 / (1 + exp(-x)); }

// Rows row0 .. row0 + rows - 1 of the batch.
inline Result run(const Problem& p, int row0, int rows) {
  const int H = p.H, HP = p.HP, T = p.T, G = 4 * HP;
  const size_t N = (size_t)T * rows * HP;
  Result r{Doubles(N), Doubles(N), Doubles(4 * N), Doubles((size_t)rows * HP)};
  Floats w(p.weights.size());
  for (size_t i = 0; i < w.size(); i++) w[i] = lstm::widen(p.weights[i]);
  Doubles acts(4 * N), z(G), dh(HP), dc(HP);
  for (int b = 0; b < rows; b++) {
    const size_t first = (size_t)(row0 + b) * HP;  // of this row in [B, HP]
    auto here = [&](int t) { return ((size_t)t * rows + b) * HP; };
    auto given = [&](int t) { return ((size_t)t * p.B + row0 + b) * HP; };
    auto c_before = [&](int t, int u) { return t ? r.c[here(t - 1) + u] : p.c0[first + u]; };
    for (int t = 0; t < T; t++) {
      for (int i = 0; i < G; i++) z[i] = lstm::widen(p.gates_x[4 * given(t) + i]) + p.bias[i];
      for (int k = 0; k < H; k++) {
        double h = t ? r.h[here(t - 1) + k] : p.h0[first + k];
        for (int i = 0; i < 4 * H; i++) z[i] += h * w[(size_t)k * G + i];
      }
      for (int u = 0; u < HP; u++) {
        double* a = &acts[4 * (here(t) + u)];
        for (int gate = 0; gate < 4; gate++) a[gate] = gate == 2 ? tanh(z[4 * u + 2]) : sigmoid(z[4 * u + gate]);
        double c = a[1] * c_before(t, u) + a[0] * a[2];
        r.c[here(t) + u] = c;
        r.h[here(t) + u] = a[3] * tanh(c);
      }
    }
    for (int u = 0; u < HP; u++) {
      dh[u] = p.dh_last[first + u];
      dc[u] = p.dc_last[first + u];
    }
    for (int t = T - 1; t >= 0; t--) {
      double* dgates = &r.dgates[4 * here(t)];
      for (int u = 0; u < HP; u++) {
        const double* a = &acts[4 * (here(t) + u)];
        double i = a[0], f = a[1], g = a[2], o = a[3], tc = tanh(r.c[here(t) + u]);
        double d = dh[u] + lstm::widen(p.dh[given(t) + u]);
        dc[u] += d * o * (1 - tc * tc);
        dgates[4 * u] = dc[u] * g * i * (1 - i);
        dgates[4 * u + 1] = dc[u] * c_before(t, u) * f * (1 - f);
        dgates[4 * u + 2] = dc[u] * i * (1 - g * g);
        dgates[4 * u + 3] = d * tc * o * (1 - o);
        dc[u] *= f;
      }
      for (int k = 0; k < HP; k++) {
        dh[k] = 0;
        for (int i = 0; i < G; i++) dh[k] += w[(size_t)k * G + i] * dgates[i];
      }
    }
    for (int u = 0; u < HP; u++) r.dc0[(size_t)b * HP + u] = dc[u];
  }
  return r;
}

inline double wide(float x) { return x; }
inline double wide(lstm::bf16 x) { return lstm::widen(x); }
// || got - want || / || want || over the rows, with got in [T, B, width] and want in [T, rows, width]; NaN if any is.
template <class V> double error(const Doubles& want, const V& got, int T, int B, int row0, int rows, int width) {
  double diff = 0, norm = 0;
  for (int t = 0; t < T; t++)
    for (size_t i = 0; i < (size_t)rows * width; i++) {
      double x = want[(size_t)t * rows * width + i], y = wide(got[((size_t)t * B + row0) * width + i]);
      diff += (x - y) * (x - y);
      norm += x * x;
    }
  return sqrt(diff / norm);
}
// The errors of h, c, dgates and dc0.
struct Errors {
  double h, c, dgates, dc0;
  bool below(double limit) const { return h < limit && c < limit && dgates < limit && dc0 < limit; }
};
inline Errors errors(const Problem& p, const Halves& h, const Floats& c, const Halves& dgates, const Floats& dc0,
                     int row0, int rows) {
  Result want = run(p, row0, rows);
  return {error(want.h, h, p.T, p.B, row0, rows, p.HP), error(want.c, c, p.T, p.B, row0, rows, p.HP),
          error(want.dgates, dgates, p.T, p.B, row0, rows, 4 * p.HP), error(want.dc0, dc0, 1, p.B, row0, rows, p.HP)};
}

}  // namespace reference
