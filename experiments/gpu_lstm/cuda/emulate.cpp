// Runs the kernels' index arithmetic on a CPU: every thread of every CTA, with mma.sync as PTX documents its fragments.
// Memory starts as NaN, so that what is read must have been written. A group of a grid kernel is run like a cluster:
// what is not checked are its copies from global memory. Build with -fno-strict-aliasing.
#include <stdio.h>

#include <algorithm>
#include <string>

#include "reference.h"

using namespace lstm;

constexpr bf16 NAN_BF16 = 0x7fc0;

// d += A [16, 16] B [16, 8], from the fragments of 32 lanes (PTX ISA, m16n8k16 with 16-bit operands).
static void mma_warp(float (*d)[4], const uint32_t (*a)[4], const uint32_t (*b)[2]) {
  static float A[16][16], B[16][8];
  for (int lane = 0; lane < 32; lane++) {
    int g = lane >> 2, q = lane & 3;
    for (int r = 0; r < 4; r++) {
      float* to = &A[g + 8 * (r & 1)][2 * q + 8 * (r >> 1)];
      to[0] = lo(a[lane][r]);
      to[1] = hi(a[lane][r]);
    }
    for (int r = 0; r < 2; r++) {
      B[2 * q + 8 * r][g] = lo(b[lane][r]);
      B[2 * q + 8 * r + 1][g] = hi(b[lane][r]);
    }
  }
  for (int lane = 0; lane < 32; lane++)
    for (int r = 0; r < 4; r++) {
      int row = (lane >> 2) + 8 * (r >> 1), column = 2 * (lane & 3) + (r & 1);
      for (int k = 0; k < 16; k++) d[lane][r] += A[row][k] * B[k][column];
    }
}

// A CTA: its shared memory, and the registers of its threads (S: FwdState or BwdState).
template <class F, class S> struct Cta {
  int rank;
  std::vector<bf16> state[2];
  std::vector<float> red, bias;
  std::vector<uint4> wsm;
  std::vector<Thread> threads;
  std::vector<S> s;
  std::vector<uint32_t> w;  // [thread, KR, MT, 2, 4]

  Cta(int rank, const bf16* weights) : rank(rank), s(F::THREADS), w((size_t)F::THREADS * F::KR * F::MT * 8) {
    for (auto& buffer : state) buffer.assign(F::STATE / 2, NAN_BF16);
    red.assign(F::RED / 4 + 1, NAN);
    bias.assign(4 * F::UC, NAN);
    wsm.assign(F::WEIGHTS / 16 + 1, uint4{~0u, ~0u, ~0u, ~0u});
    for (int tid = 0; tid < F::THREADS; tid++) {
      threads.push_back(make_thread<F>(tid));
      for (int kp = 0; kp < F::KPW; kp++) {
        uint32_t a[F::MT][2][4];
        load_a<F>(weights, threads[tid], rank, kp, a);
        for (int m = 0; m < F::MT; m++)
          for (int j = 0; j < 2; j++) memcpy(fragment(tid, kp, m, j), a[m][j], 16);
      }
    }
  }

  // Where a thread's fragment of the weights is.
  void* fragment(int tid, int kp, int m, int j) {
    if (kp >= F::KR) return &wsm[weights_index<F>(threads[tid], kp, m, j)];
    return &w[(((size_t)tid * F::KR + kp) * F::MT + m) * 8 + j * 4];
  }

  void multiply(const std::vector<bf16>& from) {
    for (auto& x : s) memset(x.acc, 0, sizeof x.acc);
    for (int i = 0; i < F::WARPS * F::KPW * F::NT * F::MT * 2; i++) {
      int j = i % 2, m = i / 2 % F::MT, n = i / 2 / F::MT % F::NT;
      int kp = i / 2 / F::MT / F::NT % F::KPW, first = 32 * (i / 2 / F::MT / F::NT / F::KPW);
      uint32_t a[32][4], b[32][2];
      float d[32][4];
      for (int lane = 0; lane < 32; lane++) {
        memcpy(a[lane], fragment(first + lane, kp, m, j), 16);
        memcpy(b[lane], &from[b_index<F>(threads[first + lane], kp, n) + 4 * j], 8);
        memcpy(d[lane], s[first + lane].acc[j % F::JA][m][n], 16);
      }
      mma_warp(d, a, b);
      for (int lane = 0; lane < 32; lane++) memcpy(s[first + lane].acc[j % F::JA][m][n], d[lane], 16);
    }
    if (F::KS > 1)
      for (auto& t : threads) write_partial<F>(s[t.tid], t, red.data());
  }
};

template <class F, class S>
void exchange(std::vector<Cta<F, S>>& cluster, int next, bf16* out, int step, int B, int row0) {
  for (auto& from : cluster)
    for (int chunk = 0; chunk < F::CHUNKS; chunk++) {
      int offset = chunk_offset<F>(chunk, from.rank);
      const bf16* source = &from.state[next][offset];
      for (auto& to : cluster)
        if (to.rank != from.rank) memcpy(&to.state[next][offset], source, 16);
      memcpy(out + chunk_global<F>(chunk, from.rank, step, B, row0), source, 16);
    }
  for (auto& x : cluster) std::fill(x.state[1 - next].begin(), x.state[1 - next].end(), NAN_BF16);
}

