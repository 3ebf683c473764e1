// What a thread does with its elements (unit, row) in a time step, forward and backward.
#pragma once
#include "config.h"

namespace lstm {

struct FwdArgs {
  const bf16* weights;
  const float* bias;
  const void* gates_x;
  const float *c0, *h0;
  bf16* gates;  // after their activations
  float* c;
  bf16* h;
  int T, B;
};
struct BwdArgs {
  const bf16 *weights, *gates;
  const float *c, *c0;
  const bf16* dh;
  const float *dc_last, *dh_last;
  bf16* dgates;  // before their activations
  float* dc0;
  int T, B;
};

HD float from_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
HD float lo(uint32_t pair) { return from_bits(pair << 16); }
HD float hi(uint32_t pair) { return from_bits(pair & 0xffff0000u); }
HD float widen(bf16 x) { return from_bits((uint32_t)x << 16); }
HD uint32_t pack2(float low, float high) {
#ifdef __CUDA_ARCH__
  __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &v, 4);
  return bits;
#else
  float in[2] = {low, high};
  uint32_t out[2];
  for (int i = 0; i < 2; i++) {
    uint32_t u;
    memcpy(&u, &in[i], 4);
    out[i] = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  }
  return out[0] | out[1] << 16;
#endif
}
HD bf16 round_bf16(float x) { return (bf16)(pack2(x, x) & 0xffffu); }

HD float tanh_fast(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return tanhf(x);
#endif
}
HD float sigmoid_fast(float x) { return fmaf(tanh_fast(0.5f * x), 0.5f, 0.5f); }

// The four gates of an element as they are in memory: prefetched so, they take few registers.
template <class X> struct Gates;
template <> struct Gates<bf16> {
  uint2 v;
  HD void load(const bf16* p) { v = *(const uint2*)p; }
  HD float4 get() const { return float4{lo(v.x), hi(v.x), lo(v.y), hi(v.y)}; }
};
template <> struct Gates<float> {
  float4 v;
  HD void load(const float* p) { v = *(const float4*)p; }
  HD float4 get() const { return v; }
};

// One element forward, from its gates before their activations. Returns h.
HD float cell_forward(float4 z, float& c, uint2& gates) {
  float i = sigmoid_fast(z.x), f = sigmoid_fast(z.y), g = tanh_fast(z.z), o = sigmoid_fast(z.w);
  c = fmaf(f, c, i * g);
  gates = uint2{pack2(i, f), pack2(g, o)};
  return o * tanh_fast(c);
}
// One element backward: dh is complete. Returns the gates' gradients; dc becomes the gradient of the c before.
HD uint2 cell_backward(uint2 gates, float c, float c_before, float dh, float& dc) {
  float i = lo(gates.x), f = hi(gates.x), g = lo(gates.y), o = hi(gates.y);
  float tc = tanh_fast(c);
  float d_o = dh * tc * o * (1.0f - o);
  dc = fmaf(dh * o, 1.0f - tc * tc, dc);
  float d_i = dc * g * i * (1.0f - i), d_f = dc * c_before * f * (1.0f - f), d_g = dc * i * (1.0f - g * g);
  dc *= f;
  return uint2{pack2(d_i, d_f), pack2(d_g, d_o)};
}

// A thread's state between phases; on the device all of it is in registers. X is the type of gates_x.
template <class F, class X> struct FwdState {
  float acc[F::JA][F::MT][F::NT][4];
  float c[F::EPT];
  Gates<X> x[F::EPT];
  uint2 gates[F::EPT];
};
template <class F> struct BwdState {
  float acc[F::JA][F::MT][F::NT][4];
  float c[F::EPT], c_before[F::EPT], dc[F::EPT], dh[F::EPT];
  uint2 gates[F::EPT], next_gates[F::EPT];
  float next_c_before[F::EPT], next_dh[F::EPT];
};

// The sum of a warp's part of K for element e and, forward, a gate.
template <class F, class S> HD float accumulated(const S& s, int e, int gate) {
  constexpr int P = F::BWD ? 4 * F::NT : 2 * F::NT;
  int m = F::BWD ? e / P : (2 * (e / P) + (gate >> 1)) % F::MT, nt = (F::BWD ? e >> 2 : e >> 1) % F::NT;
  int r = F::BWD ? e & 3 : (gate & 1) * 2 + (e & 1);
  return F::JA == 2 ? s.acc[0][m][nt][r] + s.acc[F::JA - 1][m][nt][r] : s.acc[0][m][nt][r];
}
template <class F, class S> HD void write_partial(const S& s, const Thread& t, float* red) {
  UNROLL for (int e = 0; e < F::E; e++)
    UNROLL for (int gate = 0; gate < (F::BWD ? 1 : 4); gate++)
      red[red_index<F>(t, t.ks, e, gate)] = accumulated<F>(s, e, gate);
}
// The sum over all of K for a thread's n-th element.
template <class F, class S> HD float total(const S& s, const Thread& t, const float* red, int n, int gate) {
  if (F::KS == 1) return accumulated<F>(s, n, gate);
  float v = 0;
  UNROLL for (int ks = 0; ks < F::KS; ks++) v += red[red_index<F>(t, ks, t.ks * F::EPT + n, gate)];
  return v;
}

