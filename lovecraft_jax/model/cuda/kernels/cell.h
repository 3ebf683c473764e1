// What a thread does with its elements (unit, row) in a time step, forward and backward. In names, for each gate:
//
//   z = x @ kernel_x + h @ kernel_h,   y = norm(z) * scale + bias, without a norm z + bias,   gate = activation(y)
//
// and dz, dy are gradients.
//
// A time step forward: the sums of the matmul (`fwd_gates`), with a norm its sums over the units of a row (norm_term,
// norm_total, combined by the kernel), then the cell (`fwd_cell`) and what the backward pass needs (`fwd_store`).
// Backward: `bwd_cell` up to the gates' gradients after the norm, the norm's sums, `bwd_gates`.
#pragma once
#include "config.h"

namespace lstm {

// The operands and results of a kernel, in layer.py's order. Those of a norm or a mask are empty without one.
struct FwdArgs {
  const Value* weights;
  const float *scale, *bias, *mask;
  const Value* gates_x;
  const float *c0, *h0;
  Value* h;
  Value* gates;    // after their activations; with a norm the normalised ones, before scale, bias and activation
  float* c;        // of all time steps, without SAVES of the last one
  Value* state;    // h with the mask, as the matmul takes it; empty without HAS_STATE
  float* inverse;  // what a norm multiplied by
  uint32_t* scratch;
  int T, B, first_block, first_member;
};
struct BwdArgs {
  const Value* weights;
  const float *scale, *bias, *mask;
  const Value* gates;
  const float *inverse, *c, *c0;
  const Value* dh;
  const float *dc_last, *dh_last;
  Value *dz, *dy;  // dy only with a norm: without, it is dz
  float* dc0;
  uint32_t* scratch;
  int T, B, first_block, first_member;
};

// What a CTA owns. Several layers may run side by side (jax.vmap): each is a member, and each array then has an axis of
// members in front.
struct Place {
  int member, rank, row0, unit0, first_row, first_step;
};
template <class F, class A> HD Place make_place(const A& a, int block, int rank, int member) {
  const int row0 = block / F::BLOCKS * F::ROWS;
  return Place{member, rank, row0, rank * F::BLOCK_UNITS, member * a.B + row0, member * a.T};
}
// Index of an element in [T, B, P], and in [B, P].
template <class F, class A> HD size_t at(const A& a, const Place& p, int step, int row, int unit) {
  return ((size_t)(p.first_step + step) * a.B + p.row0 + row) * F::PADDED + p.unit0 + unit;
}
template <class F> HD size_t at_start(const Place& p, int row, int unit) {
  return (size_t)(p.first_row + row) * F::PADDED + p.unit0 + unit;
}
// Where the CTA's rows begin in [T, B, WIDTH].
template <int WIDTH, class A> HD size_t rows_at(const A& a, const Place& p, int step) {
  return ((size_t)(p.first_step + step) * a.B + p.row0) * WIDTH;
}

// The one instruction for it has an error of 2^-11, as TF32; with float32 in memory the cell is exact to a few 1e-7.
HD float tanh_fast(float x) {
#ifndef __CUDA_ARCH__
  return tanhf(x);
#elif LSTM_FLOAT32
  return 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x));
#else
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
HD float sigmoid_fast(float x) { return fmaf(tanh_fast(0.5f * x), 0.5f, 0.5f); }
HD float inverse_root(float x) {
#ifdef __CUDA_ARCH__
  return rsqrtf(x);
#else
  return 1 / sqrtf(x);
#endif
}

