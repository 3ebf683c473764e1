// An LSTM layer in double, forward and backward, in the kernels' layouts, with operands as the kernels get them.
#pragma once
#include <vector>

#include "cell.h"

namespace reference {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;
using Values = std::vector<lstm::Value>;

constexpr int H = LSTM_UNITS, HP = LSTM_PADDED_UNITS, G = 4 * HP, NORM = LSTM_NORM, INPUT_GATE = LSTM_INPUT_GATE;
constexpr bool MASK = LSTM_MASK;

// One member: a layer with its rows.
struct Problem {
  int T, B;
  Values weights, gates_x, dh;
  Floats scale, bias, mask, c0, h0, dc_last, dh_last;
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
inline Problem make(int T, int B, int seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 12345;
  auto value = [&] { return normal(state); };
  auto stored = [&] { return lstm::to_value(normal(state)); };
  Problem p{T, B};
  fill(p.weights, H, G, 4 * H, [&] { return lstm::to_value(normal(state) * 1.3f / sqrtf(H)); });
  p.weights.resize((size_t)HP * G, 0);
  fill(p.gates_x, (size_t)T * B, G, 4 * H, stored);
  fill(p.dh, (size_t)T * B, HP, H, stored);
  fill(p.scale, 1, G, 4 * H, [&] { return 1 + 0.3f * normal(state); });
  fill(p.bias, 1, G, 4 * H, [&] { return 0.5f * normal(state); });
  fill(p.mask, B, HP, H, [&] { return normal(state) > -0.8f ? 1.25f : 0.0f; });
  fill(p.h0, B, HP, H, [&] { return lstm::widen(lstm::to_value(tanhf(normal(state)))); });
  for (Floats* v : {&p.c0, &p.dc_last, &p.dh_last}) fill(*v, B, HP, H, value);
  if (INPUT_GATE == lstm::COUPLED) {  // has no gate i: zeros
    for (size_t i = 0; i < p.weights.size(); i += 4) p.weights[i] = 0;
    for (size_t i = 0; i < p.gates_x.size(); i += 4) p.gates_x[i] = 0;
    for (size_t i = 0; i < p.scale.size(); i += 4) p.scale[i] = p.bias[i] = 0;
  }
  return p;
}

// Of some rows only; `dy` are the gradients after the norm, before the activations.
struct Result {
  Doubles h, c, dz, dy, dc0;
};

inline double sigmoid(double x) { return 1 / (1 + exp(-x)); }
inline double mask_of(const Problem& p, size_t i) { return MASK ? p.mask[i] : 1.0; }

// The four gates of all units normalised in place, and what each was multiplied by.
inline void normalise(double* z, double* inverse) {
  for (int gate = 0; gate < 4; gate++) {
    double sum = 0, square = 0;
    for (int u = 0; u < H; u++) sum += z[4 * u + gate];
    const double mean = NORM == lstm::LAYER ? sum / H : 0;
    for (int u = 0; u < H; u++) square += (z[4 * u + gate] - mean) * (z[4 * u + gate] - mean);
    inverse[gate] = 1 / sqrt(square / H + lstm::EPSILON);
    for (int u = 0; u < H; u++) z[4 * u + gate] = (z[4 * u + gate] - mean) * inverse[gate];
  }
}
inline void normalise_backward(double* d, const double* normals, const double* inverse) {
  for (int gate = 0; gate < 4; gate++) {
    double sum = 0, along = 0;
    for (int u = 0; u < H; u++) {
      sum += d[4 * u + gate];
      along += d[4 * u + gate] * normals[4 * u + gate];
    }
    const double mean = NORM == lstm::LAYER ? sum / H : 0;
    for (int u = 0; u < H; u++)
      d[4 * u + gate] = (d[4 * u + gate] - mean - normals[4 * u + gate] * along / H) * inverse[gate];
  }
}

// Rows row0 .. row0 + rows - 1 of the batch.
inline Result run(const Problem& p, int row0, int rows) {
  const int T = p.T;
  const size_t N = (size_t)T * rows * HP;
  Result r{Doubles(N), Doubles(N), Doubles(4 * N), Doubles(4 * N), Doubles((size_t)rows * HP)};
  Floats w(p.weights.size());
  for (size_t i = 0; i < w.size(); i++) w[i] = lstm::widen(p.weights[i]);
  Doubles acts(4 * N), normals(4 * N), inverse((size_t)4 * T * rows), z(G), dh(HP), dc(HP), d(G);
  for (int b = 0; b < rows; b++) {
    const size_t first = (size_t)(row0 + b) * HP;  // of this row in [B, HP]
    auto here = [&](int t) { return ((size_t)t * rows + b) * HP; };
    auto given = [&](int t) { return ((size_t)t * p.B + row0 + b) * HP; };
    auto c_before = [&](int t, int u) { return t ? r.c[here(t - 1) + u] : p.c0[first + u]; };
    for (int t = 0; t < T; t++) {
      for (int i = 0; i < G; i++) z[i] = lstm::widen(p.gates_x[4 * given(t) + i]);
      for (int k = 0; k < H; k++) {
        double h = (t ? r.h[here(t - 1) + k] : p.h0[first + k]) * mask_of(p, first + k);
        for (int i = 0; i < 4 * H; i++) z[i] += h * w[(size_t)k * G + i];
      }
      if (NORM != lstm::NO_NORM) normalise(z.data(), &inverse[4 * ((size_t)t * rows + b)]);
      for (int i = 0; i < G; i++) {
        normals[4 * here(t) + i] = z[i];
        z[i] = (NORM != lstm::NO_NORM ? z[i] * p.scale[i] : z[i]) + p.bias[i];
      }
      for (int u = 0; u < HP; u++) {
        double* a = &acts[4 * (here(t) + u)];
        for (int gate = 0; gate < 4; gate++) a[gate] = gate == 2 ? tanh(z[4 * u + 2]) : sigmoid(z[4 * u + gate]);
        double i = INPUT_GATE == lstm::OWN      ? a[0]
                   : INPUT_GATE == lstm::CAPPED ? (a[0] < 1 - a[1] ? a[0] : 1 - a[1])
                                                : 1 - a[1];
        double c = a[1] * c_before(t, u) + i * a[2];
        r.c[here(t) + u] = c;
        r.h[here(t) + u] = a[3] * tanh(c);
      }
    }
    for (int u = 0; u < HP; u++) {
      dh[u] = p.dh_last[first + u];
      dc[u] = p.dc_last[first + u];
    }
    for (int t = T - 1; t >= 0; t--) {
      for (int u = 0; u < HP; u++) {
        const double* a = &acts[4 * (here(t) + u)];
        double i = a[0], f = a[1], g = a[2], o = a[3], tc = tanh(r.c[here(t) + u]);
        double dh_u = dh[u] + lstm::widen(p.dh[given(t) + u]);
        dc[u] += dh_u * o * (1 - tc * tc);
        // The product i * g, or that of what stands in the place of i.
        const bool is_i = INPUT_GATE == lstm::OWN || (INPUT_GATE == lstm::CAPPED && i < 1 - f);
        d[4 * u] = is_i ? dc[u] * g * i * (1 - i) : 0;
        d[4 * u + 1] = dc[u] * c_before(t, u) * f * (1 - f) - (is_i ? 0 : dc[u] * g * f * (1 - f));
        d[4 * u + 2] = dc[u] * (is_i ? i : 1 - f) * (1 - g * g);
        d[4 * u + 3] = dh_u * tc * o * (1 - o);
        dc[u] *= f;
      }
      for (int i = 0; i < G; i++) {
        r.dy[4 * here(t) + i] = d[i];
        if (NORM != lstm::NO_NORM) d[i] *= p.scale[i];
      }
      if (NORM != lstm::NO_NORM)
        normalise_backward(d.data(), &normals[4 * here(t)], &inverse[4 * ((size_t)t * rows + b)]);
      for (int i = 0; i < G; i++) r.dz[4 * here(t) + i] = d[i];
      for (int k = 0; k < HP; k++) {
        dh[k] = 0;
        for (int i = 0; i < 4 * H; i++) dh[k] += w[(size_t)k * G + i] * d[i];
        dh[k] *= mask_of(p, first + k);
      }
    }
    for (int u = 0; u < HP; u++) r.dc0[(size_t)b * HP + u] = dc[u];
  }
  return r;
}

inline double wide(float x) { return x; }
inline double wide(uint16_t bits) { return lstm::from_bits((uint32_t)bits << 16); }
// || got - want || / || want || over the rows and the units that are not padding, with got in [T, B, width] and want in
// [T, rows, width]; NaN if any is.
template <class Value>
double error(const Doubles& want, const Value* got, int T, int B, int row0, int rows, int width) {
  double diff = 0, norm = 0;
  for (int t = 0; t < T; t++)
    for (int row = 0; row < rows; row++)
      for (int i = 0; i < width / HP * H; i++) {
        double x = want[((size_t)t * rows + row) * width + i];
        double y = wide(got[((size_t)t * B + row0 + row) * width + i]);
        diff += (x - y) * (x - y);
        norm += x * x;
      }
  return sqrt(diff / norm);
}

}  // namespace reference
