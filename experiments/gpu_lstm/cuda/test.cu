// Checks the kernels against the reference in double, with outputs poisoned by NaN, and times them alone. Arguments:
// names of kernels (config.h), or none for all. Prints a line of JSON for each problem.
#include <stdio.h>

#include <algorithm>
#include <string>

#include "launch.cuh"
#include "reference.h"

using namespace lstm;

#define CHECK_CUDA(call)                                                                      \
  do {                                                                                        \
    cudaError_t e_ = (call);                                                                  \
    if (e_ != cudaSuccess) return fail(#call, cudaGetErrorString(e_));                        \
  } while (0)
#define CHECK_LAUNCH(call)                                                                    \
  do {                                                                                        \
    const char* e_ = (call);                                                                  \
    if (*e_) return fail(#call, e_);                                                          \
  } while (0)

static int fail(const char* what, const char* error) {
  printf("{\"error\": \"%s: %s\"}\n", what, error);
  fflush(stdout);
  return 1;
}

template <class T> struct Buffer {
  T* p = nullptr;
  size_t n;
  explicit Buffer(size_t n) : n(n) { cudaMalloc(&p, n * sizeof(T)), poison(); }
  explicit Buffer(const std::vector<T>& v) : Buffer(v.size()) {
    cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(p); }
  void poison() { cudaMemset(p, 0xff, n * sizeof(T)); }
  std::vector<T> download() const {
    std::vector<T> v(n);
    cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
    return v;
  }
};

// How many clusters fit on the chip at once; 0 for grid kernels.
template <class F, class K> int max_clusters(K kernel) {
  if (F::GRID || F::C == 1) return 0;
  cudaLaunchAttribute attribute;
  cudaLaunchConfig_t config = launch_config<F>(8 * F::NB, 0, &attribute);
  int n = 0;
  return cudaOccupancyMaxActiveClusters(&n, kernel, &config) == cudaSuccess ? n : -1;
}

// The median time of a launch in microseconds.
template <class Launch> double time_us(Launch launch) {
  cudaEvent_t start, stop;
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  std::vector<float> ms(9);
  for (float& x : ms) {
    cudaEventRecord(start);
    for (int i = 0; i < 20; i++) launch();
    cudaEventRecord(stop);
    cudaEventSynchronize(stop);
    cudaEventElapsedTime(&x, start, stop);
  }
  std::sort(ms.begin(), ms.end());
  return ms[4] * 1e3 / 20;
}

// Returns 1 if anything is wrong. The reference runs for some rows only.
template <class L> int check(const char* name, int H, int T, int B, int row0, int rows, bool timed) {
  auto p = reference::make(L::HP, H, T, B, 11 + T);
  const size_t N = (size_t)T * B * L::HP;
  std::vector<float> wide(p.gates_x.size());
  for (size_t i = 0; i < wide.size(); i++) wide[i] = widen(p.gates_x[i]);
  Buffer<bf16> weights(p.weights), gates_x(p.gates_x), dh(p.dh), gates(4 * N), h(N), dgates(4 * N);
  Buffer<float> wide_x(wide), bias(p.bias), c0(p.c0), h0(p.h0), dc_last(p.dc_last), dh_last(p.dh_last), c(N),
      dc0(p.c0.size());
  Buffer<unsigned> counters(32 * B);
  CHECK_CUDA(cudaGetLastError());
  FwdArgs f{weights.p, bias.p, gates_x.p, c0.p, h0.p, gates.p, c.p, h.p, T, B};
  BwdArgs b{weights.p, gates.p, c.p, c0.p, dh.p, dc_last.p, dh_last.p, dgates.p, dc0.p, T, B};
  CHECK_LAUNCH((launch_forward<L, bf16>(f, counters.p, 0)));
  CHECK_LAUNCH(launch_backward<L>(b, counters.p, 0));
  CHECK_CUDA(cudaDeviceSynchronize());
  const auto h1 = h.download(), dgates1 = dgates.download();
  const auto c1 = c.download(), dc01 = dc0.download();
  // Again, from float gates_x of the same values where the kernel takes them: must agree to the bit.
  for (auto* x : {&h, &gates, &dgates}) x->poison();
  c.poison();
  if constexpr (L::GRID) {
    CHECK_LAUNCH((launch_forward<L, bf16>(f, counters.p, 0)));
  } else {
    FwdArgs from_float = f;
    from_float.gates_x = wide_x.p;
    CHECK_LAUNCH((launch_forward<L, float>(from_float, counters.p, 0)));
  }
  CHECK_LAUNCH(launch_backward<L>(b, counters.p, 0));
  CHECK_CUDA(cudaDeviceSynchronize());
  const bool same = h1 == h.download() && dgates1 == dgates.download();
  int nans = 0;
  for (const auto* v : {&h1, &dgates1})
    for (bf16 x : *v) nans += std::isnan(widen(x));
  for (float x : c1) nans += std::isnan(x);
  const auto e = reference::errors(p, h1, c1, dgates1, dc01, row0, rows);
  const bool ok = same && !nans && e.below(2e-2);
  printf("{\"kernels\": \"%s\", \"T\": %d, \"ok\": %s, \"same_twice\": %s, \"nan\": %d", name, T, ok ? "true" : "false",
         same ? "true" : "false", nans);
  printf(", \"h\": %.2e, \"c\": %.2e, \"dgates\": %.2e, \"dc0\": %.2e, \"max_clusters\": [%d, %d]", e.h, e.c, e.dgates,
         e.dc0, max_clusters<typename L::Forward>(forward_of<L, bf16>()),
         max_clusters<typename L::Backward>(backward_of<L>()));
  if (timed) {
    double fwd = time_us([&] { launch_forward<L, bf16>(f, counters.p, 0); });
    double bwd = time_us([&] { launch_backward<L>(b, counters.p, 0); });
    printf(", \"us_per_time_step\": [%.3f, %.3f]", fwd / T, bwd / T);
  }
  printf("}\n");
  fflush(stdout);
  CHECK_CUDA(cudaGetLastError());
  return !ok;
}

// A short problem with many rows checked, and a long one with few, which is timed.
template <class L> int check_both(const char* name) {
  if constexpr (L::HP == 160)
    return check<L>(name, 150, 7, 64, 0, 64, false) + check<L>(name, 150, 50, 64, 24, 16, true);
  else if constexpr (L::HP == 512)
    return check<L>(name, 512, 7, 64, 0, 32, false) + check<L>(name, 512, 100, 64, 24, 3, true);
  else
    return check<L>(name, 1024, 5, 128, 0, 16, false) + check<L>(name, 1024, 50, 128, 126, 2, true);
}

int main(int argc, char** argv) {
  cudaDeviceProp device;
  CHECK_CUDA(cudaGetDeviceProperties(&device, 0));
  printf("{\"device\": \"%s\", \"sms\": %d}\n", device.name, device.multiProcessorCount);
  auto wanted = [&](const char* name) {
    return argc == 1 || std::any_of(argv + 1, argv + argc, [&](const char* one) { return !strcmp(one, name); });
  };
  int wrong = 0;
#define CHECK(L) \
  if (wanted(#L)) wrong += check_both<L>(#L);
  LSTM_KERNELS(CHECK)
  printf("{\"wrong\": %d}\n", wrong);
  return wrong != 0;
}
