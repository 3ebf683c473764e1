// The two loops of the fused LSTM layer (fused.py) for CPUs: the gates of one time step after another, and back.
//
// XLA runs each time step as a product, which packs the same kernel anew every time, and then as passes over the gates
// in memory. Here the kernel is packed once, for all time steps, and each of these is done tile by tile.
//
// Axes in names as in model.py: T time, B batch, H units, G gates (4H, in the order i, f, g, o); all float32.

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "native_tiles.h"
#include "xla/ffi/api/c_api.h"

namespace {

// All columns of all steps, each step after the one before it. Whoever is free takes the next column and waits only for
// columns that others are at: so nothing can hang, however late a helper comes.
template <class Step>
void run(const std::vector<Step>& steps, int64_t threads) {
  const int64_t columns = steps[0].columns(), all = columns * static_cast<int64_t>(steps.size());
  std::atomic<int64_t> next{0}, done{0};
  const auto work = [&] {
    for (int64_t n; (n = next.fetch_add(1)) < all; done.fetch_add(1, std::memory_order_release)) {
      const int64_t step = n / columns;
      while (done.load(std::memory_order_acquire) < step * columns) std::this_thread::yield();
      steps[step].column(n % columns);
    }
  };
  std::vector<std::thread> helpers;
  for (int64_t n = 1; n < threads; ++n) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}

const XLA_FFI_Buffer& arg(const XLA_FFI_CallFrame* call, int n) {
  return *static_cast<const XLA_FFI_Buffer*>(call->args.args[n]);
}

const float* in(const XLA_FFI_CallFrame* call, int n) { return static_cast<const float*>(arg(call, n).data); }

float* out(const XLA_FFI_CallFrame* call, int n) {
  return static_cast<float*>(static_cast<XLA_FFI_Buffer*>(call->rets.rets[n])->data);
}

// As many as XLA gives this device.
int64_t threads(XLA_FFI_CallFrame* call) {
  int64_t count = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, call->ctx, &count};
  call->api->XLA_FFI_ThreadPool_NumThreads(&args);  // an error, which would leave it at 1, is not told apart
  return count;
}

// XLA first asks what a function was built for, then calls it.
bool asked_for_version(const XLA_FFI_CallFrame* call) {
  const XLA_FFI_Extension_Base* asked = call->extension_start;
  if (!asked || asked->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* told = reinterpret_cast<const XLA_FFI_Metadata_Extension*>(asked)->metadata;
  told->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  told->traits = 0;
  told->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
  return true;
}

}  // namespace

extern "C" int lanes() { return LANES; }

// kernel_HG, bias_G, gates_x_TBG, c_BH, h_BH -> gates_TBG, c_TBH, h_TBH, packed
extern "C" XLA_FFI_Error* lstm_forward(XLA_FFI_CallFrame* call) {
  if (asked_for_version(call)) return nullptr;
  const int64_t T = arg(call, 2).dims[0], B = arg(call, 2).dims[1], H = arg(call, 0).dims[0], G = GATES * H;
  const float *kernel_HG = in(call, 0), *bias_G = in(call, 1), *gates_x_TBG = in(call, 2);
  const float *c_BH = in(call, 3), *h_BH = in(call, 4);
  float *gates_TBG = out(call, 0), *c_TBH = out(call, 1), *h_TBH = out(call, 2), *packed = out(call, 3);
  for (int64_t k = 0; k < H; ++k)
    for (int64_t vector = 0; vector < vectors(H); ++vector)
      for (int gate = 0; gate < GATES; ++gate)
        store(packed + ((vector * H + k) * GATES + gate) * LANES,
              load(kernel_HG + k * G + gate * H + first_unit(vector, H)));
  std::vector<Forward> steps;
  for (int64_t t = 0; t < T; ++t) {
    float *next_c_BH = c_TBH + t * B * H, *next_h_BH = h_TBH + t * B * H;
    const float* gates_x_BG = gates_x_TBG + t * B * G;
    steps.push_back({B, H, packed, bias_G, gates_x_BG, h_BH, c_BH, gates_TBG + t * B * G, next_c_BH, next_h_BH});
    c_BH = next_c_BH;
    h_BH = next_h_BH;
  }
  run(steps, threads(call));
  return nullptr;
}

// kernel_HG, the first c_BH, gates_TBG, c_TBH, then gradients: of the last c_BH and h_BH, of h_TBH
// -> dz_TBG, dc_2BH (that of the first c comes first), packed
extern "C" XLA_FFI_Error* lstm_backward(XLA_FFI_CallFrame* call) {
  if (asked_for_version(call)) return nullptr;
  const int64_t T = arg(call, 2).dims[0], B = arg(call, 2).dims[1], H = arg(call, 0).dims[0], G = GATES * H;
  const float *kernel_HG = in(call, 0), *first_c_BH = in(call, 1), *gates_TBG = in(call, 2), *c_TBH = in(call, 3);
  const float *dc_BH = in(call, 4), *dh_BH = in(call, 5), *to_h_TBH = in(call, 6), *next_dz_BG = nullptr;
  float *dz_TBG = out(call, 0), *dc_2BH = out(call, 1), *packed = out(call, 2);
  float* to = packed;  // the kernel's transpose
  for (int64_t first = 0; first < vectors(H); first += MOST_VECTORS)
    for (int64_t k = 0; k < G; ++k)
      for (int64_t vector = first; vector < least(first + MOST_VECTORS, vectors(H)); ++vector)
        for (int64_t lane = 0; lane < LANES; ++lane) *to++ = kernel_HG[(first_unit(vector, H) + lane) * G + k];
  std::vector<Backward> steps;
  for (int64_t t = T - 1; t >= 0; --t) {
    const float* c_before_BH = t ? c_TBH + (t - 1) * B * H : first_c_BH;
    const float *gates_BG = gates_TBG + t * B * G, *c_BH = c_TBH + t * B * H, *to_h_BH = to_h_TBH + t * B * H;
    float *dz_BG = dz_TBG + t * B * G, *dc_before_BH = dc_2BH + t % 2 * B * H;
    steps.push_back(
        {B, H, packed, next_dz_BG, dh_BH, to_h_BH, gates_BG, c_BH, c_before_BH, dc_BH, dz_BG, dc_before_BH});
    next_dz_BG = dz_BG;
    dh_BH = nullptr;
    dc_BH = dc_before_BH;
  }
  run(steps, threads(call));
  return nullptr;
}
