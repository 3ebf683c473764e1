// One time step of the LSTM layers that are not plain, forward and backward: with a norm of the gates, with a capped or
// a coupled input gate, with dropout on h. A norm needs all units of a row before it can activate one of them, so a
// step has two stages, a matmul for some columns of all rows and then the cell for whole rows.
//
// gates_BG is overwritten. The forward step reads the input's part of the gates from it and leaves what the backward
// pass needs: the activated gates or, with a norm, the normalised ones, from which the activations are computed again.
// The backward step leaves dz, the gradient of the gates before norm and activation.
//
// Axes in names: B batch, H units, G gates (4H, in the order i, f, g, o, or 3H, f, g, o), N gates; all float32.

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "matmul.h"
#include "simd.h"

namespace {

constexpr int64_t BLOCK_ROWS = 8;  // rows whose gradients of scale and bias are added up before those of other rows
constexpr float NORM_EPSILON = 1e-5f;

enum InputGate : int32_t { OWN, CAPPED, COUPLED };
enum Norm : int32_t { NO_NORM, LAYER_GATES, RMS_GATES };

INLINE float sum_lanes(Vector v) {
  float sum = 0;
  for (int lane = 0; lane < LANES; ++lane) sum += v[lane];
  return sum;
}

// What a layer computes, and the parameters that rows need beside the matmul.
struct Variant {
  InputGate input_gate;
  Norm norm;
  int64_t B, H, N;
  const float* scale_G;  // of the norm
  const float* bias_G;   // null where the gates already have it
  const float* mask_BH;  // dropout on h, or null

  int64_t G() const { return N * H; }
  int64_t block_count() const { return (B + BLOCK_ROWS - 1) / BLOCK_ROWS; }

  // The gates of a vector of units before their activations, from what `gates` holds: [N], loaded with a stride of H.
  INLINE void load_gates(const float* gates, int64_t unit, int64_t count, Vector (&z)[GATES]) const {
    for (int64_t n = 0; n < N; ++n) z[n] = load(gates + n * H + unit, count);
  }

  INLINE void scale_and_shift(int64_t unit, int64_t count, Vector (&z)[GATES]) const {
    for (int64_t n = 0; n < N; ++n) {
      if (norm != NO_NORM) z[n] *= load(scale_G + n * H + unit, count);
      if (bias_G) z[n] += load(bias_G + n * H + unit, count);
    }
  }

  INLINE void activate(Vector (&z)[GATES]) const {
    for (int64_t n = 0; n < N; ++n) z[n] = n == N - 2 ? tanh(z[n]) : sigmoid(z[n]);
  }
};

struct VariantForward {
  const Variant& layer;
  const float *packed, *c_BH, *h_BH;  // h after dropout
  float *gates_BG, *next_c_BH, *next_h_BH, *next_masked_h_BH;
  float* inverse_BN;  // null where no backward pass follows

  int64_t column_count() const { return panel_count(layer.G()); }

  void compute_column(int64_t column, int64_t begin, int64_t end) const {
    const Matmul rows{layer.B, layer.H, layer.G(), h_BH, packed, nullptr, gates_BG, true};
    rows.compute_panel(column, begin, end);
  }

  void compute_block(int64_t block) const {
    for (int64_t row = block * BLOCK_ROWS; row < min(layer.B, (block + 1) * BLOCK_ROWS); ++row) compute_row(row);
  }

  void compute_row(int64_t row) const {
    const int64_t H = layer.H, N = layer.N;
    const bool has_norm = layer.norm != NO_NORM;
    float* gates = gates_BG + row * layer.G();
    float means[GATES] = {}, inverses[GATES];
    if (has_norm)
      for (int64_t n = 0; n < N; ++n) {
        inverses[n] = inverse_deviation(gates + n * H, means[n]);
        if (inverse_BN) inverse_BN[row * N + n] = inverses[n];
      }
    for (int64_t unit = 0; unit < H; unit += LANES) {
      const int64_t count = lanes_used(unit, H), at = row * H + unit;
      Vector z[GATES];
      layer.load_gates(gates, unit, count, z);
      if (has_norm)
        for (int64_t n = 0; n < N; ++n) {
          z[n] = (z[n] - means[n]) * inverses[n];
          store(gates + n * H + unit, z[n], count);
        }
      layer.scale_and_shift(unit, count, z);
      layer.activate(z);
      if (!has_norm)
        for (int64_t n = 0; n < N; ++n) store(gates + n * H + unit, z[n], count);
      const Vector f = z[N - 3], most = 1.0f - f;
      Vector i = most;
      if (layer.input_gate != COUPLED) i = layer.input_gate == CAPPED ? (z[0] < most ? z[0] : most) : z[0];
      const Vector c = f * load(c_BH + at, count) + i * z[N - 2], h = z[N - 1] * tanh(c);
      store(next_c_BH + at, c, count);
      store(next_h_BH + at, h, count);
      if (layer.mask_BH) store(next_masked_h_BH + at, h * load(layer.mask_BH + at, count), count);
    }
  }

