// The two loops of the fused LSTM layer (fused.py) for CPUs: the gates of one time step after another, and back.
//
// XLA runs each time step as a product, which packs the same kernel anew every time, and then as passes over the gates
// in memory. Here the kernel is packed once, for all time steps, and each of these is done tile by tile.
//
// Axes in names as in model.py: T time, B batch, H units, G gates (4H, in the order i, f, g, o); all float32.

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "native_tiles.h"
#include "xla/ffi/api/c_api.h"

namespace {

constexpr int64_t CORE_CACHE = 1 << 20;  // bytes; a usual size of the second level

const XLA_FFI_Buffer& arg(const XLA_FFI_CallFrame* call, int n) {
  return *static_cast<const XLA_FFI_Buffer*>(call->args.args[n]);
}

const float* in(const XLA_FFI_CallFrame* call, int n) { return static_cast<const float*>(arg(call, n).data); }

float* out(const XLA_FFI_CallFrame* call, int n) {
  return static_cast<float*>(static_cast<XLA_FFI_Buffer*>(call->rets.rets[n])->data);
}

// All steps in parts. While a core's own cache holds the packed kernel, a part is some rows and goes through all steps
// on its own. Of a larger one it is a column of one step, which waits for the step before: so the kernel is read once a
// step, and not once for every part of the rows. Whoever is free takes the next part, and waits only for parts that
// others are at: so nothing can hang, however late a helper comes.
template <class Step>
struct Loop {
  const std::vector<Step> steps;
  const int64_t B = steps[0].B, columns = steps[0].columns(), height, parts;
  std::atomic<int64_t> next{0}, done{0};

  Loop(std::vector<Step> all, int64_t threads)
      : steps(std::move(all)),
        height(4 * GATES * steps[0].H * steps[0].H > CORE_CACHE ? 0 : (B + threads - 1) / threads),
        parts(height ? (B + height - 1) / height : columns * static_cast<int64_t>(steps.size())) {}

  void wait_for(int64_t count) const {
    while (done.load(std::memory_order_acquire) < count) std::this_thread::yield();
  }

  void take_parts() {
    for (int64_t part; (part = next.fetch_add(1)) < parts; done.fetch_add(1, std::memory_order_release)) {
      if (!height) {
        wait_for(part / columns * columns);
        steps[part / columns].column(part % columns, 0, B);
        continue;
      }
      for (const Step& step : steps)
        for (int64_t n = 0; n < columns; ++n) step.column(n, part * height, least(B, (part + 1) * height));
    }
  }
};

// On all the threads that XLA gives this device.
template <class Step>
void run(std::vector<Step> steps, const XLA_FFI_CallFrame* call) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args count{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, call->ctx,
                                           &threads};
  call->api->XLA_FFI_ThreadPool_NumThreads(&count);
  // A helper that comes when all is over still finds the loop, and nothing to do.
  const auto loop = std::make_shared<Loop<Step>>(std::move(steps), threads);
  const auto help = [](void* data) {
    const std::unique_ptr<std::shared_ptr<Loop<Step>>> loop(static_cast<std::shared_ptr<Loop<Step>>*>(data));
    (*loop)->take_parts();
  };
  for (int64_t n = 1; n < least(threads, loop->parts); ++n) {
    XLA_FFI_ThreadPool_Schedule_Args helper{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr, call->ctx, help,
                                            new std::shared_ptr<Loop<Step>>(loop)};
    call->api->XLA_FFI_ThreadPool_Schedule(&helper);
  }
  loop->take_parts();
  loop->wait_for(loop->parts);
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

// kernel_HG, bias_G, gates_TBG, c_BH, h_BH -> gates_TBG (the same memory), c_TBH, h_TBH, packed
extern "C" XLA_FFI_Error* lstm_forward(XLA_FFI_CallFrame* call) {
  if (asked_for_version(call)) return nullptr;
  const int64_t T = arg(call, 2).dims[0], B = arg(call, 2).dims[1], H = arg(call, 0).dims[0], G = GATES * H;
  const float *kernel_HG = in(call, 0), *bias_G = in(call, 1), *c_BH = in(call, 3), *h_BH = in(call, 4);
  float *gates_TBG = out(call, 0), *c_TBH = out(call, 1), *h_TBH = out(call, 2), *packed = out(call, 3);
  for (int64_t k = 0; k < H; ++k)
    for (int64_t unit = 0; unit < H; unit += LANES)
      for (int gate = 0; gate < GATES; ++gate)
        store(packed + (unit * H / LANES + k) * GATES * LANES + gate * LANES,
              load(kernel_HG + k * G + gate * H + unit, held(unit, H)));
  std::vector<Forward> steps;
  for (int64_t t = 0; t < T; ++t) {
    float *next_c_BH = c_TBH + t * B * H, *next_h_BH = h_TBH + t * B * H;
    steps.push_back({B, H, packed, bias_G, h_BH, c_BH, gates_TBG + t * B * G, next_c_BH, next_h_BH});
    c_BH = next_c_BH;
    h_BH = next_h_BH;
  }
  run(std::move(steps), call);
  return nullptr;
}

// kernel_HG, the first c_BH, c_TBH, gates_TBG, then gradients: of the last c_BH and h_BH, of h_TBH
// -> dz_TBG (in the gates' memory), that of the first c_BH (in the last one's), packed
extern "C" XLA_FFI_Error* lstm_backward(XLA_FFI_CallFrame* call) {
  if (asked_for_version(call)) return nullptr;
  const int64_t T = arg(call, 2).dims[0], B = arg(call, 2).dims[1], H = arg(call, 0).dims[0], G = GATES * H;
  const float *kernel_HG = in(call, 0), *first_c_BH = in(call, 1), *c_TBH = in(call, 2);
  const float *dh_BH = in(call, 5), *to_h_TBH = in(call, 6), *next_dz_BG = nullptr;
  float *gates_TBG = out(call, 0), *dc_BH = out(call, 1), *packed = out(call, 2);
  float* to = packed;  // the kernel's transpose
  for (int64_t first = 0; first < vectors(H); first += MOST_VECTORS)
    for (int64_t k = 0; k < G; ++k)
      for (int64_t unit = first * LANES; unit < least(first + MOST_VECTORS, vectors(H)) * LANES; ++unit)
        *to++ = unit < H ? kernel_HG[unit * G + k] : 0.0f;
  std::vector<Backward> steps;
  for (int64_t t = T - 1; t >= 0; --t) {
    const float* c_before_BH = t ? c_TBH + (t - 1) * B * H : first_c_BH;
    float* gates_BG = gates_TBG + t * B * G;
    steps.push_back(
        {B, H, packed, next_dz_BG, dh_BH, to_h_TBH + t * B * H, c_TBH + t * B * H, c_before_BH, gates_BG, dc_BH});
    next_dz_BG = gates_BG;
    dh_BH = nullptr;
  }
  run(std::move(steps), call);
  return nullptr;
}
