// Runs the kernels on a CPU (cuda_on_cpu.h) and compares with a plain layer in double. Outputs start as NaN, so that what
// is read must have been written. Members run one after the other. Build with -fno-strict-aliasing, LSTM_ON_CPU and
// the macros of model/cuda/division.py; prints the errors, and returns 1 if they are too large.
#include "lstm.cu"

#include "reference.h"

constexpr bf16 NAN_BF16 = 0x7fc0;
// Where i and 1 - f are nearly the same, rounding decides which of them a capped gate is.
constexpr double MOST_ERROR = Forward::INPUT_GATE == CAPPED ? 4e-2 : 1e-2;

// The arrays of all members, one after the other.
template <class V> V joined(const std::vector<reference::Problem>& all, V reference::Problem::*part) {
  V v;
  for (auto& p : all) v.insert(v.end(), (p.*part).begin(), (p.*part).end());
  return v;
}

// Arguments: time steps, rows, members, a seed for the order in which threads run.
int main(int, char** argv) {
  using reference::Problem;
  const int T = atoi(argv[1]), B = atoi(argv[2]), members = atoi(argv[3]), seed = atoi(argv[4]);
  constexpr int HP = Forward::HP;
  std::vector<Problem> all;
  for (int n = 0; n < members; n++) all.push_back(reference::make(T, B, 7 + n));
  const auto weights = joined(all, &Problem::weights), gates_x = joined(all, &Problem::gates_x);
  const auto dh = joined(all, &Problem::dh);
  const auto scale = joined(all, &Problem::scale), bias = joined(all, &Problem::bias), mask = joined(all, &Problem::mask);
  const auto c0 = joined(all, &Problem::c0), h0 = joined(all, &Problem::h0);
  const auto dc_last = joined(all, &Problem::dc_last), dh_last = joined(all, &Problem::dh_last);
  const size_t one = (size_t)T * B * HP, N = members * one;
  std::vector<bf16> gates(4 * N, NAN_BF16), h(N, NAN_BF16), state(N, NAN_BF16), dz(4 * N, NAN_BF16), dy(dz);
  std::vector<float> c(N, NAN), dc0(members * (size_t)B * HP, NAN), inverse(members * 4 * (size_t)T * B, NAN);
  constexpr int SCRATCH = 32 + Forward::C * Forward::NB * Forward::SUMS;
  std::vector<uint32_t> scratch((size_t)members * B / Forward::NB * SCRATCH), scratch_backward(scratch);
  const FwdArgs f{weights.data(), scale.data(), bias.data(), mask.data(), gates_x.data(), c0.data(),      h0.data(),
                  gates.data(),   c.data(),     h.data(),    state.data(), inverse.data(), scratch.data(), T, B, 0, 0};
  const BwdArgs b{weights.data(), scale.data(),   bias.data(),    mask.data(),   gates.data(), inverse.data(),
                  c.data(),       c0.data(),      dh.data(),      dc_last.data(), dh_last.data(), dz.data(),
                  dy.data(),      dc0.data(),     scratch_backward.data(), T, B, 0, 0};
  bool wrong = false;
  for (int member = 0; member < members; member++) {
    for (int group = 0; group < B / Forward::NB; group++) {
      using F = Forward;
      using G = Backward;
      cpu::run([&] { lstm_forward(f); }, F::C, F::THREADS, F::SMEM, group * F::C, member, seed);
      cpu::run([&] { lstm_backward(b); }, G::C, G::THREADS, G::SMEM, group * G::C, member, seed + 1);
    }
    const auto want = reference::run(all[member], 0, B);
    const size_t first = member * one;
    const double errors[] = {reference::error(want.h, &h[first], T, B, 0, B, HP),
                             reference::error(want.c, &c[first], T, B, 0, B, HP),
                             reference::error(want.dz, &dz[4 * first], T, B, 0, B, 4 * HP),
                             Forward::NORM ? reference::error(want.dy, &dy[4 * first], T, B, 0, B, 4 * HP) : 0.0,
                             reference::error(want.dc0, &dc0[(size_t)member * B * HP], 1, B, 0, B, HP)};
    for (double error : errors) wrong |= !(error < MOST_ERROR);
    printf("errors of h %.1e, c %.1e, dz %.1e, dy %.1e, dc0 %.1e\n", errors[0], errors[1], errors[2], errors[3],
           errors[4]);
  }
  return wrong;
}