  // One over the root mean square of a gate's H values, for LAYER_GATES of their distance from the mean, which else
  // stays 0.
  float inverse_deviation(const float* z, float& mean) const {
    const int64_t H = layer.H, whole = H / LANES * LANES;
    if (layer.norm == LAYER_GATES) {
      Vector sum{};
      for (int64_t unit = 0; unit < H; unit += LANES) sum += load(z + unit, lanes_used(unit, H));
      mean = sum_lanes(sum) / H;
    }
    Vector squares{};
    for (int64_t unit = 0; unit < whole; unit += LANES) {
      const Vector distance = load(z + unit) - mean;
      squares += distance * distance;
    }
    float sum = sum_lanes(squares);
    for (int64_t unit = whole; unit < H; ++unit) sum += (z[unit] - mean) * (z[unit] - mean);
    return 1.0f / std::sqrt(sum / H + NORM_EPSILON);
  }
};

// dh_BH is working memory: the gradient of h that comes from the next step, next_dz_BG @ kernel_h.T. The last step has
// none: there next_dz_BG is null and dh_BH holds the gradient of the last h. sums_G: for each block of rows, the
// gradients of scale and bias, [blocks, 2, G].
struct VariantBackward {
  const Variant& layer;
  const float *packed, *next_dz_BG, *out_dh_BH, *c_BH, *c_before_BH, *inverse_BN;
  float *gates_BG, *dc_BH, *dh_BH, *sums_G;

  int64_t column_count() const { return panel_count(layer.H); }

  void compute_column(int64_t column, int64_t begin, int64_t end) const {
    if (!next_dz_BG) return;
    const Matmul rows{layer.B, layer.G(), layer.H, next_dz_BG, packed, nullptr, dh_BH};
    rows.compute_panel(column, begin, end);
  }

  void compute_block(int64_t block) const {
    std::vector<float> grads(layer.G());
    for (int64_t row = block * BLOCK_ROWS; row < min(layer.B, (block + 1) * BLOCK_ROWS); ++row)
      compute_row(row, grads.data(), sums_G + 2 * block * layer.G());
  }

  void compute_row(int64_t row, float* grads, float* sums) const {
    const int64_t H = layer.H, N = layer.N, G = layer.G();
    float* gates = gates_BG + row * G;
    const bool has_norm = layer.norm != NO_NORM;
    Vector sum[GATES] = {}, along[GATES] = {};
    for (int64_t unit = 0; unit < H; unit += LANES) {
      const int64_t count = lanes_used(unit, H), at = row * H + unit;
      Vector saved[GATES], a[GATES], dz[GATES];
      layer.load_gates(gates, unit, count, saved);
      for (int64_t n = 0; n < N; ++n) a[n] = saved[n];
      if (has_norm) {
        layer.scale_and_shift(unit, count, a);
        layer.activate(a);
      }
      const Vector f = a[N - 3], g = a[N - 2], o = a[N - 1], most = 1.0f - f;
      const Vector tanh_c = tanh(load(c_BH + at, count)), c_before = load(c_before_BH + at, count);
      Vector from_next = load(dh_BH + at, count);
      if (layer.mask_BH && next_dz_BG) from_next *= load(layer.mask_BH + at, count);
      const Vector dh = from_next + load(out_dh_BH + at, count);
      const Vector dc = load(dc_BH + at, count) + dh * o * (1.0f - tanh_c * tanh_c);
      Vector i = most, to_f = c_before - g;
      if (N == GATES) {
        dz[0] = dc * g * a[0] * (1.0f - a[0]);
        i = a[0];
        to_f = c_before;
        if (layer.input_gate == CAPPED) {
          i = a[0] < most ? a[0] : most;
          to_f = a[0] < most ? c_before : c_before - g;
          dz[0] = a[0] < most ? dz[0] : Vector{};
        }
      }
      dz[N - 3] = dc * to_f * f * (1.0f - f);
      dz[N - 2] = dc * i * (1.0f - g * g);
      dz[N - 1] = dh * tanh_c * o * (1.0f - o);
      store(dc_BH + at, dc * f, count);
      for (int64_t n = 0; n < N; ++n) {
        const int64_t column = n * H + unit;
        if (!has_norm) {
          store(gates + column, dz[n], count);
          continue;
        }
        store(sums + column, load(sums + column, count) + dz[n] * saved[n], count);
        store(sums + G + column, load(sums + G + column, count) + dz[n], count);
        dz[n] *= load(layer.scale_G + column, count);
        store(grads + column, dz[n], count);
        sum[n] += dz[n];
        along[n] += dz[n] * saved[n];
      }
    }
    if (!has_norm) return;
    for (int64_t n = 0; n < N; ++n) {
      const float inverse = inverse_BN[row * N + n], slope = sum_lanes(along[n]) / H;
      const float mean = layer.norm == LAYER_GATES ? sum_lanes(sum[n]) / H : 0.0f;
      for (int64_t column = n * H; column < (n + 1) * H; column += LANES) {
        const int64_t count = lanes_used(column, (n + 1) * H);
        store(gates + column, (load(grads + column, count) - load(gates + column, count) * slope - mean) * inverse,
              count);
      }
    }
  }
};

}  // namespace