template <class F, class S> std::vector<Cta<F, S>> start(const bf16* weights) {
  std::vector<Cta<F, S>> cluster;
  for (int rank = 0; rank < F::C; rank++) cluster.emplace_back(rank, weights);
  return cluster;
}

template <class F> void forward(const FwdArgs& a) {
  for (int row0 = 0; row0 < a.B; row0 += F::NB) {
    auto cluster = start<F, FwdState<F, bf16>>(a.weights);
    for (auto& x : cluster)
      for (auto& t : x.threads) {
        fwd_fill<F>(t, a, row0, x.rank * F::UC, x.state[0].data(), x.bias.data());
        if (owns<F>(t)) fwd_start<F>(x.s[t.tid], t, a, row0, x.rank * F::UC);
      }
    for (int step = 0; step < a.T; step++) {
      int now = step & 1, next = 1 - now;
      for (auto& x : cluster) {
        const int unit0 = x.rank * F::UC;
        x.multiply(x.state[now]);
        for (auto& t : x.threads) {
          if (!owns<F>(t)) continue;
          fwd_prefetch<F>(x.s[t.tid], t, a, row0, unit0, step);
          fwd_cell<F>(x.s[t.tid], t, x.red.data(), x.bias.data(), x.state[next].data(), unit0, F::LD);
          fwd_store<F>(x.s[t.tid], t, a, row0, unit0, step);
        }
      }
      exchange(cluster, next, a.h, step, a.B, row0);
    }
  }
}

template <class F> void backward(const BwdArgs& a) {
  for (int row0 = 0; row0 < a.B; row0 += F::NB) {
    auto cluster = start<F, BwdState<F>>(a.weights);
    for (auto& x : cluster)
      for (auto& t : x.threads)
        if (owns<F>(t)) bwd_start<F>(x.s[t.tid], t, a, row0, x.rank * F::UC);
    for (int step = a.T - 1; step >= 0; step--) {
      int now = step & 1, next = 1 - now;
      const bool is_first = step == a.T - 1;
      for (auto& x : cluster) {
        const int unit0 = x.rank * F::UC;
        if (!is_first) x.multiply(x.state[now]);
        for (auto& t : x.threads) {
          if (!owns<F>(t)) continue;
          bwd_prefetch<F>(x.s[t.tid], t, a, row0, unit0, step ? step - 1 : 0);
          bwd_cell<F>(x.s[t.tid], t, x.red.data(), x.state[next].data(), unit0, is_first, F::LD);
          bwd_advance<F>(x.s[t.tid]);
        }
      }
      exchange(cluster, next, a.dgates, step, a.B, row0);
    }
    for (auto& x : cluster)
      for (auto& t : x.threads)
        if (owns<F>(t)) bwd_finish<F>(x.s[t.tid], t, a, row0, x.rank * F::UC);
  }
}

// Returns whether the kernels are wrong.
template <class L> bool check(const char* name, int H, int T, int B) {
  using F = typename L::Forward;
  using G = typename L::Backward;
  auto p = reference::make(L::HP, H, T, B, 7 + H + T);
  const size_t N = (size_t)T * B * L::HP;
  std::vector<bf16> gates(4 * N, NAN_BF16), h(N, NAN_BF16), dgates(4 * N, NAN_BF16);
  std::vector<float> c(N, NAN), dc0((size_t)B * L::HP, NAN);
  forward<F>({p.weights.data(), p.bias.data(), p.gates_x.data(), p.c0.data(), p.h0.data(), gates.data(), c.data(),
              h.data(), T, B});
  backward<G>({p.weights.data(), gates.data(), c.data(), p.c0.data(), p.dh.data(), p.dc_last.data(), p.dh_last.data(),
               dgates.data(), dc0.data(), T, B});
  auto e = reference::errors(p, h, c, dgates, dc0, 0, B);
  const bool ok = e.below(1e-2);
  printf("%s: warps %d/%d, shared memory %d/%d bytes; errors of h %.1e c %.1e dgates %.1e dc0 %.1e %s\n", name,
         F::WARPS, G::WARPS, F::SMEM, G::SMEM, e.h, e.c, e.dgates, e.dc0, ok ? "ok" : "WRONG");
  fflush(stdout);
  return !ok;
}

// Arguments: names of kernels, or none for all. Returns how many are wrong.
int main(int argc, char** argv) {
  int wrong = 0;
#define CHECK(L)                                                                                  \
  if (argc == 1 || std::find(argv + 1, argv + argc, std::string(#L)) != argv + argc)              \
    wrong += check<L>(#L, L::HP == 160 ? 150 : L::HP, L::HP == 160 ? 6 : 3, std::max(16, 8 * L::NT));
  LSTM_KERNELS(CHECK)
  return wrong;
}