HD float get(float4 v, int gate) { return gate == 0 ? v.x : gate == 1 ? v.y : gate == 2 ? v.z : v.w; }
HD float4 add(float4 a, float4 b) { return float4{a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
HD float4 multiply(float4 a, float4 b) { return float4{a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
HD float4 multiply_add(float4 a, float4 b, float4 c) {
  return float4{fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z), fmaf(a.w, b.w, c.w)};
}
HD float4 activate(float4 z) {
  return float4{sigmoid_fast(z.x), sigmoid_fast(z.y), tanh_fast(z.z), sigmoid_fast(z.w)};
}

// What g is multiplied by.
template <class F> HD float input_gate(float i, float f) {
  if (F::INPUT_GATE == OWN) return i;
  return F::INPUT_GATE == CAPPED && i < 1.0f - f ? i : 1.0f - f;
}
// One element forward, from its gates after their activations. Returns h.
template <class F> HD float cell_forward(float4 gates, float& c) {
  c = fmaf(gates.y, c, input_gate<F>(gates.x, gates.y) * gates.z);
  return gates.w * tanh_fast(c);
}
// One element backward: dh is complete. Returns the gradients of the gates before their activations; dc becomes the
// gradient of the c before.
template <class F> HD float4 cell_backward(float4 gates, float c, float c_before, float dh, float& dc) {
  float i = gates.x, f = gates.y, g = gates.z, o = gates.w;
  float tc = tanh_fast(c);
  float d_o = dh * tc * o * (1.0f - o);
  dc = fmaf(dh * o, 1.0f - tc * tc, dc);
  const bool is_own = F::INPUT_GATE == OWN || (F::INPUT_GATE == CAPPED && i < 1.0f - f);
  float d_i = is_own ? dc * g * i * (1.0f - i) : 0.0f;
  float d_f = dc * (is_own ? c_before : c_before - g) * f * (1.0f - f);
  float d_g = dc * input_gate<F>(i, f) * (1.0f - g * g);
  dc *= f;
  return float4{d_i, d_f, d_g, d_o};
}

// A thread's state between phases; on the device all of it is in registers.
template <class F> struct FwdState {
  float acc[F::CHAINS][F::TILES][F::ROW_TILES][4];
  float c[F::OWNED], h[F::OWNED], mask[F::OWNED];
  float4 z[F::OWNED];
  Gates x[F::OWNED], gates[F::OWNED];
};
template <class F> struct BwdState {
  float acc[F::CHAINS][F::TILES][F::ROW_TILES][4];
  float c[F::OWNED], c_before[F::OWNED], dc[F::OWNED], dh[F::OWNED], mask[F::OWNED];
  float4 dy[F::OWNED], inverse[F::OWNED];
  Gates gates[F::OWNED], next_gates[F::OWNED];
  float next_c_before[F::OWNED], next_dh[F::OWNED];
};

// The sum of a warp's part of K for element e and, forward, a gate.
template <class F, class S> HD float accumulated(const S& s, int e, int gate) {
  constexpr int P = F::BWD ? 4 * F::ROW_TILES : 2 * F::ROW_TILES;
  int m = F::BWD ? e / P : (2 * (e / P) + (gate >> 1)) % F::TILES, nt = (F::BWD ? e >> 2 : e >> 1) % F::ROW_TILES;
  int r = F::BWD ? e & 3 : (gate & 1) * 2 + (e & 1);
  return F::CHAINS == 2 ? s.acc[0][m][nt][r] + s.acc[F::CHAINS - 1][m][nt][r] : s.acc[0][m][nt][r];
}
template <class F, class S> HD void write_partial(const S& s, const Thread& t, float* partial) {
  UNROLL for (int e = 0; e < F::ELEMENTS; e++)
    UNROLL for (int gate = 0; gate < (F::BWD ? 1 : 4); gate++)
      partial[partial_index<F>(t, t.split, e, gate)] = accumulated<F>(s, e, gate);
}
// The sum over all of K for a thread's n-th element.
template <class F, class S> HD float total(const S& s, const Thread& t, const float* partial, int n, int gate) {
  if (F::SPLITS == 1) return accumulated<F>(s, n, gate);
  float v = 0;
  UNROLL for (int split = 0; split < F::SPLITS; split++)
    v += partial[partial_index<F>(t, split, t.split * F::OWNED + n, gate)];
  return v;
}

// Scale and bias of the CTA's units, [2, BLOCK_UNITS] gates each; forward without a norm the bias alone, as the second
// half.
template <class F> HD float4 scale_of(const float* affine, int unit) { return *(const float4*)(affine + 4 * unit); }
template <class F> HD float4 bias_of(const float* affine, int unit) {
  return *(const float4*)(affine + 4 * (unit + (F::NORM == NO_NORM ? 0 : F::BLOCK_UNITS)));
}
template <class F, class A> HD void fill_affine(const Thread& t, const A& a, const Place& p, float* affine) {
  if (F::AFFINE == 0) return;
  for (int i = t.tid; i < 4 * F::BLOCK_UNITS; i += F::THREADS) {
    const size_t from = 4 * ((size_t)p.member * F::PADDED + p.unit0) + i;
    if (F::NORM != NO_NORM) affine[i] = a.scale[from];
    affine[i + (F::NORM == NO_NORM ? 0 : 4 * F::BLOCK_UNITS)] = a.bias[from];
  }
}
template <class F, class S, class A> HD void load_mask(S& s, const Thread& t, const A& a, const Place& p) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n;
    s.mask[n] = F::MASK ? a.mask[at_start<F>(p, row_of<F>(t, e), unit_of<F>(t, e))] : 1.0f;
  }
}

// What the n-th element adds to one of its row's sums.
template <class F> HD float norm_term(const FwdState<F>& s, const Thread&, int n, int sum) {
  float z = get(s.z[n], sum & 3);
  return sum < 4 ? z * z : z;
}
template <class F> HD float norm_term(const BwdState<F>& s, const Thread&, int n, int sum) {
  float dn = get(s.dy[n], sum & 3);
  return sum < 4 ? dn * get(unpack(s.gates[n]), sum & 3) : dn;
}
// One of the sums over all units of a row, from those of the ranks.
template <class F> HD float norm_total(const float* sums, int row, int sum) {
  float v = 0;
  UNROLL for (int rank = 0; rank < F::RANKS; rank++) v += sums[(rank * F::ROWS + row) * F::SUMS + sum];
  return v;
}
template <class F> HD float4 norm_mean(const float* sums, int row, int first) {  // of four gates
  constexpr float SHARE = 1.0f / F::UNITS;
  return float4{norm_total<F>(sums, row, first) * SHARE, norm_total<F>(sums, row, first + 1) * SHARE,
                norm_total<F>(sums, row, first + 2) * SHARE, norm_total<F>(sums, row, first + 3) * SHARE};
}
// One over the standard deviation or root mean square, of four gates; `mean` is 0 without a mean.
HD float inverse_deviation(float square, float mean) {
  float variance = fmaf(-mean, mean, square);
  return inverse_root((variance > 0.0f ? variance : 0.0f) + EPSILON);
}
template <class F> HD float4 norm_inverse(const float* sums, int row, float4& mean) {
  float4 square = norm_mean<F>(sums, row, 0);
  mean = F::NORM == LAYER ? norm_mean<F>(sums, row, F::SUMS - 4) : float4{0, 0, 0, 0};
  return float4{inverse_deviation(square.x, mean.x), inverse_deviation(square.y, mean.y),
                inverse_deviation(square.z, mean.z), inverse_deviation(square.w, mean.w)};
}

// Forward: all threads copy h0, scale and bias into shared memory.
template <class F>
HD void fwd_fill(const Thread& t, const FwdArgs& a, const Place& p, Value* state, float* affine) {
  for (int i = t.tid; i < F::ROWS * F::PADDED; i += F::THREADS) {
    size_t from = (size_t)p.first_row * F::PADDED + i;
    state[(i / F::PADDED) * F::STRIDE + i % F::PADDED] = to_operand(F::MASK ? a.h0[from] * a.mask[from] : a.h0[from]);
  }
  fill_affine<F>(t, a, p, affine);
}
template <class F>
HD void fwd_prefetch(FwdState<F>& s, const Thread& t, const FwdArgs& a, const Place& p, int step) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n;
    s.x[n] = *(const Gates*)(a.gates_x + 4 * at<F>(a, p, step, row_of<F>(t, e), unit_of<F>(t, e)));
  }
}
template <class F> HD void fwd_start(FwdState<F>& s, const Thread& t, const FwdArgs& a, const Place& p) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n;
    s.c[n] = a.c0[at_start<F>(p, row_of<F>(t, e), unit_of<F>(t, e))];
  }
  load_mask<F>(s, t, a, p);
  fwd_prefetch<F>(s, t, a, p, 0);
}
template <class F> HD void fwd_gates(FwdState<F>& s, const Thread& t, const float* partial) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    float4 sum = {total<F>(s, t, partial, n, 0), total<F>(s, t, partial, n, 1), total<F>(s, t, partial, n, 2),
                  total<F>(s, t, partial, n, 3)};
    s.z[n] = add(sum, unpack(s.x[n]));
  }
}
// The cell; h goes into this CTA's columns of the next state, whose rows are `ld` apart.
template <class F>
HD void fwd_cell(FwdState<F>& s, const Thread& t, const float* affine, const float* sums, Value* next, int unit0,
                 int ld) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n, unit = unit_of<F>(t, e), row = row_of<F>(t, e);
    float4 gates, bias = bias_of<F>(affine, unit);
    if (F::NORM == NO_NORM) {
      gates = activate(add(s.z[n], bias));
      s.gates[n] = pack(gates);
    } else {
      float4 mean, inverse = norm_inverse<F>(sums, row, mean);
      s.gates[n] = pack(multiply(add(s.z[n], float4{-mean.x, -mean.y, -mean.z, -mean.w}), inverse));
      // From the rounded values, which are what the backward pass will see.
      gates = activate(multiply_add(unpack(s.gates[n]), scale_of<F>(affine, unit), bias));
    }
    s.h[n] = cell_forward<F>(gates, s.c[n]);
    next[row * ld + unit0 + unit] = to_operand(F::MASK ? s.h[n] * s.mask[n] : s.h[n]);
  }
}
template <class F>
HD void fwd_store(const FwdState<F>& s, const Thread& t, const FwdArgs& a, const Place& p, int step) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n;
    size_t i = at<F>(a, p, step, row_of<F>(t, e), unit_of<F>(t, e));
    if (F::STORES_H) a.h[i] = to_value(s.h[n]);
    if (F::SAVES) {
      *(Gates*)(a.gates + 4 * i) = s.gates[n];
      a.c[i] = s.c[n];
    } else if (step == a.T - 1) {
      a.c[at_start<F>(p, row_of<F>(t, e), unit_of<F>(t, e))] = s.c[n];
    }
  }
}
// Saves the norm's inverse of the rows, by the CTA of rank 0.
template <class F>
HD void fwd_store_inverse(const Thread& t, const FwdArgs& a, const Place& p, const float* sums, int step) {
  if (F::NORM == NO_NORM || !F::SAVES || p.rank != 0 || t.tid >= F::ROWS) return;
  float4 mean, inverse = norm_inverse<F>(sums, t.tid, mean);
  *(float4*)(a.inverse + rows_at<4>(a, p, step) + 4 * t.tid) = inverse;
}

