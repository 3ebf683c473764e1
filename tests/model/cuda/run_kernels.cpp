// Runs the kernels on a CPU (cuda_on_cpu.h) and compares with a plain layer in double. Outputs start as NaN, so that
// what is read must have been written. Members run one after the other. Build with -fno-strict-aliasing, LSTM_ON_CPU
// and the macros of model/cuda/division.py; prints the errors, and returns 1 if they are too large.
#include "lstm.cu"

#include "reference.h"

// Where i and 1 - f are nearly the same, rounding decides which of them a capped gate is.
constexpr bool CAN_FLIP = Forward::INPUT_GATE == CAPPED;
constexpr double MOST_ERROR = FLOAT32 ? (CAN_FLIP ? 2e-3 : 5e-4) : CAN_FLIP ? 4e-2 : 1e-2;

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
  constexpr int HP = Forward::PADDED;
  constexpr bool SAVES = Forward::SAVES;
  std::vector<Problem> all;
  for (int n = 0; n < members; n++) all.push_back(reference::make(T, B, 7 + n));
  const auto weights = joined(all, &Problem::weights), gates_x = joined(all, &Problem::gates_x);
  const auto dh = joined(all, &Problem::dh);
  const auto scale = joined(all, &Problem::scale), bias = joined(all, &Problem::bias);
  const auto mask = joined(all, &Problem::mask);
  const auto c0 = joined(all, &Problem::c0), h0 = joined(all, &Problem::h0);
  const auto dc_last = joined(all, &Problem::dc_last), dh_last = joined(all, &Problem::dh_last);
  const size_t one = (size_t)T * B * HP, N = members * one, one_c = SAVES ? one : (size_t)B * HP;
  std::vector<Value> h(N, to_value(NAN)), state(h), gates(4 * N, to_value(NAN)), dz(gates), dy(gates);
  std::vector<float> c(members * one_c, NAN), dc0(members * (size_t)B * HP, NAN);
  std::vector<float> inverse(members * 4 * (size_t)T * B, NAN);
  constexpr int SCRATCH = 32 + Forward::BLOCKS * Forward::ROWS * Forward::SUMS;
  std::vector<uint32_t> scratch((size_t)members * B / Forward::ROWS * SCRATCH), scratch_backward(scratch);
  const FwdArgs f{weights.data(), scale.data(), bias.data(), mask.data(), gates_x.data(), c0.data(),
                  h0.data(),      h.data(),     SAVES ? gates.data() : nullptr,           c.data(),
                  state.data(),   SAVES ? inverse.data() : nullptr,       scratch.data(), T, B, 0, 0};
  bool wrong = false;
  for (int member = 0; member < members; member++) {
    using F = Forward;
    for (int group = 0; group < B / F::ROWS; group++)
      cpu::run([&] { lstm_forward(f); }, F::BLOCKS, F::THREADS, F::SMEM, group * F::BLOCKS, member, seed);
    const auto want = reference::run(all[member], 0, B);
    const size_t first = member * one;
    // Without SAVES, c is that of the last time step.
    const reference::Doubles want_c(want.c.end() - one_c, want.c.end());
    std::vector<double> errors{reference::error(want.h, &h[first], T, B, 0, B, HP),
                               reference::error(want_c, &c[member * one_c], SAVES ? T : 1, B, 0, B, HP)};
    printf("errors of h %.1e, c %.1e", errors[0], errors[1]);
#if LSTM_SAVES
    const BwdArgs b{weights.data(), scale.data(),   bias.data(),    mask.data(),   gates.data(), inverse.data(),
                    c.data(),       c0.data(),      dh.data(),      dc_last.data(), dh_last.data(), dz.data(),
                    dy.data(),      dc0.data(),     scratch_backward.data(), T, B, 0, 0};
    using G = Backward;
    for (int group = 0; group < B / G::ROWS; group++)
      cpu::run([&] { lstm_backward(b); }, G::BLOCKS, G::THREADS, G::SMEM, group * G::BLOCKS, member, seed + 1);
    errors.push_back(reference::error(want.dz, &dz[4 * first], T, B, 0, B, 4 * HP));
    errors.push_back(F::NORM ? reference::error(want.dy, &dy[4 * first], T, B, 0, B, 4 * HP) : 0.0);
    errors.push_back(reference::error(want.dc0, &dc0[(size_t)member * B * HP], 1, B, 0, B, HP));
    printf(", dz %.1e, dy %.1e, dc0 %.1e", errors[2], errors[3], errors[4]);
#endif
    printf("\n");
    for (double error : errors) wrong |= !(error < MOST_ERROR);
  }
  return wrong;
}