// Forward: all threads copy h0 and the bias into shared memory.
template <class F> HD void fwd_fill(const Thread& t, const FwdArgs& a, int row0, int unit0, bf16* state, float* bias) {
  for (int i = t.tid; i < F::NB * F::HP; i += F::THREADS)
    state[(i / F::HP) * F::LD + i % F::HP] = round_bf16(a.h0[(size_t)(row0 + i / F::HP) * F::HP + i % F::HP]);
  for (int i = t.tid; i < 4 * F::UC; i += F::THREADS) bias[i] = a.bias[4 * unit0 + i];
}
template <class F, class X>
HD void fwd_prefetch(FwdState<F, X>& s, const Thread& t, const FwdArgs& a, int row0, int unit0, int step) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n;
    s.x[n].load((const X*)a.gates_x + at<F>(step, a.B, row0 + row_of<F>(t, e), unit0 + unit_of<F>(t, e)) * 4);
  }
}
template <class F, class X>
HD void fwd_start(FwdState<F, X>& s, const Thread& t, const FwdArgs& a, int row0, int unit0) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n;
    s.c[n] = a.c0[(size_t)(row0 + row_of<F>(t, e)) * F::HP + unit0 + unit_of<F>(t, e)];
  }
  fwd_prefetch<F, X>(s, t, a, row0, unit0, 0);
}
// The cell; h goes into this CTA's columns of the next state, whose rows are `ld` apart.
template <class F, class X>
HD void fwd_cell(FwdState<F, X>& s, const Thread& t, const float* red, const float* bias, bf16* next, int unit0,
                 int ld) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n, unit = unit_of<F>(t, e);
    float4 x = s.x[n].get(), b = *(const float4*)(bias + 4 * unit);
    float4 z = {total<F>(s, t, red, n, 0) + x.x + b.x, total<F>(s, t, red, n, 1) + x.y + b.y,
                total<F>(s, t, red, n, 2) + x.z + b.z, total<F>(s, t, red, n, 3) + x.w + b.w};
    next[row_of<F>(t, e) * ld + unit0 + unit] = round_bf16(cell_forward(z, s.c[n], s.gates[n]));
  }
}
template <class F, class X>
HD void fwd_store(const FwdState<F, X>& s, const Thread& t, const FwdArgs& a, int row0, int unit0, int step) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n;
    size_t i = at<F>(step, a.B, row0 + row_of<F>(t, e), unit0 + unit_of<F>(t, e));
    *(uint2*)(a.gates + 4 * i) = s.gates[n];
    a.c[i] = s.c[n];
  }
}

template <class F>
HD void bwd_prefetch(BwdState<F>& s, const Thread& t, const BwdArgs& a, int row0, int unit0, int step) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n, row = row0 + row_of<F>(t, e), unit = unit0 + unit_of<F>(t, e);
    size_t i = at<F>(step, a.B, row, unit);
    s.next_gates[n] = *(const uint2*)(a.gates + 4 * i);
    s.next_c_before[n] = step ? a.c[i - (size_t)a.B * F::HP] : a.c0[(size_t)row * F::HP + unit];
    s.next_dh[n] = widen(a.dh[i]);
  }
}
// What was prefetched is now this time step's.
template <class F> HD void bwd_advance(BwdState<F>& s) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    s.c[n] = s.c_before[n];
    s.c_before[n] = s.next_c_before[n];
    s.gates[n] = s.next_gates[n];
    s.dh[n] = s.next_dh[n];
  }
}
template <class F> HD void bwd_start(BwdState<F>& s, const Thread& t, const BwdArgs& a, int row0, int unit0) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n, row = row0 + row_of<F>(t, e), unit = unit0 + unit_of<F>(t, e);
    s.dc[n] = a.dc_last[(size_t)row * F::HP + unit];
    s.c_before[n] = a.c[at<F>(a.T - 1, a.B, row, unit)];
  }
  bwd_prefetch<F>(s, t, a, row0, unit0, a.T - 1);
  bwd_advance<F>(s);
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n;
    s.dh[n] += a.dh_last[(size_t)(row0 + row_of<F>(t, e)) * F::HP + unit0 + unit_of<F>(t, e)];
  }
}
// The cell; the gates' gradients go into this CTA's columns of the next state, whose rows are `ld` apart.
template <class F>
HD void bwd_cell(BwdState<F>& s, const Thread& t, const float* red, bf16* next, int unit0, bool is_first, int ld) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n, unit = unit_of<F>(t, e);
    float dh = is_first ? s.dh[n] : s.dh[n] + total<F>(s, t, red, n, 0);
    *(uint2*)(next + row_of<F>(t, e) * ld + 4 * (unit0 + unit)) =
        cell_backward(s.gates[n], s.c[n], s.c_before[n], dh, s.dc[n]);
  }
}
template <class F> HD void bwd_finish(const BwdState<F>& s, const Thread& t, const BwdArgs& a, int row0, int unit0) {
  UNROLL for (int n = 0; n < F::EPT; n++) {
    int e = t.ks * F::EPT + n;
    a.dc0[(size_t)(row0 + row_of<F>(t, e)) * F::HP + unit0 + unit_of<F>(t, e)] = s.dc[n];
  }
}

}  // namespace lstm