template <class F>
HD void bwd_prefetch(BwdState<F>& s, const Thread& t, const BwdArgs& a, const Place& p, int step) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n, row = row_of<F>(t, e), unit = unit_of<F>(t, e);
    size_t i = at<F>(a, p, step, row, unit);
    s.next_gates[n] = *(const Gates*)(a.gates + 4 * i);
    s.next_c_before[n] = step ? a.c[i - (size_t)a.B * F::PADDED] : a.c0[at_start<F>(p, row, unit)];
    s.next_dh[n] = widen(a.dh[i]);
  }
}
// What was prefetched is now this time step's.
template <class F> HD void bwd_advance(BwdState<F>& s) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    s.c[n] = s.c_before[n];
    s.c_before[n] = s.next_c_before[n];
    s.gates[n] = s.next_gates[n];
    s.dh[n] = s.next_dh[n];
  }
}
template <class F> HD void bwd_start(BwdState<F>& s, const Thread& t, const BwdArgs& a, const Place& p) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n, row = row_of<F>(t, e), unit = unit_of<F>(t, e);
    s.dc[n] = a.dc_last[at_start<F>(p, row, unit)];
    s.c_before[n] = a.c[at<F>(a, p, a.T - 1, row, unit)];
  }
  load_mask<F>(s, t, a, p);
  bwd_prefetch<F>(s, t, a, p, a.T - 1);
  bwd_advance<F>(s);
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n;
    s.dh[n] += a.dh_last[at_start<F>(p, row_of<F>(t, e), unit_of<F>(t, e))];
  }
}
// The cell; with a norm dy is stored, and multiplied by the scale.
template <class F>
HD void bwd_cell(BwdState<F>& s, const Thread& t, const BwdArgs& a, const Place& p, const float* partial,
                 const float* affine, int step) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n, unit = unit_of<F>(t, e), row = row_of<F>(t, e);
    float dh = s.dh[n];
    if (step < a.T - 1) dh = fmaf(total<F>(s, t, partial, n, 0), F::MASK ? s.mask[n] : 1.0f, dh);
    float4 gates = unpack(s.gates[n]);
    if (F::NORM != NO_NORM) gates = activate(multiply_add(gates, scale_of<F>(affine, unit), bias_of<F>(affine, unit)));
    s.dy[n] = cell_backward<F>(gates, s.c[n], s.c_before[n], dh, s.dc[n]);
    if (F::NORM != NO_NORM) {
      *(Gates*)(a.dy + 4 * at<F>(a, p, step, row, unit)) = pack(s.dy[n]);
      s.dy[n] = multiply(s.dy[n], scale_of<F>(affine, unit));
      s.inverse[n] = *(const float4*)(a.inverse + rows_at<4>(a, p, step) + 4 * row);
    }
  }
}
// dz, which goes into this CTA's columns of the next state, whose rows are `ld` apart.
template <class F>
HD void bwd_gates(BwdState<F>& s, const Thread& t, const float* sums, Value* next, int unit0, int ld) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n, row = row_of<F>(t, e);
    float4 d = s.dy[n];
    if (F::NORM != NO_NORM) {
      float4 normal = unpack(s.gates[n]), along = norm_mean<F>(sums, row, 0);
      float4 shift = F::NORM == LAYER ? norm_mean<F>(sums, row, F::SUMS - 4) : float4{0, 0, 0, 0};
      d = multiply(float4{d.x - normal.x * along.x - shift.x, d.y - normal.y * along.y - shift.y,
                          d.z - normal.z * along.z - shift.z, d.w - normal.w * along.w - shift.w},
                   s.inverse[n]);
    }
    *(Gates*)(next + row * ld + 4 * (unit0 + unit_of<F>(t, e))) = pack_operands(d);
  }
}
template <class F> HD void bwd_finish(const BwdState<F>& s, const Thread& t, const BwdArgs& a, const Place& p) {
  UNROLL for (int n = 0; n < F::OWNED; n++) {
    int e = t.split * F::OWNED + n;
    a.dc0[at_start<F>(p, row_of<F>(t, e), unit_of<F>(t, e))] = s.dc[n];
  }
}

}  // namespace lstm
